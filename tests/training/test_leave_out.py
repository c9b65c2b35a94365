import pytest
import roma
import torch
from analytic_scene import RADIUS, Blobs, image_set_of, model_of, random_poses

from gnerf_ns.cameras.learned_cameras import PoseTable
from gnerf_ns.cameras.pose_codec import PoseCodec
from gnerf_ns.cameras.pose_prior import PosePriorConfig
from gnerf_ns.pose_search.pose_search import PoseMatcher, PoseSearch, PoseSearchConfig
from gnerf_ns.training.pose_updates import LeaveOut

TRUTH = random_poses(9, seed=3)


@pytest.fixture
def poses() -> PoseTable:
    table = PoseTable(9, PoseCodec("look_at", RADIUS))
    table.assign(torch.arange(9), TRUTH)
    table.assign(torch.tensor([1, 4]), random_poses(2, seed=4))
    return table


@pytest.fixture
def leave_out(poses: PoseTable) -> LeaveOut:
    torch.manual_seed(0)
    model = model_of(Blobs(num_samples=16))
    prior = PosePriorConfig(elevation_deg=(-60.0, 60.0)).resolve()
    search = PoseSearch(PoseSearchConfig(bank_size=400), model, PoseMatcher(prior, RADIUS), poses.codec)
    leave_out = LeaveOut(image_set_of(model, TRUTH), poses, search)
    leave_out.take_turns(0)
    return leave_out


def errors_deg(poses: PoseTable):
    return torch.rad2deg(roma.rotmat_geodesic_distance(poses().detach()[:, :, :3], TRUTH[:, :, :3]))


def test_nobody_then_a_half_then_the_other(leave_out: LeaveOut):
    leave_out.take_turns(0)
    assert leave_out.training_indices.tolist() == list(range(9))
    leave_out.take_turns(1)
    half = leave_out.left_out.clone()
    assert half.sum() == 4
    leave_out.take_turns(2)
    assert torch.equal(leave_out.left_out, ~half)
    assert sorted(leave_out.training_indices.tolist() + half.logical_not().nonzero()[:, 0].tolist()) == list(range(9))
    leave_out.take_turns(3)
    assert leave_out.left_out.sum() == 4 and not torch.equal(leave_out.left_out, half)
    leave_out.take_turns(None)
    assert not leave_out.left_out.any()


def test_those_left_out_are_looked_up_and_no_others(leave_out: LeaveOut, poses: PoseTable):
    before = poses().detach()
    leave_out.left_out[[4, 7]] = True
    poses.assign(torch.tensor([7]), random_poses(1, seed=9))  # as an optimizer's momentum moves it on
    leave_out.look_up()
    errors = errors_deg(poses)
    assert errors[1] > 20 and errors[4] < 5
    others = [0, 1, 2, 3, 5, 6, 8]
    torch.testing.assert_close(poses().detach()[others], before[others], rtol=0, atol=0)
    assert errors[7] < 0.01, "it fitted best where it was"


def test_looking_up_nobody_changes_nothing(leave_out: LeaveOut, poses: PoseTable):
    before = poses().detach()
    leave_out.look_up()
    torch.testing.assert_close(poses().detach(), before, rtol=0, atol=0)


def test_whose_turn_it_is_is_saved(leave_out: LeaveOut):
    leave_out.take_turns(1)
    assert set(leave_out.state_dict()) == {"left_out", "poses_then"}
    assert leave_out.state_dict()["left_out"].sum() == 4
