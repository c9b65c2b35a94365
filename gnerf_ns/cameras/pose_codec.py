"""Poses as free numbers: a position alone, or with it the 6-D rotation of Zhou et al. (CVPR 2019, section 4.2)."""

from dataclasses import dataclass, field
from typing import Literal, Optional

import roma
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from gnerf_ns.cameras.look_at import look_at
from gnerf_ns.cameras.up_direction import UpDirection, rotate_poses

DEGENERATE = 1e-4
"""A first column shorter than this, or an angle (in radians) between the columns smaller than this, decodes to
no rotation; the column is nudged off the spot."""


def encode_pose_9d(camera_to_worlds: Float[Tensor, "*batch 3 4"]) -> Float[Tensor, "*batch 9"]:
    """Position along the camera's own axes (3), then the rotation's first column (3) and second column (3).

    In the camera's axes a position says where in the picture the world's origin is, and how far away. A step on the
    rotation then takes the camera around the object, which stays in the picture; with the position in the world's axes
    it turns the camera on the spot, and gradient descent has to move both against each other.
    """
    rotations, positions = camera_to_worlds[..., :3], camera_to_worlds[..., 3:]
    # Sums and not matrix products, here and below: mixed precision would round those.
    return torch.cat([(rotations * positions).sum(dim=-2), rotations[..., 0], rotations[..., 1]], dim=-1)


def decode_pose_9d(codes: Float[Tensor, "*batch 9"]) -> Float[Tensor, "*batch 3 4"]:
    """Inverse of ``encode_pose_9d``; columns that are not orthonormal are made so by Gram-Schmidt.

    A rotation with determinant +1 and finite gradients for every code: where the columns are zero or parallel, a
    nudge of their own length chooses one of the rotations that fit.
    """
    positions, first, second = codes.split(3, dim=-1)
    first_length = torch.linalg.vector_norm(first.detach(), dim=-1, keepdim=True)
    first = torch.where(first_length > DEGENERATE, first, first + first.new_tensor([1.0, 0.0, 0.0]))

    second_length = torch.linalg.vector_norm(second.detach(), dim=-1, keepdim=True)
    across = torch.linalg.cross(functional.normalize(first.detach(), dim=-1), second.detach(), dim=-1)
    sine = torch.linalg.vector_norm(across, dim=-1, keepdim=True) / second_length.clamp_min(DEGENERATE)
    farthest_axis = functional.one_hot(first.detach().abs().argmin(dim=-1), 3).to(second)
    second = torch.where(sine > DEGENERATE, second, second + second_length.clamp_min(1.0) * farthest_axis)

    # The second pass removes the rounding error that the first leaves when the columns are nearly parallel.
    rotations = roma.special_gramschmidt(roma.special_gramschmidt(torch.stack([first, second], dim=-1)))
    return torch.cat([rotations, (rotations * positions[..., None, :]).sum(dim=-1, keepdim=True)], dim=-1)


PoseMode = Literal["look_at", "free"]


@dataclass(frozen=True)
class PoseCodec:
    """How poses of one kind are written as numbers that can be learned.

    Positions are in units of the camera distance, so that one learning rate suits every field of view.
    """

    mode: PoseMode
    """look_at: the position alone (3 numbers, along the world's axes); the camera is level (see `up`) and looks at the
    origin.
    free: the 9 numbers of `encode_pose_9d`."""
    radius: float
    """The camera distance that counts as 1, in scene units."""
    up: UpDirection = field(default_factory=UpDirection)
    """What is up for cameras that look at the origin."""

    @property
    def dim(self) -> int:
        """Numbers per pose: 3 or 9."""
        return 3 if self.mode == "look_at" else 9

    def encode(self, camera_to_worlds: Float[Tensor, "*batch 3 4"]) -> Float[Tensor, "*batch code"]:
        """Codes of given poses; in mode "look_at" their rotation is dropped."""
        if self.mode == "look_at":
            return camera_to_worlds[..., 3] / self.radius
        codes = encode_pose_9d(camera_to_worlds)
        return torch.cat([codes[..., :3] / self.radius, codes[..., 3:]], dim=-1)

    def decode(
        self, codes: Float[Tensor, "*batch code"], upright: Optional[Float[Tensor, "3 3"]] = None
    ) -> Float[Tensor, "*batch 3 4"]:
        """camera_to_world matrices of given codes.

        Args:
            codes: as `encode` writes them.
            upright: `up()`, where gradients are to reach it; None if they are not.
        """
        if self.mode == "look_at":
            rotation = (self.up().detach() if upright is None else upright).to(codes)
            # The position as it would be if +z were up, by a sum: mixed precision would round a matrix product.
            level = look_at(self.radius * (rotation * codes[..., :, None]).sum(dim=-2))
            return rotate_poses(rotation, level)
        return decode_pose_9d(torch.cat([self.radius * codes[..., :3], codes[..., 3:]], dim=-1))

    def perturb(self, camera_to_worlds: Float[Tensor, "*batch 3 4"], std: float) -> Float[Tensor, "*batch 3 4"]:
        """Poses near given ones: each number of the code is off by a normal deviate of this standard deviation."""
        codes = self.encode(camera_to_worlds)
        return self.decode(codes + std * torch.randn_like(codes))
