"""A trained run of any method: loaded from its config.yml, as a field and training images with their cameras."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Tuple

import torch
import yaml
from jaxtyping import Float
from nerfstudio.cameras.camera_utils import focus_of_attention
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.models.base_model import Model
from nerfstudio.pipelines.base_pipeline import Pipeline
from torch import Tensor

from gnerf_ns.cameras.learned_cameras import LearnedCameras
from gnerf_ns.cameras.pose_codec import UpDirection
from gnerf_ns.cameras.pose_prior import PosePrior
from gnerf_ns.cameras.rays import CameraDirections
from gnerf_ns.data.dataparser import LENS_SOURCE_KEY
from gnerf_ns.data.dataset import UnposedDataset
from gnerf_ns.data.grown_dataparser import GrownDataParserConfig, WorldFrame, world_frame_of
from gnerf_ns.data.image_set import ImageSet, ImageStack
from gnerf_ns.data.lens_sources import LensSource
from gnerf_ns.fields.hash_encoding import use_compiled_hash_grids
from gnerf_ns.models.image_metrics import without_lpips
from gnerf_ns.pose_search.image_renderer import ImageRenderer
from gnerf_ns.pose_search.pose_search import PoseRegressor
from gnerf_ns.utils.checkpoints import (
    NOT_IN_OLDER_CHECKPOINTS,
    check_finite,
    explain_other_hash_grids,
    find_checkpoint,
    read_checkpoint,
)
from gnerf_ns.utils.errors import InputError

TRAINING_SIDE = 64
"""Longer side to which training images are brought, in pixels: they are only compared with."""


@dataclass(frozen=True)
class RunLens:
    """What a run knows about the lens of its training images."""

    fov_deg: float
    """Their median field of view along the longer side, in degrees, by their focal length as it was given."""
    source: Optional[LensSource] = None
    """Who gave it; None where the method's data do not say."""
    focal_scale: float = 1.0
    """How many times longer focal lengths have turned out to be than was given, where the method learns that."""
    camera_type: CameraType = CameraType.PERSPECTIVE
    """Their camera model."""
    distortion: Tuple[float, ...] = (0.0,) * 6
    """k1, k2, k3, k4, p1, p2 of a typical one."""

    @classmethod
    def of(cls, cameras: Cameras, source: Optional[LensSource], focal_scale: float) -> RunLens:
        """Of the training images' cameras as they were given."""
        is_wide = cameras.width >= cameras.height
        sides = torch.where(is_wide, cameras.width, cameras.height)
        focal = torch.where(is_wide, cameras.fx, cameras.fy)
        fov, typical = (2.0 * torch.atan(0.5 * sides / focal)).flatten().median(dim=0)
        distortion = cameras.distortion_params
        return cls(
            math.degrees(float(fov)),
            source,
            focal_scale,
            CameraType(int(cameras.camera_type[typical])),
            cls.distortion if distortion is None else tuple(distortion[typical].tolist()),
        )

    def focal_scale_of(self, source: LensSource) -> float:
        """Factor on the focal length of a new image: only a guess like the one that the run started from is corrected.

        Args:
            source: who tells the focal length of the new image; "default" stands for this run.
        """
        is_same_guess = source == "default" or (source == "exif" and self.source == "exif")
        return self.focal_scale if is_same_guess else 1.0


@dataclass(frozen=True)
class ViewingShell:
    """How training cameras are placed around what they look at."""

    center: Float[Tensor, "3"]
    """The point that they look at, in scene units."""
    radius: float
    """Their median distance from it, in scene units."""
    elevation_deg: Tuple[float, float]
    """Lowest and highest elevation of a camera above the horizontal plane through it, in degrees."""
    up: UpDirection = field(default_factory=UpDirection)
    """The up direction: nerfstudio's z, unless a run has learned another."""

    @classmethod
    def of(cls, camera_to_worlds: Float[Tensor, "n 3 4"], up: Optional[UpDirection] = None) -> ViewingShell:
        """Of training poses, and the up direction of their scene (None for z)."""
        up = up or UpDirection()
        poses = camera_to_worlds.detach().cpu()
        bottom = torch.tensor([0.0, 0.0, 0.0, 1.0]).expand(len(poses), 1, 4)
        middle = poses[:, :, 3].mean(dim=0)
        center = focus_of_attention(torch.cat([poses, bottom], dim=1), middle)
        arms = poses[:, :, 3] - center
        distances = torch.linalg.vector_norm(arms, dim=-1)
        heights = arms @ up()[:, 2].detach().cpu()
        elevations = torch.rad2deg(torch.asin((heights / distances.clamp_min(1e-9)).clamp(-1.0, 1.0)))
        return cls(
            center.to(camera_to_worlds),
            float(distances.median()),
            (float(elevations.min()), float(elevations.max())),
            up,
        )

    def all_around(self, count: int) -> Float[Tensor, "count 3 4"]:
        """Random poses at that distance and within those elevations, looking at the center."""
        prior = PosePrior((0.0, 360.0), self.elevation_deg, (1.0, 1.0), 0.0, (0.0, 0.0))
        poses = self.up.from_z_up(prior.sample(count, self.radius, self.center.device))
        return torch.cat([poses[..., :3], poses[..., 3:] + self.center[:, None]], dim=-1)


@dataclass(frozen=True)
class TrainedScene:
    """A trained field, and the images and cameras it was trained on."""

    renderer: ImageRenderer
    """Renders the trained model."""
    training: ImageSet
    """Its training images, small."""
    camera_to_worlds: Float[Tensor, "n 3 4"]
    """Their poses, in the field's frame; refined ones, where the method refines them."""
    viewing_shell: ViewingShell
    """How these cameras are placed."""
    lens: RunLens
    """What the run knows about their lens."""
    image_side: int
    """Median longer side of training images as the method has them, in pixels."""
    world: WorldFrame
    """Converts poses between the field's frame and that of the data."""
    regress_poses: Optional[PoseRegressor]
    """The run's inversion network, if it has one."""
    pose_sigmas: Tuple[float, float] = (0.0, 0.0)
    """How far its cameras are usually off, in degrees and as a share of their distance; 0 where that is not known."""

    @classmethod
    def of(cls, pipeline: Pipeline) -> TrainedScene:
        """Of a loaded pipeline of any method.

        Raises:
            InputError: its datamanager holds no training images.
        """
        datamanager: Any = pipeline.datamanager
        outputs: Optional[DataparserOutputs] = getattr(datamanager, "train_dataparser_outputs", None)
        if outputs is None or len(outputs.image_filenames) == 0:
            raise InputError(
                f"{type(datamanager).__name__} holds no training images, which tell where a new one may be from; use "
                "a method whose datamanager has train_dataparser_outputs."
            )
        model, device = pipeline.model, pipeline.model.device
        use_compiled_hash_grids(model)
        dataset, given = datamanager.train_dataset, datamanager.train_dataset.cameras
        world = WorldFrame.same()
        if not isinstance(dataset, UnposedDataset):
            dataset = UnposedDataset(outputs, max_image_side=TRAINING_SIDE)
            world = world_frame_of(getattr(datamanager, "dataparser", None), outputs)
        cameras = dataset.cameras.to(device)
        poses = refined_poses(model, cameras.camera_to_worlds)
        learned = _learned_cameras(pipeline)
        background = None if outputs.alpha_color is None else torch.as_tensor(outputs.alpha_color).float()
        return cls(
            renderer=ImageRenderer(model, background),
            training=ImageSet(ImageStack.from_dataset(dataset, device), CameraDirections(cameras)),
            camera_to_worlds=poses,
            viewing_shell=ViewingShell.of(poses, None if learned is None else learned.up_direction),
            lens=RunLens.of(
                dataset.file_cameras,  # not those of cropped or padded images
                outputs.metadata.get(LENS_SOURCE_KEY),
                1.0 if learned is None else float(learned.focal_scales.typical),
            ),
            image_side=int(torch.maximum(given.width, given.height).median()),
            world=world,
            regress_poses=getattr(pipeline, "pose_regressor", None),
            pose_sigmas=_usual_sigmas(pipeline),
        )


def _usual_sigmas(pipeline: Pipeline) -> Tuple[float, float]:
    """By what has been said of a run of ours (`Trust`)."""
    statuses = getattr(getattr(pipeline, "trust", None), "statuses", {}).get("train", [])
    if not statuses:
        return 0.0, 0.0
    sigmas = torch.tensor([(each.rotation_sigma_deg, each.translation_sigma_relative) for each in statuses])
    rotation, shift = sigmas.nanmedian(dim=0).values.nan_to_num(0.0).tolist()
    return rotation, shift


def _learned_cameras(pipeline: Pipeline) -> Optional[LearnedCameras]:
    """Those of our own pipeline; other methods have none."""
    cameras = getattr(pipeline, "cameras", None)
    return cameras if isinstance(cameras, LearnedCameras) else None


def refined_poses(model: Model, camera_to_worlds: Float[Tensor, "n 3 4"]) -> Float[Tensor, "n 3 4"]:
    """Training poses as the model's own camera optimizer has corrected them, if it has one."""
    optimizer = getattr(model, "camera_optimizer", None)
    if optimizer is None or optimizer.config.mode == "off":
        return camera_to_worlds
    with torch.no_grad():
        corrections = optimizer(torch.arange(len(camera_to_worlds), device=camera_to_worlds.device))
    rotations = corrections[:, :, :3] @ camera_to_worlds[:, :, :3]
    # As `apply_to_raybundle` has it: positions are shifted, not turned.
    return torch.cat([rotations, camera_to_worlds[:, :, 3:] + corrections[:, :, 3:]], dim=-1)


def load_run(load_config: Path) -> Tuple[Any, Any]:
    """Load a run from its folder, wherever that was copied or moved to.

    Args:
        load_config: its config.yml, beside the folder of its checkpoints.

    Returns:
        Its configuration as it was saved, but with the folder where it is now; and its pipeline, from the latest
        checkpoint.

    Raises:
        InputError: the run or its data cannot be found; or its checkpoint is damaged, or does not fit what is installed
            here.
    """
    config = _read_config(load_config)
    run = load_config.resolve().parent
    _set_folder(config, run)
    checkpoint = find_checkpoint(run / config.relative_model_dir)
    state = read_checkpoint(checkpoint)
    check_finite(state["pipeline"])
    _check_data(config, load_config)
    try:
        pipeline = _build_pipeline(config)
    except (RuntimeError, AssertionError, ImportError) as error:
        raise InputError(
            f"The run of {load_config} cannot be loaded on this machine ({_first_line(error)}); splatfacto and other "
            "methods that need a GPU can only be loaded on a machine with one."
        ) from error
    _check_weights(checkpoint, state["pipeline"], pipeline)
    try:
        pipeline.load_pipeline(state["pipeline"], state["step"])
    except RuntimeError as error:
        raise InputError(
            f"{checkpoint} does not fit {load_config} or the data named there ({_last_line(error)}); restore these as "
            "they were in training."
        ) from error
    return config, pipeline


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()


def _read_config(load_config: Path) -> Any:
    from nerfstudio.engine.trainer import TrainerConfig

    if not load_config.is_file():
        raise InputError(f"There is no file {load_config}; give --load-config the config.yml of a trained run.")
    try:
        config = yaml.load(load_config.read_text(encoding="utf-8"), Loader=yaml.Loader)
    except Exception as error:  # whatever constructing the objects that it names may raise
        reason = getattr(error, "problem", None) or _last_line(error)  # PyYAML's messages have several lines
        raise InputError(
            f"{load_config} cannot be read ({reason}); give --load-config the config.yml of a run whose "
            "method is installed here."
        ) from error
    if not isinstance(config, TrainerConfig):
        raise InputError(f"{load_config} is not the config.yml of a nerfstudio run; give --load-config one that is.")
    return config


def _build_pipeline(config: Any) -> Any:
    """As nerfstudio's `eval_setup`, but for the checkpoint."""
    # Not above: it imports every installed method.
    from nerfstudio.configs.method_configs import all_methods

    config = copy.deepcopy(config)  # pipelines write into theirs
    if config.method_name in all_methods:  # not every class survives being saved in a config.yml
        config.pipeline.datamanager._target = all_methods[config.method_name].pipeline.datamanager._target
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with without_lpips():
        pipeline = config.pipeline.setup(device=device, test_mode="inference")
    pipeline.eval()
    return pipeline


def _set_folder(config: Any, run: Path) -> None:
    """Have a configuration find the run where it lies now, and not where it was first saved, if it can.

    nerfstudio's own can only where the folder above is named after the method.
    """
    if hasattr(config, "set_folder"):  # ours
        config.set_folder(run)
        return
    if run.parent.name == config.method_name:
        config.output_dir, config.experiment_name, config.timestamp = run.parents[2], run.parents[1].name, run.name
    dataparser = getattr(config.pipeline.datamanager, "dataparser", None)
    if isinstance(dataparser, GrownDataParserConfig):
        dataparser.localized = run / dataparser.localized.name


def _check_data(config: Any, load_config: Path) -> None:
    datamanager = config.pipeline.datamanager
    dataparser = getattr(datamanager, "dataparser", None)
    data = getattr(datamanager, "data", None) or config.data or getattr(dataparser, "data", None)
    if data is not None and not Path(data).exists():
        raise InputError(
            f"{data}, on which {load_config} was trained, is not there any more; put it back, or correct the paths "
            "called data in that file."
        )


def _check_weights(checkpoint: Path, saved: Mapping[str, Any], pipeline: Any) -> None:
    """nerfstudio loads what fits from a checkpoint, and leaves the rest as it was initialized."""
    weights = {name.removeprefix("module."): value for name, value in saved.items()}
    # What is no tensor is a module's extra state, and no weight.
    own: Dict[str, Tensor] = {
        name: value
        for name, value in pipeline.state_dict().items()
        if isinstance(value, Tensor) and "lpips" not in name
    }
    missing = sorted(own.keys() - weights.keys() - set(NOT_IN_OLDER_CHECKPOINTS))
    if missing:
        explain_other_hash_grids(missing, sorted(weights.keys() - own.keys()))
        raise InputError(
            f"{checkpoint} holds no {missing[0]}, which the method has here; open it with the versions of nerfstudio "
            "and its methods that it was trained with."
        )
