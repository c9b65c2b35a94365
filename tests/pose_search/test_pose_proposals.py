"""Poses of matched renderings, aimed as the images were; distances that follow a learned focal length."""

import math

import torch

from gnerf_ns.cameras.learned_cameras import FocalScales
from gnerf_ns.cameras.pose_prior import PosePriorConfig
from gnerf_ns.pose_search.image_matching import Matches, PlainMatching, ShiftTolerantMatching
from gnerf_ns.pose_search.pose_search import PoseProposals

RADIUS = 2.75
CPU = torch.device("cpu")


def test_only_a_prior_with_jitter_asks_for_shifts() -> None:
    assert isinstance(PoseProposals(PosePriorConfig().resolve(), lambda: RADIUS).matching, PlainMatching)
    loose = PoseProposals(PosePriorConfig(look_at_jitter=0.1).resolve(), lambda: RADIUS)
    assert isinstance(loose.matching, ShiftTolerantMatching)
    # A tenth of the distance, where half the image's side sees 1 / RADIUS of it.
    assert math.isclose(loose.matching.shift_std, 0.1 * RADIUS)
    poses = loose.sample(50, CPU)
    straight_ahead = -(poses[..., :3].mT @ poses[..., 3:]).squeeze(-1)
    torch.testing.assert_close(straight_ahead[:, :2], torch.zeros(50, 2), atol=1e-5, rtol=0.0)


def test_images_show_the_origin_where_they_were_shifted_to() -> None:
    matcher = PoseProposals(PosePriorConfig(look_at_jitter=0.1).resolve(), lambda: RADIUS)
    bank = matcher.sample(6, CPU)
    shift = torch.rand(3, 6, 2) - 0.5
    columns = torch.tensor([[4, 0], [1, 1], [5, 2]])
    poses = matcher.matched_poses(bank, Matches(torch.zeros(3, 6), shift), columns)
    assert poses.shape == (3, 2, 3, 4)
    torch.testing.assert_close(poses[..., 3], bank[columns][..., 3])
    seen = -(poses[..., :3].mT @ poses[..., 3:]).squeeze(-1)
    in_half_sides = RADIUS * seen[..., :2] / -seen[..., 2:]
    expected = shift[torch.arange(3)[:, None], columns] * torch.tensor([1.0, -1.0])
    torch.testing.assert_close(in_half_sides, expected, atol=1e-5, rtol=1e-5)


def test_without_shifts_poses_are_the_renderings() -> None:
    matcher = PoseProposals(PosePriorConfig().resolve(), lambda: RADIUS)
    bank = matcher.sample(4, CPU)
    columns = torch.tensor([2, 2, 0])
    assert torch.equal(matcher.matched_poses(bank, Matches(torch.zeros(3, 4), None), columns), bank[columns])


def test_cameras_stand_farther_back_behind_a_longer_lens() -> None:
    factors = FocalScales(3, "shared")
    matcher = PoseProposals(PosePriorConfig().resolve(), RADIUS, factors)
    with torch.no_grad():
        factors.logarithms.fill_(math.log(1.2))
    distances = torch.linalg.vector_norm(matcher.sample(10, CPU)[..., 3], dim=-1)
    torch.testing.assert_close(distances, torch.full((10,), 1.2 * RADIUS))
