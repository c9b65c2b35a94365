"""gnerf-ns-mip360: Mip-NeRF 360 (CVPR 2022) with poses and without; and the same small enough for a CPU."""

from __future__ import annotations

from typing import Any, Dict

from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig
from nerfstudio.plugins.types import MethodSpecification

from gnerf_ns.fields.mip360_radiance import Mip360RadianceConfig
from gnerf_ns.method_configs.gnerf import (  # pyright: ignore[reportMissingImports] (a mapped folder)
    field_optimizers,
    trainer_config,
)
from gnerf_ns.models.gnerf import GNeRFModelConfig
from gnerf_ns.training.learning_rates import PhaseSchedulerConfig, PlainAdamOptimizerConfig
from gnerf_ns.training.photometric import PhotometricObjectiveConfig
from gnerf_ns.training.pipeline import GNeRFPipelineConfig
from gnerf_ns.training.schedule import PhaseScheduleConfig

PUBLISHED_STEPS = 250_000
PUBLISHED_RATES = (2e-3, 2e-5)
PUBLISHED_WARM_UP = 512
"""Steps in which the learning rate grows."""


def published_model(radiance: Mip360RadianceConfig) -> GNeRFModelConfig:
    """Losses as published, and the planes of the released configuration."""
    return GNeRFModelConfig(
        radiance=radiance,
        photometric_loss="charbonnier",
        distortion_loss_mult=0.01,
        unbounded_planes=(0.2, 1e6),
    )


def published_pipeline() -> GNeRFPipelineConfig:
    """Mip-NeRF 360 as published. Where poses are to be found, what is before and beside it is that of gnerf-ns."""
    return GNeRFPipelineConfig(
        model=published_model(Mip360RadianceConfig()),
        # Full images from the beginning; where poses are learned, frequencies fade in (as in BARF).
        schedule=PhaseScheduleConfig(phase_b_steps=PUBLISHED_STEPS, phase_b_image_side=(10**6, None)),
        photometric=PhotometricObjectiveConfig(rays_per_step=16_384),
    )


def published_optimizers() -> Dict[str, Any]:
    """Adam with the published rates and clipped gradients for both networks; poses are learned as in gnerf-ns."""
    first, last = PUBLISHED_RATES
    return {
        **of_cameras(),
        "fields": {
            "optimizer": PlainAdamOptimizerConfig(lr=first, eps=1e-6, max_norm=1e-3),
            "scheduler": ExponentialDecaySchedulerConfig(
                lr_pre_warmup=0.01 * first,
                lr_final=last,
                warmup_steps=PUBLISHED_WARM_UP,
                max_steps=PUBLISHED_STEPS,
            ),
        },
    }


def of_cameras() -> Dict[str, Any]:
    """The optimizers of gnerf-ns but those of its fields."""
    optimizers = field_optimizers()
    del optimizers["fields"], optimizers["proposal_networks"]
    return optimizers


def small_pipeline() -> GNeRFPipelineConfig:
    """Sizes that two CPU cores train in minutes."""
    radiance = Mip360RadianceConfig(
        num_layers=4,
        layer_width=96,
        num_layers_proposal=2,
        layer_width_proposal=32,
        bottleneck_width=32,
        layer_width_color=32,
        num_frequencies=9,
        subdivisions=1,
        num_proposal_samples=(32,),
        num_nerf_samples=16,
        proposal_anneal_fraction=0.2,
    )
    return GNeRFPipelineConfig(
        model=published_model(radiance),
        photometric=PhotometricObjectiveConfig(rays_per_step=2048),
    )


def small_optimizers() -> Dict[str, Any]:
    """For runs of a thousand steps."""
    return {
        **of_cameras(),
        "fields": {
            "optimizer": PlainAdamOptimizerConfig(lr=5e-3, eps=1e-8),
            "scheduler": PhaseSchedulerConfig(first_factor=1.0, last_factor=0.02),
        },
    }


gnerf_ns_mip360 = MethodSpecification(
    config=trainer_config("gnerf-ns-mip360", published_pipeline(), published_optimizers()),
    description="Mip-NeRF 360's field as published, with poses or without. For a large GPU.",
)
gnerf_ns_mip360_small = MethodSpecification(
    config=trainer_config("gnerf-ns-mip360-small", small_pipeline(), small_optimizers()),
    description="Mip-NeRF 360's field in sizes for a CPU, with poses or without.",
)
