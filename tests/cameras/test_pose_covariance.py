"""Standard deviations of poses, against random draws that are aligned as errors are."""

import math

import pytest
import roma
import torch
from analytic_scene import RADIUS, random_poses
from torch import Tensor

from gnerf_ns.cameras.alignment import pose_errors
from gnerf_ns.cameras.pose_codec import PoseCodec, UpDirection, rotate_poses
from gnerf_ns.cameras.pose_covariance import PRIOR_RAD, free_motions, joint_sigmas, moved, single_sigmas

COUNT = 8


def chained(poses: Tensor, seed: int = 0) -> Tensor:
    """Information of cameras that are known relative to their neighbors alone, with a whole scene's freedom left."""
    generator = torch.Generator().manual_seed(seed)
    information = torch.zeros(6 * len(poses), 6 * len(poses), dtype=torch.float64)
    for first in range(len(poses)):
        second = (first + 1) % len(poses)
        # Whatever moves both as one rigid body changes nothing.
        arm = (poses[second, :, 3] - poses[first, :, 3]).double()
        slope = torch.zeros(6, 6 * len(poses), dtype=torch.float64)
        slope[:, 6 * second : 6 * second + 6] = torch.eye(6)
        carried = torch.eye(6, dtype=torch.float64)
        for axis in range(3):
            carried[3:, axis] = torch.linalg.cross(torch.eye(3, dtype=torch.float64)[axis], arm)
        slope[:, 6 * first : 6 * first + 6] = -carried
        known = torch.diag(1e4 + 1e5 * torch.rand(6, generator=generator, dtype=torch.float64))
        information += slope.mT @ known @ slope
    return information


def test_motions_turn_on_the_spot_about_the_worlds_axes_and_shift():
    pose = random_poses(1)
    quarter = torch.tensor([[0.0, 0.0, math.pi / 2, 1.0, 2.0, 3.0]])
    after = moved(pose, quarter)
    turn = roma.rotvec_to_rotmat(torch.tensor([0.0, 0.0, math.pi / 2]))
    torch.testing.assert_close(after[0, :, :3], turn @ pose[0, :, :3])
    torch.testing.assert_close(after[0, :, 3], pose[0, :, 3] + torch.tensor([1.0, 2.0, 3.0]))


@pytest.mark.parametrize("lean", [0.0, 0.2])
def test_what_is_free_of_cameras_that_look_at_the_origin(lean: float):
    up = UpDirection(is_learned=True)
    up.tilt.data.copy_(torch.tensor([lean, -lean]))
    codec = PoseCodec("look_at", RADIUS, up)
    poses = up.from_z_up(random_poses(COUNT)).double()
    motions = free_motions(poses, codec)
    assert motions.shape == (COUNT, 6, 3)
    step = 1e-3 * torch.randn(COUNT, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = codec.decode(codec.encode(poses) + step)
    found = moved(poses, (motions @ step[..., None])[..., 0])
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0.0)


def test_free_cameras_turn_around_the_origin_and_shift():
    poses = random_poses(2)
    motions = free_motions(poses, PoseCodec("free", 3.0))
    torch.testing.assert_close(motions[1, :, 3:], torch.cat([torch.zeros(3, 3), 3.0 * torch.eye(3)]).double())
    step = 1e-3 * torch.tensor([0.5, -1.0, 2.0])
    expected = rotate_poses(roma.rotvec_to_rotmat(step), poses)
    found = moved(poses, (motions[:, :, :3].float() @ step[:, None])[..., 0])
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0.0)


def test_sigmas_are_those_of_random_draws_once_these_are_aligned():
    poses = random_poses(COUNT)
    motions = free_motions(poses, PoseCodec("free", RADIUS))
    information = chained(poses)
    sigmas = joint_sigmas(information, motions, poses)
    free = torch.block_diag(*motions)
    covariance = free @ torch.linalg.inv(free.mT @ information @ free + torch.eye(6 * COUNT) / PRIOR_RAD**2) @ free.mT
    root = torch.linalg.cholesky(covariance + 1e-14 * torch.eye(6 * COUNT))
    # Small enough for a linear model, gauge included.
    draws = (
        0.02 * torch.randn(400, 6 * COUNT, generator=torch.Generator().manual_seed(1), dtype=torch.float64) @ root.mT
    )
    errors = [pose_errors(moved(poses.double(), draw.view(COUNT, 6)), poses.double()) for draw in draws]
    rotation = torch.stack([each.rotation_deg for each in errors]).square().mean(dim=0).sqrt() / 0.02
    translation = torch.stack([each.translation for each in errors]).square().mean(dim=0).sqrt() / 0.02
    torch.testing.assert_close(sigmas.rotation_deg.double(), rotation, rtol=0.12, atol=0.0)
    # The scale is fitted robustly, to some of the cameras.
    torch.testing.assert_close(sigmas.translation.double(), translation, rtol=0.25, atol=0.0)
    assert float(sigmas.rotation_deg.max()) < 0.1 * math.degrees(PRIOR_RAD), "the scene's freedom is taken out"


def test_sigmas_do_not_depend_on_the_frame():
    poses = random_poses(COUNT)
    turn = roma.rotvec_to_rotmat(torch.tensor([0.4, -0.8, 0.3]))
    codec = PoseCodec("free", RADIUS)
    turned = rotate_poses(turn, poses)
    whole = torch.block_diag(*[turn.double()] * (2 * COUNT))
    before = joint_sigmas(chained(poses), free_motions(poses, codec), poses)
    after = joint_sigmas(whole @ chained(poses) @ whole.mT, free_motions(turned, codec), turned)
    torch.testing.assert_close(after.rotation_deg, before.rotation_deg, rtol=1e-3, atol=0.0)
    torch.testing.assert_close(after.translation, before.translation, rtol=1e-3, atol=0.0)


def test_of_what_nothing_is_known_the_prior_is_left():
    poses = random_poses(COUNT)
    nothing = torch.zeros(6 * COUNT, 6 * COUNT)
    sigmas = joint_sigmas(nothing, free_motions(poses, PoseCodec("free", RADIUS)), poses)
    # All turn about three axes, but for the mean of all.
    expected = math.degrees(PRIOR_RAD) * math.sqrt(3 * (COUNT - 1) / COUNT)
    torch.testing.assert_close(sigmas.rotation_deg, torch.full((COUNT,), expected), rtol=1e-4, atol=0.0)


def test_single_poses_in_a_frame_that_stands():
    poses = random_poses(2)
    motions = free_motions(poses, PoseCodec("free", 2.0))
    shifts = torch.diag(torch.tensor([0.0, 0.0, 0.0, 0.0, 9.0, 16.0]))
    sigmas = single_sigmas(shifts.expand(2, 6, 6), motions)
    torch.testing.assert_close(sigmas.rotation_deg, torch.zeros(2))
    torch.testing.assert_close(sigmas.translation, torch.full((2,), 10.0))
    turns = torch.diag(torch.tensor([0.0, 0.0, 0.04, 0.0, 0.0, 0.0]))
    sigmas = single_sigmas(turns.expand(2, 6, 6), motions)
    torch.testing.assert_close(sigmas.rotation_deg, torch.full((2,), math.degrees(0.2)))
    torch.testing.assert_close(sigmas.translation, 0.2 * torch.linalg.vector_norm(poses[:, :2, 3], dim=1))
