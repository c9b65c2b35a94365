"""What has been learned so far of where the photographs were taken: recent poses, weighted by how much they explained.

GNeRF needs a prior that is right and names learning it as future work. Here poses that photographs were
matched with are drawn again, a little changed, more often than the prior has them: a wide prior narrows by itself.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from gnerf_ns.cameras.look_at import look_at
from gnerf_ns.cameras.pose_prior import PosePrior


class PosePopulation(nn.Module):
    """Poses of the last few steps, with weights; all of them aimed at the origin.

    Attributes:
        poses: camera_to_worlds [capacity, 3, 4], newest first.
        weights: of the same poses; 0 where there is none yet.
    """

    poses: Tensor
    weights: Tensor

    def __init__(self, capacity: int) -> None:
        """Starts empty.

        Args:
            capacity: how many poses are remembered.
        """
        super().__init__()
        self.register_buffer("poses", torch.zeros(capacity, 3, 4))
        self.register_buffer("weights", torch.zeros(capacity))

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw from."""
        return not bool(self.weights.any())

    def forget(self) -> None:
        """Empty it."""
        self.weights.zero_()

    @torch.no_grad()
    def remember(self, poses: Float[Tensor, "batch 3 4"], weights: Float[Tensor, "batch"]) -> None:
        """Takes in poses and how much each explained; the oldest are forgotten.

        Weights that are no numbers, of an attempt at phase A that has diverged, count as 0.
        """
        capacity = len(self.weights)
        weights = weights.nan_to_num()
        self.poses.copy_(torch.cat([poses.to(self.poses), self.poses])[:capacity])
        self.weights.copy_(torch.cat([weights.to(self.weights), self.weights])[:capacity])

    @torch.no_grad()
    def sample(self, count: int, prior: PosePrior, radius: float, spread: float) -> Float[Tensor, "count 3 4"]:
        """Draws poses near remembered ones, by weight.

        Args:
            count: how many.
            prior: distances and rolls stay within its ranges.
            radius: the camera distance that counts as 1 in the prior, in scene units.
            spread: standard deviation of the change of direction, in radians; distance and roll change by this share
                of their ranges.
        """
        parents = self.poses[torch.multinomial(self.weights, count, replacement=True)]
        positions = parents[..., 3]
        directions = functional.normalize(positions, dim=-1)
        directions = functional.normalize(directions + spread * torch.randn_like(directions), dim=-1)

        low, high = (radius * limit for limit in prior.radius)
        distances = torch.linalg.vector_norm(positions, dim=-1)
        distances = (distances + spread * (high - low) * torch.randn_like(distances)).clamp(low, high)

        first, last = (math.radians(limit) for limit in prior.roll_deg)
        roll = roll_of(parents)
        roll = (roll + spread * (last - first) * torch.randn_like(roll)).clamp(first, last)
        return look_at(distances[:, None] * directions, roll=roll)


def roll_of(camera_to_worlds: Float[Tensor, "*batch 3 4"]) -> Float[Tensor, "*batch"]:
    """How far cameras that look at the origin are turned about their axis, in radians, as `look_at` has it."""
    level = look_at(camera_to_worlds[..., 3])
    right = camera_to_worlds[..., 0]
    return torch.atan2((right * level[..., 1]).sum(dim=-1), (right * level[..., 0]).sum(dim=-1))
