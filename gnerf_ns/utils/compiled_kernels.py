"""How code that numba has compiled for CPUs is run: one kernel at a time, on as many threads as torch uses."""

from __future__ import annotations

import importlib
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import Any

import appdirs
import torch
from torch import Tensor

KERNEL_LOCK = threading.Lock()
"""numba aborts the process if two threads (two viewer pages, for example) use its thread pool at the same time."""


def run_kernel(module: str, kernel: str, *arguments: Any) -> None:
    """Run a kernel, which writes its results into some of its arguments.

    Args:
        module: full name of the module that has it. It is imported here and not by the caller's module, because every
            ns-* command imports that, and numba takes a second.
        kernel: name of the function there.
        arguments: what it takes; tensors become arrays that share their memory.
    """
    arrays = [value.detach().numpy() if isinstance(value, Tensor) else value for value in arguments]
    # nerfstudio's viewer interrupts a rendering by raising an exception from a trace function, at any line. Raised
    # while this lock or one of numba's is held, it would block every later rendering.
    trace = sys.gettrace()
    sys.settrace(None)
    try:
        import numba

        function = _find(module, kernel)
        with KERNEL_LOCK:
            numba.set_num_threads(min(torch.get_num_threads(), _max_threads()))
            function(*arrays)
    finally:
        sys.settrace(trace)


@cache
def _find(module: str, kernel: str) -> Any:
    """The kernel, which is compiled once and kept where this user can write."""
    config: Any = importlib.import_module("numba.core.config")
    if not config.CACHE_DIR:  # else the environment says where
        config.CACHE_DIR = str(_cache_folder())
    return getattr(importlib.import_module(module), kernel)


def _cache_folder() -> Path:
    """Not beside the code, which may be another user's, or in an image that cannot be written to."""
    folder = Path(appdirs.user_cache_dir("gnerf_ns")) / "kernels"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        # One of this process alone: what is found there is run, so that nobody else may have put it there.
        return Path(tempfile.mkdtemp(prefix="gnerf_ns-"))


@cache
def _max_threads() -> int:
    """Threads that numba was started with; it can use fewer, not more."""
    import numba

    of_torch = torch.get_num_threads()
    most = numba.get_num_threads()
    torch.set_num_threads(of_torch)  # numba has started its threads, and set OpenMP's number, which is torch's too
    return most
