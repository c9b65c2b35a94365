"""A lock that goes to whoever has waited longest, and that a long work can be left for in between."""

from __future__ import annotations

import threading
from collections import deque
from types import TracebackType
from typing import Deque, Optional, Type

_held = threading.local()
"""The lock that a thread holds, if any."""


class FairLock:
    """In place of `threading.Lock`, where one thread locks again and again: that one wins nearly every time.

    nerfstudio's trainer holds a lock in each step, and its viewer waits for it to render: seconds go by, with steps of
    tenths. Not to be locked twice by one thread.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._queue: Deque[int] = deque()
        """Threads, the first of which holds it."""

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self,
        exc_type: Optional[Type[BaseException]],
        exc_value: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.release()

    def acquire(self) -> bool:
        """Wait for one's turn; returns True."""
        me = threading.get_ident()
        with self._condition:
            self._queue.append(me)
            try:
                self._condition.wait_for(lambda: self._queue[0] == me)
            except BaseException:  # Ctrl-C
                self._queue.remove(me)
                self._condition.notify_all()
                raise
        _held.lock = self
        return True

    def release(self) -> None:
        """Let the next one have it."""
        _held.lock = None
        with self._condition:
            self._queue.popleft()
            self._condition.notify_all()

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits for it."""
        return len(self._queue) > 1


def give_way() -> None:
    """Let those who wait for the lock that this thread holds, if any, have it first.

    For work of seconds, where nothing is half done that others could meet.
    """
    lock: Optional[FairLock] = getattr(_held, "lock", None)
    if lock is None or not lock.is_awaited:
        return
    lock.release()
    try:
        lock.acquire()
    except BaseException:  # Ctrl-C; who has locked it unlocks it
        lock.acquire()
        raise
