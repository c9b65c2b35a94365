"""A run's folder belongs to one training; where nothing comes of that, nothing stays."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, FrozenSet, List, Optional

try:
    import fcntl
except ImportError:  # on Windows, where only folders of the same name that are made anew are kept apart
    fcntl = None


@dataclass(frozen=True)
class Claim:
    """A folder that this process writes to."""

    before: FrozenSet[str]
    """Names of what was in it, which stays."""
    made: List[Path]
    """Folders that were made for it, the innermost first."""
    lock: Optional[int]
    """Open file that holds it; the system lets go of it when the process ends, however that happens. None where
    there are no locks."""


_claims: Dict[Path, Claim] = {}


class FolderTakenError(Exception):
    """Another process writes to a folder."""


def claim(folder: Path, is_new: bool = False) -> None:
    """Make a folder, if need be, and hold it as long as this process lives.

    Args:
        folder: which.
        is_new: whether it must not exist yet.

    Raises:
        FileExistsError: it does.
        FolderTakenError: another process holds it.
        OSError: it cannot be made.
    """
    folder = Path(os.path.abspath(folder))
    if folder in _claims and not is_new:
        return
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=not is_new)
        _claims[folder] = Claim(frozenset(os.listdir(folder)), made, _lock(folder))
    except OSError:
        _remove_empty(made)
        raise


def give_up(folder: Path) -> None:
    """Remove what has come into a folder since it was claimed, and folders that were made for it, if they are empty.

    Nothing happens to a folder that this process has not claimed.
    """
    folder = Path(os.path.abspath(folder))
    held = _claims.pop(folder, None)
    if held is None:
        return
    for path in folder.iterdir():
        if path.name in held.before:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
    _remove_empty(held.made)
    if held.lock is not None:
        os.close(held.lock)


def _lock(folder: Path) -> Optional[int]:
    if fcntl is None:
        return None
    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(opened)
        raise FolderTakenError(folder) from None
    except OSError:  # a file system without locks
        os.close(opened)
        return None
    return opened


def _remove_empty(folders: List[Path]) -> None:
    for folder in folders:
        with suppress(OSError):  # raised where something lies in it
            folder.rmdir()
