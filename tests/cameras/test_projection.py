"""Projection is the inverse of ray directions, for lenses of all kinds."""

from typing import List

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType

from gnerf_ns.cameras.projection import Projection
from gnerf_ns.cameras.rays import CameraDirections


def lenses(camera_type: CameraType, distortion: List[float]) -> CameraDirections:
    """Of two cameras, one with the principal point off the middle."""
    return CameraDirections(
        Cameras(
            torch.eye(4)[None, :3].repeat(2, 1, 1),
            fx=torch.tensor([[80.0], [90.0]]),
            fy=torch.tensor([[80.0], [95.0]]),
            cx=torch.tensor([[60.0], [52.0]]),
            cy=torch.tensor([[40.0], [47.0]]),
            width=120,
            height=80,
            distortion_params=torch.tensor(distortion).repeat(2, 1),
            camera_type=camera_type,
        )
    )


@pytest.mark.parametrize(
    ("camera_type", "distortion"),
    [
        (CameraType.PERSPECTIVE, [0.0] * 6),
        (CameraType.PERSPECTIVE, [-0.08, 0.02, 0.0, 0.0, 0.001, -0.002]),
        (CameraType.PERSPECTIVE, [0.1, -0.05, 0.0, 0.0, 0.0, 0.0]),
        (CameraType.FISHEYE, [0.0] * 6),
    ],
)
def test_points_are_seen_where_rays_towards_them_start(camera_type: CameraType, distortion: List[float]):
    directions = lenses(camera_type, distortion)
    coords = 1.8 * torch.rand(200, 2, generator=torch.Generator().manual_seed(0)) - 0.9
    cameras = torch.arange(200) % 2
    points = 3.0 * directions.at(cameras, coords[:, None])[:, 0]
    found, is_in_front = Projection(directions, torch.device("cpu"))(cameras, points)
    assert bool(is_in_front.all())
    # A hundredth of a pixel of 120.
    assert float((found - coords).abs().max()) < 0.01 / 60


def test_what_is_far_off_the_axis_of_a_fisheye_lens_is_right_or_not_found():
    directions = lenses(CameraType.FISHEYE, [0.0] * 6)
    wide = CameraDirections(
        Cameras(torch.eye(4)[None, :3], 46.0, 46.0, 60.0, 60.0, 120, 120, camera_type=CameraType.FISHEYE)
    )
    for each, least in ((directions, 1.0), (wide, 0.4)):
        coords = 1.96 * torch.rand(500, 2, generator=torch.Generator().manual_seed(0)) - 0.98
        nobody = torch.zeros(500, dtype=torch.long)
        found, is_found = Projection(each, torch.device("cpu"))(nobody, each.at(nobody, coords[:, None])[:, 0])
        assert float(is_found.float().mean()) >= least
        assert float((found - coords)[is_found].abs().max()) < 1e-3


@pytest.mark.parametrize("camera_type", [CameraType.PERSPECTIVE, CameraType.FISHEYE])
def test_slopes_are_those_of_coordinates(camera_type: CameraType):
    directions = lenses(camera_type, [0.0] * 6)
    projection, nobody = Projection(directions, torch.device("cpu")), torch.zeros(3, dtype=torch.long)
    coords = torch.tensor([[0.1, -0.2], [0.8, 0.7], [-0.9, 0.3]])
    points = directions.at(nobody, coords[:, None])[:, 0]
    points = points / -points[:, 2:]
    slopes = projection.slopes(nobody, coords)
    for axis in (0, 1):
        moved = points + 1e-2 * torch.eye(3)[axis] * (1.0 if axis == 0 else -1.0)  # tangents have y down
        expected = (projection(nobody, moved)[0] - coords) / 1e-2
        torch.testing.assert_close(slopes[..., axis], expected, rtol=0.05, atol=0.01)


def test_points_behind_a_camera_are_not_in_front():
    projection = Projection(lenses(CameraType.PERSPECTIVE, [0.0] * 6), torch.device("cpu"))
    points = torch.tensor([[0.1, 0.1, -1.0], [0.1, 0.1, 1.0], [1.0, 0.0, 0.0]])
    assert projection(torch.zeros(3, dtype=torch.long), points)[1].tolist() == [True, False, False]
