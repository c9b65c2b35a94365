"""How training uses the CPU: freed memory is kept, and waiting threads give way where other programs want the cores."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from functools import cache
from pathlib import Path
from typing import Callable, List, NamedTuple, Optional

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Names of glibc's mallopt parameters."""

SECONDS_PER_LOOK = 0.5
"""Time between two looks at how long threads had to wait for a core."""

CROWDED_SHARE, QUIET_SHARE = 0.08, 0.02
"""Share of the time that threads want to run but wait for a core, above and below which the machine counts as crowded
and as quiet. Between them nothing changes."""

QUIET_LOOKS = 6
"""Quiet looks in a row before threads may spin again."""


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


class Waiting(NamedTuple):
    """How long the process's threads have been running, and waiting for a core, since they began."""

    running_ns: int
    waiting_ns: int


def waiting_of_threads() -> Waiting:
    """Of all threads of this process, from /proc/self/task/*/schedstat.

    Raises:
        OSError: the system has no such figures.
    """
    running = waiting = 0
    for task in Path("/proc/self/task").iterdir():
        try:
            times = (task / "schedstat").read_text().split()
        except (FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            continue
        running, waiting = running + int(times[0]), waiting + int(times[1])
    return Waiting(running, waiting)


class IdleTeam:
    """A second team of OpenMP threads that sleeps, so that GNU's libgomp has those of the first one spin less.

    torch's layers end in barriers, at which threads spin for about a millisecond before they sleep. Alone that is
    quickest; but where another program has taken a partner's core, they burn the other one. How long they spin is read
    from the environment when the library is loaded, which ``ns-train`` does before it loads us; but libgomp spins 300
    times less while it has more threads than there are cores, which anybody can bring about.
    """

    def __init__(self) -> None:
        self._free = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)
        self._done: Optional[threading.Event] = None

    @property
    def exists(self) -> bool:
        """Whether its threads are there."""
        return self._done is not None

    def start(self) -> None:
        """Have the threads; a team belongs to the thread that has begun it."""
        if self._done is None:
            self._done, begun = threading.Event(), threading.Event()
            threading.Thread(target=self._hold, args=(self._done, begun), daemon=True).start()
            begun.wait()

    def stop(self) -> None:
        """Be without them."""
        if self._done is not None:
            self._done.set()
            self._done = None

    def _hold(self, done: threading.Event, begun: threading.Event) -> None:
        for library in loaded_libgomps():  # torch's and numba's threads may be of different ones
            # Each thread does free(NULL), which is nothing.
            library.GOMP_parallel(self._free, None, ctypes.c_uint(os.cpu_count() or 1), ctypes.c_uint(0))
        begun.set()
        done.wait()


class CoreSharing:
    """Looks from time to time whether threads wait for cores, and keeps an `IdleTeam` while they do."""

    def __init__(self, team: IdleTeam, look: Callable[[], Waiting] = waiting_of_threads) -> None:
        """
        Args:
            team: there while the machine is crowded.
            look: how long threads have been running and waiting.
        """
        self._team, self._look = team, look
        self._before = look()
        self._quiet_looks = 0

    def update(self) -> None:
        """Look once more."""
        now = self._look()
        # Threads that have ended take their times with them.
        running, waiting = (max(0, new - old) for new, old in zip(now, self._before, strict=True))
        self._before = now
        share = waiting / max(1, running + waiting)
        self._quiet_looks = self._quiet_looks + 1 if share < QUIET_SHARE else 0
        if share > CROWDED_SHARE:
            self._team.start()
        elif self._quiet_looks >= QUIET_LOOKS:
            self._team.stop()


def loaded_libgomps() -> List[ctypes.CDLL]:
    """Each copy of GNU's OpenMP library that this process has loaded; torch's wheels for Linux bring one."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    paths = {line.split(maxsplit=5)[5] for line in lines if "/libgomp" in line}
    return [ctypes.CDLL(path) for path in sorted(paths)]


@cache
def share_cores() -> bool:
    """From now on torch's threads give way to other programs, and spin as ever where there are none.

    Nothing happens without libgomp, on one core, or where the environment says how threads are to wait.

    Returns:
        Whether it is so; once is enough for a process.
    """
    said = any(name in os.environ for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"))
    if said or (os.cpu_count() or 1) == 1 or not loaded_libgomps():
        return False
    try:
        sharing = CoreSharing(IdleTeam())
    except OSError:
        return False

    def watch() -> None:
        while True:
            time.sleep(SECONDS_PER_LOOK)
            sharing.update()

    threading.Thread(target=watch, daemon=True).start()
    return True
