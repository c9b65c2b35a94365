"""Train nerfstudio's own methods on the true poses, on a machine without a GPU: for comparison, or to localize in.

    python benchmarks/true_poses.py --data LEGO --methods nerfacto vanilla-nerf mipnerf --output FOLDER

Their settings are nerfstudio's for synthetic images, except for what takes too long on a CPU: nerfacto has the sizes of
our field and our compiled hash grids (the same values), the others fewer samples along a ray and fewer steps.
"""

from __future__ import annotations

import copy
import json
import math
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Tuple

import numpy as np
import torch
import tyro
from nerfstudio.configs.method_configs import method_configs
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig

from gnerf_ns.demo.command import trainer_config
from gnerf_ns.fields.hash_encoding import use_compiled_hash_grids
from gnerf_ns.models.image_metrics import without_lpips
from gnerf_ns.training.recipe import fit_to_images
from gnerf_ns.utils.checkpoints import latest_checkpoint

NEAR, FAR = 0.5, 1.5
"""Planes between which NeRF's synthetic scenes lie (2 and 6 units from cameras 4 units away), in camera distances."""


@dataclass
class Arguments:
    """What to train."""

    data: Path
    """Folder in the Blender layout, all three splits."""
    output: Path
    """Where the runs go."""
    methods: Tuple[str, ...] = ("nerfacto", "vanilla-nerf", "mipnerf")
    """Names of nerfstudio's methods."""
    steps: Optional[int] = None
    """Training steps of each; None: enough for a field to localize in. A run that has made fewer is resumed."""
    seed: int = 0
    """Seed of each."""


def main(arguments: Arguments) -> None:
    """Train each and print its image quality and time."""
    for method in arguments.methods:
        config = nerfacto_config(arguments.data) if method == "nerfacto" else network_config(method, arguments.data)
        config.output_dir, config.experiment_name = arguments.output, arguments.data.name
        if arguments.steps is not None:
            config.max_num_iterations = arguments.steps
        checkpoint = latest_checkpoint(config.get_checkpoint_dir())
        config.load_dir = None if checkpoint is None else checkpoint.parent
        metrics, wall_s, cpu_s = train(config, arguments.seed)
        print(f"{method}: psnr {metrics['psnr']:.2f} dB, {wall_s:.0f} s, {cpu_s:.0f} CPU s", flush=True)


def nerfacto_config(data: Path, full_size: bool = False, detail: float = 1.0) -> Any:
    """nerfacto with the settings that its documentation gives for synthetic images, and no appearance embedding."""
    config = _common("nerfacto", data, rays_per_step=4096, steps=1200)
    model = config.pipeline.model
    model.background_color, model.proposal_initial_sampler = "white", "uniform"
    frames = json.loads((data / "transforms_train.json").read_text())["frames"]
    distances = [math.hypot(*(row[3] for row in frame["transform_matrix"][:3])) for frame in frames]
    model.near_plane, model.far_plane = NEAR * min(distances), FAR * max(distances)
    model.camera_optimizer.mode, model.use_average_appearance_embedding = "off", False
    model.distortion_loss_mult, model.disable_scene_contraction = 0.0, True
    model.use_appearance_embedding = False
    if not full_size:
        as_large_as_ours(model, detail=detail)
    return config


def network_config(method: str, data: Path) -> Any:
    """A method whose field is one large network (vanilla-nerf, mipnerf): fewer samples and steps."""
    config = _common(method, data, rays_per_step=512, steps=1500)
    config.pipeline.model.num_coarse_samples = config.pipeline.model.num_importance_samples = 32
    # NeRF's Adam with a decaying rate: nerfstudio's RAdam warms up for its first thousand steps.
    for optimizer in config.optimizers.values():
        optimizer["optimizer"] = AdamOptimizerConfig(lr=1e-3)
        optimizer["scheduler"] = ExponentialDecaySchedulerConfig(lr_final=1e-4)
    return config


def _common(method: str, data: Path, rays_per_step: int, steps: int) -> Any:
    config: Any = copy.deepcopy(method_configs[method])
    config.data, config.timestamp, config.vis = data, "run", "tensorboard"
    on_gpu = torch.cuda.is_available()
    config.machine.device_type, config.mixed_precision = "cuda" if on_gpu else "cpu", on_gpu
    config.max_num_iterations = steps
    config.steps_per_eval_batch = config.steps_per_eval_image = config.steps_per_eval_all_images = 10**9
    config.pipeline.datamanager = VanillaDataManagerConfig(
        dataparser=BlenderDataParserConfig(data=data), train_num_rays_per_batch=rays_per_step
    )
    return config


def as_large_as_ours(model: Any, in_a_room: bool = False, detail: float = 1.0) -> None:
    """Change a nerfacto's configuration to the sizes of our field.

    Args:
        model: its configuration.
        in_a_room: whether ours shows surroundings.
        detail: how many times as long as by default images are, in pixels.
    """
    ours: Any = trainer_config("gnerf-ns")
    fit_to_images(ours.pipeline, detail, num_images=100)
    radiance = ours.pipeline.model.radiance
    if in_a_room:
        radiance = radiance.for_surroundings()
    model.num_levels, model.max_res = radiance.num_levels, radiance.max_resolution
    model.log2_hashmap_size = radiance.log2_hashmap_size
    model.hidden_dim, model.hidden_dim_color = radiance.hidden_dim, radiance.hidden_dim_color
    model.num_proposal_iterations = 1
    model.num_proposal_samples_per_ray = (radiance.num_proposal_samples,)
    model.num_nerf_samples_per_ray = radiance.num_nerf_samples


def train(config: Any, seed: int) -> Tuple[Any, float, float]:
    """Train to the end of a configuration; metrics on the test images, wall and CPU time in seconds."""
    config.machine.seed = seed
    # Learning rates decay over all steps.
    for optimizer in config.optimizers.values():
        if getattr(optimizer["scheduler"], "max_steps", None) is not None:
            optimizer["scheduler"].max_steps = config.max_num_iterations
    wall, cpu = time.monotonic(), time.process_time()
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (nerfstudio draws from the global generators)
    torch.manual_seed(seed)
    with without_lpips():
        trainer = config.setup(local_rank=0, world_size=1)
        trainer.setup(test_mode="test")
    use_compiled_hash_grids(trainer.pipeline.model)
    config.save_config()
    config.max_num_iterations -= trainer._start_step  # nerfstudio counts the steps after a resume
    if config.max_num_iterations > 0:
        trainer.train()
    wall_s, cpu_s = time.monotonic() - wall, time.process_time() - cpu
    return trainer.pipeline.get_average_eval_image_metrics(), wall_s, cpu_s


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments)))
