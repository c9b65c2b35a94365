"""How likely a pose is wrong, by how far it may be off and by how much better its image fits there than elsewhere.

Constants are fitted to runs whose true poses are known (`benchmarks/confidence.py`).
"""

from __future__ import annotations

import math

import roma
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gnerf_ns.cameras.pose_covariance import MIN_TURN_DEG

WRONG_DEG = 5.0
"""A pose that is turned by more, in degrees, is wrong."""
FLAGGED_PROBABILITY = 0.3
"""An image whose pose is wrong with more than this probability is flagged."""
EVEN_ADVANTAGE = 0.3
"""Where the best other pose leaves exp(0.3) times as much of an image unexplained, it is as likely as this one: a field
has learned to show images from where they were believed to be."""
ADVANTAGE_SLOPE = 5.0
"""By how much the logarithm of the odds falls with that of the unexplained share's ratio."""
LEAST_UNEXPLAINED = 1e-9
"""So that logarithms are finite."""


def alternative_probabilities(
    unexplained: Float[Tensor, "n"], elsewhere: Float[Tensor, "n"], log_odds: Float[Tensor, "n"]
) -> Float[Tensor, "n"]:
    """That images were taken from the best other pose.

    Args:
        unexplained: of each image by what is shown from its pose, in any unit.
        elsewhere: the same from the best other pose; infinite where there is none.
        log_odds: what else speaks for the other pose; 0 for nothing.
    """
    advantage = (elsewhere.clamp_min(LEAST_UNEXPLAINED) / unexplained.clamp_min(LEAST_UNEXPLAINED)).log()
    return torch.sigmoid(log_odds - ADVANTAGE_SLOPE * (advantage - EVEN_ADVANTAGE))


def are_elsewhere(
    camera_to_worlds: Float[Tensor, "*batch 3 4"], others: Float[Tensor, "*batch 3 4"]
) -> Bool[Tensor, "*batch"]:
    """Which poses are quite other ones: turned by `MIN_TURN_DEG` or more."""
    return roma.rotmat_geodesic_distance(camera_to_worlds[..., :3], others[..., :3]).rad2deg() >= MIN_TURN_DEG


def wrong_probability(rotation_sigma_deg: float, alternative_probability: float) -> float:
    """That a pose is turned by more than `WRONG_DEG`; what is not known (NaN) speaks for nothing.

    Args:
        rotation_sigma_deg: root mean square of the angle by which it may be turned near where it is, in degrees.
        alternative_probability: that it is quite another one.
    """
    sigma, elsewhere = (0.0 if math.isnan(value) else value for value in (rotation_sigma_deg, alternative_probability))
    # Of errors in two directions, as those of most cameras nearly are.
    is_far_off = math.exp(-((WRONG_DEG / sigma) ** 2)) if sigma > 0.0 else 0.0
    return 1.0 - (1.0 - elsewhere) * (1.0 - is_far_off)
