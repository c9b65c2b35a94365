"""How far poses may be off, from what is known of them (their information), with the whole scene's gauge taken out.

Six numbers say how a camera moves: a rotation vector in the world's axes, in radians, by which it turns on the spot,
and a shift in scene units.
"""

from __future__ import annotations

from typing import NamedTuple

import roma
import torch
from jaxtyping import Float
from torch import Tensor

from gnerf_ns.cameras.pose_codec import PoseCodec

PRIOR_RAD = 0.3
"""Standard deviation that each pose has before anything is known, in radians and camera distances: far more than a
linear model holds for, so that what is not known at all has a figure, too."""
MIN_TURN_DEG = 15.0
"""Quite another pose is turned by at least so much, in degrees: errors within are those of one that is about right."""
STEP = 1e-4
"""Of the numeric derivative of a pose in its code, in double precision."""


class PoseSigmas(NamedTuple):
    """Standard deviations of poses."""

    rotation_deg: Float[Tensor, "n"]
    """Root mean square of the angle by which each may be turned, in degrees."""
    translation: Float[Tensor, "n"]
    """Root mean square of the distance by which each may be shifted, in scene units."""


def free_motions(camera_to_worlds: Float[Tensor, "n 3 4"], codec: PoseCodec) -> Float[Tensor, "n 6 freedoms"]:
    """How each camera moves with each number that its pose is free in, in double precision.

    Args:
        camera_to_worlds: where cameras are.
        codec: what a pose may be. Three numbers where cameras look at the origin, in radii; else six: turns around the
            origin, which change least of what is seen, in radians, and shifts, in radii.
    """
    poses = camera_to_worlds.detach().double()
    if codec.mode == "free":
        identity = torch.eye(3).to(poses).expand(len(poses), 3, 3)
        turns = torch.cat([identity, -_cross_matrices(poses[..., 3])], dim=1)
        return torch.cat([turns, torch.cat([torch.zeros_like(identity), codec.radius * identity], dim=1)], dim=2)
    codes = codec.encode(poses)
    before, columns = codec.decode(codes), []
    for axis in torch.eye(3).to(codes):
        after = codec.decode(codes + STEP * axis)
        turns = roma.rotmat_to_rotvec(after[..., :3] @ before[..., :3].mT)
        columns.append(torch.cat([turns, after[..., 3] - before[..., 3]], dim=-1) / STEP)
    return torch.stack(columns, dim=-1)


def moved(camera_to_worlds: Float[Tensor, "n 3 4"], motions: Float[Tensor, "n 6"]) -> Float[Tensor, "n 3 4"]:
    """Cameras after a motion each."""
    rotations = roma.rotvec_to_rotmat(motions[:, :3])
    # A sum and not a matrix product, which mixed precision would round.
    turned = (rotations[..., None] * camera_to_worlds[:, None, :, :3]).sum(dim=-2)
    return torch.cat([turned, (camera_to_worlds[..., 3] + motions[:, 3:])[..., None]], dim=-1)


def joint_sigmas(
    information: Float[Tensor, "six_n six_n"],
    motions: Float[Tensor, "n 6 freedoms"],
    camera_to_worlds: Float[Tensor, "n 3 4"],
) -> PoseSigmas:
    """Standard deviations of poses that are known relative to each other.

    Turning, moving and scaling the whole scene changes no image: what is left of errors after such an alignment
    (`fit_similarity`) is what counts.

    Args:
        information: of all poses together (the Hessian of half the sum of squared errors in units of their standard
            deviation), in the six numbers of each camera, one camera after the other.
        motions: what each is free in (`free_motions`).
        camera_to_worlds: where cameras are.
    """
    count, freedoms = len(motions), motions.shape[2]
    free = torch.block_diag(*motions.double())
    prior = torch.eye(count * freedoms).to(free) / PRIOR_RAD**2
    covariance = free @ torch.linalg.inv(free.mT @ information.double() @ free + prior) @ free.mT
    aligning = _alignment(camera_to_worlds.detach().double())
    variances = torch.einsum("ij,jk,ik->i", aligning, covariance, aligning).view(count, 6).clamp_min(0.0)
    return PoseSigmas(
        torch.rad2deg(variances[:, :3].sum(dim=1).sqrt()).to(camera_to_worlds),
        variances[:, 3:].sum(dim=1).sqrt().to(camera_to_worlds),
    )


def single_sigmas(
    covariances: Float[Tensor, "n freedoms freedoms"], motions: Float[Tensor, "n 6 freedoms"]
) -> PoseSigmas:
    """Standard deviations of poses, each known by itself in a frame that stands.

    Args:
        covariances: in what each camera is free in.
        motions: what that is.
    """
    variances = torch.einsum("nij,njk,nik->ni", motions.double(), covariances.double(), motions.double()).clamp_min(0.0)
    return PoseSigmas(
        torch.rad2deg(variances[:, :3].sum(dim=1).sqrt()).to(covariances),
        variances[:, 3:].sum(dim=1).sqrt().to(covariances),
    )


def _alignment(camera_to_worlds: Float[Tensor, "n 3 4"]) -> Float[Tensor, "six_n six_n"]:
    """What aligning by a similarity makes of small motions, to first order: rotations first, then positions."""
    count, positions = len(camera_to_worlds), camera_to_worlds[..., 3]
    identity = torch.eye(3).to(positions)
    whole = torch.eye(6 * count).to(positions)
    # Turning all turns each, and carries it around the origin.
    carried = -_cross_matrices(positions)
    turning = torch.cat([identity.expand(count, 3, 3), carried], dim=1).reshape(6 * count, 3)
    mean_turn = torch.cat([identity, torch.zeros_like(identity)], dim=1).repeat(1, count) / count
    without_turn = whole - turning @ mean_turn
    shifts = torch.cat([identity.expand(count, 3, 3), positions[..., None]], dim=2)
    moving = torch.cat([torch.zeros_like(shifts), shifts], dim=1).reshape(6 * count, 4)
    return (whole - moving @ torch.linalg.pinv(moving)) @ without_turn


def _cross_matrices(vectors: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3 3"]:
    """Matrices that multiply by v from the left: v × x."""
    x, y, z = vectors.unbind(dim=-1)
    none = torch.zeros_like(x)
    return torch.stack([none, -z, y, z, none, -x, -y, x, none], dim=-1).view(-1, 3, 3)
