"""Learning rates that follow the phases."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Type

from nerfstudio.engine.schedulers import Scheduler, SchedulerConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from gnerf_ns.model_components.phase_schedule import geometric


@dataclass
class PhaseSchedulerConfig(SchedulerConfig):
    """Full rate until phase B, then a jump and an exponential decay."""

    _target: Type = field(default_factory=lambda: PhaseScheduler)
    """Target class to instantiate."""
    phase_b_start: int = 100
    """First step of phase B."""
    phase_b_steps: int = 1500
    """Length of phase B; the last factor holds from its end on."""
    first_factor: float = 1.0
    """Share of the learning rate at the beginning of phase B."""
    last_factor: float = 0.1
    """Share of the learning rate at the end of phase B."""


class PhaseScheduler(Scheduler):
    """Builds torch's scheduler. Its factors are Python floats, which checkpoints keep readable on torch >= 2.6."""

    config: PhaseSchedulerConfig

    def get_scheduler(self, optimizer: Optimizer, lr_init: float) -> LambdaLR:
        """A scheduler that is stepped once per training step."""
        config = self.config

        def factor(step: int) -> float:
            if step < config.phase_b_start:
                return 1.0
            progress = min(1.0, (step - config.phase_b_start) / max(1, config.phase_b_steps))
            return geometric((config.first_factor, config.last_factor), progress)

        # The rate follows the training steps: through phase A, where the poses' optimizer has nothing to do yet, too.
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        return LambdaLR(optimizer, factor)
