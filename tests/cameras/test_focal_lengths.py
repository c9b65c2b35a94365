"""Learned focal lengths: what they do to rays, to camera distances, and to a descent that starts wrong."""

import math

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras

from gnerf_ns.cameras.learned_cameras import FocalScales, PoseTable
from gnerf_ns.cameras.look_at import look_at
from gnerf_ns.cameras.pose_codec import PoseCodec
from gnerf_ns.cameras.rays import CameraDirections, rays_from_poses

RADIUS = 2.75


def cameras_of(focal: torch.Tensor) -> Cameras:
    poses = look_at(torch.tensor([0.0, 2.0, 1.0])).expand(len(focal), 3, 4)
    return Cameras(poses, fx=focal, fy=1.1 * focal, cx=10.0, cy=8.0, width=20, height=16)


@pytest.mark.parametrize(("mode", "count"), [("fixed", 0), ("shared", 1), ("per_image", 4)])
def test_parameters_by_mode(mode, count: int) -> None:
    factors = FocalScales(4, mode)
    assert sum(parameter.numel() for parameter in factors.parameters()) == count
    assert factors.is_learned is (count > 0)
    torch.testing.assert_close(factors(), torch.ones(4))
    assert factors(torch.tensor([2, 0, 2])).shape == (3,)


def test_images_of_their_own_get_their_own_factor_and_others_the_median() -> None:
    factors = FocalScales(3, "per_image")
    with torch.no_grad():
        factors.logarithms.copy_(torch.tensor([1.1, 0.9, 1.3]).log())
    torch.testing.assert_close(factors(torch.tensor([2, 1])), torch.tensor([1.3, 0.9]))
    torch.testing.assert_close(factors.for_others(torch.arange(2)), torch.tensor([1.1, 1.1]))


def test_directions_are_those_of_cameras_with_longer_focal_lengths() -> None:
    factors = FocalScales(2, "per_image")
    with torch.no_grad():
        factors.logarithms.copy_(torch.tensor([1.25, 0.8]).log())
    focal = torch.tensor([[20.0], [30.0]])
    indices, coords = torch.tensor([1, 0, 1]), 1.8 * torch.rand(3, 5, 2) - 0.9
    found = CameraDirections(cameras_of(focal), factors).at(indices, coords)
    expected = CameraDirections(cameras_of(focal * torch.tensor([[1.25], [0.8]]))).at(indices, coords)
    torch.testing.assert_close(found, expected)
    chosen = CameraDirections(cameras_of(focal), factors)[torch.tensor([1, 1, 0])]
    torch.testing.assert_close(chosen.at(torch.tensor([0, 2, 1]), coords), expected)


def test_gradient_of_rays_in_focal_length_and_pose() -> None:
    factors = FocalScales(2, "per_image").double()
    directions = CameraDirections(cameras_of(torch.tensor([[20.0], [30.0]])), factors)
    indices, coords = torch.tensor([0, 1]), (1.8 * torch.rand(2, 3, 2) - 0.9).double()
    codes = torch.tensor([[0.6, 0.5, 0.7], [-0.3, 0.8, 0.2]], dtype=torch.float64, requires_grad=True)

    def rays(logarithms: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        tables = PoseTable(2, PoseCodec("look_at", RADIUS), factors).double()
        del factors.logarithms, tables.codes
        factors.logarithms, tables.codes = logarithms, codes  # type: ignore[assignment]
        bundle = rays_from_poses(tables(indices), directions.at(indices, coords), indices)
        # As lines (Pluecker coordinates): what a ray does along itself has no gradient.
        return torch.cat([torch.linalg.cross(bundle.origins, bundle.directions), bundle.directions], dim=-1)

    start = torch.tensor([0.1, -0.2], dtype=torch.float64, requires_grad=True)
    # nerfstudio makes pixel directions in single precision.
    assert torch.autograd.gradcheck(rays, (start, codes), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("mode", ["look_at", "free"])
def test_a_longer_lens_takes_the_camera_back_and_leaves_the_image_its_size(mode) -> None:
    factors = FocalScales(2, "shared")
    table = PoseTable(2, PoseCodec(mode, RADIUS), factors)
    before = table().detach()
    with torch.no_grad():
        factors.logarithms.fill_(math.log(1.3))
    torch.testing.assert_close(table()[..., 3], 1.3 * before[..., 3])
    torch.testing.assert_close(table()[..., :3], before[..., :3])
    # What is assigned is what comes back, whatever the focal length is by then.
    poses = look_at(torch.tensor([[1.0, 2.0, 1.0], [0.0, -2.0, 2.0]]))
    table.assign(torch.arange(2), poses)
    torch.testing.assert_close(table(), poses)
    assert [name for name, _ in table.named_parameters()] == ["codes"]
