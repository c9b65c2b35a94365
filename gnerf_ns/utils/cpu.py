"""Keeping freed memory: the cheapest speed-up of training on a CPU."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Names of glibc's mallopt parameters."""


def keep_freed_memory() -> bool:
    """Tell glibc to reuse freed memory instead of returning it to the kernel after every large tensor.

    By default each tensor above 32 MiB is mapped afresh, and the kernel zeroes its pages at every step.
    `benchmarks/freed_memory.py` measures the difference: 1.6 times on two cores, for layers 64 wide.

    Returns:
        Whether the allocator took the settings; False on systems without glibc, where nothing is changed.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    settings = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 64 * 2**20}
    return sum(mallopt(name, value) for name, value in settings.items()) == len(settings)
