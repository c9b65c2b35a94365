"""Files that are whole or not there, and errors that say that a disk is full."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from gnerf_ns.utils import disk


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "config.yml"
    disk.write_whole(path, "first: ä")
    disk.write_whole(path, "second: ä")
    assert path.read_text(encoding="utf-8") == "second: ä"

    def half(self: Path, text: str, **_: Any) -> None:
        self.write_bytes(text.encode()[:3])
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match="full"):
        disk.write_whole(path, "third")
    assert path.read_text(encoding="utf-8") == "second: ä" and list(tmp_path.iterdir()) == [path]


def test_files_are_moved_to_the_same_places_and_others_stay(tmp_path: Path):
    source, target = tmp_path / "new", tmp_path / "old"
    for folder, name, text in (
        (source, "a.txt", "new"),
        (source, "b/c.txt", "new"),
        (target, "a.txt", "old"),
        (target, "b/d.txt", "old"),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    disk.replace_files(source, target)
    files = {path.relative_to(target).as_posix(): path.read_text() for path in target.rglob("*.txt")}
    assert files == {"a.txt": "new", "b/c.txt": "new", "b/d.txt": "old"}
    assert not source.exists()


def test_what_torch_does_not_name_is_named_if_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(RuntimeError, match="unexpected pos"), disk.told_by_disk(tmp_path):
        raise RuntimeError("unexpected pos")  # there is room: it is something else
    with pytest.raises(OSError) as error, disk.told_by_disk(tmp_path / "gone"):
        raise RuntimeError("unexpected pos")
    assert error.value.errno == errno.ENOENT

    class Full:
        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: Any) -> None:
            pass

        def write(self, content: bytes) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(disk.tempfile, "TemporaryFile", lambda dir: Full())
    with pytest.raises(OSError, match="No space left") as error, disk.told_by_disk(tmp_path):
        raise RuntimeError("unexpected pos")
    assert disk.is_of_disk(error.value) and not disk.is_of_disk(FileNotFoundError(errno.ENOENT, "no such file"))
