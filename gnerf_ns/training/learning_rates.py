"""Optimizers and learning-rate schedules that nerfstudio's configs lack."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Callable, Dict, Optional, Tuple, Type

import tyro
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.schedulers import Scheduler, SchedulerConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from gnerf_ns.training.schedule import Schedule
from gnerf_ns.utils.annealing import geometric

WARM_UP_FROM = 0.01
"""Where a learning rate begins that has to warm up, as a share of where it would be (as in JaxNeRF and after it)."""


@dataclass
class PlainAdamOptimizerConfig(AdamOptimizerConfig):
    """nerfstudio's, with its learning rate alone as an option."""

    eps: tyro.conf.Suppress[float] = 1e-8
    """Added to the denominator."""
    max_norm: tyro.conf.Suppress[Optional[float]] = None
    """Gradients are shortened to this norm."""
    weight_decay: tyro.conf.Suppress[float] = 0
    """Share of the parameters that is taken off them, as torch's Adam does."""


@dataclass
class QuickAdamOptimizerConfig(PlainAdamOptimizerConfig):
    """Adam for runs of hundreds of steps, whose second moment must not remember a thousand."""

    eps: tyro.conf.Suppress[float] = 1e-15
    """Added to the denominator; entries of a hash grid have tiny gradients."""
    betas: tyro.conf.Suppress[Tuple[float, float]] = (0.9, 0.99)
    """Decay rates of the first and second moment."""
    fused: tyro.conf.Suppress[bool] = True
    """One pass over the parameters in place of a dozen; a hash grid has a million of them."""


@dataclass
class PhaseSchedulerConfig(SchedulerConfig):
    """Full rate, falling if asked over the second half of phase A; in phase B an exponential decay of its own."""

    _target: Type = field(default_factory=lambda: PhaseScheduler)
    """Target class to instantiate."""
    phase_a_last_factor: tyro.conf.Suppress[float] = 1.0
    """Share of the learning rate at the end of phase A, and in AB."""
    first_factor: float = 1.0
    """Share of the learning rate at the beginning of phase B."""
    last_factor: float = 0.1
    """Share of the learning rate at the end of phase B."""
    warm_up_steps: tyro.conf.Suppress[int] = 0
    """Steps of phase B in which the rate grows from `WARM_UP_FROM` of what it then is."""
    known_hold: tyro.conf.Suppress[Tuple[float, float]] = (0.0, 0.0)
    """Share of phase B in which the rate is 0 where poses are known from the start, roughly or by matches: no young
    field can judge them."""
    matched_factor: tyro.conf.Suppress[float] = 1.0
    """Share of the learning rate in phase B where poses are those of matches: what the rays of a step say of a pose is
    noise for the most part, by which good poses walk."""
    is_of_poses: tyro.conf.Suppress[bool] = False
    """Whether the rate is that of poses, with `PhaseScheduleConfig.pose_boost`."""

    def factor(self, schedule: Schedule, step: int) -> float:
        """Share of the learning rate at a step."""
        if step < schedule.phase_a_end:
            progress = 2.0 * (step - schedule.begins_at) / max(1, schedule.config.phase_a_steps) - 1.0
            return geometric((1.0, self.phase_a_last_factor), min(1.0, max(0.0, progress)))
        progress = max(0, step - schedule.phase_a_end) / max(1, schedule.phase_b_steps)
        known = schedule.config.known_poses
        if known != "none" and progress < self.known_hold[known == "matched"]:
            return 0.0
        factor = self.matched_factor if known == "matched" else 1.0
        if self.is_of_poses:
            factor *= schedule.config.pose_boost or 1.0
        if self.warm_up_steps > 0:
            share = min(1.0, max(0, step - schedule.phase_a_end) / self.warm_up_steps)
            factor *= WARM_UP_FROM + (1.0 - WARM_UP_FROM) * math.sin(0.5 * math.pi * share)
        return factor * geometric((self.first_factor, self.last_factor), min(1.0, progress))


class PhaseScheduler(Scheduler):
    """Builds torch's scheduler. Its factors are Python floats, which checkpoints keep readable on torch >= 2.6."""

    config: PhaseSchedulerConfig

    def __init__(self, config: PhaseSchedulerConfig, schedule: Callable[[], Schedule]) -> None:
        """
        Args:
            config: the factors.
            schedule: gives the run's present schedule, in which phase A may begin anew.
        """
        super().__init__(config)
        self._schedule = schedule

    def get_scheduler(self, optimizer: Optimizer, lr_init: float) -> LambdaLR:
        """A scheduler that is stepped once per training step."""
        return LambdaLR(optimizer, lambda step: self.config.factor(self._schedule(), step))


def following(optimizers: Dict[str, Any], schedule: Callable[[], Schedule]) -> Dict[str, Any]:
    """nerfstudio's optimizer configs with the phase schedulers among them bound to a run's schedule."""

    def bound(config: Any) -> Any:
        if not isinstance(config, PhaseSchedulerConfig):
            return config
        return SimpleNamespace(setup=lambda: config.setup(schedule=schedule))  # all that nerfstudio asks of one

    return {group: {**configs, "scheduler": bound(configs["scheduler"])} for group, configs in optimizers.items()}


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
