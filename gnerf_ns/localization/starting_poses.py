"""Where to begin to look for a photograph's pose: near training images like it, all around, or near a given pose."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Optional, Tuple

import torch
from jaxtyping import Float
from nerfstudio.cameras.camera_utils import focus_of_attention
from torch import Tensor

from gnerf_ns.cameras.pose_increments import PoseIncrements
from gnerf_ns.cameras.pose_prior import PosePrior
from gnerf_ns.cameras.up_direction import UpDirection
from gnerf_ns.localization.photographs import Photographs
from gnerf_ns.localization.trained_field import TrainedField
from gnerf_ns.model_components.image_matching import pairwise_cost, pyramid_features

THUMBNAIL_SIDE = 16
"""Longer side, in pixels, of what is compared to choose where to begin."""


@dataclass(frozen=True)
class Surroundings:
    """How training cameras stand around what they look at."""

    centre: Float[Tensor, "3"]
    """The point that they look at, in scene units."""
    radius: float
    """Their median distance from it."""
    elevation_deg: Tuple[float, float]
    """The lowest and the highest of them above the horizontal plane through it, in degrees."""
    up: UpDirection = field(default_factory=UpDirection)
    """What is up: nerfstudio's z, unless a run has learned otherwise."""

    @classmethod
    def of(cls, camera_to_worlds: Float[Tensor, "n 3 4"], up: Optional[UpDirection] = None) -> Surroundings:
        """Of given training poses, and what is up there."""
        up = up or UpDirection()
        poses = camera_to_worlds.detach().cpu()
        bottom = torch.tensor([0.0, 0.0, 0.0, 1.0]).expand(len(poses), 1, 4)
        middle = poses[:, :, 3].mean(dim=0)
        centre = focus_of_attention(torch.cat([poses, bottom], dim=1), middle)
        arms = poses[:, :, 3] - centre
        distances = torch.linalg.vector_norm(arms, dim=-1)
        heights = arms @ up()[:, 2].detach().cpu()
        elevations = torch.rad2deg(torch.asin((heights / distances.clamp_min(1e-9)).clamp(-1.0, 1.0)))
        return cls(
            centre.to(camera_to_worlds),
            float(distances.median()),
            (float(elevations.min()), float(elevations.max())),
            up,
        )

    def all_around(self, count: int) -> Float[Tensor, "count 3 4"]:
        """Random poses at that distance and those elevations, looking at the centre."""
        prior = PosePrior((0.0, 360.0), self.elevation_deg, (1.0, 1.0), 0.0, (0.0, 0.0))
        poses = self.up.lean(prior.sample(count, self.radius, self.centre.device))
        return torch.cat([poses[..., :3], poses[..., 3:] + self.centre[:, None]], dim=-1)


def poses_of_alike(
    field: TrainedField,
    photographs: Photographs,
    training: Photographs,
    camera_to_worlds: Float[Tensor, "m 3 4"],
    count: int,
) -> Float[Tensor, "n hypotheses 3 4"]:
    """Poses of the training images whose thumbnails are most like each photograph's (retrieval)."""
    size = photographs.size_at(THUMBNAIL_SIDE, multiple_of=4)
    features = [pyramid_features(each.resized(*size, field.background_or_black)) for each in (photographs, training)]
    alike = pairwise_cost(*features).topk(min(count, len(training)), dim=1, largest=False).indices
    return camera_to_worlds[alike]


@torch.no_grad()
def best_of(
    field: TrainedField, photographs: Photographs, candidates: Float[Tensor, "n candidates 3 4"], count: int
) -> Float[Tensor, "n hypotheses 3 4"]:
    """The few candidates of each photograph from which the field looks most like it, at thumbnail size."""
    chosen = []
    for index, poses in enumerate(candidates):
        photograph = photographs[torch.tensor([index], device=poses.device)]
        chosen.append(best_of_bank(field, photograph, poses, count)[0])
    return torch.stack(chosen)


@torch.no_grad()
def best_of_bank(
    field: TrainedField, photographs: Photographs, bank: Float[Tensor, "m 3 4"], count: int
) -> Float[Tensor, "n hypotheses 3 4"]:
    """Likewise of a bank that is shared by all photographs, which are taken to have a typical one's intrinsics."""
    size = photographs.size_at(THUMBNAIL_SIDE, multiple_of=4)
    same_camera = photographs.directions.typical.to(bank.device).expand(len(bank))
    renderings = field.pictures(bank, photographs.directions, same_camera, *size)
    pictures = photographs.resized(*size, field.background_or_black)
    cost = pairwise_cost(pyramid_features(pictures), pyramid_features(renderings))
    return bank[cost.topk(min(count, len(bank)), dim=1, largest=False).indices]


def disturbed(
    camera_to_worlds: Float[Tensor, "n 3 4"],
    centre: Float[Tensor, "3"],
    count: int,
    rotation_deg: float,
    translation: float,
) -> Float[Tensor, "n {count} 3 4"]:
    """Each given pose, and random ones around it: turned about the centre, and shifted.

    Args:
        camera_to_worlds: the poses.
        centre: what is turned about, in scene units.
        count: how many of each, the given one included.
        rotation_deg: largest turn about a random axis, in degrees.
        translation: largest shift along each axis, in camera distances.
    """
    repeated = camera_to_worlds.repeat_interleave(count, dim=0)
    increments = PoseIncrements(repeated, centre)
    axes = torch.nn.functional.normalize(torch.randn(len(repeated), 3, device=repeated.device), dim=-1)
    angles = math.radians(rotation_deg) * torch.rand(len(repeated), 1, device=repeated.device)
    shifts = translation * (2.0 * torch.rand(len(repeated), 3, device=repeated.device) - 1.0)
    tangents = torch.cat([shifts, angles * axes], dim=-1)
    tangents[::count] = 0.0
    increments.tangents.data.copy_(tangents)
    return increments().detach().unflatten(0, (len(camera_to_worlds), count))
