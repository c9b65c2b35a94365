"""Matches and poses: exact poses have no error, its size is an angle, and it brings poses back."""

from dataclasses import replace

import numpy as np
import pytest
import roma
import torch
from analytic_scene import RADIUS, Blobs, cameras, image_set_of, matches_between, model_of, random_poses
from torch import Tensor

from gnerf_ns.cameras.learned_cameras import LearnedCameras
from gnerf_ns.cameras.pose_prior import PosePriorConfig
from gnerf_ns.matching.local_matches import PairMatches
from gnerf_ns.pose_search.pose_search import PoseProposals, PoseSearch, PoseSearchConfig
from gnerf_ns.training.epipolar import EpipolarObjective, EpipolarObjectiveConfig
from gnerf_ns.training.objective import TrainingScene
from gnerf_ns.training.pose_updates import LeaveOut
from gnerf_ns.training.schedule import PhaseScheduleConfig, Schedule

TRUTH = random_poses(6, seed=1)
PLAN = Schedule.of(PhaseScheduleConfig().with_known_poses("matched"), 6, 100).at(0)


def objective(current: Tensor) -> EpipolarObjective:
    """Six cameras that see 60 points each, matched for all pairs."""
    model = model_of(Blobs())
    learned = LearnedCameras(cameras(6), cameras(0), "free")
    learned.assign(torch.arange(6), current)
    prior = PosePriorConfig().resolve()
    scene = TrainingScene(model, image_set_of(model, TRUTH), learned, prior, PoseProposals(prior, lambda: RADIUS))
    search = PoseSearch(PoseSearchConfig(), model, scene.proposals, learned.codec)
    config = EpipolarObjectiveConfig(loss_mult=(1.0, 1.0), matches_per_step=512)
    objective = EpipolarObjective(config, scene, LeaveOut(scene, search, num_held_out=0))
    points = 0.4 * torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    matches = matches_between(TRUTH, points)
    held_out = PairMatches(np.array([(0, 6)]), np.array([60]), matches.points[:60])
    objective.use(
        PairMatches(
            np.concatenate([matches.pairs, held_out.pairs]),
            np.concatenate([matches.ends, matches.ends[-1] + held_out.ends]),
            np.concatenate([matches.points, held_out.points]),
        )
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
