"""Phase A begins anew within the run: where it has come to nothing, and where several attempts are planned.

Renderings may collapse, to nothing or to the mean image; GNeRF's adversarial training does on some seeds and has to be
started again by hand. And of few images, an attempt in two or three finds poses that explain some of them and not the
others. Both shows when all poses are looked up, so schedules without that never begin anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, Optional, Protocol, Sequence, runtime_checkable

import torch
from nerfstudio.utils import writer
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor, nn

from gnerf_ns.training.schedule import PhaseScheduleConfig

OTHERS = ("restarts.", "eval_poses")
"""Beginnings of the names of what attempts do not train."""


@runtime_checkable
class Learner(Protocol):
    """A part that attempts train."""

    def reset_parameters(self) -> None:
        """Back to the state of a new run; what is random is drawn anew."""
        ...


class AttemptState:
    """Of a pipeline."""

    def __init__(self, pipeline: nn.Module, learners: Sequence[Learner]) -> None:
        """
        Args:
            pipeline: what has the parts' parameters and buffers, and the poses, in its state.
            learners: those parts. The poses are not among them: they are looked up at the end of phase A.
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
        return {name: value.clone() for name, value in state.items() if not name.startswith(OTHERS)}

    def put_back(self, state: Dict[str, Tensor]) -> None:
        """Go on from such a copy."""
        self._pipeline.load_state_dict(state, strict=False)


MIN_PHASE_B_SHARE = 1 / 3
"""At least so much of the planned phase B must be left after a restart."""


@dataclass
class RestartsConfig:
    """Configuration of `Restarts`."""

    min_explained_variance: float = 0.1
    """Phase A begins anew if renderings explain less than this of how images differ from their mean."""
    max_restarts: int = 2
    """How often it may, beyond the attempts that the schedule plans."""


class Restarts(nn.Module):
    """Decides on restarts, and keeps the schedule's beginning and the best attempt across checkpoints.

    Attributes:
        begin: training step at which the present attempt began.
        count: how many attempts came before it.
        best: what the best of earlier attempts has trained, until it is decided which to go on from.
    """

    begin: Tensor
    count: Tensor

    def __init__(
        self,
        config: RestartsConfig,
        schedule: PhaseScheduleConfig,
        attempt: AttemptState,
        seed_at: Callable[[int], int],
    ) -> None:
        """
        Args:
            config: when and how often.
            schedule: begins anew in place.
            attempt: what an attempt trains.
            seed_at: random seed of an attempt that begins at a step.
        """
        super().__init__()
        self.config = config
        self._schedule = schedule
        self._attempt, self._seed_at = attempt, seed_at
        self._planned = schedule.attempts_left + 1
        self._shortest_phase_b = MIN_PHASE_B_SHARE * schedule.phase_b_steps
        self.register_buffer("begin", torch.tensor(0))
        self.register_buffer("count", torch.tensor(0))
        self.best_share = -torch.inf
        self.best: Optional[Dict[str, Tensor]] = None

    def get_extra_state(self) -> Dict[str, Any]:
        """For checkpoints: the best attempt."""
        return {"best_share": self.best_share, "best": self.best}

    def set_extra_state(self, state: Dict[str, Any]) -> None:
        """From checkpoints."""
        self.best_share, self.best = state["best_share"], state["best"]

    def resume(self) -> None:
        """Let the schedule begin where a checkpoint has it."""
        self._schedule.begin_anew(int(self.begin), self._planned_after(int(self.count)))

    def after(self, step: int, explained_variance: Optional[float]) -> bool:
        """Start over, or go back to the best attempt, if a step has shown what the present one has come to.

        Args:
            step: the one that is done.
            explained_variance: `PoseSearch.explained_variance` if poses were looked up in it, else None.

        Returns:
            Whether what is trained has been replaced. Optimizers have to forget then, too.
        """
        if explained_variance is None:
            return False
        writer.put_scalar("Train Poses/explained_variance", explained_variance, step)
        is_best = explained_variance >= self.best_share
        attempts = int(self.count) + 1
        if self._planned > 1:
            CONSOLE.print(f"Attempt {attempts} at phase A explains {explained_variance:.0%} of how the images differ.")
        begins_anew = attempts < self._planned
        # In this order, a share that is no number, of a diverged attempt, counts as none.
        if not begins_anew and max(self.best_share, explained_variance) < self.config.min_explained_variance:
            begins_anew = self._may_begin_anew(step, attempts)
            CONSOLE.print(
                f"At step {step} renderings do not tell the images apart; phase A begins anew."
                if begins_anew
                else "[yellow]Phase A ended without telling the images apart, so the poses will be wrong. Train "
                "with another --machine.seed or more --pipeline.schedule.phase-a-steps, and check that the images "
                "show one object, alone or with masks."
            )
        if begins_anew:
            if is_best:
                self.best_share, self.best = explained_variance, self._attempt.copied()
            self._begin_anew(step + 1)
            return True
        best, self.best = self.best, None
        if is_best or best is None:
            return False
        self._attempt.put_back(best)
        return True

    def _planned_after(self, attempt: int) -> int:
        """How many planned attempts come after one, counted from 0."""
        return max(0, self._planned - 1 - attempt)

    def _may_begin_anew(self, step: int, attempts: int) -> bool:
        steps_left = self._schedule.phase_b_steps - (step + 1 - self._schedule.begins_at)
        return attempts < self._planned + self.config.max_restarts and steps_left >= self._shortest_phase_b

    def _begin_anew(self, step: int) -> None:
        self.count += 1
        self.begin.fill_(step)
        self._schedule.begin_anew(step, self._planned_after(int(self.count)))
        self._attempt.initialize(self._seed_at(step))
