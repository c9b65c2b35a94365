"""Phase A begins anew within the run: where it has come to nothing, and where several attempts are planned.

Renderings may collapse, to nothing or to the mean image; GNeRF's adversarial training does on some seeds and has to be
started again by hand. And of few images, an attempt in two or three finds poses that explain some of them and not the
others. Both shows when all poses are looked up, so schedules without that never begin anew. Two attempts that come to
the same poses, each from its own random numbers, need no third one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Literal, Optional, Protocol, Sequence, runtime_checkable

import torch
import tyro
from jaxtyping import Float
from nerfstudio.utils import writer
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor, nn

from gnerf_ns.cameras.alignment import pose_errors
from gnerf_ns.training.schedule import Schedule

MIN_PHASE_B_SHARE = 1 / 3
"""At least this share of the planned phase B must be left after a restart that was not planned."""

SAME_WITHIN_DEG = 20.0
"""Two attempts have come to the same if no image is farther apart than this, the one being moved to fit the other. Of
right ones of twelve images of Lego, the median image was 3 to 6 degrees apart."""

PHASE_A_FAILED = (
    "Phase A ended without telling the images apart, so the poses will be wrong. Train with another --machine.seed or "
    "more --pipeline.schedule.phase-a-steps, and check that the images show one object, alone or with masks."
)
"""What is said when no attempt at phase A has come to anything, and once more at the end of the run."""

OTHERS = ("restarts.", "cameras.eval_")
"""Beginnings of the names of what attempts do not train."""


@runtime_checkable
class Learner(Protocol):
    """A part that attempts train."""

    def reset_parameters(self) -> None:
        """Back to the state of a new run; what is random is drawn anew."""
        ...


class AttemptState:
    """Everything that an attempt at phase A trains: drawn anew, copied, and put back."""

    def __init__(self, pipeline: nn.Module, learners: Sequence[Learner]) -> None:
        """
        Args:
            pipeline: has the parts' parameters and buffers, and the poses, in its state.
            learners: those parts. Poses need not be drawn anew: they are looked up at the end of phase A.
        """
        self._pipeline, self._learners = pipeline, learners

    def initialize(self, seed: int) -> None:
        """Give all parts the state of a new run."""
        torch.manual_seed(seed)
        for learner in self._learners:
            learner.reset_parameters()

    def copied(self) -> Dict[str, Tensor]:
        """A copy of all parts and of the poses."""
        state = self._pipeline.state_dict()
        return {
            name: value.clone()
            for name, value in state.items()
            if isinstance(value, Tensor) and not name.startswith(OTHERS)
        }

    def put_back(self, state: Dict[str, Tensor]) -> None:
        """Go on from such a copy."""
        self._pipeline.load_state_dict(state, strict=False)


@dataclass
class RestartsConfig:
    """When phase A counts as failed, and how often it begins anew."""

    min_explained_variance: tyro.conf.Suppress[float] = 0.1
    """Phase A begins anew if renderings explain less than this share of how images differ from their mean."""
    max_restarts: tyro.conf.Suppress[int] = 2
    """How often it may, beyond the attempts that the schedule plans."""


class Restarts(nn.Module):
    """Decides on restarts, and keeps the schedule's beginning and the best attempt across checkpoints.

    Attributes:
        begin: training step at which the present attempt began.
        count: how many attempts came before it.
        best: what the best of earlier attempts has trained, until it is decided which one is kept.
        found: camera_to_worlds [n, 3, 4] that earlier attempts came to, until it is decided.
        kept_explained: explained variance of the attempt that was kept; None until one is.
    """

    begin: Tensor
    count: Tensor

    def __init__(
        self, config: RestartsConfig, planned: Schedule, attempt: AttemptState, seed_at: Callable[[int], int]
    ) -> None:
        """
        Args:
            config: when and how often.
            planned: the schedule of a run in which nothing fails.
            attempt: what an attempt trains.
            seed_at: random seed of an attempt that begins at a step.
        """
        super().__init__()
        self.config = config
        self._planned = self._schedule = planned
        self._num_planned = planned.attempts_left + 1
        self._attempt, self._seed_at = attempt, seed_at
        self.register_buffer("begin", torch.tensor(0))
        self.register_buffer("count", torch.tensor(0))
        self.best_explained = -torch.inf
        self.best: Optional[Dict[str, Tensor]] = None
        self.found: List[Tensor] = []
        self.kept_explained: Optional[float] = None
        self.register_load_state_dict_post_hook(lambda module, keys: self._update_schedule())

    def get_extra_state(self) -> Dict[str, Any]:
        """For checkpoints: the best attempt, and what the others came to."""
        return {
            "best_explained": self.best_explained,
            "best": self.best,
            "found": self.found,
            "kept_explained": self.kept_explained,
        }

    def set_extra_state(self, state: Dict[str, Any]) -> None:
        """From checkpoints."""
        self.best_explained, self.best = state["best_explained"], state["best"]
        # Not in older checkpoints:
        self.found, self.kept_explained = state.get("found", []), state.get("kept_explained")

    @property
    def has_failed(self) -> bool:
        """Whether the attempt that was kept does not tell the images apart."""
        return self.kept_explained is not None and not self.kept_explained >= self.config.min_explained_variance

    @property
    def schedule(self) -> Schedule:
        """The schedule with phase A where the present attempt began."""
        return self._schedule

    def _update_schedule(self) -> None:
        """Not read from the buffers in every step, which would stall a GPU."""
        attempts_left = 0 if self.kept_explained is not None else max(0, self._num_planned - 1 - int(self.count))
        self._schedule = self._planned.begun_anew(int(self.begin), attempts_left)

    def after(self, step: int, explained_variance: float, camera_to_worlds: Float[Tensor, "n 3 4"]) -> bool:
        """Start over, or go back to the best attempt, once a step has shown what the present one has come to.

        Args:
            step: the one that is done, in which all poses were looked up.
            explained_variance: of all images there (`ImageCosts.explained_variance`).
            camera_to_worlds: their poses after it.

        Returns:
            Whether what is trained has been replaced. Optimizers have to be reset then.
        """
        camera_to_worlds = camera_to_worlds.detach().cpu()
        writer.put_scalar("Train Poses/explained_variance", explained_variance, step)
        if self._num_planned > 1:
            CONSOLE.print(
                f"Attempt {int(self.count) + 1} at phase A explains {explained_variance:.0%} of how the images differ."
            )
        is_best = explained_variance >= self.best_explained  # never true of NaN, of an attempt that has diverged
        verdict = self._verdict(step, explained_variance, camera_to_worlds)
        if verdict == "begin anew":
            self.found.append(camera_to_worlds)
            if is_best:
                self.best_explained, self.best = explained_variance, self._attempt.copied()
            self._begin_anew(step + 1)
            return True
        # `max` keeps its first argument where the second is NaN.
        self.kept_explained = max(self.best_explained, explained_variance)
        self.found = []
        self._update_schedule()
        best, self.best = self.best, None
        if is_best or best is None:
            return False
        self._attempt.put_back(best)
        return True

    def _verdict(
        self, step: int, explained_variance: float, camera_to_worlds: Float[Tensor, "n 3 4"]
    ) -> Literal["begin anew", "keep the best"]:
        """Whether there is to be another attempt; says so where that was not planned."""
        # `max` keeps its first argument where the second is NaN.
        has_come_to_something = max(self.best_explained, explained_variance) >= self.config.min_explained_variance
        if int(self.count) + 1 < self._num_planned:
            if not (has_come_to_something and any(are_alike(earlier, camera_to_worlds) for earlier in self.found)):
                return "begin anew"
            CONSOLE.print(f"Attempt {int(self.count) + 1} came to the same poses as another one: that is enough.")
        if has_come_to_something:
            return "keep the best"
        if self._may_begin_anew(step):
            CONSOLE.print(f"At step {step} renderings do not tell the images apart; phase A is restarted.")
            return "begin anew"
        CONSOLE.print(PHASE_A_FAILED, style="red", markup=False)
        return "keep the best"

    def _may_begin_anew(self, step: int) -> bool:
        schedule = self.schedule
        steps_left = schedule.phase_b_steps - (step + 1 - schedule.begins_at)
        shortest = MIN_PHASE_B_SHARE * self._planned.phase_b_steps
        return int(self.count) + 1 < self._num_planned + self.config.max_restarts and steps_left >= shortest

    def _begin_anew(self, step: int) -> None:
        self.count += 1
        self.begin.fill_(step)
        self._update_schedule()
        self._attempt.initialize(self._seed_at(step))


def are_alike(one: Float[Tensor, "n 3 4"], other: Float[Tensor, "n 3 4"]) -> bool:
    """Whether two attempts have come to the same poses (`SAME_WITHIN_DEG`), seen from whatever side."""
    if not bool(one.isfinite().all() and other.isfinite().all()):
        return False
    errors = pose_errors(one, other)
    return not errors.mirrored and bool((errors.rotation_deg < SAME_WITHIN_DEG).all())
