"""Poses as free numbers: the 9-D code, codecs and what is up for them, and small motions about a center."""

import math
from typing import Literal

import pytest
import roma
import torch
from analytic_scene import random_poses
from hypothesis import given, settings
from hypothesis import strategies as st

from gnerf_ns.cameras.look_at import look_at
from gnerf_ns.cameras.pose_codec import (
    PoseCodec,
    PoseIncrements,
    PoseTable,
    UpDirection,
    decode_pose_9d,
    encode_pose_9d,
)
from gnerf_ns.cameras.pose_prior import PosePriorConfig

RADIUS = 2.75
CENTER = torch.tensor([0.3, -0.2, 0.1])
tilts = st.floats(-1.5, 1.5, width=32)
numbers = st.floats(-1e3, 1e3, width=32)

SINGULAR = torch.tensor(
    [
        [0.0] * 6,
        [1.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 1.0, 0.0, 0.0],
        [1.0, 2.0, 3.0, 1.0, 2.0, 3.0],
        [1.0, 2.0, 3.0, -10.0, -20.0, -30.0],
        [1.0, 2.0, 3.0, 1.0, 2.0, 3.0003],
        [100.0, 200.0, 300.0, 100.0, 200.0, 300.0],
        [1e-20, 0.0, 0.0, 0.0, 1e-20, 0.0],
    ]
)


def test_golden_layout() -> None:
    pose = torch.tensor([[0.0, 1.0, 0.0, 7.0], [0.0, 0.0, 1.0, 8.0], [1.0, 0.0, 0.0, 9.0]])
    assert encode_pose_9d(pose).tolist() == [9.0, 7.0, 8.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0]


def test_cameras_that_look_at_the_origin_differ_in_their_rotation_alone() -> None:
    positions = 2.0 * torch.nn.functional.normalize(torch.randn(20, 3, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(encode_pose_9d(look_at(positions))[:, :3], torch.tensor([[0.0, 0.0, 2.0]]).expand(20, 3))


@settings(deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([(), (1,), (4,), (2, 3)]))
def test_round_trip(seed: int, batch: tuple) -> None:
    generator = torch.Generator().manual_seed(seed)
    rotations = roma.random_rotmat(batch, generator=generator)
    poses = torch.cat([rotations, torch.randn(*batch, 3, 1, generator=generator)], dim=-1)
    codes = encode_pose_9d(poses)
    assert codes.shape == (*batch, 9)
    torch.testing.assert_close(decode_pose_9d(codes), poses, atol=2e-6, rtol=1e-5)


@settings(deadline=None)
@given(st.lists(numbers, min_size=9, max_size=9))
def test_every_code_is_a_proper_rotation(values: list) -> None:
    rotation = decode_pose_9d(torch.tensor(values))[:, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3), atol=2e-6, rtol=0.0)
    torch.testing.assert_close(torch.det(rotation), torch.tensor(1.0))


def test_singular_codes_are_proper_with_bounded_gradients() -> None:
    codes = torch.cat([torch.zeros(len(SINGULAR), 3), SINGULAR], dim=-1).requires_grad_()
    poses = decode_pose_9d(codes)
    rotations = poses[..., :3]
    torch.testing.assert_close(rotations @ rotations.mT, torch.eye(3).expand_as(rotations), atol=2e-6, rtol=0.0)
    torch.testing.assert_close(torch.det(rotations), torch.ones(len(SINGULAR)))
    weights = torch.randn(poses.shape, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad((poses * weights).sum(), codes)
    assert gradient.isfinite().all()
    assert gradient.abs().max() < 1e6


def test_matches_gram_schmidt_written_out() -> None:
    code = torch.tensor([0.0, 0.0, 0.0, 3.0, 0.0, 4.0, 1.0, 2.0, 0.0], dtype=torch.float64)
    first = torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)
    second = torch.tensor([1.0 - 0.36, 2.0, -0.48], dtype=torch.float64)
    second = second / second.norm()
    expected = torch.stack([first, second, torch.linalg.cross(first, second)], dim=-1)
    torch.testing.assert_close(decode_pose_9d(code)[:, :3], expected)


def test_gradients_in_double_precision() -> None:
    codes = torch.randn(5, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(decode_pose_9d, (codes,))


def test_perturbed_poses_are_near_and_of_the_codecs_kind() -> None:
    torch.manual_seed(0)
    position = 2.75 * torch.nn.functional.normalize(torch.tensor([1.0, 2.0, 1.5]), dim=0)
    poses = look_at(position).expand(2000, 3, 4)
    for mode in ("look_at", "free"):
        perturbed = PoseCodec(mode, 2.75).perturb(poses, 0.03)
        angles = roma.rotmat_geodesic_distance(perturbed[..., :3], poses[..., :3])
        # Two to three axes of about 0.03 rad each.
        assert 0.03 < float(angles.square().mean().sqrt()) < 0.08
        if mode == "look_at":
            torch.testing.assert_close(perturbed, look_at(perturbed[..., 3]))
            assert abs(float((perturbed[..., 3] - position).std()) - 0.03 * 2.75) < 0.005


@pytest.mark.parametrize("mode", ["look_at", "free"])
def test_encode_and_decode_are_inverse(mode: Literal["look_at", "free"]) -> None:
    poses = PosePriorConfig("blender").resolve().sample(50, RADIUS, "cpu", torch.Generator().manual_seed(0))
    codec = PoseCodec(mode, RADIUS)
    torch.testing.assert_close(codec.decode(codec.encode(poses)), poses, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("mode", "dim"), [("look_at", 3), ("free", 9)])
def test_a_table_begins_at_given_poses_and_is_one_parameter(mode: Literal["look_at", "free"], dim: int) -> None:
    poses = random_poses(5).requires_grad_()
    table = PoseTable(poses, PoseCodec(mode, RADIUS))
    assert {name: tuple(value.shape) for name, value in table.named_parameters()} == {"codes": (5, dim)}
    torch.testing.assert_close(table(), poses)
    table().square().sum().backward()
    assert table.codes.grad is not None and poses.grad is None


# What is up


def leaning(x: float, y: float, is_learned: bool = False) -> UpDirection:
    up = UpDirection(is_learned)
    with torch.no_grad():
        up.tilt.copy_(torch.tensor([x, y]))
    return up


def positions(count: int = 20, seed: int = 0) -> torch.Tensor:
    directions = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
    return RADIUS * torch.nn.functional.normalize(directions, dim=-1)


@pytest.mark.parametrize(("is_learned", "count"), [(False, 0), (True, 2)])
def test_up_is_z_at_first(is_learned: bool, count: int) -> None:
    up = UpDirection(is_learned)
    assert sum(parameter.numel() for parameter in up.parameters()) == count
    assert torch.equal(up(), torch.eye(3))
    poses = look_at(positions())
    assert torch.equal(up.from_z_up(poses), poses)
    torch.testing.assert_close(PoseCodec("look_at", RADIUS, up).decode(poses[..., 3] / RADIUS), poses)


def test_a_quarter_turn_about_x_takes_z_to_minus_y() -> None:
    up = leaning(math.pi / 2, 0.0)
    torch.testing.assert_close(up()[:, 2], torch.tensor([0.0, -1.0, 0.0]), atol=1e-6, rtol=0.0)


@settings(deadline=None)
@given(tilts, tilts)
def test_leaning_cameras_are_those_of_a_codec_with_that_up_direction(x: float, y: float) -> None:
    up = leaning(x, y)
    codec = PoseCodec("look_at", RADIUS, up)
    # The poles are where a level camera has no right of its own.
    level = look_at(torch.cat([positions(), RADIUS * torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])]))
    poses = up.from_z_up(level)
    torch.testing.assert_close(up.to_z_up(poses), level, atol=1e-5, rtol=0.0)
    torch.testing.assert_close(codec.decode(codec.encode(poses))[:-2], poses[:-2], atol=1e-4, rtol=0.0)
    assert codec.decode(codec.encode(poses)).isfinite().all()
    # Level: nothing of the camera's right is along what is up.
    assert float((poses[:-2, :, 0] @ up()[:, 2]).abs().max()) < 1e-5


def test_free_codes_do_not_depend_on_what_is_up() -> None:
    poses = look_at(positions())
    codec = PoseCodec("free", RADIUS, leaning(0.3, -0.2))
    torch.testing.assert_close(codec.decode(codec.encode(poses)), poses)


def test_gradient_of_poses_in_the_tilt() -> None:
    places = positions(6).double()

    def rotations(tilt: torch.Tensor) -> torch.Tensor:
        up = UpDirection()
        up.tilt = tilt
        return PoseCodec("look_at", RADIUS, up).decode(places / RADIUS, up())

    for start in ([0.0, 0.0], [0.2, -0.1]):
        tilt = torch.tensor(start, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(rotations, (tilt,), eps=1e-6, atol=1e-6)
        # Cameras stay where they are.
        jacobian = torch.autograd.functional.jacobian(rotations, tilt)
        assert isinstance(jacobian, torch.Tensor)
        assert float(jacobian[:, :, 3].abs().max()) < 1e-9


def test_mixed_precision_leaves_leaning_poses_exact() -> None:
    codec = PoseCodec("look_at", RADIUS, leaning(0.2, -0.1))
    codes = positions() / RADIUS
    poses = codec.decode(codes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(codec.decode(codes), poses)


# Small motions about a center


def increments(count: int = 4) -> PoseIncrements:
    return PoseIncrements(random_poses(count), CENTER)


def test_zero_increments_are_the_poses_themselves():
    assert torch.allclose(increments()(), random_poses(4), atol=1e-6)


@given(st.lists(st.floats(-3.0, 3.0), min_size=6, max_size=6))
@settings(deadline=None, max_examples=50)
def test_increments_of_any_size_give_rotations(tangent: list):
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
def test_gradients_of_increments(size: float):
    poses = increments(2).double()
    generator = torch.Generator().manual_seed(0)
    tangents = size * torch.randn(2, 6, generator=generator, dtype=torch.float64)

    def moved(values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(poses, {"tangents": values})

    # exp_map_SE3 replaces small angles by a constant: exact to first order there.
    assert torch.autograd.gradcheck(moved, tangents.requires_grad_(), atol=1e-4)


def test_a_camera_in_the_center_has_finite_gradients():
    poses = random_poses(1)
    poses[..., 3] = CENTER
    increments_there = PoseIncrements(poses, CENTER)
    increments_there().sum().backward()
    assert increments_there.tangents.grad is not None and bool(increments_there.tangents.grad.isfinite().all())
