"""System libraries and programs that nerfstudio needs, taken from Python packages where that is possible.

- ``ns-render`` refuses to start without an ``ffmpeg`` on PATH: imageio-ffmpeg carries one.
- ``ns-export`` imports open3d, which links libusb: libusb-package carries it.
- open3d and pymeshlab also link graphics libraries that no Python package carries; these can only be named.
"""

import contextlib
import ctypes
import hashlib
import os
import shutil
import sys
from pathlib import Path
from typing import Dict, List, Optional

LIBUSB = "libusb-1.0.so.0"

DEBIAN_PACKAGE_OF_EXPORT_LIBRARY: Dict[str, str] = {
    LIBUSB: "libusb-1.0-0",
    "libEGL.so.1": "libegl1",
    "libGL.so.1": "libgl1",
    "libOpenGL.so.0": "libopengl0",
    "libX11.so.6": "libx11-6",
    "libidn2.so.0": "libidn2-0",
    "libudev.so.1": "libudev1",
}
"""Shared libraries that ns-export's open3d and pymeshlab link, and the Debian/Ubuntu packages that hold them."""


def provide_ffmpeg() -> None:
    """Put imageio-ffmpeg's binary on this process's PATH under the name ``ffmpeg`` if there is no other.

    Where the per-user cache folder cannot be written nothing happens, and nerfstudio's own message asks for ffmpeg.
    """
    if shutil.which("ffmpeg") is not None:
        return
    try:
        # One folder for each environment: they may hold different versions.
        folder = user_cache_folder() / "bin" / hashlib.sha256(sys.prefix.encode()).hexdigest()[:16]
        program = folder / ("ffmpeg.exe" if sys.platform == "win32" else "ffmpeg")
        if not program.exists():
            import imageio_ffmpeg

            _place(program, Path(imageio_ffmpeg.get_ffmpeg_exe()))
    except (OSError, RuntimeError):
        return
    os.environ["PATH"] = os.pathsep.join(filter(None, [os.environ.get("PATH"), str(folder)]))


def provide_libusb() -> None:
    """Let open3d find libusb-package's library on a Linux system that has none.

    ``ns-export`` imports open3d before it loads any plugin, so loading the library in that command would be too late.
    But open3d also searches the environment's own ``lib`` folder, and an earlier command (a model is trained before it
    is exported) leaves a link there. Outside a virtual environment that folder belongs to the system, and the library
    is loaded into this process only.
    """
    if sys.platform != "linux" or _loads(LIBUSB):
        return
    import libusb_package

    library = libusb_package.get_library_path()
    if library is None:
        return
    if sys.prefix != sys.base_prefix or (Path(sys.prefix) / "conda-meta").is_dir():
        # Where the environment is read-only, the last line below still serves this process.
        with contextlib.suppress(OSError):
            _place(Path(sys.prefix) / "lib" / LIBUSB, Path(library))
    # The dynamic loader recognizes a library that is already loaded by its soname, whatever its path was.
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def missing_export_libraries() -> List[str]:
    """Names of the shared libraries without which ``ns-export`` would not start on this machine."""
    if sys.platform != "linux":
        return []
    provide_libusb()
    return [library for library in DEBIAN_PACKAGE_OF_EXPORT_LIBRARY if not _loads(library)]


def export_advice() -> Optional[str]:
    """One sentence that says what ``ns-export`` lacks here and how to get it, or None if it lacks nothing."""
    missing = missing_export_libraries()
    if not missing:
        return None
    packages = " ".join(DEBIAN_PACKAGE_OF_EXPORT_LIBRARY[library] for library in missing)
    return f"ns-export needs {', '.join(missing)} from the system; on Debian or Ubuntu: apt-get install {packages}"


def user_cache_folder() -> Path:
    """Folder for files that outlive a process: ``$XDG_CACHE_HOME/gnerf_ns`` or ``~/.cache/gnerf_ns``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gnerf_ns"


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _place(path: Path, target: Path) -> None:
    """Make ``path`` a link to ``target``, or a copy on Windows, where links need a privilege; safe in parallel."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    if sys.platform == "win32":
        shutil.copy2(target, temporary)
    else:
        temporary.symlink_to(target)
    os.replace(temporary, path)
