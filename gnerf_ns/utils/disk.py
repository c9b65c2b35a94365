"""Files that are written whole or not at all, and what it means where they cannot be."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

REASONS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO})
"""Of an `OSError` that comes from where is written to: no room, no right, a broken disk."""

PROBE_BYTES = 1 << 20
"""Who cannot write so much has no room."""


def is_of_disk(error: OSError) -> bool:
    """Whether an error comes from where is written to, and not from a program's mistake."""
    return error.errno in REASONS


@contextmanager
def told_by_disk(folder: Path) -> Iterator[None]:
    """A RuntimeError in this block becomes the OSError that it comes from, if nothing can be written to the folder.

    torch's file writer says no more than that something did not work.

    Raises:
        OSError: no more can be written.
    """
    try:
        yield
    except RuntimeError:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(PROBE_BYTES))
            probe.flush()
        raise


def write_whole(path: Path, text: str) -> None:
    """Write a file so that the one before it stays whole until this one is."""
    written = path.with_name(f"{path.name}.new")
    try:
        written.write_text(text, encoding="utf-8")
        os.replace(written, path)
    finally:
        written.unlink(missing_ok=True)


def replace_files(source: Path, target: Path) -> None:
    """Move all files of a folder to the same places in another, where each takes the place of what is there.

    Args:
        source: a folder on the same file system; it is gone then.
        target: need not exist.
    """
    for path in sorted(source.rglob("*")):
        place = target / path.relative_to(source)
        if path.is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, place)
    shutil.rmtree(source)
