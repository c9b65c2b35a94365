"""What a trained run knows, whatever its method: a field, and training pictures with their cameras."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Callable, Optional

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.models.base_model import Model
from nerfstudio.pipelines.base_pipeline import Pipeline
from torch import Tensor

from gnerf_ns.cameras.focal_lengths import FocalFactors
from gnerf_ns.cameras.rays import CameraDirections
from gnerf_ns.data.dataparsers.grown_dataparser import world_frame_of
from gnerf_ns.data.dataparsers.world_frame import WorldFrame
from gnerf_ns.data.image_stack import ImageStack
from gnerf_ns.data.unposed_dataset import UnposedDataset
from gnerf_ns.errors import InputError
from gnerf_ns.field_components.compiled_hash_encoding import use_compiled_hash_grids
from gnerf_ns.localization.photographs import Photographs
from gnerf_ns.localization.starting_poses import Surroundings
from gnerf_ns.localization.trained_field import TrainedField

TRAINING_SIDE = 64
"""Longer side to which training pictures are brought, in pixels: they are only compared with."""

PoseRegressor = Callable[[Photographs], Float[Tensor, "n 3 4"]]
"""An inversion network: photographs to poses in one pass."""


@dataclass(frozen=True)
class TrainedScene:
    """A field and what it was trained on."""

    field: TrainedField
    """The trained model."""
    training: Photographs
    """Its training pictures, small."""
    camera_to_worlds: Float[Tensor, "n 3 4"]
    """Their poses, in the field's frame; refined ones, where the method refines them."""
    surroundings: Surroundings
    """How those stand around what they look at."""
    fov_deg: float
    """Median field of view of training pictures along their longer side, in degrees, as it was given."""
    focal_factor: float
    """How many times longer focal lengths have turned out to be than was given, where the method learns that."""
    image_side: int
    """Median longer side of training pictures as the method has them, in pixels."""
    world: WorldFrame
    """The way between the field's frame and that of the data."""
    regress_poses: Optional[PoseRegressor]
    """The run's inversion network, if it has one."""

    @classmethod
    def of(cls, pipeline: Pipeline) -> TrainedScene:
        """Of a loaded pipeline of any method.

        Raises:
            InputError: its datamanager holds no training pictures.
        """
        datamanager: Any = pipeline.datamanager
        outputs: Optional[DataparserOutputs] = getattr(datamanager, "train_dataparser_outputs", None)
        if outputs is None or len(outputs.image_filenames) == 0:
            raise InputError(
                f"{type(datamanager).__name__} holds no training pictures, which tell where a new one may be from; use "
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
        factors: Optional[FocalFactors] = getattr(pipeline, "focal_factors", None)
        painted = None if outputs.alpha_color is None else torch.as_tensor(outputs.alpha_color).float()
        return cls(
            field=TrainedField(model, painted),
            training=Photographs(ImageStack.from_dataset(dataset, device), CameraDirections(cameras)),
            camera_to_worlds=poses,
            surroundings=Surroundings.of(poses, getattr(pipeline, "up_direction", None)),
            fov_deg=_longer_field_of_view(dataset.given_cameras),
            focal_factor=1.0 if factors is None else float(factors.typical),
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
