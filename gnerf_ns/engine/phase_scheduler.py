"""Learning rates that follow the phases."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional, Type

from nerfstudio.engine.schedulers import Scheduler, SchedulerConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from gnerf_ns.model_components.phase_schedule import PhaseScheduleConfig, geometric


@dataclass
class PhaseSchedulerConfig(SchedulerConfig):
    """Full rate, falling if asked over the second half of phase A; in phase B an exponential decay of its own."""

    _target: Type = field(default_factory=lambda: PhaseScheduler)
    """Target class to instantiate."""
    phase_a_steps: Optional[int] = None
    """Length of phase A, AB not included; None for the pipeline's schedule."""
    phase_a_end: Optional[int] = None
    """First step after phases A and AB, from which on the first factor of phase B holds; None for the pipeline's
    schedule."""
    phase_b_start: Optional[int] = None
    """First step of phase B's decay; None for the pipeline's schedule."""
    phase_b_steps: Optional[int] = None
    """Length of phase B; the last factor holds from its end on. None for the pipeline's schedule."""
    phase_a_last_factor: float = 1.0
    """Share of the learning rate at the end of phase A, and in AB."""
    first_factor: float = 1.0
    """Share of the learning rate at the beginning of phase B."""
    last_factor: float = 0.1
    """Share of the learning rate at the end of phase B."""

    def follow(self, schedule: PhaseScheduleConfig) -> None:
        """Take from the schedule what was left open."""
        if self.phase_a_steps is None:
            self.phase_a_steps = schedule.phase_a_steps
        if self.phase_a_end is None:
            self.phase_a_end = schedule.phase_a_end
        if self.phase_b_start is None:
            self.phase_b_start = schedule.phase_b_start
        if self.phase_b_steps is None:
            self.phase_b_steps = schedule.phase_b_steps


class PhaseScheduler(Scheduler):
    """Builds torch's scheduler. Its factors are Python floats, which checkpoints keep readable on torch >= 2.6."""

    config: PhaseSchedulerConfig

    def get_scheduler(self, optimizer: Optimizer, lr_init: float) -> LambdaLR:
        """A scheduler that is stepped once per training step."""
        config = self.config
        a_length, a_end = config.phase_a_steps, config.phase_a_end
        b_start, b_length = config.phase_b_start, config.phase_b_steps
        if a_length is None or a_end is None or b_start is None or b_length is None:
            raise ValueError("A PhaseScheduler needs the lengths of the phases; give them, or follow a schedule.")

        def factor(step: int) -> float:
            if step < a_end:
                progress = 2.0 * step / max(1, a_length) - 1.0
                return geometric((1.0, config.phase_a_last_factor), min(1.0, max(0.0, progress)))
            progress = min(1.0, max(0, step - b_start) / max(1, b_length))
            return geometric((config.first_factor, config.last_factor), progress)

        return LambdaLR(optimizer, factor)
