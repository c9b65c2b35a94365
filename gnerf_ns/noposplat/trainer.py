"""nerfstudio's trainer with NoPoSplat's optimization, which leaves the network in a file of its own."""

from __future__ import annotations

import math
import os
import shlex
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, List, Literal, Optional, Tuple, Type

import torch
import tyro
from nerfstudio.configs.base_config import MachineConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig, Optimizers
from nerfstudio.engine.schedulers import Scheduler, SchedulerConfig
from nerfstudio.utils.decorators import check_main_thread
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from gnerf_ns.noposplat.checkpoints import NETWORK_FILE, save_network
from gnerf_ns.noposplat.pipeline import NoPoSplatPipeline, NoPoSplatPipelineConfig
from gnerf_ns.runs.lines import Line, say, shown_path
from gnerf_ns.runs.progress_display import Phase, ProgressWriter, Watched
from gnerf_ns.runs.run_folder import CONFIG, RunFolderConfig
from gnerf_ns.runs.run_time import PartTimes, is_due
from gnerf_ns.runs.whole_runs import WholeRunTrainer
from gnerf_ns.utils.console import duration
from gnerf_ns.utils.errors import InputError

POINTS, IMAGES, ONE_EVALUATED, ALL_EVALUATED, SAVING = "points", "images", "one evaluated", "all evaluated", "saving"
COSTS = {POINTS: 0.5, IMAGES: 1.0, ONE_EVALUATED: 1.0, ALL_EVALUATED: 30.0, SAVING: 2.0}
"""Expected durations of a training's parts, in steps with images, until they have been measured."""


@dataclass
class AdamWOptimizerConfig(AdamOptimizerConfig):
    """AdamW with the values of NoPoSplat's official training."""

    _target: Type = torch.optim.AdamW
    """The optimizer class to use."""
    eps: tyro.conf.Suppress[float] = 1e-8
    """Added to the denominator."""
    max_norm: tyro.conf.Suppress[Optional[float]] = None
    """Gradients of all groups are shortened together: `OptimizersClippedTogether`."""
    betas: tyro.conf.Suppress[Tuple[float, float]] = (0.9, 0.95)
    """Decay rates of the first and second moment."""
    weight_decay: tyro.conf.Suppress[float] = 0.05
    """The weight decay to use."""


@dataclass
class WarmUpCosineSchedulerConfig(SchedulerConfig):
    """The rate rises linearly from almost 0, then falls by half a cosine until the run ends."""

    _target: Type = field(default_factory=lambda: WarmUpCosineScheduler)
    """Target class to instantiate."""
    warm_up_steps: int = 125
    """Steps until the full rate."""
    last_factor: float = 0.1
    """Share of the learning rate at the end."""
    first_step: tyro.conf.Suppress[int] = 0
    """Where all this begins. Before it, nothing is learned. Unless it is 0, `NoPoSplatTrainer` has it where images
    begin: at once where there are no points (with --data, for example), whatever was planned."""

    def factor(self, step: int, total_steps: int) -> float:
        """Share of the learning rate at a step of so many."""
        step, total_steps = step - self.first_step, total_steps - self.first_step
        if step < 0:
            return 0.0
        if step < self.warm_up_steps:
            return (step + 1) / (self.warm_up_steps + 1)
        progress = min(1.0, (step - self.warm_up_steps) / max(1, total_steps - self.warm_up_steps))
        return self.last_factor + (1.0 - self.last_factor) * 0.5 * (1.0 + math.cos(math.pi * progress))


class WarmUpCosineScheduler(Scheduler):
    """Builds torch's scheduler."""

    config: WarmUpCosineSchedulerConfig

    def __init__(self, config: WarmUpCosineSchedulerConfig, total_steps: int) -> None:
        """
        Args:
            config: the factors.
            total_steps: of the run.
        """
        super().__init__(config)
        self._total_steps = total_steps

    def get_scheduler(self, optimizer: Optimizer, lr_init: float) -> LambdaLR:
        """A scheduler that is stepped once per training step."""
        return LambdaLR(optimizer, lambda step: self.config.factor(step, self._total_steps))


class OptimizersClippedTogether(Optimizers):
    """The gradients of all groups are clipped as one vector, as in official training; nerfstudio clips each group."""

    def __init__(self, config: Dict[str, Any], param_groups: Dict[str, List[Any]], clip_norm: float) -> None:
        """
        Args:
            config: of optimizers and schedulers, by group.
            param_groups: what they optimize.
            clip_norm: largest norm of the gradient.
        """
        super().__init__(config, param_groups)
        self._clip_norm = clip_norm

    def optimizer_scaler_step_some(self, grad_scaler: Any, param_groups: List[str]) -> None:
        """Clip, then step the optimizers of some groups.

        Args:
            grad_scaler: of mixed precision.
            param_groups: their names.
        """
        for group in param_groups:
            grad_scaler.unscale_(self.optimizers[group])
        clipped = [parameter for group in param_groups for parameter in self.parameters[group]]
        torch.nn.utils.clip_grad_norm_(clipped, self._clip_norm)
        super().optimizer_scaler_step_some(grad_scaler, param_groups)


@dataclass
class NoPoSplatTrainerConfig(RunFolderConfig):
    """`TrainerConfig` of trainings of NoPoSplat."""

    _target: Type = field(default_factory=lambda: NoPoSplatTrainer)
    """Target class to instantiate."""
    pipeline: NoPoSplatPipelineConfig = field(default_factory=NoPoSplatPipelineConfig)
    """What is trained."""
    max_num_iterations: int = 18_751
    """Steps of a run, those before a resume included."""
    steps_per_save: int = 1000
    """Steps between checkpoints."""
    steps_per_eval_image: int = 500
    """Steps between pictures of a held-out scene."""
    steps_per_eval_all_images: int = 25_000
    """Steps between evaluations of all held-out scenes."""
    mixed_precision: bool = False
    """Whether networks run in half precision."""
    clip_norm: float = 0.5
    """Gradients are shortened to this norm."""

    def set_timestamp(self) -> None:
        """Look at what was asked for, before anything is read or written; then name the run by the time.

        Raises:
            InputError: it cannot be done.
        """
        check_devices(self.machine)
        self.pipeline.datamanager.check_options()
        if not self.is_resumed:
            self.pipeline.model.check_beginning()
        super().set_timestamp()

    def set_experiment_name(self) -> None:
        """Name the experiment after the folder of the data, be it given as ``.``."""
        if self.experiment_name is None:
            data = self.pipeline.datamanager.data
            self.experiment_name = "made-scenes" if data is None else Path(os.path.abspath(data)).name

    def save_config(self) -> None:
        """Save the configuration with paths that hold from anywhere."""
        for owner, name in (
            (self.pipeline.datamanager, "data"),
            (self.pipeline.datamanager, "evaluation_views"),
            (self.pipeline.model, "checkpoint"),
            (self.pipeline.model, "mast3r"),
        ):
            path = getattr(owner, name)
            setattr(owner, name, None if path is None else Path(os.path.abspath(path)))
        super().save_config()


def check_devices(machine: MachineConfig) -> None:
    """Whether there is a GPU for each process: nerfstudio's launch of several knows CUDA alone.

    Raises:
        InputError: there is not.
    """
    there = torch.cuda.device_count() if machine.device_type == "cuda" else 0
    if machine.num_devices * machine.num_machines > 1 and machine.num_devices > there:
        raise InputError(
            f"Several processes (--machine.num-devices {machine.num_devices}, --machine.num-machines "
            f"{machine.num_machines}) need a CUDA GPU each, and this machine has {there} to use; one process uses all "
            "cores of a CPU."
        )


class NoPoSplatTrainer(WholeRunTrainer):
    """Overrides hooks of `Trainer`: with what the network begins, optimizers, and the network's file."""

    config: NoPoSplatTrainerConfig
    pipeline: NoPoSplatPipeline

    def _set_up(self, test_mode: Literal["test", "val", "inference"]) -> None:
        super()._set_up(test_mode)
        if not self.config.is_resumed:
            self.pipeline.model.begin()

    def setup_optimizers(self) -> Optimizers:
        """Rates fall until the run's end; what only images teach waits for the first of them, and no longer."""
        planned = self.config.max_num_iterations
        point_steps = self.pipeline.datamanager.example_config.point_steps
        configs = {}
        for group, each in self.config.optimizers.items():
            scheduler = each["scheduler"]
            if scheduler.first_step:
                scheduler = replace(scheduler, first_step=point_steps)
            setup = partial(scheduler.setup, total_steps=planned)
            configs[group] = {**each, "scheduler": SimpleNamespace(setup=setup)}
        return OptimizersClippedTogether(configs, self.pipeline.get_param_groups(), self.config.clip_norm)

    def _save_checkpoint(self, step: int) -> None:
        super()._save_checkpoint(step)
        save_network(self.pipeline.model.network, self.base_dir / NETWORK_FILE)

    def _say_what_begins(self, display: ProgressWriter) -> None:
        data, places = self.config.pipeline.datamanager, display.places
        width, height = data.image_size
        if self.config.is_tensorboard_enabled():
            places.append(f"tensorboard --logdir {shown_path(self.base_dir)}")
        weights = sum(parameter.numel() for parameter in self.pipeline.model.network.parameters()) / 1e6
        scenes = "made by seed" if data.data is None else f"from {data.data}"
        say(
            [
                Line(f"A network of {weights:.1f} million weights learns from scenes {scenes}."),
                Line(f"{data.batch_size} in a step, {data.num_context} images of {width}×{height} pixels of each."),
                Line(f"Look at {', '.join(places)}.", is_copied=True),
            ]
        )

    def _watched(self) -> Watched:
        config, point_steps = self.config, self.pipeline.datamanager.example_config.point_steps
        total = int(self._last_step) + 1
        run_time = PartTimes(COSTS, self._start_step)
        steps = []
        for step in range(self._start_step, total):
            parts = {POINTS if step < point_steps else IMAGES: 1.0}
            for part, interval in (
                (ONE_EVALUATED, config.steps_per_eval_image),
                (ALL_EVALUATED, config.steps_per_eval_all_images),
                (SAVING, config.steps_per_save),
            ):
                if is_due(step, interval):
                    parts[part] = 1.0
            steps.append(parts)
        run_time.plan([*steps, {SAVING: 1.0}])

        def phase(step: int) -> Phase:
            if step >= total:
                return Phase("End", "saving the network")
            return Phase("Points", "learning positions") if step < point_steps else Phase("Images", "learning views")

        return Watched(phase, run_time, self._start_step, total)

    @check_main_thread
    def _say_how_it_ended(self) -> None:
        """Where the network is, and what judges it."""
        if self.step < self._last_step or not self._is_finite():
            self._say_where_it_stopped()
            return
        self._say_nothing_more()
        after = "" if self._display is None else f" after {duration(self._display.elapsed)}"
        path = shown_path(self.base_dir / NETWORK_FILE)
        config = shlex.quote(str(shown_path(self.base_dir / CONFIG)))
        say(
            [
                Line(f"Done{after}: the network is in {path}", "bold green", True),
                Line("Go on with", "bold"),
                Line(f"  gnerf-splat PHOTO PHOTO --checkpoint {shlex.quote(str(path))}", is_copied=True),
                Line(f"  ns-eval --load-config {config}", is_copied=True),
            ]
        )
