"""Phase A that came to nothing begins anew, within the run.

Renderings may collapse, to nothing or to the mean photograph; GNeRF's adversarial training does on some seeds and has
to be started again by hand. It shows when all poses are looked up, so schedules without that never begin anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Optional

import torch
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor, nn

from gnerf_ns.model_components.phase_schedule import PhaseScheduleConfig

MIN_PHASE_B_SHARE = 1 / 3
"""At least so much of the planned phase B must be left after a restart."""


@dataclass
class RestartsConfig:
    """Configuration of `Restarts`."""

    min_explained_share: float = 0.1
    """Phase A begins anew if renderings explain less than this of how photographs differ from their mean."""
    max_restarts: int = 2
    """How often it may."""


class Restarts(nn.Module):
    """Decides on restarts, and keeps the schedule's beginning across checkpoints.

    Attributes:
        begin: training step at which the present attempt began.
        count: how many attempts came before it.
    """

    begin: Tensor
    count: Tensor

    def __init__(
        self, config: RestartsConfig, schedule: PhaseScheduleConfig, initialise: Callable[[int], None]
    ) -> None:
        """
        Args:
            config: when and how often.
            schedule: begins anew in place.
            initialise: gives networks the state of a new run; takes the step, for its random numbers.
        """
        super().__init__()
        self.config = config
        self._schedule = schedule
        self._initialise = initialise
        self._shortest_phase_b = MIN_PHASE_B_SHARE * schedule.phase_b_steps
        self.register_buffer("begin", torch.tensor(0))
        self.register_buffer("count", torch.tensor(0))

    def resume(self) -> None:
        """Let the schedule begin where a checkpoint has it."""
        self._schedule.begin_anew(int(self.begin))

    def after(self, step: int, explained_share: Optional[float]) -> bool:
        """Start over if a step has shown that phase A failed.

        Args:
            step: the one that is done.
            explained_share: `PoseSearch.explained_share` if poses were looked up in it, else None.

        Returns:
            Whether phase A begins anew with the next step. Optimizers have to forget then, too.
        """
        if explained_share is None or explained_share >= self.config.min_explained_share:
            return False
        steps_left = self._schedule.phase_b_steps - (step + 1 - self._schedule.begins_at)
        if int(self.count) >= self.config.max_restarts or steps_left < self._shortest_phase_b:
            CONSOLE.print(
                "[yellow]Phase A ended without telling the photographs apart, so the poses will be wrong. Train with "
                "another --machine.seed or more --pipeline.schedule.phase-a-steps, and check that the pictures show "
                "one object, alone or with masks."
            )
            return False
        CONSOLE.print(f"At step {step} renderings do not tell the photographs apart; phase A begins anew.")
        self.count += 1
        self.begin.fill_(step + 1)
        self._schedule.begin_anew(step + 1)
        self._initialise(step + 1)
        return True
