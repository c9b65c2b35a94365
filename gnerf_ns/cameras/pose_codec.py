"""Poses as free numbers that gradient descent can move."""

from dataclasses import dataclass, field
from typing import Literal, Optional

import roma
import torch
from jaxtyping import Float
from nerfstudio.cameras.lie_groups import exp_map_SE3
from torch import Tensor, nn
from torch.nn import functional

from gnerf_ns.cameras.look_at import look_at


class UpDirection(nn.Module):
    """A lean of the scene away from +z, as the parameter ``tilt``: a rotation vector in the xy plane, in radians.

    Small renderings tell phase A little of the upright, and may leave the scene leaning by some degrees. Level cameras
    then cannot see it as the images do, unless what is level leans with it: poses settle on a compromise, and with
    few images the field learns to explain that. Two numbers for all cameras together undo it, without allowing any
    one of them to roll.
    """

    def __init__(self, is_learned: bool = False) -> None:
        """Starts with +z up.

        Args:
            is_learned: whether it may change.
        """
        super().__init__()
        self.is_learned = is_learned
        self.tilt: Tensor
        if is_learned:
            self.tilt = nn.Parameter(torch.zeros(2))
        else:
            self.register_buffer("tilt", torch.zeros(2))

    def forward(self) -> Float[Tensor, "3 3"]:
        """The shortest rotation that takes +z to what is up."""
        return roma.rotvec_to_rotmat(torch.cat([self.tilt, self.tilt.new_zeros(1)]))

    def from_z_up(self, camera_to_worlds: Float[Tensor, "*batch 3 4"]) -> Float[Tensor, "*batch 3 4"]:
        """Poses in the learned frame of cameras given in one where +z is up; no gradient reaches the tilt."""
        return rotate_poses(self.forward().detach().to(camera_to_worlds), camera_to_worlds)

    def to_z_up(self, camera_to_worlds: Float[Tensor, "*batch 3 4"]) -> Float[Tensor, "*batch 3 4"]:
        """The inverse of `from_z_up`."""
        return rotate_poses(self.forward().detach().mT.to(camera_to_worlds), camera_to_worlds)


def rotate_poses(
    rotation: Float[Tensor, "3 3"], camera_to_worlds: Float[Tensor, "*batch 3 4"]
) -> Float[Tensor, "*batch 3 4"]:
    """Cameras turned about the origin, all alike."""
    # A sum and not a matrix product, which mixed precision would round.
    return (rotation[:, :, None] * camera_to_worlds[..., None, :, :]).sum(dim=-2)


DEGENERATE = 1e-4
"""A first column shorter than this, or an angle (in radians) between the columns smaller than this, decodes to
no rotation; the column is nudged off the spot."""


def encode_pose_9d(camera_to_worlds: Float[Tensor, "*batch 3 4"]) -> Float[Tensor, "*batch 9"]:
    """Position along the camera's own axes (3), then the rotation's first column (3) and second column (3).

    In the camera's axes a position says where in the image the world's origin is, and how far away. A step on the
    rotation then takes the camera around the object, which stays in the image; with the position in the world's axes
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


class PoseTable(nn.Module):
    """Poses to be moved freely from where they are, as the parameter ``codes``."""

    def __init__(self, camera_to_worlds: Float[Tensor, "n 3 4"], codec: PoseCodec) -> None:
        """
        Args:
            camera_to_worlds: where to begin; in mode "look_at" their rotations are dropped.
            codec: what a pose may be.
        """
        super().__init__()
        self.codec = codec
        self.codes = nn.Parameter(codec.encode(camera_to_worlds.detach()))

    def forward(self) -> Float[Tensor, "n 3 4"]:
        """camera_to_world matrices."""
        return self.codec.decode(self.codes)


class PoseIncrements(nn.Module):
    """exp(tangent) applied to each of some poses, as the parameter ``tangents``: zeros are the poses themselves.

    Motions are about the middle of the scene, so that a rotation takes the camera around what it looks at, and
    translations are in units of the camera's distance from there, so that one learning rate suits every scene.
    """

    initial: Tensor
    center: Tensor
    distances: Tensor

    def __init__(self, camera_to_worlds: Float[Tensor, "n 3 4"], center: Float[Tensor, "3"]) -> None:
        """
        Args:
            camera_to_worlds: where to begin.
            center: the middle of what the cameras look at, in scene units.
        """
        super().__init__()
        self.register_buffer("initial", camera_to_worlds.detach().clone())
        self.register_buffer("center", center.detach().to(camera_to_worlds))
        distances = torch.linalg.vector_norm(self.initial[..., 3] - self.center, dim=-1, keepdim=True)
        self.register_buffer("distances", distances.clamp_min(torch.finfo(distances.dtype).eps))
        self.tangents = nn.Parameter(torch.zeros(len(camera_to_worlds), 6).to(camera_to_worlds))

    def forward(self) -> Float[Tensor, "n 3 4"]:
        """camera_to_world matrices."""
        tangents, initial = self.tangents, self.initial
        motions = exp_map_SE3(torch.cat([self.distances * tangents[:, :3], tangents[:, 3:]], dim=-1))
        # Sums and not matrix products, which mixed precision would round.
        rotations = (motions[:, :, :3, None] * initial[:, None, :, :3]).sum(dim=-2)
        arms = initial[..., 3] - self.center
        positions = (motions[:, :, :3] * arms[:, None, :]).sum(dim=-1) + motions[:, :, 3] + self.center
        return torch.cat([rotations, positions[..., None]], dim=-1)
