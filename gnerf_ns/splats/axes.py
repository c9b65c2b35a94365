"""Between nerfstudio's cameras, whose y points up and whose z points backward, and those that splats are drawn by,
whose y points down and whose z points forward (OpenCV's)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def world_to_cameras(camera_to_worlds: Float[Tensor, "*batch 3 4"]) -> Float[Tensor, "*batch 3 4"]:
    """What `PinholeView` takes, of nerfstudio's poses; differentiable."""
    return inverse_poses(_flipped(camera_to_worlds))


def camera_to_worlds(world_to_cameras: Float[Tensor, "*batch 3 4"]) -> Float[Tensor, "*batch 3 4"]:
    """The inverse of `world_to_cameras`."""
    return _flipped(inverse_poses(world_to_cameras))


def inverse_poses(poses: Float[Tensor, "*batch 3 4"]) -> Float[Tensor, "*batch 3 4"]:
    """The inverse maps, of poses whose camera axes stay what they are."""
    rotations = poses[..., :3].mT
    return torch.cat([rotations, -(rotations @ poses[..., 3:])], dim=-1)


def _flipped(poses: Float[Tensor, "*batch 3 4"]) -> Float[Tensor, "*batch 3 4"]:
    return poses * poses.new_tensor([1.0, -1.0, -1.0, 1.0])
