"""Everything of a training, as small as it goes: for tests of what surrounds the learning."""

import math
from pathlib import Path
from typing import Any, Dict, List, Literal

import torch
from analytic_scene import TINY_RADIANCE
from nerfstudio.configs.base_config import MachineConfig
from torch import Tensor

from gnerf_ns.data.datamanager import UnposedDataManagerConfig
from gnerf_ns.fields.hash_radiance import HashRadianceConfig
from gnerf_ns.models.discriminator import DiscriminatorConfig
from gnerf_ns.models.gnerf import GNeRFModelConfig
from gnerf_ns.models.inversion_network import InversionNetworkConfig
from gnerf_ns.pose_search.pose_search import PoseSearchConfig
from gnerf_ns.pose_search.refinement import LocalizationConfig, RefinementConfig
from gnerf_ns.training.adversarial import AdversarialObjectiveConfig
from gnerf_ns.training.fresh_field import FreshFieldConfig
from gnerf_ns.training.held_out_poses import EvalPosesConfig
from gnerf_ns.training.learning_rates import PhaseSchedulerConfig, QuickAdamOptimizerConfig
from gnerf_ns.training.left_out_in_turn import LeftOutInTurnConfig
from gnerf_ns.training.misfits import MisfitsConfig
from gnerf_ns.training.photometric import PhotometricObjectiveConfig
from gnerf_ns.training.pipeline import GNeRFPipeline, GNeRFPipelineConfig
from gnerf_ns.training.restarts import RestartsConfig
from gnerf_ns.training.schedule import PhaseScheduleConfig
from gnerf_ns.training.trainer import GNeRFTrainerConfig
from gnerf_ns.training.transport import TransportObjectiveConfig

PhaseA = Literal["transport", "adversarial", "both"]
SEED = 42
SCHEDULE: Dict[str, Any] = {
    "phase_a_steps": 3,
    "phase_a_attempts": 1,
    "interleaved_steps": 2,
    "phase_b_steps": 7,
    "phase_a_image_side": (8, 12),
    "phase_b_image_side": (8, 16),
    "density_noise_steps": 6,
    "misfit_search_steps": (2,),
    "leave_out_rounds": 0,
    "patch_side": 8,
}
"""Steps 0 to 2 are A, 3 and 4 are AB, 5 to 11 are B; poses are looked up at 3 and mended at 7."""

TINY_REFINEMENT = RefinementConfig(steps=3, rays_per_hypothesis=4, first_image_side=8)
TINY_LOCALIZATION = LocalizationConfig(survivors=1, first=TINY_REFINEMENT, second=TINY_REFINEMENT, last=TINY_REFINEMENT)

GROUPS = ("fields", "proposal_networks", "poses", "up_direction", "focal_lengths", "discriminator", "inversion_network")


def pipeline_config(data: Path, phase_a: PhaseA = "both", **options: Any) -> GNeRFPipelineConfig:
    """A pipeline whose steps take milliseconds."""
    return GNeRFPipelineConfig(
        **{
            "datamanager": UnposedDataManagerConfig(data=data, max_image_side=16),
            "model": GNeRFModelConfig(radiance=HashRadianceConfig(**TINY_RADIANCE)),
            "schedule": PhaseScheduleConfig(**SCHEDULE),
            # Nothing is learned in three steps.
            "restarts": RestartsConfig(min_explained_variance=-math.inf),
            "phase_a": phase_a,
            "matching": "off",  # which takes seconds
            "transport": TransportObjectiveConfig(num_poses=5, sinkhorn_iterations=10),
            "adversarial": AdversarialObjectiveConfig(
                discriminator=DiscriminatorConfig(patch_side=8, base_width=4),
                inversion_network=InversionNetworkConfig(
                    image_side=16, tokens_per_side=4, width=16, depth=1, heads=2, mlp_width=16
                ),
                num_patches=3,
                num_inversion_images=2,
                inversion_render_side=8,
                num_regularized_images=4,
            ),
            "photometric": PhotometricObjectiveConfig(rays_per_step=64),
            "left_out_in_turn": LeftOutInTurnConfig(
                steps=2,
                first=(8, 2e-3),
                later=(8, 1e-3),
                steps_of_all=2,
                fresh_field=FreshFieldConfig(rays_per_step=64),
            ),
            "pose_search": PoseSearchConfig(
                bank_size=10,
                image_side=8,
                num_hypotheses=2,
                improvement=((0.05, 8),),
                changes_per_round=2,
            ),
            "misfits": MisfitsConfig(outlier_refinement=TINY_REFINEMENT),
            "eval_poses": EvalPosesConfig(num_hypotheses=2, localization=TINY_LOCALIZATION),
            **options,
        }
    )


def build_pipeline(config: GNeRFPipelineConfig, **options: Any) -> GNeRFPipeline:
    """The same weights every time."""
    torch.manual_seed(SEED)
    return config.setup(device="cpu", **options)


def state_of(pipeline: GNeRFPipeline) -> Dict[str, Tensor]:
    """A copy of all parameters and buffers."""
    return {name: value.clone() for name, value in pipeline.state_dict().items() if isinstance(value, Tensor)}


def train_steps(pipeline: GNeRFPipeline, steps: range, between=lambda step: None) -> List[Dict[str, Tensor]]:
    """What the trainer does, in short. Returns the losses of each step."""
    groups = pipeline.get_param_groups()
    optimizers = [torch.optim.SGD(parameters, lr=0.05) for parameters in groups.values()]
    history = []
    for step in steps:
        pipeline.train()
        for optimizer in optimizers:
            optimizer.zero_grad()
        _, losses, _ = pipeline.get_train_loss_dict(step)
        sum(losses.values(), torch.tensor(0.0)).backward()
        for optimizer in optimizers:
            optimizer.step()
        history.append({name: loss.detach().clone() for name, loss in losses.items()})
        between(step)
    return history


def trainer_config(data: Path, output: Path, phase_a: PhaseA = "both", **options: Any) -> GNeRFTrainerConfig:
    """A training of twelve steps with a checkpoint after every fourth, without viewer or console table."""
    config = GNeRFTrainerConfig(
        method_name="gnerf-ns-tiny",  # eval_setup looks it up
        experiment_name="run",
        timestamp="now",
        output_dir=output,
        data=data,
        machine=MachineConfig(device_type="cpu", seed=SEED),
        pipeline=pipeline_config(data, phase_a),
        optimizers={
            group: {
                "optimizer": QuickAdamOptimizerConfig(lr=5e-3),
                "scheduler": PhaseSchedulerConfig(),
            }
            for group in GROUPS
        },
        **{
            "vis": "tensorboard",
            "max_num_iterations": 12,
            "steps_per_save": 4,
            "steps_per_eval_batch": 10**9,
            "steps_per_eval_image": 6,
            "steps_per_eval_all_images": 10**9,
            "mixed_precision": False,
            "save_only_latest_checkpoint": True,
            **options,
        },
    )
    config.logging.local_writer.enable = False
    return config


def build_trainer(config: GNeRFTrainerConfig) -> Any:
    """What `ns-train` does before training."""
    torch.manual_seed(config.machine.seed)
    config.save_config()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    return trainer
