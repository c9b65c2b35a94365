"""ffmpeg and libusb come from Python packages if the system has none; missing graphics libraries are named."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gnerf_ns.utils import system_libraries

linux_only = pytest.mark.skipif(
    sys.platform != "linux", reason="only open3d's Linux wheels link the system's libraries"
)


@pytest.fixture
def no_ffmpeg_on_path(tmp_path, monkeypatch):
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("PATH", str(empty))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_brought_ffmpeg_runs(no_ffmpeg_on_path):
    assert shutil.which("ffmpeg") is None
    system_libraries.provide_ffmpeg()
    answer = subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True, check=True)
    assert answer.stdout.startswith("ffmpeg version")


def test_ffmpeg_of_the_system_comes_first(no_ffmpeg_on_path):
    own = Path(os.environ["PATH"]) / "ffmpeg"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    path_before = os.environ["PATH"]
    system_libraries.provide_ffmpeg()
    assert os.environ["PATH"] == path_before


def test_dangling_ffmpeg_link_is_renewed(no_ffmpeg_on_path, tmp_path, monkeypatch):
    system_libraries.provide_ffmpeg()
    found = shutil.which("ffmpeg")
    assert found is not None
    Path(found).unlink()
    Path(found).symlink_to(tmp_path / "gone")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    system_libraries.provide_ffmpeg()
    assert Path(found).resolve().is_file()


def test_cache_folder_that_cannot_be_made_changes_nothing(no_ffmpeg_on_path, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    path_before = os.environ["PATH"]
    system_libraries.provide_ffmpeg()
    assert os.environ["PATH"] == path_before


def test_ffmpeg_is_copied_on_windows_where_links_need_a_privilege(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    (tmp_path / "ffmpeg-win.exe").write_bytes(b"program")
    (tmp_path / "ffmpeg-win.exe").chmod(0o755)
    placed = tmp_path / "bin" / "ffmpeg.exe"
    system_libraries._place(placed, tmp_path / "ffmpeg-win.exe")
    assert not placed.is_symlink() and placed.read_bytes() == b"program" and os.access(placed, os.X_OK)
    assert list(placed.parent.iterdir()) == [placed]


def test_libusb_is_of_linux_only(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setitem(sys.modules, "libusb_package", None)  # pip leaves it out there
    system_libraries.provide_libusb()
    assert list(tmp_path.iterdir()) == []


@linux_only
def test_libusb_is_linked_where_open3d_looks(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(system_libraries, "_loads", lambda library: False)
    system_libraries.provide_libusb()
    linked = tmp_path / "lib" / system_libraries.LIBUSB
    # The loader matches open3d's need with this library by the name written in it.
    assert system_libraries.LIBUSB.encode() + b"\0" in linked.read_bytes()


@linux_only
def test_libusb_of_the_system_comes_first(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(system_libraries, "_loads", lambda library: True)
    system_libraries.provide_libusb()
    assert list(tmp_path.iterdir()) == []


@linux_only
def test_advice_names_what_is_missing_and_nothing_else(monkeypatch):
    monkeypatch.setattr(system_libraries, "_loads", lambda library: library not in {"libGL.so.1", "libX11.so.6"})
    advice = system_libraries.export_advice()
    assert advice is not None
    assert "libGL.so.1, libX11.so.6" in advice and advice.endswith("apt-get install libgl1 libx11-6")
    monkeypatch.setattr(system_libraries, "_loads", lambda library: True)
    assert system_libraries.export_advice() is None
