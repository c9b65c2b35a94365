"""Look-at poses: against hand-worked values, everywhere on and off the sphere, and in their gradients."""

import math

import pytest
import roma
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gnerf_ns.cameras.look_at import GRADIENT_FLOOR, aim_beside, look_at, poses_between

POLES_AND_ORIGIN = torch.tensor(
    [[0.0, 0.0, 2.8], [0.0, 0.0, -2.8], [0.0, 0.0, 0.0], [1e-20, 0.0, 1.0], [1e-7, -1e-7, -1.0], [0.0, 1e-30, 0.0]]
)
coordinates = st.floats(-(2.0**40), 2.0**40, width=32)
points = st.tuples(coordinates, coordinates, coordinates)


def assert_proper(camera_to_worlds: Tensor, tolerance: float = 2e-6) -> None:
    rotations = camera_to_worlds[..., :3]
    identity = torch.eye(3).to(rotations).expand_as(rotations)
    torch.testing.assert_close(rotations @ rotations.mT, identity, atol=tolerance, rtol=0.0)
    torch.testing.assert_close(torch.det(rotations), torch.ones(rotations.shape[:-2]).to(rotations))


def test_golden_pose() -> None:
    # On the +x axis: the camera looks along -x, its right is +y and its up is +z.
    expected = torch.tensor([[0.0, 0.0, 1.0, 2.0], [1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    torch.testing.assert_close(look_at(torch.tensor([2.0, 0.0, 0.0])), expected)


def test_target_and_position_land_where_they_should() -> None:
    generator = torch.Generator().manual_seed(0)
    positions, targets = torch.randn(2, 5, 7, 3, generator=generator)
    poses = look_at(positions, targets)
    torch.testing.assert_close(poses[..., 3], positions)
    seen = (poses[..., :3].mT @ (targets - positions)[..., None]).squeeze(-1)
    distances = (targets - positions).norm(dim=-1)
    expected = torch.stack([torch.zeros_like(distances), torch.zeros_like(distances), -distances], dim=-1)
    torch.testing.assert_close(seen, expected, atol=1e-5, rtol=0.0)
    assert (poses[..., 2, 0].abs() < 1e-6).all(), "right is horizontal"
    assert (poses[..., 2, 1] > 0.0).all(), "up points up"


@settings(deadline=None)
@given(position=points, target=points, roll=st.floats(-10.0, 10.0))
def test_proper_for_any_position_target_and_roll(position: tuple, target: tuple, roll: float) -> None:
    pose = look_at(torch.tensor(position), torch.tensor(target), torch.tensor(roll))
    assert_proper(pose)


def test_proper_and_finite_gradient_at_poles_and_origin() -> None:
    positions = POLES_AND_ORIGIN.clone().requires_grad_()
    poses = look_at(positions)
    assert_proper(poses)
    weights = torch.randn(poses.shape, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad((poses * weights).sum(), positions)
    assert gradient.isfinite().all()
    # Two divisions by a length stand between position and right axis; each costs at most 1 / GRADIENT_FLOOR.
    assert gradient.abs().max() < 10.0 / GRADIENT_FLOOR**2
    assert gradient[:2].abs().max() < 10.0 / GRADIENT_FLOOR, "only one of them is degenerate at a pole"


def test_continuous_along_azimuth_zero_up_to_the_pole() -> None:
    poses = look_at(torch.tensor([[1e-4, 0.0, 1.0], [0.0, 0.0, 1.0]]))
    torch.testing.assert_close(poses[0], poses[1], atol=2e-4, rtol=0.0)


@pytest.mark.parametrize("with_target", [False, True])
def test_gradients_in_double_precision(with_target: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    positions, targets = torch.randn(2, 6, 3, generator=generator, dtype=torch.float64).requires_grad_()
    roll = torch.randn(6, generator=generator, dtype=torch.float64, requires_grad=True)

    def poses(positions: Tensor, targets: Tensor, roll: Tensor) -> Tensor:
        return look_at(positions, targets if with_target else None, roll)

    assert torch.autograd.gradcheck(poses, (positions, targets, roll))


def test_roll_turns_the_camera_counter_clockwise_seen_from_behind() -> None:
    position = torch.tensor([2.0, 0.0, 0.0])
    rolled = look_at(position, roll=torch.tensor(math.pi / 2))
    upright = look_at(position)
    torch.testing.assert_close(rolled[:, 0], upright[:, 1], atol=1e-6, rtol=0.0)
    torch.testing.assert_close(rolled[:, 1], -upright[:, 0], atol=1e-6, rtol=0.0)
    torch.testing.assert_close(rolled[:, 2:], upright[:, 2:])


@given(
    st.tuples(st.floats(-3.0, 3.0), st.floats(-3.0, 3.0)),
    st.tuples(st.floats(-4.0, 4.0), st.floats(-4.0, 4.0), st.floats(-4.0, 4.0)),
)
@settings(max_examples=100, deadline=None)
def test_aimed_beside_it_a_camera_sees_what_it_looked_at_where_it_should(offset, position) -> None:
    before = look_at(torch.tensor(position, dtype=torch.float64), roll=torch.tensor(0.3, dtype=torch.float64))
    after = aim_beside(before, torch.tensor(offset, dtype=torch.float64))
    assert_proper(after, tolerance=1e-12)
    torch.testing.assert_close(after[..., 3], before[..., 3])
    # What was straight ahead, in the turned camera's own frame.
    seen = after[..., :3].mT @ -before[..., 2]
    assert seen[2] < 0.0
    torch.testing.assert_close(seen[:2] / -seen[2], torch.tensor(offset, dtype=torch.float64), atol=1e-9, rtol=1e-9)
    # The shortest way: the angle turned is the angle between the two directions.
    cosine = 1.0 / math.sqrt(1.0 + offset[0] ** 2 + offset[1] ** 2)
    turned = (before[..., :3].mT @ after[..., :3]).diagonal().sum()
    assert float((turned - 1.0) / 2.0) == pytest.approx(cosine, abs=1e-9)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.floats(0.0, 1.0))
def test_between_two_cameras_that_look_at_the_origin_all_do(seed: int, share: float):
    generator = torch.Generator().manual_seed(seed)
    first, second = look_at(torch.randn(2, 3, generator=generator, dtype=torch.double))
    between = poses_between(first, second, share)
    distance = between[:, 3].norm()
    expected = (1.0 - share) * first[:, 3].norm() + share * second[:, 3].norm()
    torch.testing.assert_close(distance, expected)
    torch.testing.assert_close(between[:, 3] / distance, between[:, 2])
    whole = roma.rotmat_geodesic_distance(first[:, :3], second[:, :3])
    part = roma.rotmat_geodesic_distance(first[:, :3], between[:, :3])
    torch.testing.assert_close(part, share * whole, atol=1e-6, rtol=1e-5)


def test_mixed_precision_rounds_no_turned_pose() -> None:
    poses = look_at(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)))
    offsets = torch.full((5, 2), 0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        turned = aim_beside(poses, offsets)
    torch.testing.assert_close(turned, aim_beside(poses, offsets), atol=1e-6, rtol=0)
