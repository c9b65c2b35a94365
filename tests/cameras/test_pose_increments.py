import math

import pytest
import roma
import torch
from analytic_scene import random_poses
from hypothesis import given, settings
from hypothesis import strategies as st

from gnerf_ns.cameras.pose_codec import PoseIncrements

CENTER = torch.tensor([0.3, -0.2, 0.1])


def increments(count: int = 4) -> PoseIncrements:
    return PoseIncrements(random_poses(count), CENTER)


def test_zeros_are_the_poses_themselves():
    assert torch.allclose(increments()(), random_poses(4), atol=1e-6)
    assert torch.allclose(increments()(torch.tensor([2])), random_poses(4)[2:3], atol=1e-6)


@given(st.lists(st.floats(-3.0, 3.0), min_size=6, max_size=6))
@settings(deadline=None, max_examples=50)
def test_they_stay_poses(tangent: list):
    poses = increments()
    poses.tangents.data.copy_(torch.tensor(tangent).expand(4, 6))
    rotations = poses().detach()[..., :3].double()
    assert torch.allclose(rotations @ rotations.mT, torch.eye(3).double(), atol=1e-5)
    assert torch.allclose(torch.det(rotations), torch.ones(4).double(), atol=1e-5)


def test_a_turn_takes_the_camera_around_the_center():
    poses = increments()
    poses.tangents.data[:, 3:] = torch.tensor([0.0, 0.0, math.radians(30.0)])
    before, after = random_poses(4), poses().detach()
    distances = torch.stack([(some[..., 3] - CENTER).norm(dim=-1) for some in (before, after)])
    assert torch.allclose(distances[0], distances[1], atol=1e-6)
    turns = roma.rotmat_geodesic_distance(before[..., :3], after[..., :3])
    assert torch.allclose(turns, torch.full((4,), math.radians(30.0)), atol=1e-5)
    # What the camera sees in its own frame has turned, not moved: the center is where it was.
    seen = [torch.einsum("nji,nj->ni", some[..., :3], CENTER - some[..., 3]) for some in (before, after)]
    assert torch.allclose(seen[0], seen[1], atol=1e-5)


def test_a_shift_is_in_units_of_the_distance_from_the_center():
    poses = increments()
    poses.tangents.data[:, 0] = 0.1
    moved = poses().detach()[..., 3] - random_poses(4)[..., 3]
    distances = (random_poses(4)[..., 3] - CENTER).norm(dim=-1)
    assert torch.allclose(moved, 0.1 * distances[:, None] * torch.tensor([1.0, 0.0, 0.0]), atol=1e-6)


@pytest.mark.parametrize("size", [0.0, 1e-6, 0.3])
def test_gradients(size: float):
    poses = increments(2).double()
    generator = torch.Generator().manual_seed(0)
    tangents = size * torch.randn(2, 6, generator=generator, dtype=torch.float64)

    def moved(values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(poses, {"tangents": values})

    # exp_map_SE3 replaces small angles by a constant: exact to first order there.
    assert torch.autograd.gradcheck(moved, tangents.requires_grad_(), atol=1e-4)


def test_a_camera_in_the_center_is_no_trouble():
    poses = random_poses(1)
    poses[..., 3] = CENTER
    increments_there = PoseIncrements(poses, CENTER)
    increments_there().sum().backward()
    assert increments_there.tangents.grad is not None and bool(increments_there.tangents.grad.isfinite().all())
