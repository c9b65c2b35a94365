"""The frame of a scene from what is seen: level, centered, and of the object's size, in spite of wrong cameras."""

import math
from typing import Tuple

import pytest
import roma
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from gnerf_ns.cameras.alignment import Similarity
from gnerf_ns.cameras.look_at import look_at
from gnerf_ns.cameras.pose_prior import PosePriorConfig
from gnerf_ns.cameras.scene_frame import (
    ObjectRays,
    are_mostly_aimed,
    axes_meet_at,
    ball_around,
    common_aim,
    enclosing,
    frame_of_object,
    frame_of_surroundings,
    up_direction,
    visual_hull,
)


def cameras(count: int, seed: int = 0, jitter: float = 0.0, roll_deg: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    prior = PosePriorConfig(radius=(0.7, 1.3), look_at_jitter=jitter, roll_deg=(-roll_deg, roll_deg)).resolve()
    return prior.sample(count, 4.0, "cpu", generator).double()


def any_frame(seed: int) -> Similarity:
    generator = torch.Generator().manual_seed(seed)
    rotation = roma.random_rotmat(dtype=torch.float64, generator=generator)
    return Similarity(rotation, 3.7, torch.randn(3, dtype=torch.float64, generator=generator))


def rays_to_ball(poses: Tensor, center: Tensor, radius: float, per_camera: int = 40, seed: int = 0) -> ObjectRays:
    """From each camera to points of a sphere."""
    generator = torch.Generator().manual_seed(seed)
    points = functional.normalize(
        torch.randn(len(poses), per_camera, 3, dtype=torch.float64, generator=generator), dim=-1
    )
    origins = poses[:, None, :, 3].expand_as(points)
    directions = functional.normalize(center + radius * points - origins, dim=-1)
    indices = torch.arange(len(poses)).repeat_interleave(per_camera)
    return ObjectRays(origins.reshape(-1, 3), directions.reshape(-1, 3), indices)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000))
def test_level_cameras_tell_what_is_up_though_all_look_down_from_one_side(seed: int):
    azimuths = torch.linspace(0.0, 1.0, 12, dtype=torch.float64)
    positions = 4.0 * torch.stack([azimuths.cos(), azimuths.sin(), torch.full_like(azimuths, 1.5)], dim=-1)
    frame = any_frame(seed)
    up = up_direction(frame.apply(look_at(positions)))
    torch.testing.assert_close(up, frame.rotation[:, 2], atol=1e-6, rtol=0.0)


def test_rolling_cameras_have_their_mean_up() -> None:
    up = up_direction(cameras(400, roll_deg=170.0))
    assert up.isfinite().all() and math.isclose(float(up.norm()), 1.0, rel_tol=1e-9)
    one_way = look_at(torch.tensor([[4.0, 0.0, 0.0], [4.1, 0.0, 0.0], [4.2, 0.0, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(up_direction(one_way), torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 1000))
def test_the_ball_is_where_the_rays_pass_not_where_cameras_look(seed: int):
    center = torch.tensor([0.5, -0.3, 0.2], dtype=torch.float64)
    found, radius = ball_around(rays_to_ball(cameras(30, seed, jitter=0.3), center, 0.6, per_camera=200))
    assert float((found - center).norm()) < 0.03
    assert radius == pytest.approx(0.6, rel=0.04)


def test_a_wrong_camera_in_twenty_changes_little():
    poses = cameras(40)
    center = torch.zeros(3, dtype=torch.float64)
    rays = rays_to_ball(poses, center, 0.5, per_camera=200)
    turned = roma.rotvec_to_rotmat(torch.tensor([0.0, 0.6, 0.0], dtype=torch.float64))
    directions = rays.directions.clone()
    directions[rays.cameras == 3] = directions[rays.cameras == 3] @ turned.mT
    found, radius = ball_around(ObjectRays(rays.origins, directions, rays.cameras))
    assert float((found - center).norm()) < 0.05 and radius == pytest.approx(0.5, rel=0.06)


def seen(poses: Tensor, rays: ObjectRays, frame: Similarity) -> Tuple[Tensor, ObjectRays]:
    origins = frame.scale * rays.origins @ frame.rotation.mT + frame.translation
    return frame.apply(poses), ObjectRays(origins, rays.directions @ frame.rotation.mT, rays.cameras)


def test_whatever_frame_it_comes_in_the_object_fills_the_unit_ball():
    poses = cameras(30, jitter=0.2)
    rays = rays_to_ball(poses, torch.tensor([0.2, 0.1, -0.4], dtype=torch.float64), 0.7, per_camera=200)
    one, other = (seen(poses, rays, any_frame(seed)) for seed in (1, 2))
    levels = [frame_of_object(*each).apply(each[0]) for each in (one, other)]
    # Azimuths stay open; heights and distances do not.
    torch.testing.assert_close(levels[0][:, 2, 3], levels[1][:, 2, 3], atol=1e-6, rtol=0.0)
    distances = [each[..., 3].norm(dim=-1) for each in levels]
    torch.testing.assert_close(distances[0], distances[1], atol=1e-6, rtol=0.0)
    frame = frame_of_object(*one)
    assert torch.linalg.det(frame.rotation) == pytest.approx(1.0)
    _, inside = seen(poses, one[1], frame)
    closest = torch.linalg.cross(inside.origins, inside.directions, dim=-1).norm(dim=-1)
    assert 0.93 < float(closest.quantile(0.99)) <= 0.96


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000))
def test_cameras_aimed_at_one_point_are_told_from_handheld_ones(seed: int):
    frame = any_frame(seed)
    aim = common_aim(frame.apply(cameras(30, seed)))
    assert aim is not None
    torch.testing.assert_close(aim, frame.translation, atol=1e-5, rtol=0.0)
    assert common_aim(frame.apply(cameras(30, seed, jitter=0.1))) is None
    assert common_aim(frame.apply(cameras(30, seed, roll_deg=15.0))) is None


def test_a_camera_that_looks_elsewhere_does_not_move_where_the_others_look():
    poses = cameras(40)
    poses[7] = look_at(torch.tensor([[4.0, 0.0, 0.0]]), torch.tensor([[4.0, 9.0, 0.0]]))[0]
    torch.testing.assert_close(axes_meet_at(poses), torch.zeros(3, dtype=torch.float64), atol=1e-6, rtol=0.0)
    aim = common_aim(poses)
    assert aim is not None and float(aim.norm()) < 1e-6


@given(st.integers(0, 1000))
def test_that_cameras_were_aimed_shows_though_poses_of_a_third_are_wrong(seed: int):
    frame, poses = any_frame(seed), cameras(30, seed)
    poses[:10] = cameras(10, seed + 1, jitter=0.3)
    assert are_mostly_aimed(frame.apply(poses)) and common_aim(frame.apply(poses)) is None
    assert not are_mostly_aimed(frame.apply(cameras(30, seed, jitter=0.1)))


def test_parallel_cameras_have_a_frame():
    poses = look_at(torch.tensor([[4.0, 0.0, 0.0]], dtype=torch.float64)).repeat(9, 1, 1)
    poses[:, 1, 3] = torch.linspace(-1.0, 1.0, 9)
    moved = frame_of_surroundings(poses).apply(poses)
    assert moved.isfinite().all() and 0.5 < float(moved[..., 3].norm(dim=-1).max()) < 1.5


def test_an_object_beside_the_aim_stays_beside_the_origin():
    poses, center = cameras(30), torch.tensor([0.4, 0.0, 0.0], dtype=torch.float64)
    frame = frame_of_object(poses, rays_to_ball(poses, center, 0.5), torch.zeros(3, dtype=torch.float64))
    assert frame.translation.tolist() == [0.0, 0.0, 0.0]
    assert frame.scale == pytest.approx(0.95 / 0.9, rel=0.05)  # but for the few farthest


def test_points_that_no_silhouette_shows_are_in_the_ball():
    poses, generator = cameras(30), torch.Generator().manual_seed(0)
    points = 2.0 * functional.normalize(torch.randn(200, 3, dtype=torch.float64, generator=generator), dim=-1)
    points[:5] *= 40.0  # wrong ones
    rays = rays_to_ball(poses, torch.zeros(3, dtype=torch.float64), 0.5)
    for center in (None, torch.zeros(3, dtype=torch.float64)):
        frame = frame_of_object(poses, rays, center, points)
        reached = (frame.scale * points[5:] @ frame.rotation.mT + frame.translation).norm(dim=-1)
        assert 0.9 < float(reached.max()) < 0.96


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(0, 20))
def test_the_enclosing_ball_holds_everything(seed: int, count: int):
    generator = torch.Generator().manual_seed(seed)
    points = 3.0 * torch.randn(count, 3, dtype=torch.float64, generator=generator)
    center, radius = enclosing(torch.zeros(3, dtype=torch.float64), 1.0, points)
    assert float(center.norm()) + 1.0 <= radius * (1.0 + 1e-6)
    assert all(float((point - center).norm()) <= radius * (1.0 + 1e-5) for point in points)


def silhouettes_of_a_ball(poses: Tensor, radius: float, fov_deg: float, side: int = 24) -> Tuple[Tensor, Tensor]:
    """Which pixels see a ball around the origin, and their directions in the cameras' own axes."""
    edge = math.tan(math.radians(fov_deg / 2)) * (1.0 - 1.0 / side)
    across = torch.linspace(-edge, edge, side, dtype=torch.float64)
    y, x = torch.meshgrid(-across, across, indexing="ij")
    local = functional.normalize(torch.stack([x, y, -torch.ones_like(x)], dim=-1).reshape(-1, 3), dim=-1)
    directions = local.expand(len(poses), -1, -1)
    turned = directions @ poses[..., :3].mT
    missed = torch.linalg.cross(poses[:, None, :, 3].expand_as(turned), turned, dim=-1).norm(dim=-1)
    return missed < radius, directions


@pytest.mark.parametrize("fov_deg", [40.0, 20.0])
def test_a_hull_reaches_as_far_as_the_object_also_where_no_image_shows_it_whole(fov_deg: float):
    poses = cameras(30)
    hull = visual_hull(*silhouettes_of_a_ball(poses, 0.8, fov_deg), poses)
    center, radius = enclosing(hull.mean(dim=0), 0.0, hull)
    # Cameras stand 2.8 to 5.2 units away: 20 degrees show about as much as reaches to 0.5 to 0.9.
    assert float(center.norm()) < 0.2
    assert 0.75 < radius < (1.0 if fov_deg == 40.0 else 2.0)


def test_a_wrong_camera_does_not_carve_the_hull_away():
    poses = cameras(30)
    silhouettes, directions = silhouettes_of_a_ball(poses, 0.8, 40.0)
    whole = visual_hull(silhouettes, directions, poses)
    silhouettes[7] = False
    assert len(visual_hull(silhouettes, directions, poses)) > 0.7 * len(whole)
    assert len(visual_hull(torch.zeros_like(silhouettes), directions, poses)) == 0
