"""How sure each pose is: by how much it may be off where it is, and how likely it is quite another one.

Both are calibrated on runs whose true poses are known (`benchmarks/confidence.py`): figures of a linear model about
one place are too small, since neighboring pixels err alike, points are matched in many pairs, and training stops
before it is at the best place.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Tuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gnerf_ns.cameras.pose_covariance import PoseSigmas, free_motions, joint_sigmas
from gnerf_ns.data.image_set import ImageSet
from gnerf_ns.pose_search.alternatives import find_alternatives
from gnerf_ns.pose_search.pose_search import PoseSearch
from gnerf_ns.pose_search.precision import color_sigmas
from gnerf_ns.training.epipolar import EpipolarObjective
from gnerf_ns.training.objective import TrainingScene
from gnerf_ns.training.placement import are_few_alone
from gnerf_ns.training.pose_information import MAX_TOGETHER, color_information, match_information

COLOR_WEIGHT, COLOR_IMAGES = 0.3, 3.0
"""What colors tell of all poses together counts for so much of what it would if all errors were independent; and for no
more than that of so many images: what a field shows wrong is the same for all of them, and more do not average it out.
"""
MATCH_WEIGHT = 0.25
"""The same of matches: a point that is seen in several images is in many pairs."""
JOINT_FACTOR = 1.3
"""On what comes of both together,"""
OWN_FACTOR, OWN_FACTOR_EARLY = 0.6, 1.0
"""and on how sharply each image alone tells its pose in the field as it is: training ends before every pose is at the
best place. The latter where training was stopped early."""
FEW_FACTOR = 2.0
"""And on sigmas of few images that only the field speaks for (`are_few_alone`): much of the surface that colors are
compared on is seen by one or two of them. In right runs of four draws of six, and one of eight, errors were 0.9 to 3.6
times as large as they said, the root mean square of each over that of its sigmas, and 1.9 times in all."""
MATCHED_FACTOR = 2.0 * JOINT_FACTOR
"""Poses that matches tell alone are no less sure than so many times of what these say: they were held there."""


class Confidence(NamedTuple):
    """Of some images' poses."""

    rotation_sigma_deg: Float[Tensor, "n"]
    """Root mean square of the angle by which each may be turned, near where it is, in degrees."""
    translation_sigma_relative: Float[Tensor, "n"]
    """Of the distance by which each may be shifted, as a share of the cameras' distance from the origin."""
    alternatives: Float[Tensor, "n 3 4"]
    """The best other pose of each, at least `MIN_TURN_DEG` away,"""
    has_alternative: Bool[Tensor, "n"]
    """where there is one."""


@torch.no_grad()
def training_confidence(
    scene: TrainingScene,
    search: PoseSearch,
    epipolar: EpipolarObjective,
    origins: Int[Tensor, "n"],
    progress: float = 1.0,
) -> Confidence:
    """Of the training images' poses, relative to each other.

    Args:
        scene: images, their poses and the trained field.
        search: in that field.
        epipolar: has the matches.
        origins: where the poses are from: `PoseOrigin`.
        progress: how much of phase B was trained, of what its schedule has.
    """
    poses, count = scene.cameras.poses("train"), len(scene.cameras)
    # Neighbors together: they see the same, and are matched with each other.
    parts = torch.arange(count, device=poses.device).chunk(math.ceil(count / MAX_TOGETHER))
    rotation, shift = torch.zeros_like(poses[:, 0, 0]), torch.zeros_like(poses[:, 0, 0])
    own_factor = OWN_FACTOR if progress >= 1.0 else OWN_FACTOR_EARLY
    factor = FEW_FACTOR if are_few_alone(origins) else 1.0
    for part in parts:
        own = color_sigmas(search.renderer, scene.image_set[part], poses[part], free_motions(poses[part], search.codec))
        joint, matched = _joint_sigmas(scene, search, epipolar, part)
        for whole, values in zip((rotation, shift), zip(own, joint, matched, strict=True), strict=True):
            both = factor * (JOINT_FACTOR * values[1]).hypot(own_factor * values[0])
            # A single camera is not known relative to anything.
            whole[part] = torch.minimum(both, MATCHED_FACTOR * values[2]) if len(part) > 1 else torch.nan
    alternatives, exists = find_alternatives(search, scene.image_set, poses)
    return Confidence(rotation, shift / _distance(poses), alternatives, exists)


def _joint_sigmas(
    scene: TrainingScene, search: PoseSearch, epipolar: EpipolarObjective, part: Int[Tensor, "part"]
) -> Tuple[PoseSigmas, PoseSigmas]:
    """By colors and matches of some images, and by matches alone."""
    poses, (images, coords) = scene.cameras.poses("train"), epipolar.believed_matches
    place = torch.full((len(poses),), -1, device=poses.device)
    place[part] = torch.arange(len(part), device=poses.device)
    among = (place[images] >= 0).all(dim=1)
    image_set, own = scene.image_set[part], poses[part]
    motions = free_motions(own, search.codec)
    by_matches = MATCH_WEIGHT * match_information(image_set.directions, place[images[among]], coords[among], own)
    weight = min(COLOR_WEIGHT, COLOR_IMAGES / len(part))
    by_colors = weight * color_information(scene.model, image_set, own)
    return joint_sigmas(by_colors + by_matches, motions, own), joint_sigmas(by_matches, motions, own)


def _distance(camera_to_worlds: Float[Tensor, "n 3 4"]) -> Float[Tensor, ""]:
    """Of cameras from the origin, in scene units."""
    return torch.linalg.vector_norm(camera_to_worlds[..., 3], dim=-1).median()


@torch.no_grad()
def held_out_confidence(
    image_set: ImageSet, camera_to_worlds: Float[Tensor, "m 3 4"], search: PoseSearch, of_training: Confidence
) -> Confidence:
    """Of held-out images' poses, each found in the field; they are no surer than those that the field was made of.

    Args:
        image_set: the held-out images.
        camera_to_worlds: their poses.
        search: in the trained field.
        of_training: of the images that it was trained on.
    """
    motions = free_motions(camera_to_worlds, search.codec)
    rotation, shift = color_sigmas(search.renderer, image_set, camera_to_worlds, motions)
    alternatives, exists = find_alternatives(search, image_set, camera_to_worlds)
    return Confidence(
        rotation.hypot(of_training.rotation_sigma_deg.median()),
        (shift / _distance(camera_to_worlds)).hypot(of_training.translation_sigma_relative.median()),
        alternatives,
        exists,
    )
