"""Matches and poses: exact poses have no error, its size is an angle, and it brings poses back."""

import math
from dataclasses import replace

import numpy as np
import pytest
import roma
import torch
from analytic_scene import RADIUS, Blobs, cameras, image_set_of, model_of, random_poses
from torch import Tensor
from torch.nn import functional

from gnerf_ns.cameras.learned_cameras import LearnedCameras
from gnerf_ns.cameras.pose_prior import PosePriorConfig
from gnerf_ns.matching.local_matches import PairMatches
from gnerf_ns.pose_search.pose_search import PoseProposals, PoseSearch, PoseSearchConfig
from gnerf_ns.training.epipolar import EpipolarObjective, EpipolarObjectiveConfig, sampson_errors
from gnerf_ns.training.objective import TrainingScene
from gnerf_ns.training.pose_updates import LeaveOut
from gnerf_ns.training.schedule import PhaseScheduleConfig, Schedule

TRUTH = random_poses(6, seed=1)
PLAN = Schedule.of(PhaseScheduleConfig().with_known_poses("matched"), 6, 100).at(0)


def directions_to(poses: Tensor, points: Tensor) -> Tensor:
    offsets = points - poses[..., 3]
    return functional.normalize((poses[..., :3].mT @ offsets[..., None])[..., 0], dim=-1)


def pairs_of_rays(count: int = 50):
    generator = torch.Generator().manual_seed(0)
    points = 0.5 * torch.randn(count, 3, generator=generator).double()
    first, second = (random_poses(count, seed=seed).double() for seed in (2, 3))
    return first, second, directions_to(first, points), directions_to(second, points)


def test_rays_that_meet_have_no_error_and_gradients_are_exact():
    first, second, one, other = pairs_of_rays()
    assert float(sampson_errors(first, second, one, other).max()) < 1e-13  # of poses in single precision
    moved = (other + 0.05 * torch.randn_like(other)).requires_grad_()
    inputs = (first[:5].clone().requires_grad_(), second[:5].clone().requires_grad_(), one[:5], moved[:5])
    assert torch.autograd.gradcheck(sampson_errors, inputs)


def test_the_error_is_the_angle_by_which_both_rays_have_to_turn():
    first, second, one, other = pairs_of_rays()
    normals = functional.normalize(
        torch.linalg.cross(second[..., 3] - first[..., 3], (second[..., :3] @ other[..., None])[..., 0], dim=-1), dim=-1
    )
    # Out of the epipolar plane by 2 mrad: shared by both, each turns by 2 mrad / sqrt(2) of the squared sum.
    local = (second[..., :3].mT @ normals[..., None])[..., 0]
    turned = functional.normalize(other + 2e-3 * local, dim=-1)
    angles = sampson_errors(first, second, one, turned).sqrt()
    assert float(angles.max()) <= 2e-3 * 1.001
    # By brute force: the least sum of squared turns that makes the rays meet.
    expected = [least_turn(*each) for each in zip(first[:4], second[:4], one[:4], turned[:4], strict=True)]
    np.testing.assert_allclose(angles[:4].numpy(), expected, rtol=0.02)


def least_turn(first: Tensor, second: Tensor, one: Tensor, other: Tensor) -> float:
    """Root of the least sum of squared angles to two rays that meet: over planes through the baseline."""
    baseline = functional.normalize(second[:, 3] - first[:, 3], dim=0)
    rays = torch.stack([first[:, :3] @ one, second[:, :3] @ other])
    across = functional.normalize(torch.linalg.cross(baseline, rays[0], dim=0), dim=0)
    angles = torch.linspace(-0.02, 0.02, 40001, dtype=torch.float64)
    normals = roma.rotvec_to_rotmat(angles[:, None] * baseline) @ across
    return float(torch.asin(normals @ rays.mT).square().sum(dim=1).min().sqrt())


def objective(current: Tensor) -> EpipolarObjective:
    """Six cameras that see 60 points each, matched for all pairs."""
    model = model_of(Blobs())
    learned = LearnedCameras(cameras(6), cameras(0), "free")
    learned.assign(torch.arange(6), current)
    prior = PosePriorConfig().resolve()
    scene = TrainingScene(model, image_set_of(model, TRUTH), learned, prior, PoseProposals(prior, lambda: RADIUS))
    search = PoseSearch(PoseSearchConfig(), model, scene.proposals, learned.codec)
    config = EpipolarObjectiveConfig(loss_mult=(1.0, 1.0), matches_per_step=512)
    objective = EpipolarObjective(config, scene, LeaveOut(scene, search))
    points = 0.4 * torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    local = directions_to(TRUTH[:, None], points[None])
    focal = 0.5 / math.tan(math.radians(20.0))
    at = 0.5 + focal * torch.stack([local[..., 0], -local[..., 1]], dim=-1) / -local[..., 2:]
    pairs = [(i, j) for i in range(6) for j in range(i + 1, 6)]
    matched = torch.cat([torch.cat([at[i], at[j]], dim=-1) for i, j in pairs])
    objective.use(
        PairMatches(np.array([*pairs, (0, 6)]), 60 * np.arange(1, 17), torch.cat([matched, matched[:60]]).numpy())
    )
    return objective


def loss(objective: EpipolarObjective) -> Tensor:
    return objective.request(PLAN).losses({})["epipolar_loss"]


def test_true_poses_have_no_loss_and_held_out_images_no_matches():
    exact = objective(TRUTH)
    assert exact.is_active(PLAN) and len(exact._images) == 15 * 60
    assert float(loss(exact)) < 1e-3


def test_poses_are_brought_back():
    torch.manual_seed(0)
    turns = roma.rotvec_to_rotmat(0.03 * torch.randn(6, 3))
    moved = torch.cat([turns @ TRUTH[..., :3], TRUTH[..., 3:] + 0.03 * torch.randn(6, 3, 1)], dim=-1)
    pulled = objective(TRUTH)
    learned = pulled._scene.cameras
    learned.assign(torch.arange(6), moved)
    optimizer = torch.optim.Adam(learned.get_param_groups()["poses"], lr=3e-3)
    before = float(loss(pulled))
    for _ in range(300):
        optimizer.zero_grad()
        loss(pulled).backward()
        optimizer.step()
    assert float(loss(pulled)) < 0.2 * before


def test_a_pair_that_the_poses_contradict_is_left_out():
    """Camera 2 is elsewhere, as if it had matched a side that looks alike: none of its matches count."""
    wrong = TRUTH.clone()
    wrong[2] = random_poses(1, seed=99)[0]
    judged = objective(wrong)
    believed = judged._images[judged._believed]
    assert len(believed) == 10 * 60 and not bool((believed == 2).any())
    # Once it stands where it belongs, they do again; and not those of an image that has no place yet.
    judged._scene.cameras.assign(torch.tensor([2]), TRUTH[2:3])
    judged._leave_out.unplaced[4] = True
    judged.request(replace(PLAN, searches_misfit_poses=True))
    believed = judged._images[judged._believed]
    assert len(believed) == 10 * 60 and not bool((believed == 4).any())


def test_matches_are_in_the_checkpoint():
    saved, fresh = objective(TRUTH), objective(TRUTH)
    fresh.use(PairMatches(np.zeros((0, 2), np.int64), np.zeros(0, np.int64), np.zeros((0, 4), np.float32)))
    assert not fresh.is_active(PLAN)
    fresh.load_state_dict(saved.state_dict())
    assert fresh.is_active(PLAN) and float(loss(fresh)) == pytest.approx(float(loss(saved)), abs=1e-3)
