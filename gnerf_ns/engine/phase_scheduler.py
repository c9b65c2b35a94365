"""Learning rates that follow the phases."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Optional, Type

from nerfstudio.engine.schedulers import Scheduler, SchedulerConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from gnerf_ns.model_components.phase_schedule import PhaseScheduleConfig, geometric


@dataclass
class PhaseSchedulerConfig(SchedulerConfig):
    """Full rate until phase B, then a jump and an exponential decay."""

    _target: Type = field(default_factory=lambda: PhaseScheduler)
    """Target class to instantiate."""
    phase_b_start: Optional[int] = None
    """First step of phase B; None for the pipeline's schedule."""
    phase_b_steps: Optional[int] = None
    """Length of phase B; the last factor holds from its end on. None for the pipeline's schedule."""
    first_factor: float = 1.0
    """Share of the learning rate at the beginning of phase B."""
    last_factor: float = 0.1
    """Share of the learning rate at the end of phase B."""

    def follow(self, schedule: PhaseScheduleConfig) -> None:
        """Take from the schedule what was left open."""
        if self.phase_b_start is None:
            self.phase_b_start = schedule.phase_b_start
        if self.phase_b_steps is None:
            self.phase_b_steps = schedule.phase_b_steps


class PhaseScheduler(Scheduler):
    """Builds torch's scheduler. Its factors are Python floats, which checkpoints keep readable on torch >= 2.6."""

    config: PhaseSchedulerConfig

    def get_scheduler(self, optimizer: Optimizer, lr_init: float) -> LambdaLR:
        """A scheduler that is stepped once per training step."""
        start, length = self.config.phase_b_start, self.config.phase_b_steps
        if start is None or length is None:
            raise ValueError("A PhaseScheduler needs phase_b_start and phase_b_steps; give them, or follow a schedule.")
        factors = (self.config.first_factor, self.config.last_factor)

        def factor(step: int) -> float:
            return 1.0 if step < start else geometric(factors, min(1.0, (step - start) / max(1, length)))

        # The rate follows the training steps: through phase A, where the poses' optimizer has nothing to do yet, too.
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        return LambdaLR(optimizer, factor)
