"""Camera poses from positions and what they look at."""

from typing import Optional

import roma
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

DEGENERATE_LENGTH = 1e-12
"""Vectors shorter than this have no direction of their own; a fixed one stands in."""

GRADIENT_FLOOR = 1e-2
"""A direction's gradient is 1 / length; lengths below this one count as this one in the backward pass."""


def _unit_with_bounded_gradient(
    vectors: Float[Tensor, "*batch 3"], fallback: Float[Tensor, "3"]
) -> Float[Tensor, "*batch 3"]:
    """Exact unit vectors whose gradient is exact down to ``GRADIENT_FLOOR`` and bounded below it."""
    # Squares overflow and underflow long before lengths do.
    largest = vectors.detach().abs().amax(dim=-1, keepdim=True).clamp_min(DEGENERATE_LENGTH)
    lengths = largest * torch.linalg.vector_norm(vectors.detach() / largest, dim=-1, keepdim=True)
    units = torch.where(lengths > DEGENERATE_LENGTH, vectors.detach() / lengths.clamp_min(DEGENERATE_LENGTH), fallback)
    # The value is ``units``; only the gradient comes from the second term.
    carrier = units + (vectors - vectors.detach()) / lengths.clamp_min(GRADIENT_FLOOR)
    return functional.normalize(carrier, dim=-1)


def look_at(
    positions: Float[Tensor, "*batch 3"],
    targets: Optional[Float[Tensor, "*batch 3"]] = None,
    roll: Optional[Float[Tensor, "*batch"]] = None,
) -> Float[Tensor, "*batch 3 4"]:
    """Poses of cameras that stand at ``positions`` and look at ``targets``, the world's +z being up.

    Orthonormal with determinant +1, with finite value and gradient everywhere. Two places have no natural answer:
    straight above or below the target the camera's up turns to where it would tend from azimuth 0, and a camera that
    stands on its target looks along -x. Near them the gradient is damped (the true one is 1 / distance), the value
    is not.

    Args:
        positions: camera centers, in scene units.
        targets: points looked at, in scene units; the origin if None.
        roll: turn about the camera's own +z (backward) axis, in radians, counter-clockwise as seen from behind the
            camera; none if None.

    Returns:
        camera_to_world matrices with OpenGL axes (x right, y up, z backward).
    """
    offsets = positions if targets is None else positions - targets
    backward = _unit_with_bounded_gradient(offsets, offsets.new_tensor([1.0, 0.0, 0.0]))
    # up x backward, written out: its length is the cosine of the elevation.
    horizontal = torch.stack([-backward[..., 1], backward[..., 0], torch.zeros_like(backward[..., 0])], dim=-1)
    right = _unit_with_bounded_gradient(horizontal, offsets.new_tensor([0.0, 1.0, 0.0]))
    upward = torch.linalg.cross(backward, right, dim=-1)
    if roll is not None:
        cosine, sine = torch.cos(roll)[..., None], torch.sin(roll)[..., None]
        right, upward = cosine * right + sine * upward, cosine * upward - sine * right
    return torch.stack([right, upward, backward, positions], dim=-1)


def aim_beside(
    camera_to_worlds: Float[Tensor, "*batch 3 4"], offsets: Float[Tensor, "*batch 2"]
) -> Float[Tensor, "*batch 3 4"]:
    """Turns cameras on the spot, the shortest way, so that what was in the middle of the image is beside it.

    Args:
        camera_to_worlds: poses with OpenGL axes.
        offsets: where it is to be seen: x to the right and y up, at distance 1 in front of the camera.
    """
    forward = functional.normalize(functional.pad(offsets, (0, 1), value=-1.0), dim=-1)
    middle = torch.tensor([0.0, 0.0, -1.0]).to(forward)
    # Half-way rotation as a quaternion (x, y, z, w); the two directions are never opposite.
    cosine = (forward * middle).sum(dim=-1, keepdim=True)
    axis = torch.linalg.cross(forward, middle.expand_as(forward), dim=-1)
    turn = roma.unitquat_to_rotmat(functional.normalize(torch.cat([axis, 1.0 + cosine], dim=-1), dim=-1))
    return torch.cat([camera_to_worlds[..., :3] @ turn, camera_to_worlds[..., 3:]], dim=-1)
