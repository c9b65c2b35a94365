"""What happens in one training step, and where the estimated poses are."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Literal, Optional, Tuple, Type, Union, cast

import numpy as np
import torch
from jaxtyping import Float, UInt8
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datamanagers.base_datamanager import DataManagerConfig
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.models.base_model import ModelConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from torch import Tensor
from torch.nn import Parameter

from gnerf_ns.cameras.learned_cameras import FocalScales, PoseTable
from gnerf_ns.cameras.plots import plot_pose_distribution
from gnerf_ns.cameras.pose_codec import PoseCodec, PoseMode, UpDirection
from gnerf_ns.cameras.pose_prior import PosePriorConfig, object_filling_radius
from gnerf_ns.cameras.rays import CameraDirections, concatenate_rays
from gnerf_ns.data.datamanager import UnposedDataManager, UnposedDataManagerConfig
from gnerf_ns.data.dataset import scale_focal
from gnerf_ns.data.image_set import ImageSet
from gnerf_ns.models.gnerf import GNeRFModel, GNeRFModelConfig
from gnerf_ns.pose_search.pose_search import PoseMatcher, PoseRegressor, PoseSearch, PoseSearchConfig
from gnerf_ns.training.adversarial import AdversarialObjective, AdversarialObjectiveConfig
from gnerf_ns.training.evaluation import Evaluation, HeldOutConfig, estimate_held_out_poses
from gnerf_ns.training.live_view import LiveView, TrainingStatus
from gnerf_ns.training.objective import Objective, TrainingScene, rows_of
from gnerf_ns.training.photometric import PhotometricObjective, PhotometricObjectiveConfig
from gnerf_ns.training.pose_trials import PoseTrialsConfig
from gnerf_ns.training.pose_updates import LeaveOut, PoseUpdates
from gnerf_ns.training.restarts import AttemptState, Restarts, RestartsConfig
from gnerf_ns.training.schedule import PhaseScheduleConfig, StepPlan
from gnerf_ns.training.training_log import training_log_callbacks, training_metrics
from gnerf_ns.training.transport import TransportObjective, TransportObjectiveConfig
from gnerf_ns.utils.checkpoints import fitting_state
from gnerf_ns.utils.cpu import keep_freed_memory
from gnerf_ns.utils.errors import InputError

SEED_STRIDE = 1_000_003
"""Distance between the random seeds of consecutive steps."""

STEPS_PER_VIEW = 10
"""Steps between two movements of the viewer's frusta."""


@dataclass
class GNeRFPipelineConfig(VanillaPipelineConfig):
    """Configuration of `GNeRFPipeline`."""

    _target: Type = field(default_factory=lambda: GNeRFPipeline)
    """Target class to instantiate."""
    datamanager: DataManagerConfig = field(default_factory=UnposedDataManagerConfig)
    """Reads the images."""
    model: ModelConfig = field(default_factory=GNeRFModelConfig)
    """The radiance field."""
    schedule: PhaseScheduleConfig = field(default_factory=PhaseScheduleConfig)
    """Lengths of the phases A, AB and B, and what changes along them."""
    phase_a: Literal["transport", "adversarial", "both"] = "transport"
    """Objective of phase A: annealed optimal transport, GNeRF's adversarial training, or the sum of both."""
    pose_prior: PosePriorConfig = field(default_factory=PosePriorConfig)
    """Where the images may have been taken from."""
    pose_mode: Literal["auto", "look_at", "free"] = "auto"
    """look_at: cameras look at the origin, only their positions are learned; free: position and rotation (9-D).
    auto takes look_at where the prior has neither jitter nor roll."""
    learn_up_direction: bool = True
    """Whether what is up is learned in phase B, for all cameras together, where they look at the origin."""
    focal_length: Literal["auto", "fixed", "shared", "per_image"] = "auto"
    """Whether focal lengths are learned in phase B: one factor on all of them, or one for each image. auto learns a
    shared one unless a transforms.json (or another calibrated source) gave them."""
    transport: TransportObjectiveConfig = field(default_factory=TransportObjectiveConfig)
    """Phase A by optimal transport."""
    adversarial: AdversarialObjectiveConfig = field(default_factory=AdversarialObjectiveConfig)
    """Phase A by adversarial training."""
    photometric: PhotometricObjectiveConfig = field(default_factory=PhotometricObjectiveConfig)
    """Phase B."""
    restarts: RestartsConfig = field(default_factory=RestartsConfig)
    """When phase A counts as failed and begins anew."""
    pose_search: PoseSearchConfig = field(default_factory=PoseSearchConfig)
    """Global search for the poses of images."""
    pose_trials: PoseTrialsConfig = field(default_factory=PoseTrialsConfig)
    """How few images are tried at other poses."""
    held_out: HeldOutConfig = field(default_factory=HeldOutConfig)
    """How poses of evaluation images are estimated."""
    keep_freed_memory: bool = True
    """Have glibc reuse freed memory: much faster, but fragments where chunks as large as the paper's come and go."""

    @property
    def resolved_pose_mode(self) -> PoseMode:
        """What auto stands for."""
        if self.pose_mode != "auto":
            return self.pose_mode
        return "look_at" if self.pose_prior.resolve().looks_at_origin else "free"


class GNeRFPipeline(VanillaPipeline):
    """Learns a radiance field and the poses of its images together.

    Attributes:
        train_poses: estimated poses of the training images.
        up_direction: what is up for cameras that look at the origin.
        eval_poses: estimated poses of the held-out images, found with the field frozen.
        schedule: what happens at which step, for as many images as there are.
        leave_out: images that are left out of training for a while, where there are few.
        evaluation: figures and images of how good the poses are.
        transport: the distribution of poses learned by phase A's transport, where that is used.
        adversarial: discriminator and inversion network, where phase A uses them.
    """

    config: GNeRFPipelineConfig
    datamanager: UnposedDataManager
    eval_poses_step: Tensor
    """Training step at which `eval_poses` were estimated, -1 for never."""

    def __init__(self, config: GNeRFPipelineConfig, device: Union[str, torch.device], **kwargs: Any) -> None:
        if config.keep_freed_memory:
            keep_freed_memory()
        super().__init__(config, cast(str, device), **kwargs)
        self.datamanager.lay_images_over(self.model.evaluation_background)
        self._seed = torch.initial_seed()
        self._optimizers: Optional[Optimizers] = None
        prior = config.pose_prior.resolve()
        num_train = len(self.datamanager.train_dataset)
        self.schedule = config.schedule.for_images(num_train)
        likely = "fixed" if self.datamanager.has_calibration else "shared"
        self.focal_scales = FocalScales(num_train, likely if config.focal_length == "auto" else config.focal_length)
        learned = self.focal_scales if self.focal_scales.is_learned else None
        directions = CameraDirections(self.datamanager.train_dataset.given_cameras.to(device), learned)
        radius = object_filling_radius(directions.smallest_field_of_view)
        self.up_direction = UpDirection(config.learn_up_direction and config.resolved_pose_mode == "look_at")
        codec = PoseCodec(config.resolved_pose_mode, radius, self.up_direction)
        self.train_poses = PoseTable(num_train, codec, learned, self.up_direction.is_learned)
        self.eval_poses = PoseTable(len(self.datamanager.eval_dataset), codec)
        self.register_buffer("eval_poses_step", torch.tensor(-1))
        self.evaluation = Evaluation(self.model, self.datamanager, self.train_poses)
        matcher = PoseMatcher(prior, radius, learned)
        self.pose_search = PoseSearch(config.pose_search, self.model, matcher, codec)

        image_set = ImageSet(self.datamanager.train_images, directions)
        self.leave_out = LeaveOut(image_set, self.train_poses, self.pose_search)
        self.scene = TrainingScene(self.model, image_set, self.train_poses, prior, matcher, radius)
        self.photometric = PhotometricObjective(config.photometric, self.scene, self.leave_out)
        self.datamanager.report_rays_per_step(config.photometric.rays_per_step)
        has_transport, has_adversaries = config.phase_a != "adversarial", config.phase_a != "transport"
        self.transport = TransportObjective(config.transport, self.scene) if has_transport else None
        self.adversarial = AdversarialObjective(config.adversarial, self.scene) if has_adversaries else None
        of_phase_a = [part for part in (self.transport, self.adversarial) if part is not None]
        self.objectives: List[Objective] = [self.photometric, *of_phase_a]
        attempt = AttemptState(self, [self.model, self.focal_scales, self.up_direction, *of_phase_a])
        self.restarts = Restarts(config.restarts, self.schedule, attempt, self._seed_at)
        trials = getattr(config, "pose_trials", PoseTrialsConfig())  # the configuration of a run may be older
        self.pose_updates = PoseUpdates(trials, self.scene, self.pose_search, self.leave_out, self.pose_regressor)
        # The viewer looks for these among a pipeline's public attributes.
        on_cpu = self.device.type == "cpu"
        self.live_view = LiveView(self.estimated_cameras, self._held_out_cameras, on_cpu, self.up_direction)
        self.training_status = TrainingStatus(self.schedule)
        self.to(device)

    @property
    def model(self) -> GNeRFModel:
        """The radiance field."""
        return cast(GNeRFModel, super().model)

    # One training step

    def get_train_loss_dict(self, step: int) -> Tuple[Any, Dict[str, Tensor], Dict[str, Any]]:
        """Render the rays of all active objectives at once and collect their losses; the trainer does the rest."""
        # Seeded by the step, so that a resumed run draws what an undisturbed one would have drawn.
        torch.manual_seed(self._seed_at(step))
        plan = self.schedule.at(step)
        self._set_schedule(plan)
        if self.pose_updates.apply(plan):
            self._forget_momentum()

        requests = [objective.request(plan) for objective in self.objectives if objective.is_active(plan)]
        outputs = self.model.render(concatenate_rays([request.ray_bundle for request in requests]))
        loss_dict = self.model.get_regularization_losses(outputs)
        first = 0
        for request in requests:
            last = first + len(request.ray_bundle)
            loss_dict.update(request.losses(rows_of(outputs, first, last)))
            first = last
        return outputs, loss_dict, training_metrics(plan, self.photometric, self.focal_scales)

    def _set_schedule(self, plan: StepPlan) -> None:
        self.model.set_schedule(
            plan.phase == "A", plan.phase_b_progress, plan.active_levels, plan.density_noise, plan.distortion_boost
        )

    def _seed_at(self, step: int) -> int:
        return self._seed + SEED_STRIDE * step

    def _forget_momentum(self) -> None:
        """Of what has been replaced; the optimizers are the trainer's."""
        if self._optimizers is not None:
            for optimizer in self._optimizers.optimizers.values():
                optimizer.state.clear()

    def _begin_anew_or_go_back(self, step: int) -> None:
        """After a step that has shown what phase A has come to, start over or go back."""
        explained_variance, self.pose_updates.explained_variance = self.pose_updates.explained_variance, None
        if self.restarts.after(step, explained_variance):
            self._forget_momentum()

    # Estimated poses

    def estimated_cameras(self, split: Literal["train", "eval"] = "train") -> Cameras:
        """Cameras with estimated poses, in the learned frame: the one place that everything downstream asks."""
        dataset = self.datamanager.train_dataset if split == "train" else self.datamanager.eval_dataset
        poses = self.train_poses if split == "train" else self.eval_poses
        cameras = scale_focal(dataset.given_cameras, self._focal_scales_of(split))
        cameras.camera_to_worlds = poses().detach().to(cameras.device)
        return cameras

    def _focal_scales_of(self, split: Literal["train", "eval"]) -> Float[Tensor, "n"]:
        if split == "train":
            return self.focal_scales().detach()
        return self.focal_scales.for_others(torch.arange(len(self.datamanager.eval_dataset)))

    @property
    def pose_regressor(self) -> Optional[PoseRegressor]:
        """The inversion network, where phase A trains one."""
        return None if self.adversarial is None else self.adversarial.regress_poses

    def plot_pose_distribution(self) -> UInt8[np.ndarray, "height width 3"]:
        """An image of where the training images were taken from, against the prior."""
        poses = self.up_direction.to_z_up(self.train_poses().detach())
        return plot_pose_distribution(poses, self.scene.prior, self.scene.matcher.radius)

    def _held_out_cameras(self) -> Optional[Cameras]:
        return self.estimated_cameras("eval") if int(self.eval_poses_step) >= 0 else None

    def estimate_held_out_poses(self, step: int) -> None:
        """Estimate the poses of the held-out images with the field frozen, unless that was done at this step."""
        if int(self.eval_poses_step) == step or len(self.datamanager.eval_dataset) == 0:
            return
        directions = CameraDirections(
            self.datamanager.eval_dataset.given_cameras.to(self.device), self.focal_scales.for_others
        )
        image_set = ImageSet(self.datamanager.eval_images, directions)
        with torch.random.fork_rng(), torch.enable_grad():
            torch.manual_seed(self._seed_at(step) + 1)
            estimate_held_out_poses(
                self.config.held_out, self.model, image_set, self.eval_poses, self.pose_search, self.pose_regressor
            )
        self.eval_poses_step.fill_(step)

    def publish_poses(self) -> None:
        """Hand the estimated poses to the datamanager, from which nerfstudio's commands take cameras."""
        has_eval = int(self.eval_poses_step) >= 0
        self.datamanager.publish_poses(
            self.train_poses().detach(),
            self.eval_poses().detach() if has_eval else None,
            self._focal_scales_of("train"),
            self._focal_scales_of("eval"),
        )

    # nerfstudio's hooks

    def get_param_groups(self) -> Dict[str, List[Parameter]]:
        """Parameters by optimizer. The held-out poses are not among them: they never meet the training losses."""
        groups = {**self.model.get_param_groups(), "poses": list(self.train_poses.parameters())}
        shared = {"focal_lengths": self.focal_scales, "up_direction": self.up_direction}
        groups.update({name: list(part.parameters()) for name, part in shared.items() if part.is_learned})
        if self.adversarial is not None:
            groups.update(self.adversarial.get_param_groups())
        return groups

    def load_pipeline(self, loaded_state: Dict[str, Any], step: int) -> None:
        """Load a checkpoint and publish its poses.

        Raises:
            InputError: the checkpoint is of another configuration or of other images.
        """
        super().load_pipeline(fitting_state(loaded_state, self.state_dict()), step)
        self.restarts.resume()
        self._set_schedule(self.schedule.at(step))
        self.training_status.report(step)
        if self.test_mode != "val":
            self.estimate_held_out_poses(step)
        self.publish_poses()

    def get_training_callbacks(self, attributes: TrainingCallbackAttributes) -> List[TrainingCallback]:
        """Callbacks of the parts, the live view of the poses, and the training log."""
        self._optimizers = attributes.optimizers
        after_step, after_train = TrainingCallbackLocation.AFTER_TRAIN_ITERATION, TrainingCallbackLocation.AFTER_TRAIN
        return [
            *super().get_training_callbacks(attributes),
            TrainingCallback([after_step], self._begin_anew_or_go_back),
            TrainingCallback([after_step], self._update_viewer, update_every_num_iters=STEPS_PER_VIEW),
            TrainingCallback([after_train], self._update_viewer),
            *training_log_callbacks(
                self.schedule, self.objectives, self.evaluation, self.plot_pose_distribution, attributes.trainer
            ),
        ]

    def _update_viewer(self, step: int) -> None:
        self.training_status.report(step)
        self.live_view.update()

    def get_eval_loss_dict(self, step: int) -> Tuple[Any, Dict[str, Any], Dict[str, Any]]:
        """Losses on random pixels of held-out images at their estimated poses."""
        self._prepare_evaluation(step)
        return super().get_eval_loss_dict(step)

    def get_eval_image_metrics_and_images(self, step: int) -> Tuple[Dict[str, Any], Dict[str, Tensor]]:
        """One held-out image at its estimated pose."""
        self._prepare_evaluation(step)
        metrics, images = super().get_eval_image_metrics_and_images(step)
        metrics.update(self.evaluation.pose_metrics())
        return metrics, images

    def get_average_eval_image_metrics(
        self, step: Optional[int] = None, output_path: Optional[Path] = None, get_std: bool = False
    ) -> Dict[str, Any]:
        """Image quality on held-out images, and pose errors where the truth is known.

        `psnr` and `ssim` are at estimated held-out poses, refined photometrically with the field frozen;
        `psnr_aligned` is at the true poses moved into the learned frame, with nothing optimized.

        Raises:
            InputError: no image is held out.
        """
        if len(self.datamanager.eval_dataset) == 0:
            raise InputError(
                "There are no held-out images to evaluate on; train with an --eval-interval other than 0 (behind the "
                "word unposed-data), or with a transforms_test.json."
            )
        self._prepare_evaluation(step)
        metrics = super().get_average_eval_image_metrics(step, output_path, get_std)
        metrics.update(self.evaluation.aligned_quality())
        metrics.update(self.evaluation.pose_metrics())
        return metrics

    def _prepare_evaluation(self, step: Optional[int]) -> None:
        self.estimate_held_out_poses(int(self.eval_poses_step) if step is None else step)
        self.publish_poses()
