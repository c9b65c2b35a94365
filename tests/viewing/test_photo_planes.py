"""A photo before its camera, seen by the browser's: points of the scene fall where the photo shows them."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import viser
import viser.transforms as vtf
from hypothesis import given, settings
from hypothesis import strategies as st
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.viewer.utils import CameraState, get_camera

from gnerf_ns.cameras.rays import CameraDirections
from gnerf_ns.data.patch_sampling import image_coords
from gnerf_ns.viewing.frusta import viser_pose
from gnerf_ns.viewing.photo_planes import (
    PlaneBounds,
    browser_view,
    distorted,
    fitting_fov,
    has_planes,
    is_distorted,
    plane_bounds,
    undistorted,
)

WORLD = 10.0
Z = torch.tensor([0.0, 0.0, 1.0])


def camera(pose, width=120, height=80, focal=(100.0, 100.0), center=(60.0, 40.0), **more) -> Cameras:
    columns = {"fx": focal[0], "fy": focal[1], "cx": center[0], "cy": center[1]}
    return Cameras(pose[None], width=width, height=height, **columns, **more)


def random_pose(seed: int) -> torch.Tensor:
    random = np.random.default_rng(seed)
    rotation = vtf.SO3(random.normal(size=4) / 1.0).normalize().as_matrix()
    return torch.from_numpy(np.concatenate([rotation, 3 * random.normal(size=(3, 1))], axis=1)).float()


class Browser:
    """viser's handle of a browser's camera, without a browser."""

    def __init__(self, aspect: float) -> None:
        connection = SimpleNamespace(queue_message=lambda message: None)
        self.camera = viser.CameraHandle(Mock(_websock_connection=connection))
        state = self.camera._state
        state.update_timestamp, state.aspect = 1.0, aspect
        state.position, state.look_at = np.ones(3), np.zeros(3)
        state.up_direction = np.array([0.0, 0.0, 1.0])

    def look(self, view) -> None:
        self.camera.fov, self.camera.up_direction = view.fov, view.up_direction
        self.camera.position, self.camera.look_at = view.position, view.look_at

    def project(self, points: np.ndarray) -> np.ndarray:
        """Where points of the viewer's world are in the window: half its height is 1, x to the right, y down."""
        local = (points - self.camera.position) @ vtf.SO3(self.camera.wxyz).as_matrix()
        return local[:, :2] / local[:, 2:] / np.tan(self.camera.fov / 2)


def project_into_photo(pose, cameras, points):
    """Pixels of points of the scene, by the definition of a pinhole camera with OpenGL axes."""
    pose = pose.double().numpy()
    local = (points - pose[:, 3]) @ np.linalg.inv(pose[:, :3]).T
    focal = np.array([float(cameras.fx), float(cameras.fy)])
    center = np.array([float(cameras.cx), float(cameras.cy)])
    return local[:, :2] / -local[:, 2:] * [1, -1] * focal + center, -local[:, 2]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.floats(0.3, 3.5),
    st.tuples(st.integers(20, 200), st.integers(20, 200)),
    st.tuples(st.floats(0.4, 3.0), st.floats(0.4, 3.0)),
    st.tuples(st.floats(0.2, 0.8), st.floats(0.2, 0.8)),
)
def test_points_lie_on_the_photo_where_it_shows_them(seed, aspect, size, focal, center):
    pose = random_pose(seed)
    width, height = size
    cameras = camera(pose, width, height, (width * focal[0], width * focal[1]), (width * center[0], height * center[1]))
    (bounds,) = plane_bounds(cameras)
    browser = Browser(aspect)
    browser.look(browser_view(pose, Z, bounds, aspect, WORLD))
    points = pose[:, 3].double().numpy() + 5 * np.random.default_rng(seed).normal(size=(200, 3))
    pixels, depth = project_into_photo(pose, cameras, points)
    points, pixels = points[depth > 0.1], pixels[depth > 0.1]
    # The photo's plane, as viser draws it: a child of the camera's node, which is as wide and high as the bounds.
    (orientation,), (position,) = viser_pose(pose[None])
    shares = pixels / size - 0.5
    at_depth = 2.7 * np.column_stack([np.array(bounds.middle) + shares * bounds.size, np.ones(len(shares))])
    on_plane = at_depth @ vtf.SO3(orientation).as_matrix().T + position
    expected = browser.project(WORLD * points)
    np.testing.assert_allclose(browser.project(on_plane), expected, atol=2e-5 * (1 + np.abs(expected).max()))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.3, 3.5), st.floats(0.2, 0.8), st.floats(0.2, 0.8))
def test_all_of_the_photo_is_in_the_window_and_fills_it_one_way(seed, aspect, x, y):
    pose = random_pose(seed)
    (bounds,) = plane_bounds(camera(pose, center=(120 * x, 80 * y)))
    browser = Browser(aspect)
    browser.look(browser_view(pose, Z, bounds, aspect, WORLD))
    corners = np.array([(a, b, 1.0) for a in (bounds.left, bounds.right) for b in (bounds.top, bounds.bottom)])
    (orientation,), (position,) = viser_pose(pose[None])
    seen = np.abs(browser.project(corners @ vtf.SO3(orientation).as_matrix().T + position)) / [aspect, 1.0]
    assert seen.max() == pytest.approx(1 / 1.02, abs=1e-4)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [(264, 165), (100, 264)])
def test_nerfstudio_renders_from_there_with_the_cameras_own_rays(seed, size):
    pose, aspect = random_pose(seed), size[0] / size[1]
    cameras = camera(pose)
    (bounds,) = plane_bounds(cameras)
    browser = Browser(aspect)
    browser.look(browser_view(pose, Z, bounds, aspect, WORLD))
    rotation = vtf.SO3(browser.camera.wxyz) @ vtf.SO3.from_x_radians(np.pi)
    c2w = torch.from_numpy(np.column_stack([rotation.as_matrix(), browser.camera.position / WORLD]))
    state = CameraState(browser.camera.fov, aspect, c2w, CameraType.PERSPECTIVE)  # type: ignore[arg-type]
    rendered = get_camera(state, size[1], size[0])
    pixel = torch.tensor([[7.3, 11.9], [60.0, 40.0], [119.0, 3.0]])
    own = cameras.generate_rays(torch.zeros(3, 1, dtype=torch.long), coords=pixel.flip(-1))
    points = own.origins + 4.0 * own.directions
    local = (points.double() - c2w[:, 3]) @ c2w[:, :3]
    seen = local[:, :2] / -local[:, 2:] * torch.tensor([1.0, -1.0]) * rendered.fx.double() + torch.tensor(
        [size[0] / 2, size[1] / 2]
    )
    again = rendered.generate_rays(torch.zeros(3, 1, dtype=torch.long), coords=seen.float().flip(-1))
    torch.testing.assert_close(again.directions, own.directions, atol=1e-5, rtol=0)
    torch.testing.assert_close(again.origins, own.origins, atol=1e-5, rtol=0)


def test_up_is_the_scenes_where_the_cameras_roll_allows_it():
    level = torch.tensor([[0.0, 0.0, 1.0, 3.0], [1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    bounds = PlaneBounds(-0.5, -0.5, 0.5, 0.5)
    np.testing.assert_allclose(browser_view(level, Z, bounds, 1.0, WORLD).up_direction, [0.0, 0.0, 1.0], atol=1e-7)
    upside_down = level * torch.tensor([-1.0, -1.0, 1.0, 1.0])
    view = browser_view(upside_down, Z, bounds, 1.0, WORLD)
    np.testing.assert_allclose(view.up_direction, [0.0, 0.0, -1.0], atol=1e-7)
    np.testing.assert_allclose(view.look_at, [0.0, 0.0, 0.0], atol=1e-6)  # it turns about the scene's middle


@pytest.mark.parametrize("straight", [1.0, -1.0])
def test_cameras_straight_above_and_below(straight):
    pose = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, straight, 0.0, 0.0], [0.0, 0.0, straight, 3.0 * straight]])
    browser = Browser(1.5)
    browser.look(browser_view(pose, Z, PlaneBounds(-0.5, -0.5, 0.5, 0.5), 1.5, WORLD))
    (orientation,), (position,) = viser_pose(pose[None])
    np.testing.assert_allclose(vtf.SO3(browser.camera.wxyz).as_matrix(), vtf.SO3(orientation).as_matrix(), atol=1e-7)
    np.testing.assert_allclose(browser.camera.position, position)


def test_a_camera_at_the_origin_can_be_looked_through():
    pose = torch.eye(3, 4)
    view = browser_view(pose, Z, PlaneBounds(-0.5, -0.5, 0.5, 0.5), 1.0, WORLD)
    np.testing.assert_allclose(view.look_at, [0.0, 0.0, -0.5])


def test_fov_of_wide_and_tall_windows():
    bounds = PlaneBounds(-0.6, -0.4, 0.6, 0.4)
    assert np.tan(fitting_fov(bounds, 3.0) / 2) == pytest.approx(1.02 * 0.4)
    assert np.tan(fitting_fov(bounds, 0.5) / 2) == pytest.approx(1.02 * 1.2)


LENS = torch.tensor([-0.15, 0.03, 0.004, -0.002, 0.01, -0.006])


def test_bounds_without_distortion_follow_from_the_intrinsics():
    (bounds,) = plane_bounds(camera(torch.eye(3, 4), center=(50.0, 45.0)))
    assert bounds == pytest.approx((-0.5, -0.45, 0.7, 0.35), abs=1e-6)


def test_distortion_is_the_inverse_of_what_rays_undo():
    cameras = camera(torch.eye(3, 4), distortion_params=LENS)
    coords = image_coords(20, 30).reshape(1, -1, 2)
    directions = CameraDirections(cameras).at(torch.zeros(1, dtype=torch.long), coords)[0].double()
    points = directions[:, :2] / directions[:, 2:] * torch.tensor([-1.0, 1.0])
    pixels = 100.0 * distorted(points, LENS.double()) + torch.tensor([60.0, 40.0])
    expected = (coords[0].double() + 1) / 2 * torch.tensor([120.0, 80.0])
    torch.testing.assert_close(pixels, expected, atol=1e-3, rtol=0)


def test_a_photo_is_brought_to_its_plane():
    """A photo that says at each pixel which direction it looks along says so at the right place of the plane, too."""
    cameras = camera(torch.eye(3, 4), distortion_params=LENS)
    (bounds,) = plane_bounds(cameras)
    directions = CameraDirections(cameras).at(torch.zeros(1, dtype=torch.long), image_coords(80, 120).reshape(1, -1, 2))
    points = (directions[0, :, :2] / directions[0, :, 2:] * torch.tensor([-1.0, 1.0])).view(80, 120, 2)
    low, size = torch.tensor(bounds[:2]), torch.tensor(bounds.size)
    photo = torch.cat([255 * (points - low) / size, torch.zeros(80, 120, 1), torch.full((80, 120, 1), 255.0)], dim=-1)
    plane = undistorted(photo.round().byte(), cameras, 0, bounds)
    x = (torch.arange(plane.shape[1]) + 0.5) / plane.shape[1] * 255
    y = (torch.arange(plane.shape[0]) + 0.5) / plane.shape[0] * 255
    shown = plane[..., 3] == 255
    assert 0.7 < float(shown.float().mean()) < 1.0 and bool(shown[plane.shape[0] // 2, plane.shape[1] // 2])
    inner = shown & (plane[..., 0] > 12) & (plane[..., 0] < 243) & (plane[..., 1] > 12) & (plane[..., 1] < 243)
    assert float((plane[..., 0] - x[None]).abs()[inner].max()) < 2.0
    assert float((plane[..., 1] - y[:, None]).abs()[inner].max()) < 2.0


def test_photos_of_other_lenses():
    plain: Any = camera(torch.eye(3, 4))
    photo = torch.zeros(80, 120, 4, dtype=torch.uint8)
    assert not is_distorted(plain, 0) and has_planes(plain)
    assert undistorted(photo, plain, 0, plane_bounds(plain)[0]) is photo
    fisheye = camera(torch.eye(3, 4), camera_type=CameraType.FISHEYE)
    assert not has_planes(fisheye)
    assert plane_bounds(fisheye) == plane_bounds(plain)
