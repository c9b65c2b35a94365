"""Camera poses from positions and the points that they look at."""

from typing import Optional

import roma
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

DEGENERATE_LENGTH = 1e-12
"""Vectors shorter than this get a fixed direction."""

GRADIENT_FLOOR = 1e-2
"""The gradient of a direction is 1 / length; in the backward pass, lengths are at least this."""


def _unit_with_bounded_gradient(
    vectors: Float[Tensor, "*batch 3"], fallback: Float[Tensor, "3"]
) -> Float[Tensor, "*batch 3"]:
    """Unit vectors; their gradient is exact for lengths of at least ``GRADIENT_FLOOR`` and bounded below that."""
    # Division by the largest component first, because squares overflow and underflow before lengths do.
    largest = vectors.detach().abs().amax(dim=-1, keepdim=True).clamp_min(DEGENERATE_LENGTH)
    lengths = largest * torch.linalg.vector_norm(vectors.detach() / largest, dim=-1, keepdim=True)
    units = torch.where(lengths > DEGENERATE_LENGTH, vectors.detach() / lengths.clamp_min(DEGENERATE_LENGTH), fallback)
    # The value is ``units``; the second term is zero and carries the gradient.
    carrier = units + (vectors - vectors.detach()) / lengths.clamp_min(GRADIENT_FLOOR)
    return functional.normalize(carrier, dim=-1)


def look_at(
    positions: Float[Tensor, "*batch 3"],
    targets: Optional[Float[Tensor, "*batch 3"]] = None,
    roll: Optional[Float[Tensor, "*batch"]] = None,
) -> Float[Tensor, "*batch 3 4"]:
    """Poses of cameras at ``positions`` that look at ``targets``, with the world's +z up.

    Rotations are orthonormal with determinant +1, and values and gradients are finite everywhere. Two positions are
    singular: straight above or below the target, the camera's up is the limit for azimuth 0; at the target itself, the
    camera looks along -x. Near these the gradient is damped (the true one grows as 1 / distance), the value is exact.

    Args:
        positions: camera centers, in scene units.
        targets: points to look at, in scene units; the origin if None.
        roll: rotation about the camera's +z (backward) axis, in radians, counter-clockwise as seen from behind the
            camera; 0 if None.

    Returns:
        camera_to_world matrices with OpenGL axes (x right, y up, z backward).
    """
    offsets = positions if targets is None else positions - targets
    backward = _unit_with_bounded_gradient(offsets, offsets.new_tensor([1.0, 0.0, 0.0]))
    # The cross product of +z and backward; its length is the cosine of the elevation.
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
    """Rotate cameras in place, by the smallest angle, so that the point at the image's center moves to an offset.

    Args:
        camera_to_worlds: poses with OpenGL axes.
        offsets: new position of that point in the image: x to the right and y up, on the plane at distance 1.
    """
    forward = functional.normalize(functional.pad(offsets, (0, 1), value=-1.0), dim=-1)
    turn = _smallest_turn(forward, torch.tensor([0.0, 0.0, -1.0]).to(forward).expand_as(forward))
    # A sum and not a matrix product: mixed precision would round that.
    turned = (camera_to_worlds[..., :3, None] * turn[..., None, :, :]).sum(dim=-2)
    return torch.cat([turned, camera_to_worlds[..., 3:]], dim=-1)


def _smallest_turn(first: Float[Tensor, "*batch 3"], second: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """The smallest rotation from one unit vector to another, which is never its opposite."""
    # As a quaternion (x, y, z, w).
    cosine = (first * second).sum(dim=-1, keepdim=True)
    axis = torch.linalg.cross(first, second, dim=-1)
    return roma.unitquat_to_rotmat(functional.normalize(torch.cat([axis, 1.0 + cosine], dim=-1), dim=-1))


def poses_between(
    first: Float[Tensor, "*batch 3 4"], second: Float[Tensor, "*batch 3 4"], share: float
) -> Float[Tensor, "*batch 3 4"]:
    """Poses on the way from one to another, about the origin: of two cameras that look at it, all between do.

    Args:
        first: camera_to_world matrices at share 0.
        second: at share 1.
        share: how much of the way.
    """
    steps = torch.tensor([share]).to(first)
    rotations = roma.rotmat_slerp(first[..., :3], second[..., :3], steps)[0]
    # Where the origin is, as the cameras see it. Sums and not matrix products, which mixed precision would round.
    seen_first, seen_second = ((poses[..., :3] * poses[..., 3:]).sum(dim=-2) for poses in (first, second))
    positions = (rotations * torch.lerp(seen_first, seen_second, share)[..., None, :]).sum(dim=-1, keepdim=True)
    return torch.cat([rotations, positions], dim=-1)
