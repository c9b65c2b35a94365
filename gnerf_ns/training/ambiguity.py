"""What the images cannot tell: other poses, or the mirror image of the scene, that explain them as well."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import List

import roma
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gnerf_ns.cameras.pose_codec import rotate_poses
from gnerf_ns.cameras.pose_prior import PosePrior
from gnerf_ns.data.image_set import ImageSet
from gnerf_ns.pose_search.pose_search import PoseSearch

TURNS_DEG = tuple(range(30, 360, 30))
"""Turns about the upright axis after which the object may look the same."""

COMPARED_SIDE = 48
"""Longer side of the images that small ones have not ruled out, in pixels."""

MAX_IMAGES = 32
"""So many are examined; of more, a part spread over all."""

SAME = 0.02
"""Images look nearly the same if they differ by less than this share of how images differ from their mean."""

EXPLAINED = 0.5
"""Images that differ from their own rendering by more than this share are not examined: the field does not show
them from anywhere."""

NOTEWORTHY_SHARE = 0.1
"""Share of the images with a twin above which that is reported."""


@dataclass(frozen=True)
class Ambiguity:
    """How many images could as well have been taken from elsewhere."""

    examined: int
    """Images that were examined; none if the field explains none."""
    twins: int
    """Those that look nearly the same from a place turned by `turn_deg`."""
    turn_deg: int
    """The turn about the upright axis that makes most twins, in degrees."""
    mirror_twins: int
    """Those that the scene's mirror image shows nearly the same, seen from the opposite elevation."""

    @property
    def sentences(self) -> List[str]:
        """What is to be said about it; nothing where the images are clear."""
        said = []
        if self.twins > NOTEWORTHY_SHARE * self.examined:
            said.append(
                f"{self.twins} of {self.examined} images look nearly the same from a place {self.turn_deg}° "
                "farther round the object: the images cannot tell, and such poses may be off by that much."
            )
        if self.mirror_twins > 0.5 * self.examined:
            said.append(
                "The mirror image of the scene, seen from below instead of from above or the other way round, explains "
                f"{self.mirror_twins} of {self.examined} images as well: the images cannot tell which is right; "
                "if you know that all were taken from above, say --pipeline.pose-prior.elevation-deg 0 90."
            )
        return said


@torch.no_grad()
def find_ambiguity(
    search: PoseSearch, image_set: ImageSet, camera_to_worlds: Float[Tensor, "n 3 4"], prior: PosePrior
) -> Ambiguity:
    """Hold images against what a trained field shows from their twins' places.

    Seen from the opposite side, an outline is its own mirror image if perspective is weak. So the mirror image of the
    scene, from the opposite elevation, has the same outlines as the scene; only perspective, shading and what hides
    what tell them apart (the reversal of a Necker cube).

    Args:
        search: of the trained field.
        image_set: all of them.
        camera_to_worlds: their estimated poses.
        prior: places outside of it are ruled out.
    """
    chosen = torch.arange(0, len(image_set), math.ceil(len(image_set) / MAX_IMAGES))
    chosen = chosen.to(camera_to_worlds.device)
    small, large = search.config.image_side, COMPARED_SIDE
    costs = search.costs
    cost = costs.at(image_set, chosen, camera_to_worlds[chosen], small)
    explained = cost < EXPLAINED * costs.variance(image_set, small)
    chosen = chosen[explained]
    poses = camera_to_worlds[chosen]

    @functools.cache
    def still_the_same(side: int) -> Float[Tensor, "n"]:
        # Noise is in both costs; their difference is what the place makes.
        return costs.at(image_set, chosen, poses, side) + SAME * costs.variance(image_set, side)

    def count_same(twins: Float[Tensor, "n 3 4"], flipped: bool = False) -> int:
        candidates = _may_be_taken_from(search.codec.up.to_z_up(twins), prior)
        # Small images rule most out; what they leave is looked at more closely.
        for side in (small, large):
            rows = candidates.nonzero()[:, 0]
            if len(rows) == 0:
                return 0
            cost = costs.at(image_set, chosen[rows], twins[rows], side, flipped)
            candidates[rows] = cost < still_the_same(side)[rows]
        return int(candidates.sum())

    turns = torch.deg2rad(poses.new_tensor(TURNS_DEG))
    axis = search.codec.up()[:, 2].to(poses)
    twins = [count_same(rotate_poses(turn, poses)) for turn in roma.rotvec_to_rotmat(turns[:, None] * axis)]
    most = max(range(len(twins)), key=twins.__getitem__)
    return Ambiguity(len(chosen), twins[most], TURNS_DEG[most], count_same(_from_behind(poses), flipped=True))


def _from_behind(camera_to_worlds: Float[Tensor, "n 3 4"]) -> Float[Tensor, "n 3 4"]:
    """Cameras on the other side of the object, upright as before, that have its outline where it was, flipped."""
    rotations, positions = camera_to_worlds[..., :3], camera_to_worlds[..., 3]
    backward = rotations[..., 2]
    distances = (positions * backward).sum(dim=-1, keepdim=True)
    turned = rotations * rotations.new_tensor([-1.0, 1.0, -1.0])
    return torch.cat([turned, (positions - 2.0 * distances * backward)[..., None]], dim=-1)


def _may_be_taken_from(camera_to_worlds: Float[Tensor, "n 3 4"], prior: PosePrior) -> Bool[Tensor, "n"]:
    """Whether azimuth and elevation of level cameras are within the prior's ranges."""
    positions = camera_to_worlds[..., 3]
    elevation = torch.rad2deg(torch.asin(positions[:, 2] / torch.linalg.vector_norm(positions, dim=-1)))
    azimuth = torch.rad2deg(torch.atan2(positions[:, 1], positions[:, 0]))
    (low, high), (first, last) = prior.elevation_deg, prior.azimuth_deg
    return (elevation >= low) & (elevation <= high) & ((azimuth - first) % 360.0 <= last - first)
