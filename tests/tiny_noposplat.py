"""A training of NoPoSplat as small as it goes: for tests of what surrounds the learning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from nerfstudio.configs.base_config import MachineConfig

from gnerf_ns.data.images import ImageSize
from gnerf_ns.noposplat.datamanager import NoPoSplatDataManagerConfig
from gnerf_ns.noposplat.model import NoPoSplatModelConfig
from gnerf_ns.noposplat.network import NoPoSplatNetworkConfig
from gnerf_ns.noposplat.pipeline import NoPoSplatPipeline, NoPoSplatPipelineConfig
from gnerf_ns.noposplat.trainer import AdamWOptimizerConfig, NoPoSplatTrainerConfig, WarmUpCosineSchedulerConfig
from gnerf_ns.scenes.made_scenes import MadeScene
from gnerf_ns.scenes.view_choice import ChosenViews
from gnerf_ns.scenes.view_sampling import Example, make_example
from gnerf_ns.splats.gaussians import Gaussians

SEED = 42
EXAMPLE_SIZE = ImageSize(48, 32)


def network_config(**changes: Any) -> NoPoSplatNetworkConfig:
    """The network with some 100,000 parameters."""
    return NoPoSplatNetworkConfig(
        **{
            "image_side": 32,
            "encoder_width": 32,
            "encoder_depth": 1,
            "encoder_heads": 2,
            "decoder_width": 32,
            "decoder_depth": 1,
            "decoder_heads": 2,
            "head_layers": (0, 0, 1, 1),
            "head_level_channels": (4, 8, 8, 16),
            "head_channels": 16,
            **changes,
        }
    )


def pipeline_config(**data: Any) -> NoPoSplatPipelineConfig:
    """Two scenes a step, of 32 pixels; `data` are options of the datamanager."""
    datamanager = NoPoSplatDataManagerConfig(
        **{
            "made_scenes": "balls-and-boxes",
            "image_size": (32, 32),
            "num_targets": 2,
            "batch_size": 2,
            "num_workers": 0,
            "num_eval_scenes": 3,
            **data,
        }
    )
    return NoPoSplatPipelineConfig(datamanager=datamanager, model=NoPoSplatModelConfig(network=network_config()))


def build_pipeline(config: NoPoSplatPipelineConfig, begin: bool = True) -> NoPoSplatPipeline:
    """The same weights every time."""
    torch.manual_seed(SEED)
    pipeline = config.setup(device="cpu")
    if begin:
        pipeline.model.begin()
    return pipeline


def trainer_config(output: Path, steps: int, lr: float = 1e-3, **data: Any) -> NoPoSplatTrainerConfig:
    """A training without viewer or console table."""
    config = NoPoSplatTrainerConfig(
        method_name="noposplat-tiny",
        experiment_name="run",
        timestamp="now",
        output_dir=output,
        machine=MachineConfig(device_type="cpu", seed=SEED),
        pipeline=pipeline_config(**data),
        optimizers={
            group: {
                "optimizer": AdamWOptimizerConfig(lr=lr),
                "scheduler": WarmUpCosineSchedulerConfig(warm_up_steps=2),
            }
            for group in ("pretrained", "new_layers")
        },
        vis="tensorboard",
        max_num_iterations=steps,
        steps_per_save=4,
        steps_per_eval_batch=10**9,
        steps_per_eval_image=10**9,
        steps_per_eval_all_images=10**9,
    )
    config.logging.local_writer.enable = False
    return config


def build_trainer(config: NoPoSplatTrainerConfig) -> Any:
    """What `ns-train` does before training."""
    torch.manual_seed(config.machine.seed)
    config.save_config()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    return trainer


def example_of(seed: int, size: ImageSize = EXAMPLE_SIZE) -> Example:
    """Views of a made scene, with points."""
    views = ChosenViews((3, 30), (3, 12, 30))
    return make_example(MadeScene(seed, "balls-and-boxes", size), views, size, with_points=True)


def true_gaussians(example: Example) -> Gaussians:
    """Small opaque Gaussians at the points of all context pixels, in their colors."""
    assert example.points is not None
    means = example.points.flatten(0, 2)
    colors = example.context.images.permute(0, 2, 3, 1).reshape(-1, 3)
    # As wide as their pixels, seen from the first camera.
    scales = (
        0.6
        * means.norm(dim=-1, keepdim=True)
        / (example.context.intrinsics[0, 0, 0] * example.context.images.shape[-1])
    )
    return Gaussians(
        means,
        scales.expand_as(means),
        torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(len(means), 4),
        torch.full((len(means),), 0.95),
        ((colors - 0.5) / 0.28209479)[..., None],
    )
