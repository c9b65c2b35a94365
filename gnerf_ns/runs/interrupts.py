"""Ctrl-C during a training: the present step is finished first."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Optional, Type

from gnerf_ns.runs.lines import Line, say


class StoppedAfterStep(Exception):
    """Training ends here, after a whole step."""


class Interrupts:
    """While entered, the first Ctrl-C is kept until `stop_after`, so that what is saved is that of a whole step.

    The second one is a KeyboardInterrupt, as ever. Nothing changes outside the main thread, which alone gets signals.
    """

    def __init__(self) -> None:
        self._is_asked = False
        self._before: Any = None

    def __enter__(self) -> Interrupts:
        self._is_asked = False
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.hand_back()

    def hand_back(self) -> None:
        """Leave Ctrl-C to whoever had it before."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def stop_after(self, step: int) -> None:
        """End training if Ctrl-C was pressed.

        Args:
            step: the one that is whole.

        Raises:
            StoppedAfterStep: it was.
        """
        if self._is_asked:
            raise StoppedAfterStep

    def _ask(self, number: int, frame: Optional[FrameType]) -> None:
        if self._is_asked:
            self.hand_back()
            raise KeyboardInterrupt
        self._is_asked = True
        say([Line("Stopping after this training step; Ctrl-C again stops at once, without saving.", "yellow")])
