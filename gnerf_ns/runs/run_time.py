"""What a run spends its time on, and how much of it is left."""

from __future__ import annotations

from collections import Counter
from typing import Dict, List, Mapping, Optional, Sequence

WARM_UP_STEPS = 3
"""Of a run, which are not measured: libraries are loaded in them, kernels compiled and caches filled."""

MEMORY = 0.98
"""What counts of a duration after one more of its kind: steps become slower as another program takes a core."""


class PartTimes:
    """Remaining time from how long each part of a training has taken so far, and from expected durations as long as it
    has not come up."""

    def __init__(self, costs: Mapping[str, float], first_step: int) -> None:
        """
        Args:
            costs: expected durations of the parts, in any unit.
            first_step: step that the run begins or goes on with.
        """
        self._costs, self._first = costs, first_step
        self._parts: List[Mapping[str, float]] = []
        self._left: Counter = Counter()
        self._next = first_step
        self._seconds: Dict[str, float] = {}
        self._counts: Dict[str, float] = {}

    def plan(self, parts: Sequence[Mapping[str, float]]) -> None:
        """What there is to do.

        Args:
            parts: how often each part comes up in each step from the next one on, and in the end.
        """
        self._left = Counter()
        for each in parts:
            self._left.update(each)
        self._parts = list(reversed(parts))

    def finish_step(self, step: int, seconds: float) -> None:
        """Count a step's duration, in seconds; what is not its own, or seldom, is taken to have lasted as before."""
        self._next = step + 1
        parts = self._parts.pop()
        self._left.subtract(parts)
        if step < self._first + WARM_UP_STEPS:
            return
        heaviest = max(parts, key=lambda part: parts[part] * self._costs[part])
        others = sum(count * self._of_one(part) for part, count in parts.items() if part != heaviest)
        if len(parts) > 1 and not self._seconds:
            return
        self._seconds[heaviest] = MEMORY * self._seconds.get(heaviest, 0.0) + max(0.0, seconds - others)
        self._counts[heaviest] = MEMORY * self._counts.get(heaviest, 0.0) + parts[heaviest]

    @property
    def is_measured(self) -> bool:
        """Whether any step has been."""
        return bool(self._seconds)

    def _of_one(self, part: str) -> float:
        """Seconds that a part takes once."""
        if part in self._seconds:
            return self._seconds[part] / self._counts[part]
        measured = sum(self._costs[each] * count for each, count in self._counts.items())
        return self._costs[part] * sum(self._seconds.values()) / measured if measured > 0 else 0.0

    def _of(self, parts: Mapping[str, float]) -> float:
        return sum(count * self._of_one(part) for part, count in parts.items() if count > 0)

    def seconds_left(self, seconds_in_step: float = 0.0, share_of_step: Optional[float] = None) -> float:
        """How long the run will still take; 0 while nothing has been measured.

        Args:
            seconds_in_step: how long the present step has lasted so far.
            share_of_step: the share of it that is done, in [0, 1], where that is known.
        """
        present = self._of(self._parts[-1]) if self._parts else 0.0
        in_step = max(0.0, present - seconds_in_step)
        if share_of_step:
            in_step = seconds_in_step * (1.0 - share_of_step) / share_of_step
        return self._of(self._left) - present + in_step


def is_due(step: int, interval: int) -> bool:
    """Whether something that nerfstudio does after every so many steps comes after this one."""
    return step > 0 and step % interval == 0
