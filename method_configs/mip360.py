"""gnerf-ns-mip360: Mip-NeRF 360 (CVPR 2022) with poses and without; and the same small enough for a CPU."""

from __future__ import annotations

from typing import Any, Dict, Optional

from nerfstudio.plugins.types import MethodSpecification

from gnerf_ns.fields.mip360_radiance import Mip360RadianceConfig
from gnerf_ns.method_configs.gnerf import (  # pyright: ignore[reportMissingImports] (a mapped folder)
    field_optimizers,
    trainer_config,
)
from gnerf_ns.models.gnerf import GNeRFModelConfig
from gnerf_ns.training.fresh_field import FreshFieldConfig
from gnerf_ns.training.learning_rates import PhaseSchedulerConfig, PlainAdamOptimizerConfig
from gnerf_ns.training.left_out_in_turn import LeftOutInTurnConfig
from gnerf_ns.training.photometric import PhotometricObjectiveConfig
from gnerf_ns.training.pipeline import GNeRFPipelineConfig
from gnerf_ns.training.schedule import PhaseScheduleConfig
from gnerf_ns.training.trainer import GNeRFTrainerConfig


def model_config(radiance: Mip360RadianceConfig) -> GNeRFModelConfig:
    """Losses as published, and the planes of the released configuration."""
    return GNeRFModelConfig(
        radiance=radiance,
        photometric_loss="charbonnier",
        distortion_loss_mult=0.01,
        unbounded_planes=(0.2, 1e6),
    )


def optimizers(
    learning_rate: float,
    last_factor: float,
    warm_up_steps: int = 0,
    eps: float = 1e-8,
    max_norm: Optional[float] = None,
) -> Dict[str, Any]:
    """Those of gnerf-ns, but for the two networks."""
    networks = {
        group: {
            "optimizer": PlainAdamOptimizerConfig(lr=learning_rate, eps=eps, max_norm=max_norm),
            "scheduler": PhaseSchedulerConfig(last_factor=last_factor, warm_up_steps=warm_up_steps),
        }
        for group in ("fields", "proposal_networks")
    }
    return {**field_optimizers(), **networks}


def published() -> GNeRFTrainerConfig:
    """Mip-NeRF 360 as published. Where poses are to be found, what is before and beside it is that of gnerf-ns.

    Known to differ from the released code: the outermost bins of dilated histograms are kept, and pixels shrink towards
    the corners of an image as their solid angle does.
    """
    pipeline = GNeRFPipelineConfig(
        model=model_config(Mip360RadianceConfig()),
        # Full images from the beginning; where poses are learned, frequencies fade in (as in BARF).
        schedule=PhaseScheduleConfig(
            phase_b_steps=250_000, phase_b_image_side=(10**6, None), distortion_boost=(1.0, 1.0), pose_boost=1.0
        ),
        photometric=PhotometricObjectiveConfig(rays_per_step=16_384),
        left_out_in_turn=LeftOutInTurnConfig(fresh_field=FreshFieldConfig(learning_rate=1e-3)),
        keep_freed_memory=False,  # chunks as large as these fragment it
    )
    config = trainer_config("gnerf-ns-mip360", pipeline, optimizers(2e-3, 0.01, 512, eps=1e-6, max_norm=1e-3))
    config.steps_per_save, config.mixed_precision = 2_000, False
    return config


def small() -> GNeRFTrainerConfig:
    """Sizes and rates that two CPU cores train with in minutes: many steps of few rays, in a narrow network.

    With 512 rays a step in place of 2048, the same time brought 1.9 dB more on photographs. Without the warm-up, large
    images of Lego from the beginning taught a field nothing but their white background.
    """
    radiance = Mip360RadianceConfig(
        num_layers=4,
        layer_width=96,
        num_layers_proposal=2,
        layer_width_proposal=32,
        bottleneck_width=32,
        layer_width_color=32,
        num_frequencies=9,
        subdivisions=1,
        num_proposal_samples=(24,),
        num_nerf_samples=12,
        proposal_anneal_fraction=0.2,
    )
    pipeline = GNeRFPipelineConfig(
        model=model_config(radiance),
        schedule=PhaseScheduleConfig(phase_b_steps=3000, distortion_boost=(1.0, 1.0), pose_boost=1.0),
        photometric=PhotometricObjectiveConfig(rays_per_step=512),
    )
    return trainer_config("gnerf-ns-mip360-small", pipeline, optimizers(1e-2, 0.02, warm_up_steps=200))


gnerf_ns_mip360 = MethodSpecification(
    config=published(),
    description="Mip-NeRF 360's field as published, with poses or without. For a large GPU.",
)
gnerf_ns_mip360_small = MethodSpecification(
    config=small(),
    description="Mip-NeRF 360's field in sizes for a CPU, with poses or without.",
)
