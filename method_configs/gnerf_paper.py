"""gnerf-ns-paper: GNeRF as published, for comparison. It is slow."""

from __future__ import annotations

from typing import Any, Dict

import torch
from nerfstudio.engine.optimizers import OptimizerConfig
from nerfstudio.plugins.types import MethodSpecification

from gnerf_ns.data.datamanager import UnposedDataManagerConfig
from gnerf_ns.fields.mlp_radiance import MLPRadianceConfig
from gnerf_ns.method_configs.gnerf import trainer_config  # pyright: ignore[reportMissingImports] (a mapped folder)
from gnerf_ns.models.discriminator import DiscriminatorConfig
from gnerf_ns.models.gnerf import GNeRFModelConfig
from gnerf_ns.training.adversarial import AdversarialObjectiveConfig
from gnerf_ns.training.learning_rates import QuickAdamOptimizerConfig, StepDecaySchedulerConfig
from gnerf_ns.training.photometric import PhotometricObjectiveConfig
from gnerf_ns.training.pipeline import GNeRFPipelineConfig
from gnerf_ns.training.schedule import PhaseScheduleConfig, Schedule

NUM_IMAGES = 100
"""Of NeRF-synthetic scenes; the published schedule does not depend on it."""


def paper_schedule() -> PhaseScheduleConfig:
    """The released 12,000 iterations of A, 8,000 of AB (an A step, then a B step in each) and 20,000 of B."""
    return PhaseScheduleConfig(
        phase_a_steps=12_000,
        interleaved_steps=2 * 8_000,
        phase_b_steps=20_000,
        two_turns_are_an_iteration=True,
        phase_a_image_side=(16, 128),
        interleaved_image_side=(128, 400),
        phase_b_image_side=(400, 400),
        image_growth="linear",
        # e^(-0.0002 t), where that is below 0.8; it is from here on.
        patch_scale_hold=1116,
        patch_scale_floor="final",
        density_noise_steps=5_000,
        looks_up_poses=False,
        leave_out_rounds=0,
        misfit_search_steps=(),
    )


def paper_pipeline() -> GNeRFPipelineConfig:
    """GNeRF as published (its section 4 and released Blender configuration).

    Known to differ from the released code: how the prior spreads elevations (see `PRESETS`), four frequencies of the
    viewing direction in place of ten, softplus in place of ReLU on densities, the discriminator and the inversion
    network see the fine pass only, the latter without density noise or random samples, and photometric steps take
    random pixels in place of patches.
    """
    return GNeRFPipelineConfig(
        matching="off",
        datamanager=UnposedDataManagerConfig(max_image_side=400),
        model=GNeRFModelConfig(
            radiance=MLPRadianceConfig(),
            photometric_loss_mult=50.0,
            opacity_loss_mult=0.0,  # GNeRF compares colors alone
            eval_num_rays_per_chunk=2048,
        ),
        schedule=paper_schedule(),
        phase_a="adversarial",
        learn_up_direction=False,
        adversarial=AdversarialObjectiveConfig(
            discriminator=DiscriminatorConfig(), inversion_render_side=64, num_regularized_images=12
        ),
        photometric=PhotometricObjectiveConfig(rays_per_step=12 * 16 * 16),
        # With 2 images and 2 patches a step it grew to 15.5 GiB if kept, to 2.5 if not.
        keep_freed_memory=False,
    )


def paper_optimizers() -> Dict[str, Any]:
    """The released optimizers: RMSprop for the adversaries, Adam for what deals with poses, all rates halved again
    and again."""

    def halved_every(iterations: int) -> StepDecaySchedulerConfig:
        # Milestones are steps of this very schedule, in which an iteration of AB takes two.
        schedule = Schedule.of(paper_schedule(), NUM_IMAGES, 400)
        last = schedule.iterations_before(schedule.total_steps)
        milestones = tuple(schedule.first_step_after(count) for count in range(iterations, last, iterations))
        return StepDecaySchedulerConfig(milestones=milestones, factor=0.5)

    def adam(lr: float) -> QuickAdamOptimizerConfig:
        return QuickAdamOptimizerConfig(lr=lr, eps=1e-8, betas=(0.9, 0.99))

    def rmsprop(lr: float) -> OptimizerConfig:
        return OptimizerConfig(_target=torch.optim.RMSprop, lr=lr)

    return {
        "fields": {"optimizer": rmsprop(5e-4), "scheduler": halved_every(8_000)},
        "discriminator": {"optimizer": rmsprop(1e-4), "scheduler": halved_every(8_000)},
        "inversion_network": {"optimizer": adam(1e-4), "scheduler": halved_every(4_000)},
        # Released: 5e-3 on positions 4 units from the origin; the pose table has them at distance 1.
        "poses": {"optimizer": adam(5e-3 / 4), "scheduler": halved_every(4_000)},
        # GNeRF knows its focal lengths.
        "focal_lengths": {"optimizer": adam(5e-3 / 4), "scheduler": halved_every(4_000)},
        # For it, +z is up, unless learn_up_direction is set.
        "up_direction": {"optimizer": adam(5e-3 / 4), "scheduler": halved_every(4_000)},
    }


gnerf_ns_paper = MethodSpecification(
    config=trainer_config("gnerf-ns-paper", paper_pipeline(), paper_optimizers()),
    description="GNeRF as published (ICCV 2021): large MLPs, adversarial phase A. Slow.",
)
