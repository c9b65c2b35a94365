"""Learning rates that fall at stated steps."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Tuple, Type

from nerfstudio.engine.schedulers import Scheduler, SchedulerConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


@dataclass
class StepDecaySchedulerConfig(SchedulerConfig):
    """The rate is multiplied by a factor at each of some steps."""

    _target: Type = field(default_factory=lambda: StepDecayScheduler)
    """Target class to instantiate."""
    milestones: Tuple[int, ...] = ()
    """Steps from which on the rate is smaller, in ascending order."""
    factor: float = 0.5
    """By how much, at each of them."""


class StepDecayScheduler(Scheduler):
    """Builds torch's scheduler. Unlike torch's MultiStepLR it keeps nothing but numbers in a checkpoint."""

    config: StepDecaySchedulerConfig

    def get_scheduler(self, optimizer: Optimizer, lr_init: float) -> LambdaLR:
        """A scheduler that is stepped once per training step."""
        milestones, share = self.config.milestones, self.config.factor
        return LambdaLR(optimizer, lambda step: share ** bisect_right(milestones, step))
