"""What a run spends its time on, and how much of it is left."""

from __future__ import annotations

from collections import Counter
from typing import Dict, List, Literal, Mapping, Optional

from gnerf_ns.training.schedule import Schedule, StepPlan

Part = Literal[
    "phase A",
    "phase B",
    "search of all",
    "search of those left out",
    "search of misfits",
    "pose trials",
    "saving",
    "held-out images",
]
"""What a step is made of: itself, by phase; what comes before it; and what comes after it."""

COSTS: Dict[Part, float] = {
    "phase A": 2.0,
    "phase B": 1.0,
    "search of all": 32.0,
    "search of those left out": 95.0,
    "search of misfits": 60.0,
    "pose trials": 85.0,
    "saving": 8.0,
    "held-out images": 30.0,
}
"""Expected durations in steps of phase B in full detail, of pose trials by image and round, of held-out images each.
Measured on a CPU with gnerf-ns-tiny and 26 images, pose trials with gnerf-ns and twelve. They count until a part has
been measured."""

COARSE = 0.75
"""Duration of a step of phase B with none of the finer levels of detail, of that with all; measured likewise."""

WARM_UP_STEPS = 3
"""Of a run, which are not measured: libraries are loaded in them, kernels compiled and caches filled."""

MEMORY = 0.98
"""What counts of a duration after one more of its kind: steps become slower as another program takes a core."""


def parts_of_step(plan: StepPlan, num_images: int) -> Dict[Part, float]:
    """How often a training step has which part.

    Args:
        plan: of the step.
        num_images: how many images are trained on.
    """
    is_a = plan.phase == "A"
    counts: Dict[Part, float] = {
        "phase A": float(is_a),
        "phase B": 0.0 if is_a else COARSE + (1.0 - COARSE) * plan.active_levels,
        "search of all": float(plan.searches_all_poses),
        # None is left out in the first round.
        "search of those left out": float(plan.ends_leave_out_round and plan.leave_out_round != 1),
        "search of misfits": float(plan.searches_misfit_poses),
        "pose trials": float(plan.pose_trial_rounds * num_images),
    }
    return {part: count for part, count in counts.items() if count > 0}


def step_cost(plan: StepPlan, num_images: int) -> float:
    """Expected duration of a training step, in steps of phase B in full detail.

    Args:
        plan: of the step.
        num_images: how many images are trained on.
    """
    return sum(COSTS[part] * count for part, count in parts_of_step(plan, num_images).items())


class RunTime:
    """Remaining time from how long each part has taken so far, and from `COSTS` as long as it has not come up."""

    def __init__(
        self, num_images: int, num_held_out: int, first_step: int, num_steps: int, steps_per_save: int
    ) -> None:
        """
        Args:
            num_images: how many images are trained on,
            num_held_out: and how many are looked up in the end.
            first_step: step that the run begins or goes on with.
            num_steps: the run ends before this step.
            steps_per_save: number of steps between checkpoints.
        """
        self._num_images, self._num_held_out = num_images, num_held_out
        self._first, self._num_steps, self._steps_per_save = first_step, num_steps, steps_per_save
        self._schedule: Optional[Schedule] = None
        self._parts: List[Dict[Part, float]] = []
        self._left: Counter = Counter()
        self._next = first_step
        self._seconds: Dict[Part, float] = {}
        self._counts: Dict[Part, float] = {}

    def set_schedule(self, schedule: Schedule) -> None:
        """What there is to do, by a schedule that may have changed meanwhile."""
        if schedule is self._schedule:
            return
        self._schedule = schedule
        self._parts = [self._parts_of(schedule, step) for step in range(self._next, self._num_steps)]
        # After the last step a checkpoint is saved, with the poses of held-out images.
        self._parts.append({"saving": 1.0, "held-out images": float(self._num_held_out)})
        self._left = Counter()
        for parts in self._parts:
            self._left.update(parts)
        self._parts.reverse()

    def _parts_of(self, schedule: Schedule, step: int) -> Dict[Part, float]:
        parts = parts_of_step(schedule.at(step), self._num_images)
        return {**parts, "saving": 1.0} if step > 0 and step % self._steps_per_save == 0 else parts

    def finish_step(self, step: int, seconds: float) -> None:
        """Count a step's duration, in seconds; what is not its own, or seldom, is taken to have lasted as before."""
        self._next = step + 1
        parts = self._parts.pop()
        self._left.subtract(parts)
        if step < self._first + WARM_UP_STEPS:
            return
        heaviest = max(parts, key=lambda part: parts[part] * COSTS[part])
        others = sum(count * self._of_one(part) for part, count in parts.items() if part != heaviest)
        if len(parts) > 1 and not self._seconds:
            return
        self._seconds[heaviest] = MEMORY * self._seconds.get(heaviest, 0.0) + max(0.0, seconds - others)
        self._counts[heaviest] = MEMORY * self._counts.get(heaviest, 0.0) + parts[heaviest]

    @property
    def is_measured(self) -> bool:
        """Whether any step has been."""
        return bool(self._seconds)

    def _of_one(self, part: Part) -> float:
        """Seconds that a part takes once."""
        if part in self._seconds:
            return self._seconds[part] / self._counts[part]
        measured = sum(COSTS[each] * count for each, count in self._counts.items())
        return COSTS[part] * sum(self._seconds.values()) / measured if measured > 0 else 0.0

    def _of(self, parts: Mapping[Part, float]) -> float:
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
