"""What happens in one training step, and in which order the parts of a run are put together."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Dict, List, Literal, Optional, Tuple, Type, Union, cast

import numpy as np
import torch
import tyro
from jaxtyping import UInt8
from nerfstudio.data.datamanagers.base_datamanager import DataManagerConfig
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.models.base_model import ModelConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor
from torch.nn import Parameter

from gnerf_ns.cameras.learned_cameras import FocalMode, LearnedCameras
from gnerf_ns.cameras.plots import plot_pose_distribution
from gnerf_ns.cameras.pose_codec import PoseMode
from gnerf_ns.cameras.pose_prior import PosePrior, PosePriorConfig, object_filling_radius
from gnerf_ns.cameras.rays import CameraDirections, concatenate_rays
from gnerf_ns.data.datamanager import UnposedDataManager, UnposedDataManagerConfig
from gnerf_ns.data.image_set import ImageSet
from gnerf_ns.fields.hash_radiance import HashRadianceConfig
from gnerf_ns.models.gnerf import GNeRFModel, GNeRFModelConfig
from gnerf_ns.pose_search.pose_search import PoseProposals, PoseRegressor, PoseSearch, PoseSearchConfig
from gnerf_ns.training.adversarial import AdversarialObjective, AdversarialObjectiveConfig
from gnerf_ns.training.beginning import BeginningConfig, find_beginning, prior_of_silhouettes
from gnerf_ns.training.epipolar import EpipolarObjective, EpipolarObjectiveConfig
from gnerf_ns.training.evaluation import Evaluation
from gnerf_ns.training.held_out_poses import EvalPosesConfig, HeldOutGuess, find_held_out_poses
from gnerf_ns.training.left_out_in_turn import LeftOutInTurnConfig
from gnerf_ns.training.live_view import LiveView, TrainingStatus
from gnerf_ns.training.misfits import MisfitsConfig
from gnerf_ns.training.objective import Objective, TrainingScene, rows_of
from gnerf_ns.training.photometric import PhotometricObjective, PhotometricObjectiveConfig
from gnerf_ns.training.placement import GivenPoses, Matching, PoseOrigin
from gnerf_ns.training.pose_updates import LeaveOut, PoseUpdates
from gnerf_ns.training.recipe import fit_to_device, fit_to_images
from gnerf_ns.training.restarts import AttemptState, Restarts, RestartsConfig
from gnerf_ns.training.schedule import PhaseScheduleConfig, Schedule, StepPlan
from gnerf_ns.training.training_log import training_log_callbacks, training_metrics
from gnerf_ns.training.transport import TransportObjective, TransportObjectiveConfig
from gnerf_ns.training.trust import JudgedRun, Trust
from gnerf_ns.utils.checkpoints import fitting_state
from gnerf_ns.utils.cpu import keep_freed_memory, share_cores
from gnerf_ns.utils.errors import InputError
from gnerf_ns.utils.options import NoHeadline
from gnerf_ns.utils.random_numbers import draw_from
from gnerf_ns.utils.ranks import Ranks

SEED_STRIDE, RANK_STRIDE = 1_000_003, 7_919
"""Distance between the random seeds of consecutive steps, and of processes that train together."""

STEPS_PER_VIEW = 10
"""Steps between two movements of the viewer's frusta."""


@dataclass
class GNeRFPipelineConfig(VanillaPipelineConfig):
    """Configuration of `GNeRFPipeline`."""

    _target: Type = field(default_factory=lambda: GNeRFPipeline)
    """Target class to instantiate."""
    datamanager: NoHeadline[DataManagerConfig] = field(default_factory=UnposedDataManagerConfig)
    """Reads the images."""
    model: NoHeadline[ModelConfig] = field(default_factory=GNeRFModelConfig)
    """The radiance field."""
    schedule: PhaseScheduleConfig = field(default_factory=PhaseScheduleConfig)
    """Lengths of the phases A, AB and B, and what changes along them."""
    phase_a: tyro.conf.Suppress[Literal["transport", "adversarial", "both"]] = "transport"
    """Objective of phase A: annealed optimal transport, GNeRF's adversarial training, or the sum of both."""
    # The most used options have one line each in the help, and the rest in docs/your-images.md. Matching, auto: if it
    # places half of the images, which have alpha, masks or a background; not of an object alone on a plain ground. Of
    # given poses, missing ones are found and wrong ones corrected. look_at: positions alone are learned; free: 9-D;
    # auto: look_at where the prior has neither jitter nor roll. One focal length is learned, or one for each image.
    matching: Matching = "auto"
    """Whether training begins at poses from local matches. only: else it stops."""
    poses: GivenPoses = "unknown"
    """In transforms.json: to compare with alone, to begin with, or to keep."""
    begins_with: tyro.conf.Suppress[Optional[BeginningConfig]] = None
    """What follows from poses that are known from the start; None where none are. Found out when a run begins."""
    pose_prior: PosePriorConfig = field(default_factory=PosePriorConfig)
    """Where the images may have been taken from."""
    pose_mode: Literal["auto", "look_at", "free"] = "auto"
    """Whether cameras look at the middle. auto: by --pipeline.pose-prior.*."""
    learn_up_direction: tyro.conf.Suppress[bool] = True
    """Whether the up direction is learned in phase B, for all cameras together, where they look at the origin."""
    focal_length: Literal["auto", "fixed", "shared", "per_image"] = "auto"
    """What is learned of it. auto: a shared one, unless transforms.json gave it."""
    transport: TransportObjectiveConfig = field(default_factory=TransportObjectiveConfig)
    """Phase A by optimal transport."""
    adversarial: AdversarialObjectiveConfig = field(default_factory=AdversarialObjectiveConfig)
    """Phase A by adversarial training."""
    photometric: PhotometricObjectiveConfig = field(default_factory=PhotometricObjectiveConfig)
    """Phase B."""
    epipolar: tyro.conf.Suppress[EpipolarObjectiveConfig] = field(default_factory=EpipolarObjectiveConfig)
    """What matched points say of the poses, in phase B."""
    restarts: RestartsConfig = field(default_factory=RestartsConfig)
    """When phase A counts as failed and begins anew."""
    pose_search: tyro.conf.Suppress[PoseSearchConfig] = field(default_factory=PoseSearchConfig)
    """Global search for the poses of images."""
    misfits: tyro.conf.Suppress[MisfitsConfig] = field(default_factory=MisfitsConfig)
    """Which images' poses are searched again in phase B."""
    left_out_in_turn: tyro.conf.Suppress[LeftOutInTurnConfig] = field(default_factory=LeftOutInTurnConfig)
    """How few images are looked up in fields that have not seen them."""
    eval_poses: tyro.conf.Suppress[EvalPosesConfig] = field(default_factory=EvalPosesConfig)
    """How poses of held-out images are estimated."""
    on_cuda: tyro.conf.Suppress[Dict[str, Tuple[Any, Any]]] = field(default_factory=dict)
    """By dotted name, what options are, and what they become on a GPU if they are left at that (`recipe`)."""
    keep_freed_memory: tyro.conf.Suppress[bool] = True
    """Have glibc reuse freed memory: much faster, but fragments where chunks as large as the paper's come and go."""

    def __setstate__(self, state: Dict[str, Any]) -> None:
        """Called by PyYAML and `copy`; what older runs lack is as if left alone."""
        self.__dict__.update({"on_cuda": {}, "left_out_in_turn": LeftOutInTurnConfig(), **state})

    @property
    def resolved_pose_mode(self) -> PoseMode:
        """What auto stands for."""
        if self.pose_mode != "auto":
            return self.pose_mode
        return "look_at" if self.resolved_prior.looks_at_origin and self.poses != "fixed" else "free"

    @property
    def resolved_prior(self) -> PosePrior:
        """Where images may have been taken from: around known poses, if there are any."""
        return (self.pose_prior if self.begins_with is None else self.begins_with.prior).resolve()

    @property
    def resolved_schedule(self) -> PhaseScheduleConfig:
        """Without phase A where poses are known from the start.

        Where all stay as they are, frequencies need not fade in. Levels of a hash grid had better grow even then: with
        all from the beginning, a plush toy's held-out photos came out at 17 dB.
        """
        if self.begins_with is None:
            return self.schedule
        schedule = self.schedule.with_known_poses(self.begins_with.certainty)
        all_stay = self.poses == "fixed" and self.begins_with.are_all_known
        is_hash_grid = isinstance(cast(GNeRFModelConfig, self.model).radiance, HashRadianceConfig)
        return replace(schedule, grows_levels=False) if all_stay and not is_hash_grid else schedule

    def check_options(self) -> None:
        """Whether options go together.

        Raises:
            InputError: some do not.
        """
        if self.poses == "fixed" and self.matching == "only":
            raise InputError(
                "--pipeline.poses fixed keeps poses as they are, so that nothing is matched; leave it out, or "
                "--pipeline.matching only."
            )
        if self.poses == "fixed" and (self.focal_length in ("shared", "per_image") or self.pose_mode == "look_at"):
            raise InputError(
                "--pipeline.poses fixed keeps poses as they are, which a learned --pipeline.focal-length and "
                "--pipeline.pose-mode look_at would change; leave these out, or use --pipeline.poses given."
            )

    def resolved_focal_mode(self, has_calibration: bool) -> FocalMode:
        """What auto stands for, for focal lengths that were measured or not."""
        if self.focal_length != "auto":
            return self.focal_length
        return "fixed" if has_calibration or self.poses == "fixed" else "shared"


def refuse_adversaries_on_several(count: int, config: GNeRFPipelineConfig) -> None:
    """What discriminators have seen is not shared between processes.

    Raises:
        InputError: there are several, and adversaries.
    """
    if count > 1 and config.phase_a != "transport":
        raise InputError(
            f"--machine.num-devices and --machine.num-machines ask for {count} processes, which do not train "
            "adversaries together; use 1, or gnerf-ns."
        )


class GNeRFPipeline(VanillaPipeline):
    """Learns a radiance field and the cameras of its images together.

    Attributes:
        cameras: estimated cameras of training and held-out images.
        scene: what training works on: field, images, cameras.
        leave_out: images that have no pose yet, and where those of others are from.
        evaluation: figures and plots of how good the poses are.
        transport: the distribution of poses learned by phase A's transport, where that is used.
        adversarial: discriminator and inversion network, where phase A uses them.
    """

    config: GNeRFPipelineConfig
    datamanager: UnposedDataManager

    def __init__(
        self, config: GNeRFPipelineConfig, device: Union[str, torch.device], world_size: int = 1, **kwargs: Any
    ) -> None:
        refuse_adversaries_on_several(world_size, config)
        config.check_options()
        self.ranks = Ranks(device)
        if kwargs.get("test_mode", "val") == "val":
            fit_to_device(config, torch.device(device).type)
        if config.keep_freed_memory:
            keep_freed_memory()
        if torch.device(device).type == "cpu":
            share_cores()
        # Gradients of everything are averaged by the optimizers, not those of nerfstudio's model alone.
        with self.ranks.first_before_others():
            super().__init__(config, cast(str, device), world_size=1, **kwargs)
        self.world_size = world_size
        self._seed = self.ranks.done_by_first(torch.initial_seed)
        self._optimizer_state: Optional[TrainingCallbackAttributes] = None

        if self.test_mode == "val" and self.device.type == "cpu":
            self._fit_to_images()
        known = None
        # Where training begins, and not where it goes on or where a run is looked at.
        if config.begins_with is None and self.test_mode == "val":
            keeps_lens = config.resolved_focal_mode(self.datamanager.has_calibration) == "fixed"
            begun = self.ranks.done_by_first(
                lambda: find_beginning(self.datamanager, config.matching, config.poses, keeps_lens, self._seed)
            )
            config.begins_with, known = (None, None) if begun is None else begun
            if begun is None:
                self._expect_handheld_cameras()
            self._lay_pale_objects_over_black()
        if config.begins_with is not None:
            self._begin_as_known(config.begins_with)
        self.datamanager.lay_images_over(self.model.evaluation_background)
        self.cameras = self._build_cameras(config)
        prior = config.resolved_prior
        proposals = PoseProposals(prior, lambda: self.cameras.radius, lambda: self.cameras.canvas_radius)
        image_set = ImageSet(self.datamanager.train_images, self.cameras.train_lenses)
        self.scene = TrainingScene(self.model, image_set, self.cameras, prior, proposals)
        self.pose_search = PoseSearch(config.pose_search, self.model, proposals, self.cameras.codec, self.ranks)
        self.evaluation = Evaluation(self.model, self.datamanager, self.cameras)
        self.leave_out = LeaveOut(self.scene, self.pose_search, len(self.datamanager.eval_dataset))

        self.photometric = PhotometricObjective(config.photometric, self.scene, self.leave_out)
        self.datamanager.report_rays_per_step(config.photometric.rays_per_step)
        uses_transport, uses_adversaries = config.phase_a != "adversarial", config.phase_a != "transport"
        self.transport = TransportObjective(config.transport, self.scene, self.ranks) if uses_transport else None
        self.adversarial = AdversarialObjective(config.adversarial, self.scene) if uses_adversaries else None
        of_phase_a = [part for part in (self.transport, self.adversarial) if part is not None]
        self.epipolar = EpipolarObjective(config.epipolar, self.scene, self.leave_out)
        self.objectives: List[Objective] = [self.photometric, *of_phase_a, self.epipolar]
        if known is not None:
            self.cameras.assign(known.train_indices, known.train)
            if config.poses == "fixed":
                self.cameras.hold(known.train_indices)
            elif config.resolved_pose_mode == "free":
                # Colors would move them by more than they can be wrong.
                self.cameras.hold(known.train_indices[known.train_origins == PoseOrigin.CONFIRMED])
            self.leave_out.begin_with(known)
            if known.matches is not None:
                self.epipolar.use(known.matches)

        self.pose_updates = PoseUpdates(
            self.scene,
            self.pose_search,
            self.leave_out,
            config.misfits,
            config.left_out_in_turn,
            self.pose_regressor,
        )
        attempt = AttemptState(self, [self.model, self.cameras, *of_phase_a])
        image_side = max(self.datamanager.train_dataset.image_format.size)
        schedule = Schedule.of(config.resolved_schedule, len(self.cameras), image_side)
        self.restarts = Restarts(config.restarts, schedule, attempt, self._seed_at)

        self._loaded_step = -1
        self.trust = Trust(
            JudgedRun(self.scene, self.pose_search, self.epipolar, self.leave_out, self.restarts, self.held_out_images)
        )
        # The viewer looks for these among a pipeline's public attributes.
        self.live_view = LiveView(
            self.cameras, self.datamanager, lambda: self.trust.statuses, on_cpu=self.device.type == "cpu"
        )
        self.training_status = TrainingStatus(lambda: self.schedule)
        self.to(device)
        self.ranks.make_equal(self)

    def _fit_to_images(self) -> None:
        """On a CPU, larger images get more steps and levels, and few ones more samples and steps of fewer rays."""
        detail = self.datamanager.detail(self.config.schedule.phase_b_image_side[1])
        if fit_to_images(self.config, detail, len(self.datamanager.train_dataset)):
            self._make_model_anew()

    def _expect_handheld_cameras(self) -> None:
        """Where silhouettes say so and the user has said nothing else."""
        config, images = self.config, self.datamanager.train_images
        if config.phase_a != "transport" or config.pose_prior != PosePriorConfig() or config.pose_mode == "look_at":
            return
        if not images.has_alpha:
            return
        directions = CameraDirections(self.datamanager.train_dataset.given_cameras.to(images.pixels.device))
        radius = object_filling_radius(directions.smallest_field_of_view)
        prior = prior_of_silhouettes(ImageSet(images, directions), radius)
        if prior is not None:
            config.pose_prior, config.schedule = prior, config.schedule.for_handheld_cameras()
            CONSOLE.print(
                "The object is not in the middle of many images: how far cameras were, where they were aimed and how "
                "they were rolled is found out, too (unless --pipeline.pose-mode look_at says that they were aimed at "
                "it)."
            )

    def _lay_pale_objects_over_black(self) -> None:
        """What can hardly be told from white by its color shows where it ends over black."""
        config, images = cast(GNeRFModelConfig, self.config.model), self.datamanager.train_images
        if self.config.phase_a == "transport" and config.background_color == "white" and images.are_pale:
            config.background_color = "black"
            self._make_model_anew()
            CONSOLE.print("The object is pale: it is laid over black.")

    def _begin_as_known(self, beginning: BeginningConfig) -> None:
        """Lenses that were found, and where there is a room around the object, a model of it in place of the first."""
        self.datamanager.use_lenses(beginning.lenses)
        config = cast(GNeRFModelConfig, self.config.model)
        if beginning.extent == "unbounded" and config.extent == "ball":
            config.extent, config.background_color = "unbounded", "last_sample"
            if isinstance(config.radiance, HashRadianceConfig):
                config.radiance = config.radiance.for_surroundings()
            self._make_model_anew()

    def _make_model_anew(self) -> None:
        """As nerfstudio has made it, with the configuration as it is by now."""
        train = self.datamanager.train_dataset
        self._model = self.config.model.setup(
            scene_box=train.scene_box, num_train_data=len(train), metadata=train.metadata, device=self.device
        ).to(self.device)

    def _build_cameras(self, config: GNeRFPipelineConfig) -> LearnedCameras:
        train, held_out = self.datamanager.train_dataset, self.datamanager.eval_dataset
        cameras = LearnedCameras(
            train.given_cameras.to(self.device),
            held_out.given_cameras.to(self.device),
            config.resolved_pose_mode,
            config.resolved_focal_mode(self.datamanager.has_calibration),
            config.learn_up_direction,
            # What fills the view fills the images, and not the padding around them.
            None if self.datamanager.train_images.extents is None else train.file_cameras,
        )
        return cameras.to(self.device)

    @property
    def model(self) -> GNeRFModel:
        """The radiance field."""
        return cast(GNeRFModel, super().model)

    @property
    def schedule(self) -> Schedule:
        """What happens at which step, for as many images as there are, and since phase A last began."""
        return self.restarts.schedule

    @property
    def pose_regressor(self) -> Optional[PoseRegressor]:
        """The inversion network, where phase A trains one."""
        return None if self.adversarial is None else self.adversarial.regress_poses

    # One training step

    def get_train_loss_dict(self, step: int) -> Tuple[Any, Dict[str, Tensor], Dict[str, Any]]:
        """Render the rays of all active objectives at once and collect their losses; the trainer does the rest.

        Raises:
            InputError: training has diverged.
        """
        # Seeded by the step, so that a resumed run draws what an undisturbed one would have drawn.
        draw_from(self._seed_at(step), self.device)
        plan = self.schedule.at(step)
        self._set_schedule(plan)
        if self.pose_updates.apply(plan):
            self._reset_optimizers()
        if self.ranks.count > 1:  # the same poses were replaced everywhere; from here on each has its own rays
            draw_from(self._seed_at(step) + RANK_STRIDE * (1 + self.ranks.rank), self.device)
        requests = [objective.request(plan) for objective in self.objectives if objective.is_active(plan)]

        outputs = self.model.render(concatenate_rays([request.ray_bundle for request in requests]))
        loss_dict = self.model.get_regularization_losses(outputs)
        first = 0
        for request in requests:
            last = first + len(request.ray_bundle)
            loss_dict.update(request.losses(rows_of(outputs, first, last)))
            first = last
        self._check_finite(loss_dict, plan)
        return outputs, loss_dict, training_metrics(plan, self.photometric, self.cameras)

    def _set_schedule(self, plan: StepPlan) -> None:
        self.model.set_schedule(
            plan.phase == "A", plan.phase_b_progress, plan.active_levels, plan.density_noise, plan.distortion_boost
        )

    def _check_finite(self, loss_dict: Dict[str, Tensor], plan: StepPlan) -> None:
        """Raise in phase B, where nothing mends a diverged field; in phase A another attempt may do better."""
        if plan.name != "B":
            return
        total = torch.stack([loss.detach() for loss in loss_dict.values()]).sum()
        if not self.ranks.are_all(bool(total.isfinite()), self.device):
            names = ", ".join(name for name, loss in loss_dict.items() if not bool(loss.isfinite()))
            names = names or "a loss of another process"
            raise InputError(
                f"Training diverged: at step {plan.step} {names} is not a finite number. The last checkpoint is whole; "
                "train with another --machine.seed or smaller learning rates."
            )

    def _seed_at(self, step: int) -> int:
        return self._seed + SEED_STRIDE * step

    def _reset_optimizers(self) -> None:
        """Forget the momentum of what has been replaced, and the loss scale that a diverged attempt has left."""
        attributes = self._optimizer_state
        if attributes is None:
            return
        if attributes.optimizers is not None:
            for optimizer in attributes.optimizers.optimizers.values():
                optimizer.state.clear()
        if attributes.grad_scaler is not None and attributes.grad_scaler.is_enabled():
            # It halves at every step that is not finite, and has no floor: at 0 no later attempt would learn.
            fresh = torch.amp.GradScaler(  # pyright: ignore[reportPrivateImportUsage]
                self.device.type, enabled=True
            )
            attributes.grad_scaler.load_state_dict(fresh.state_dict())

    def _begin_anew_or_go_back(self, step: int) -> None:
        """After a step that has shown what phase A has come to, start over or go back to the best attempt."""
        found, self.pose_updates.explained_variance = self.pose_updates.explained_variance, None
        if found is None:
            return
        explained_variance = self.ranks.done_by_first(lambda: found)  # all have to decide alike
        if self.restarts.after(step, explained_variance, self.cameras.poses("train")):
            self._reset_optimizers()

    # Estimated cameras

    def estimate_eval_poses(self, step: int) -> None:
        """Estimate the poses of the held-out images with the field frozen, unless that was done at this step."""
        if int(self.cameras.eval_step) == step or len(self.datamanager.eval_dataset) == 0:
            return
        image_set = self.held_out_images()
        with torch.random.fork_rng(), torch.enable_grad():
            torch.manual_seed(self._seed_at(step) + 1)
            poses, origins = find_held_out_poses(
                self.config.eval_poses, image_set, self.pose_search, self.pose_regressor, self._eval_guess()
            )
        self.leave_out.eval_origins.copy_(origins)
        self.cameras.assign_eval(poses, step)

    def held_out_images(self) -> ImageSet:
        """Images that the field is not trained on, with their lenses as estimated."""
        return ImageSet(self.datamanager.eval_images, self.cameras.eval_lenses)

    def _eval_guess(self) -> Optional[HeldOutGuess]:
        """What is known of held-out images; None in a run that began with nothing."""
        begun, leave_out = self.config.begins_with, self.leave_out
        if begun is None:
            return None
        return HeldOutGuess(
            leave_out.eval_guess(),
            leave_out.eval_origins,
            are_matches_sharp=begun.certainty == "matched",
            are_fixed=self.config.poses == "fixed",
            others=self.cameras.poses("train").detach()[~leave_out.unplaced],
        )

    def judge(self, step: Optional[int] = None) -> None:
        """Say how far poses, and the run, can be trusted (`trust`), unless that is known.

        Args:
            step: the training step that is done; None for the one that was loaded.
        """
        if self.trust.verdict is None:
            step = self._loaded_step if step is None else step
            with torch.random.fork_rng():
                torch.manual_seed(self._seed_at(step) + 2)
                self.trust.judge(step)

    def publish_cameras(self) -> None:
        """Hand the estimated cameras to the datamanager, from which nerfstudio's commands take them."""
        train, held_out = self.datamanager.train_dataset, self.datamanager.eval_dataset
        self.datamanager.publish_cameras(
            self.cameras.estimated("train", train.given_cameras),
            self.cameras.estimated("eval", held_out.given_cameras) if self.cameras.has_eval_poses else None,
        )

    def plot_pose_distribution(self) -> UInt8[np.ndarray, "height width 3"]:
        """A plot of where the training images were taken from, against the prior."""
        poses = self.cameras.up_direction.to_z_up(self.cameras.poses("train"))
        return plot_pose_distribution(poses, self.scene.prior, self.cameras.radius)

    # nerfstudio's hooks

    def get_param_groups(self) -> Dict[str, List[Parameter]]:
        """Parameters by optimizer."""
        adversaries = {} if self.adversarial is None else self.adversarial.get_param_groups()
        return {**self.model.get_param_groups(), **self.cameras.get_param_groups(), **adversaries}

    def load_pipeline(self, loaded_state: Dict[str, Any], step: int) -> None:
        """Load a checkpoint and publish its cameras.

        Raises:
            InputError: the checkpoint is of another configuration or of other images.
        """
        super().load_pipeline(fitting_state(loaded_state, self.state_dict()), step)
        self._loaded_step = step
        # What goes on being trained, and held-out images at other poses, are judged anew.
        if self.test_mode == "val" or self.trust.eval_step != int(self.cameras.eval_step):
            self.trust.clear()
        self._set_schedule(self.schedule.at(step))
        self._report(step)
        if self.test_mode != "val":
            self.estimate_eval_poses(step)
        self.publish_cameras()

    def get_training_callbacks(self, attributes: TrainingCallbackAttributes) -> List[TrainingCallback]:
        """Callbacks of the parts, the live view of the poses, and the training log."""
        self._optimizer_state = attributes
        after_step, after_train = TrainingCallbackLocation.AFTER_TRAIN_ITERATION, TrainingCallbackLocation.AFTER_TRAIN
        return [
            *super().get_training_callbacks(attributes),
            TrainingCallback([after_step], self._begin_anew_or_go_back),
            TrainingCallback([after_step], self._update_viewer, update_every_num_iters=STEPS_PER_VIEW),
            TrainingCallback([after_train], self._update_viewer),
            *training_log_callbacks(
                lambda: self.schedule, self.objectives, self.evaluation, self.plot_pose_distribution, attributes.trainer
            ),
        ]

    def _update_viewer(self, step: int) -> None:
        self._report(step)
        self.live_view.update()

    def _report(self, step: int) -> None:
        self.training_status.report(step)
        self.live_view.report(step)

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
        if self.test_mode != "val":  # in training, words would go where only numbers can
            self.judge()
            datasets = self.datamanager.train_dataset, self.datamanager.eval_dataset
            metrics.update(self.trust.entries(*([path.name for path in each.image_filenames] for each in datasets)))
            CONSOLE.print(f"{metrics['verdict']}: {metrics['verdict_sentence']}", markup=False, highlight=False)
        return metrics

    def _prepare_evaluation(self, step: Optional[int]) -> None:
        self.estimate_eval_poses(int(self.cameras.eval_step) if step is None else step)
        self.publish_cameras()
