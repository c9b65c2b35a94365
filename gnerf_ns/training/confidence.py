"""How sure each pose is: by how much it may be off where it is, and how likely it is quite another one.

Both are calibrated on runs whose true poses are known (`benchmarks/confidence.py`): figures of a linear model about
one place are too small, since neighboring pixels err alike, points are matched in many pairs, and training stops
before it is at the best place.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gnerf_ns.cameras.pose_covariance import free_motions, joint_sigmas
from gnerf_ns.data.image_set import ImageSet
from gnerf_ns.pose_search.alternatives import find_alternatives
from gnerf_ns.pose_search.pose_search import PoseSearch
from gnerf_ns.pose_search.precision import color_sigmas
from gnerf_ns.training.epipolar import EpipolarObjective
from gnerf_ns.training.objective import TrainingScene
from gnerf_ns.training.pose_information import MAX_TOGETHER, color_information, match_information

COLOR_WEIGHT, MATCH_WEIGHT = 0.3, 0.25
"""What colors and matches tell counts for so much of what it would if all errors were independent."""


LEAST_PROGRESS, PROGRESS_POWER = 0.02, 1.3
"""Colors count for less where training was stopped early, and poses have not come to where colors want them."""


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
    scene: TrainingScene, search: PoseSearch, epipolar: EpipolarObjective, progress: float = 1.0
) -> Confidence:
    """Of the training images' poses, relative to each other.

    Args:
        scene: images, their poses and the trained field.
        search: in that field.
        epipolar: has the matches.
        progress: how much of phase B was trained, of what its schedule has.
    """
    color_weight = COLOR_WEIGHT * ((progress + LEAST_PROGRESS) / (1.0 + LEAST_PROGRESS)) ** PROGRESS_POWER
    poses, count = scene.cameras().detach(), len(scene.cameras)
    images, coords = epipolar.believed_matches
    rotation, translation = poses.new_zeros(count), poses.new_zeros(count)
    num_parts = math.ceil(count / MAX_TOGETHER)
    for part in range(num_parts):
        some = torch.arange(part, count, num_parts, device=poses.device)
        place = torch.full((count,), -1, device=poses.device)
        place[some] = torch.arange(len(some), device=poses.device)
        among = (place[images] >= 0).all(dim=1)
        image_set, own = scene.image_set[some] if num_parts > 1 else scene.image_set, poses[some]
        information = color_weight * color_information(scene.model, image_set, own) + MATCH_WEIGHT * match_information(
            image_set.directions, place[images[among]], coords[among], own
        )
        sigmas = joint_sigmas(information, free_motions(own, search.codec), own)
        rotation[some], translation[some] = sigmas
    alternatives, exists = find_alternatives(search, scene.image_set, poses)
    distance = torch.linalg.vector_norm(poses[..., 3], dim=-1).median()
    return Confidence(rotation, translation / distance, alternatives, exists)


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
    rotation, translation = color_sigmas(search.renderer, image_set, camera_to_worlds, motions)
    distance = torch.linalg.vector_norm(camera_to_worlds[..., 3], dim=-1).median()
    alternatives, exists = find_alternatives(search, image_set, camera_to_worlds)
    return Confidence(
        (rotation.square() + of_training.rotation_sigma_deg.median().square()).sqrt(),
        ((translation / distance).square() + of_training.translation_sigma_relative.median().square()).sqrt(),
        alternatives,
        exists,
    )
