"""noposplat and noposplat-tiny: networks that make Gaussians of a few images, trained on many scenes."""

from __future__ import annotations

from typing import Any, Dict

import torch
from nerfstudio.configs.base_config import MachineConfig
from nerfstudio.plugins.types import MethodSpecification

from gnerf_ns.noposplat.datamanager import NoPoSplatDataManagerConfig
from gnerf_ns.noposplat.model import NoPoSplatModelConfig
from gnerf_ns.noposplat.network import NoPoSplatNetworkConfig
from gnerf_ns.noposplat.pipeline import NoPoSplatPipelineConfig
from gnerf_ns.noposplat.trainer import AdamWOptimizerConfig, NoPoSplatTrainerConfig, WarmUpCosineSchedulerConfig
from gnerf_ns.runs.progress_display import progress_logging

HAS_CUDA = torch.cuda.is_available()

TINY_POINT_STEPS = 6000
"""Of noposplat-tiny: in them poses are learned, and each takes half as long as one with images."""


def optimizers(
    pretrained: float, new_layers: float, last: float, warm_up_steps: int, point_steps: int = 0
) -> Dict[str, Any]:
    """AdamW for what MASt3R has weights for, and for what it has not.

    Args:
        pretrained: learning rate of the one,
        new_layers: and of the other;
        last: that of both at the end.
        warm_up_steps: until these rates.
        point_steps: so many first steps use none of the new layers.
    """
    return {
        group: {
            "optimizer": AdamWOptimizerConfig(lr=rate),
            "scheduler": WarmUpCosineSchedulerConfig(
                warm_up_steps=warm_up_steps, last_factor=last / rate, first_step=first_step
            ),
        }
        for group, rate, first_step in (("pretrained", pretrained, 0), ("new_layers", new_layers, point_steps))
    }


def trainer_config(method_name: str, **options: Any) -> NoPoSplatTrainerConfig:
    """What both methods share: they run where there is no GPU, end when they are done, and log to TensorBoard."""
    return NoPoSplatTrainerConfig(
        method_name=method_name,
        logging=progress_logging(),
        machine=MachineConfig(device_type="cuda" if HAS_CUDA else "cpu"),
        steps_per_eval_batch=10**9,  # the losses of the scene that the viewer shows, which say little
        vis="viewer+tensorboard",
        **options,
    )


noposplat = MethodSpecification(
    config=trainer_config(
        "noposplat",
        # Published: 8 processes with 16 scenes each, 6 hours. Begins from MASt3R, which MASt3R's licence restricts.
        pipeline=NoPoSplatPipelineConfig(),
        optimizers=optimizers(pretrained=2e-5, new_layers=2e-4, last=2e-5, warm_up_steps=125),
        max_num_iterations=18_751,
        steps_per_save=1000,
        steps_per_eval_image=500,
        steps_per_eval_all_images=5000,
    ),
    description="NoPoSplat: a network from a few images without poses to 3D Gaussians, at its published size.",
)

noposplat_tiny = MethodSpecification(
    config=trainer_config(
        "noposplat-tiny",
        pipeline=NoPoSplatPipelineConfig(
            datamanager=NoPoSplatDataManagerConfig(
                made_scenes="balls-and-boxes",
                image_size=(64, 64),
                num_targets=1,
                batch_size=8,
                num_workers=0,
                point_steps=TINY_POINT_STEPS,
            ),
            model=NoPoSplatModelConfig(
                network=NoPoSplatNetworkConfig(
                    # Sixteen patches would be too few to tell what two images have in common; and rays as colors tell
                    # each patch where it looks, which tokens of lenses do only after long training.
                    patch_side=8,
                    intrinsics="pixelwise",
                    ray_degree=0,
                    encoder_width=128,
                    encoder_depth=4,
                    encoder_heads=4,
                    decoder_width=128,
                    decoder_depth=4,
                    decoder_heads=4,
                    head_layers=(0, 1, 2, 4),
                    head_level_channels=(16, 24, 32, 40),
                    head_channels=32,
                )
            ),
        ),
        optimizers=optimizers(
            pretrained=1e-3, new_layers=1e-3, last=2e-5, warm_up_steps=100, point_steps=TINY_POINT_STEPS
        ),
        max_num_iterations=7700,
        steps_per_save=500,
        steps_per_eval_image=250,
        steps_per_eval_all_images=2000,
    ),
    description="A small NoPoSplat for CPUs, which learns from scenes made by seed unless it is given some.",
)
