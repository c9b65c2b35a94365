"""gnerf-ns and its variants on fast fields. Each is a whole recipe: model, schedule, optimizers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict

import torch
from nerfstudio.engine.optimizers import OptimizerConfig
from nerfstudio.plugins.types import MethodSpecification

from gnerf_ns.cameras.pose_prior import PosePriorConfig
from gnerf_ns.data.datamanager import UnposedDataManagerConfig
from gnerf_ns.fields.hash_radiance import HashRadianceConfig
from gnerf_ns.models.gnerf import GNeRFModelConfig
from gnerf_ns.models.inversion_network import InversionNetworkConfig
from gnerf_ns.runs.progress_display import progress_logging
from gnerf_ns.training.adversarial import AdversarialObjectiveConfig
from gnerf_ns.training.learning_rates import PhaseSchedulerConfig, PlainAdamOptimizerConfig, QuickAdamOptimizerConfig
from gnerf_ns.training.photometric import PhotometricObjectiveConfig
from gnerf_ns.training.pipeline import GNeRFPipelineConfig
from gnerf_ns.training.recipe import Device, for_any_device
from gnerf_ns.training.schedule import PhaseScheduleConfig
from gnerf_ns.training.trainer import GNeRFTrainerConfig
from gnerf_ns.utils.options import OneDeviceConfig

HAS_CUDA = torch.cuda.is_available()


def field_optimizers() -> Dict[str, Any]:
    """Optimizers of a fast field and of the pose table: full rate in phase A, decaying in phase B.

    The field's ends at a fifth: lower ones cost Lego up to 2.8 dB in as many steps (`benchmarks/README.md`).
    """
    return {
        "fields": {
            "optimizer": QuickAdamOptimizerConfig(lr=1e-2),
            "scheduler": PhaseSchedulerConfig(last_factor=0.2),
        },
        "proposal_networks": {
            "optimizer": QuickAdamOptimizerConfig(lr=1e-2),
            "scheduler": PhaseSchedulerConfig(last_factor=0.2),
        },
        "poses": {
            "optimizer": PlainAdamOptimizerConfig(lr=4e-3),
            "scheduler": PhaseSchedulerConfig(
                last_factor=1 / 30, known_hold=(0.05, 0.4), matched_factor=0.25, is_of_poses=True
            ),
        },
        "up_direction": {
            "optimizer": PlainAdamOptimizerConfig(lr=4e-3),
            "scheduler": PhaseSchedulerConfig(last_factor=1 / 30),
        },
        # Slow to tell: a near side seen from nearer looks like a larger object.
        "focal_lengths": {
            "optimizer": PlainAdamOptimizerConfig(lr=1e-2),
            "scheduler": PhaseSchedulerConfig(last_factor=0.1),
        },
    }


def trainer_config(method_name: str, pipeline: GNeRFPipelineConfig, optimizers: Dict[str, Any]) -> GNeRFTrainerConfig:
    """What all methods share: they run where there is no GPU, end when they are done, and log to TensorBoard."""
    return GNeRFTrainerConfig(
        method_name=method_name,
        logging=progress_logging(),
        machine=OneDeviceConfig(device_type="cuda" if HAS_CUDA else "cpu"),
        steps_per_save=500,
        steps_per_eval_batch=10**9,
        # Held-out poses would be estimated for it, which takes a tenth of a run's time.
        steps_per_eval_image=10**9,
        steps_per_eval_all_images=10**9,
        mixed_precision=HAS_CUDA,
        pipeline=pipeline,
        optimizers=optimizers,
        vis="viewer+tensorboard",
    )


def default_schedule(device: Device) -> PhaseScheduleConfig:
    """Phase A matters little for quality and a lot for convergence; phase B is where a GPU can do more."""
    if device == "cuda":
        return PhaseScheduleConfig(phase_a_steps=300, phase_b_steps=5000)
    return PhaseScheduleConfig()


def default_pipeline(device: Device) -> GNeRFPipelineConfig:
    """Transport in phase A, then photometric refinement; sizes by the device."""
    radiance = HashRadianceConfig()
    photometric = PhotometricObjectiveConfig()
    if device == "cuda":
        radiance = HashRadianceConfig(
            num_levels=16,
            phase_a_levels=5,
            max_resolution=2048,
            log2_hashmap_size=19,
            hidden_dim=64,
            hidden_dim_color=64,
            num_layers_color=3,
            num_proposal_samples=96,
            num_nerf_samples=48,
        )
        photometric = PhotometricObjectiveConfig(rays_per_step=8192)
    return GNeRFPipelineConfig(
        datamanager=UnposedDataManagerConfig(),
        model=GNeRFModelConfig(radiance=radiance),
        schedule=default_schedule(device),
        photometric=photometric,
    )


def handheld_pipeline(device: Device) -> GNeRFPipelineConfig:
    """The default for cameras that were not on a sphere: poses are free, and phase A has more to find out."""
    pipeline = default_pipeline(device)
    pipeline.pose_prior = PosePriorConfig(radius=(0.85, 1.15), look_at_jitter=0.1, roll_deg=(-15.0, 15.0))
    pipeline.schedule = pipeline.schedule.for_handheld_cameras()
    return pipeline


def adversarial_pipeline(device: Device) -> GNeRFPipelineConfig:
    """GNeRF's own phase A on the fast field."""
    pipeline = default_pipeline(device)
    pipeline.phase_a = "adversarial"
    pipeline.matching = "off"  # which would leave no phase A
    schedule = default_schedule(device)
    pipeline.schedule = replace(
        schedule,
        phase_a_steps=500,
        phase_a_attempts=1,  # one takes five minutes
        interleaved_steps=100,
        phase_a_image_side=(16, 32),
        phase_b_image_side=(32, schedule.phase_b_image_side[1]),
        density_noise_steps=200,
        pose_boost=1.0,  # of few images: measured with transport alone
    )
    # Many patches and a slow discriminator: with the published 12 the field is found and lost again within 100 steps.
    # The published inversion network takes thousands of steps to learn anything; this one is of the images' size.
    pipeline.adversarial = AdversarialObjectiveConfig(
        inversion_network=InversionNetworkConfig(
            image_side=16, tokens_per_side=8, width=128, depth=4, heads=8, mlp_width=128
        ),
        num_patches=40,
        num_inversion_images=24,
        inversion_render_side=16,
    )
    return pipeline


def adversarial_optimizers() -> Dict[str, Any]:
    """Those of the default, for adversaries that have hundreds of steps where the paper's have thousands.

    The field slows down towards the end of phase A: its poses are looked up there, and adversaries never rest.
    """
    optimizers = field_optimizers()
    for group in ("fields", "proposal_networks"):
        scheduler = optimizers[group]["scheduler"]
        scheduler.phase_a_last_factor, scheduler.first_factor, scheduler.last_factor = 0.15, 0.5, 0.05
    optimizers["discriminator"] = {
        "optimizer": OptimizerConfig(_target=torch.optim.RMSprop, lr=4e-5),
        "scheduler": None,
    }
    optimizers["inversion_network"] = {"optimizer": PlainAdamOptimizerConfig(lr=1e-3), "scheduler": None}
    return optimizers


def tiny_pipeline(device: Device) -> GNeRFPipelineConfig:
    """The default, small and short: for tests and for the demo."""
    pipeline = default_pipeline(device)
    pipeline.datamanager = UnposedDataManagerConfig(max_image_side=64)
    pipeline.model = GNeRFModelConfig(radiance=HashRadianceConfig())
    pipeline.schedule = PhaseScheduleConfig(phase_b_steps=500, phase_b_image_side=(24, 64))
    pipeline.photometric = PhotometricObjectiveConfig(rays_per_step=2048)
    return pipeline


gnerf_ns = MethodSpecification(
    config=trainer_config("gnerf-ns", for_any_device(default_pipeline), field_optimizers()),
    description="NeRF and camera poses from images without poses, in minutes.",
)
gnerf_ns_handheld = MethodSpecification(
    config=trainer_config("gnerf-ns-handheld", for_any_device(handheld_pipeline), field_optimizers()),
    description="gnerf-ns for images not aimed at the object's middle, rolled, or taken from changing distances.",
)
gnerf_ns_adversarial = MethodSpecification(
    config=trainer_config("gnerf-ns-adversarial", for_any_device(adversarial_pipeline), adversarial_optimizers()),
    description="gnerf-ns with GNeRF's adversarial phase A and inversion network.",
)
gnerf_ns_tiny = MethodSpecification(
    config=trainer_config("gnerf-ns-tiny", for_any_device(tiny_pipeline), field_optimizers()),
    description="A small, short gnerf-ns for tests and the demo.",
)
