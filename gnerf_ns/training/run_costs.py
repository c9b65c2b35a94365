"""What a training of field and cameras spends its time on: expected durations of its parts, step by step."""

from __future__ import annotations

from typing import Dict, Mapping, Optional

from gnerf_ns.runs.run_time import PartTimes, is_due
from gnerf_ns.training.left_out_in_turn import num_parts
from gnerf_ns.training.schedule import Schedule, StepPlan

COSTS: Dict[str, float] = {
    "phase A": 2.5,
    "phase B": 1.0,
    "search of all": 32.0,
    "search of misfits": 15.0,
    "fresh field": 40.0,
    "saving": 12.0,
    "held-out images": 8.0,
    "verdict": 130.0,
}
"""What a step is made of (itself, by phase; what comes before it; what comes after it), and the expected durations of
these in steps of phase B in full detail, of held-out images each.
Measured on a CPU with gnerf-ns-tiny and 26 images, fresh fields with gnerf-ns and twelve; a search of misfits
took 60 there, and 10 with 87 images that matches had placed; what follows the last step, with 2, 5 and 13 held-out
images. They count until a part has been measured."""

MANY_IMAGES = 100
"""With more images than these, a verdict and a search of all take longer in proportion; the number of misfits that are
searched for is bounded."""

LOOK_UP, OF_EVERYBODY = 0.22, 2.7
"""Looking one image up in a fresh field takes so much of what the field takes, and the two that learn from all images
in the end as long as so many others."""

COARSE = 1.1
"""Duration of a step of phase B with none of the finer levels of detail, of that with all: while there is no shape, no
space is known to be empty. Of Lego's hundred images, matched, with gnerf-ns."""


def parts_of_step(plan: StepPlan, num_images: int) -> Dict[str, float]:
    """How often a training step has which part.

    Args:
        plan: of the step.
        num_images: how many images are trained on.
    """
    is_a, rounds = plan.phase == "A", plan.leave_out_rounds
    counts: Dict[str, float] = {
        "phase A": float(is_a),
        "phase B": 0.0 if is_a else COARSE + (1.0 - COARSE) * plan.active_levels,
        "search of all": float(plan.searches_all_poses) * _times_as_many(num_images),
        "search of misfits": float(plan.searches_misfit_poses),
        "fresh field": rounds * (num_parts(num_images) + LOOK_UP * num_images) + OF_EVERYBODY if rounds else 0.0,
    }
    return {part: count for part, count in counts.items() if count > 0}


def _times_as_many(num_images: int) -> float:
    return max(1.0, num_images / MANY_IMAGES)


def step_cost(plan: StepPlan, num_images: int) -> float:
    """Expected duration of a training step, in steps of phase B in full detail.

    Args:
        plan: of the step.
        num_images: how many images are trained on.
    """
    return sum(COSTS[part] * count for part, count in parts_of_step(plan, num_images).items())


class RunTime(PartTimes):
    """Of a training that follows a `Schedule`."""

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
        super().__init__(COSTS, first_step)
        self._num_images, self._num_held_out = num_images, num_held_out
        self._num_steps, self._steps_per_save = num_steps, steps_per_save
        self._schedule: Optional[Schedule] = None

    def set_schedule(self, schedule: Schedule) -> None:
        """What there is to do, by a schedule that may have changed meanwhile."""
        if schedule is self._schedule:
            return
        self._schedule = schedule
        steps = [self._parts_of(schedule, step) for step in range(self._next, self._num_steps)]
        verdict = _times_as_many(self._num_images)
        # After the last step a checkpoint is saved, with the poses of held-out images, and all are judged.
        self.plan([*steps, {"saving": 1.0, "held-out images": float(self._num_held_out), "verdict": verdict}])

    def _parts_of(self, schedule: Schedule, step: int) -> Mapping[str, float]:
        parts = parts_of_step(schedule.at(step), self._num_images)
        return {**parts, "saving": 1.0} if is_due(step, self._steps_per_save) else parts
