"""A trained run of any method: loaded from its config.yml, as a field and training images with their cameras."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional, Tuple

import torch
import yaml
from jaxtyping import Float
from nerfstudio.cameras.camera_utils import focus_of_attention
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.models.base_model import Model
from nerfstudio.pipelines.base_pipeline import Pipeline
from torch import Tensor

from gnerf_ns.cameras.learned_cameras import FocalScales
from gnerf_ns.cameras.pose_codec import UP_DIRECTION_KEY, UpDirection
from gnerf_ns.cameras.pose_prior import PosePrior
from gnerf_ns.cameras.rays import CameraDirections
from gnerf_ns.data.dataset import UnposedDataset
from gnerf_ns.data.grown_dataparser import GrownDataParserConfig, WorldFrame, world_frame_of
from gnerf_ns.data.image_set import ImageSet, ImageStack
from gnerf_ns.fields.hash_encoding import use_compiled_hash_grids
from gnerf_ns.models.image_metrics import without_lpips
from gnerf_ns.pose_search.image_renderer import ImageRenderer
from gnerf_ns.pose_search.pose_search import PoseRegressor
from gnerf_ns.utils.checkpoints import explain_other_hash_grids
from gnerf_ns.utils.errors import InputError

TRAINING_SIDE = 64
"""Longer side to which training images are brought, in pixels: they are only compared with."""


@dataclass(frozen=True)
class ViewingShell:
    """How training cameras stand around what they look at."""

    center: Float[Tensor, "3"]
    """The point that they look at, in scene units."""
    radius: float
    """Their median distance from it."""
    elevation_deg: Tuple[float, float]
    """The lowest and the highest of them above the horizontal plane through it, in degrees."""
    up: UpDirection = field(default_factory=UpDirection)
    """What is up: nerfstudio's z, unless a run has learned otherwise."""

    @classmethod
    def of(cls, camera_to_worlds: Float[Tensor, "n 3 4"], up: Optional[UpDirection] = None) -> ViewingShell:
        """Of given training poses, and what is up there."""
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
        """Random poses at that distance and those elevations, looking at the center."""
        prior = PosePrior((0.0, 360.0), self.elevation_deg, (1.0, 1.0), 0.0, (0.0, 0.0))
        poses = self.up.from_z_up(prior.sample(count, self.radius, self.center.device))
        return torch.cat([poses[..., :3], poses[..., 3:] + self.center[:, None]], dim=-1)


@dataclass(frozen=True)
class TrainedScene:
    """A field and what it was trained on."""

    field: ImageRenderer
    """The trained model."""
    training: ImageSet
    """Its training images, small."""
    camera_to_worlds: Float[Tensor, "n 3 4"]
    """Their poses, in the field's frame; refined ones, where the method refines them."""
    viewing_shell: ViewingShell
    """How those stand around what they look at."""
    fov_deg: float
    """Median field of view of training images along their longer side, in degrees, as it was given."""
    focal_scale: float
    """How many times longer focal lengths have turned out to be than was given, where the method learns that."""
    image_side: int
    """Median longer side of training images as the method has them, in pixels."""
    world: WorldFrame
    """The way between the field's frame and that of the data."""
    regress_poses: Optional[PoseRegressor]
    """The run's inversion network, if it has one."""

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
        poses = _refined(model, cameras.camera_to_worlds)
        factors: Optional[FocalScales] = getattr(pipeline, "focal_scales", None)
        painted = None if outputs.alpha_color is None else torch.as_tensor(outputs.alpha_color).float()
        return cls(
            field=ImageRenderer(model, painted),
            training=ImageSet(ImageStack.from_dataset(dataset, device), CameraDirections(cameras)),
            camera_to_worlds=poses,
            viewing_shell=ViewingShell.of(poses, getattr(pipeline, "up_direction", None)),
            fov_deg=_longer_field_of_view(dataset.given_cameras),
            focal_scale=1.0 if factors is None else float(factors.typical),
            image_side=int(torch.maximum(given.width, given.height).median()),
            world=world,
            regress_poses=getattr(pipeline, "pose_regressor", None),
        )


def _refined(model: Model, camera_to_worlds: Float[Tensor, "n 3 4"]) -> Float[Tensor, "n 3 4"]:
    """Training poses as the model's own camera optimizer has corrected them, if it has one."""
    optimizer = getattr(model, "camera_optimizer", None)
    if optimizer is None or optimizer.config.mode == "off":
        return camera_to_worlds
    with torch.no_grad():
        corrections = optimizer(torch.arange(len(camera_to_worlds), device=camera_to_worlds.device))
    rotations = corrections[:, :, :3] @ camera_to_worlds[:, :, :3]
    # As `apply_to_raybundle` has it: positions are shifted, not turned.
    return torch.cat([rotations, camera_to_worlds[:, :, 3:] + corrections[:, :, 3:]], dim=-1)


def _longer_field_of_view(cameras: Cameras) -> float:
    """Median over the cameras, in degrees."""
    is_wide = cameras.width >= cameras.height
    sides = torch.where(is_wide, cameras.width, cameras.height)
    focal = torch.where(is_wide, cameras.fx, cameras.fy)
    return math.degrees(float((2.0 * torch.atan(0.5 * sides / focal)).median()))


def load_run(load_config: Path) -> Tuple[Any, Any]:
    """Configuration of a run, as it was saved but for where it lies now (it may have been moved); and its pipeline.

    Args:
        load_config: its config.yml.

    Raises:
        InputError: the run or its data cannot be found, or its weights do not fit what is installed here.
    """
    # Imports every installed method.
    from nerfstudio.utils.eval_utils import eval_setup

    if not load_config.is_file():
        raise InputError(f"There is no file {load_config}; give --load-config the config.yml of a trained run.")
    run = load_config.resolve().parent
    checkpoints = sorted((run / "nerfstudio_models").glob("step-*.ckpt"))  # the steps have leading zeros
    if not checkpoints:
        raise InputError(f"{run / 'nerfstudio_models'} holds no checkpoint; train the run first.")

    def where_it_lies_now(config: Any) -> Any:
        _set_folder(config, run)
        _check_data(config, load_config)
        return config

    try:
        with without_lpips():
            _, pipeline, _, _ = eval_setup(load_config, test_mode="inference", update_config_callback=where_it_lies_now)
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"The run of {load_config} cannot be loaded on this machine ({reason[0]}); splatfacto and whatever else "
            "needs a GPU has to be loaded where there is one."
        ) from error
    # Read again: eval_setup's own is changed for rendering only.
    config = where_it_lies_now(yaml.load(load_config.read_text(), Loader=yaml.Loader))
    _check_weights(checkpoints[-1], pipeline)
    return config, pipeline


def _set_folder(config: Any, run: Path) -> None:
    """Saved paths of nerfstudio's own methods hold only from the folder in which training was started."""
    experiment, method, timestamp = ("", *run.parts)[-3:]
    if method != config.method_name:
        raise InputError(
            f"{run} is a run of {config.method_name}, which nerfstudio looks for in a folder of that name; move it to "
            f"{run.parent / config.method_name / run.name}."
        )
    config.output_dir, config.experiment_name, config.timestamp = run.parents[2], experiment, timestamp
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


def _check_weights(checkpoint: Path, pipeline: Any) -> None:
    """nerfstudio takes what fits from a checkpoint, and leaves the rest as it was drawn at random."""
    saved = torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=False)["pipeline"]
    names = {name.removeprefix("module.") for name in saved}
    # What is no tensor is a module's extra state, and no weight.
    own = {name for name, value in pipeline.state_dict().items() if isinstance(value, torch.Tensor)}
    missing = sorted(name for name in own - names - {UP_DIRECTION_KEY} if "lpips" not in name)
    if missing:
        explain_other_hash_grids(missing, sorted(names - own))
        raise InputError(
            f"{checkpoint} holds no {missing[0]}, which the method has here; open it with the versions of nerfstudio "
            "and its methods that it was trained with."
        )
