"""Rays: golden directions, nerfstudio's own as reference, gradients, and the sphere against brute force."""

import math
from typing import Tuple

import numpy as np
import pytest
import roma
import torch
from analytic_scene import directions_to, random_poses
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.cameras.rays import RayBundle
from torch import Tensor
from torch.nn import functional

from gnerf_ns.cameras.pose_codec import decode_pose_9d, encode_pose_9d
from gnerf_ns.cameras.pose_prior import PosePriorConfig
from gnerf_ns.cameras.rays import (
    CENTRAL_CAMERA_TYPES,
    CameraDirections,
    concatenate_rays,
    intersect_sphere,
    no_rays,
    rays_from_poses,
    sampson_errors,
)
from gnerf_ns.utils.errors import InputError

POSES = PosePriorConfig("dtu").resolve().sample(3, 2.8, "cpu", torch.Generator().manual_seed(0))


def make_cameras(camera_type: CameraType = CameraType.PERSPECTIVE, distorted: bool = False) -> Cameras:
    distortion = torch.tensor([[0.1, -0.02, 0.0, 0.0, 0.01, -0.005]]).expand(3, 6) if distorted else None
    return Cameras(
        camera_to_worlds=POSES,
        fx=torch.tensor([20.0, 24.0, 28.0]),
        fy=torch.tensor([21.0, 25.0, 29.0]),
        cx=11.0,
        cy=9.0,
        width=24,
        height=18,
        distortion_params=distortion,
        camera_type=camera_type,
    )


def grid_directions(cameras: Cameras, camera_index: int, height: int, width: int) -> torch.Tensor:
    """Directions through the pixel centers of one camera's image, were it height x width pixels large."""
    rows, columns = (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width
    x, y = torch.meshgrid(2.0 * columns - 1.0, 2.0 * rows - 1.0, indexing="xy")
    coords = torch.stack([x, y], dim=-1).reshape(1, -1, 2)
    return CameraDirections(cameras).at(torch.tensor([camera_index]), coords).reshape(height, width, 3)


def ray_bundle(origins: torch.Tensor, directions: torch.Tensor) -> RayBundle:
    return RayBundle(origins=origins, directions=directions, pixel_area=torch.zeros(len(origins), 1))


def test_golden_directions() -> None:
    cameras = Cameras(torch.eye(4)[None, :3], fx=1.0, fy=1.0, cx=1.0, cy=1.0, width=2, height=2)
    third = 0.5 / math.sqrt(1.5)
    directions = grid_directions(cameras, 0, 2, 2)
    # Row 0 is the image's top, column 0 its left; the camera looks along -z.
    depth = -1.0 / math.sqrt(1.5)
    expected = [[[-third, third, depth], [third, third, depth]], [[-third, -third, depth], [third, -third, depth]]]
    torch.testing.assert_close(directions, torch.tensor(expected))


def test_the_typical_camera_has_the_median_field_of_view() -> None:
    cameras = make_cameras()
    order = torch.tensor([2, 0, 1])
    assert int(CameraDirections(cameras).typical) == 1
    assert int(CameraDirections(cameras)[order].typical) == 2


@pytest.mark.parametrize("camera_type", [CameraType.PERSPECTIVE, CameraType.FISHEYE])
@pytest.mark.parametrize("distorted", [False, True])
def test_full_size_rays_equal_nerfstudios(camera_type: CameraType, distorted: bool) -> None:
    cameras = make_cameras(camera_type, distorted)
    reference = cameras.generate_rays(camera_indices=1)
    directions = grid_directions(cameras, 1, 18, 24).reshape(1, -1, 3)
    rays = rays_from_poses(POSES[1:2], directions, torch.tensor([1]))
    torch.testing.assert_close(rays.origins, reference.origins.reshape(-1, 3))
    torch.testing.assert_close(rays.directions, reference.directions.reshape(-1, 3))
    assert rays.camera_indices is not None and reference.camera_indices is not None
    assert torch.equal(rays.camera_indices, reference.camera_indices.reshape(-1, 1))


def test_resampling_keeps_the_field_of_view() -> None:
    cameras = make_cameras()
    full = grid_directions(cameras, 0, 18, 24)
    half = grid_directions(cameras, 0, 9, 12)
    # A half-size pixel center is the corner that four full-size pixels share.
    on_plane = full / -full[..., 2:]
    middles = on_plane.reshape(9, 2, 12, 2, 3).mean(dim=(1, 3))
    torch.testing.assert_close(half / -half[..., 2:], middles)
    # Differing scales of the two axes.
    squeezed = grid_directions(cameras, 0, 18, 12)
    torch.testing.assert_close(squeezed / -squeezed[..., 2:], on_plane.reshape(18, 12, 2, 3).mean(dim=2))


def test_each_row_of_points_belongs_to_its_own_camera() -> None:
    cameras = make_cameras(distorted=True)
    coords = 2.0 * torch.rand(4, 5, 2, generator=torch.Generator().manual_seed(0)) - 1.0
    indices = torch.tensor([2, 0, 1, 2])
    directions = CameraDirections(cameras).at(indices, coords)
    for row, index in enumerate(indices.tolist()):
        alone = CameraDirections(cameras[index : index + 1]).at(torch.tensor([0]), coords[row : row + 1])
        torch.testing.assert_close(directions[row : row + 1], alone)
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(4, 5))


def with_focal_scaled(cameras: Cameras, scales: torch.Tensor) -> Cameras:
    scaled = cameras[...]
    scaled.fx, scaled.fy = cameras.fx * scales[:, None], cameras.fy * scales[:, None]
    return scaled


@pytest.mark.parametrize(
    "camera_type", [CameraType.PERSPECTIVE, CameraType.FISHEYE, CameraType.EQUIRECTANGULAR], ids=lambda kind: kind.name
)
@pytest.mark.parametrize("distorted", [False, True])
def test_learned_focal_scales_give_the_rays_of_nerfstudios_cameras_with_those_focal_lengths(
    camera_type: CameraType, distorted: bool
) -> None:
    """What is trained is what is exported, for distorted lenses too."""
    cameras = make_cameras(camera_type, distorted)
    learned, given = torch.tensor([1.2, 0.9, 1.1]), torch.tensor([1.05, 1.1])
    indices = torch.tensor([2, 0])
    coords = 1.8 * torch.rand(2, 40, 2, generator=torch.Generator().manual_seed(0)) - 0.9
    found = CameraDirections(cameras, lambda chosen: learned[chosen]).at(indices, coords, given)
    longer = with_focal_scaled(cameras[indices], learned[indices] * given)
    longer.camera_to_worlds = torch.eye(4)[None, :3].repeat(2, 1, 1)
    pixels = (coords + 1.0) / 2.0 * torch.tensor([24.0, 18.0])
    rays = torch.arange(2)[:, None, None].expand(2, 40, 1)
    expected = longer.generate_rays(camera_indices=rays, coords=pixels.flip(-1)).directions
    torch.testing.assert_close(found, expected)
    chosen = CameraDirections(cameras, lambda which: learned[which])[indices]
    torch.testing.assert_close(chosen.at(torch.arange(2), coords, given), expected)


@pytest.mark.parametrize(
    "camera_type", [CameraType.PERSPECTIVE, CameraType.FISHEYE, CameraType.EQUIRECTANGULAR], ids=lambda kind: kind.name
)
@pytest.mark.parametrize("distorted", [False, True])
def test_gradients_reach_the_focal_scales(camera_type: CameraType, distorted: bool) -> None:
    cameras = make_cameras(camera_type, distorted)
    generator = torch.Generator().manual_seed(0)
    coords = 1.8 * torch.rand(3, 1, 2, generator=generator, dtype=torch.float64) - 0.9

    def directions(learned: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        return CameraDirections(cameras, lambda indices: learned[indices]).at(torch.arange(3), coords, given)

    learned = torch.tensor([1.2, 0.9, 1.1], dtype=torch.float64, requires_grad=True)
    given = torch.tensor([1.0, 1.1, 0.95], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(directions, (learned, given), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("distorted", [False, True])
def test_the_axis_of_a_fisheye_lens_is_a_ray_like_any_other(distorted: bool) -> None:
    """The middle pixel of an odd size; and its neighbors, of which nerfstudio takes the pixel's area."""
    distortion = torch.tensor([[0.1, -0.02, 0.0, 0.0, 0.0, 0.0]]) if distorted else None
    eye = torch.eye(4)[None, :3]
    cameras = Cameras(
        eye, 20.0, 20.0, 4.5, 3.5, width=9, height=7, distortion_params=distortion, camera_type=CameraType.FISHEYE
    )
    scale = torch.ones(1, requires_grad=True)
    columns, rows = (torch.arange(9) + 0.5) / 4.5 - 1.0, (torch.arange(7) + 0.5) / 3.5 - 1.0
    coords = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1).reshape(1, -1, 2)
    coords.requires_grad_()
    directions = CameraDirections(cameras).at(torch.tensor([0]), coords, scale)
    torch.testing.assert_close(directions.view(7, 9, 3)[3, 4], torch.tensor([0.0, 0.0, -1.0]))
    gradients = torch.autograd.grad(directions[..., 0].sum(), [scale, coords])
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    # On the axis, moving by a pixel turns the ray by 1/focal.
    torch.testing.assert_close(gradients[1].view(7, 9, 2)[3, 4], torch.tensor([4.5 / 20.0, 0.0]))


def test_fields_of_view() -> None:
    # 24 x 18 pixels: the height is the smaller side, and 25 the middle focal length of the three.
    directions = CameraDirections(make_cameras())
    assert len(directions) == 3
    assert directions.smallest_field_of_view == pytest.approx(2.0 * math.atan(9.0 / 25.0))
    # An equidistant lens shows equal angles along equal lengths.
    fisheye = CameraDirections(make_cameras(CameraType.FISHEYE))
    assert fisheye.smallest_field_of_view == pytest.approx(18.0 / 25.0)
    ahead = torch.tensor([[[0.0, 0.0, -1.0]]])
    area = float(fisheye.pixel_areas(torch.tensor([1]), ahead, 18, 24))
    assert area == pytest.approx(1.0 / (24.0 * 25.0))


@pytest.mark.parametrize("camera_type", list(CENTRAL_CAMERA_TYPES), ids=lambda kind: kind.name)
def test_pixels_cover_what_nerfstudio_says(camera_type: CameraType) -> None:
    """To first order in their size; off its middle, a picture's pixels cover less."""
    small = 1e-3
    cameras = Cameras(POSES[:1], 60.0 / small, 60.0 / small, 20.0 / small, 15.0 / small, camera_type=camera_type)
    cameras.width, cameras.height = (torch.full((1, 1), round(side / small)) for side in (40, 30))
    if camera_type == CameraType.EQUIRECTANGULAR:
        for name, side in (("fx", 30), ("fy", 30)):
            setattr(cameras, name, torch.full((1, 1), side / small))
    points = torch.tensor([[0.3, 0.2], [0.95, -0.9], [-0.5, 0.8], [0.01, -0.99]])
    pixels = (points + 1.0) / 2.0 * torch.tensor([40.0, 30.0]) / small
    theirs = cameras.generate_rays(torch.zeros(4, 1, dtype=torch.long), coords=pixels.flip(-1)).pixel_area[:, 0]
    directions, one = CameraDirections(cameras), torch.tensor([0])
    ours = directions.pixel_areas(one, directions.at(one, points[None]), round(30 / small), round(40 / small))[0]
    torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.0)


@pytest.mark.parametrize("camera_type", list(CENTRAL_CAMERA_TYPES), ids=lambda kind: kind.name)
def test_areas_of_pixels_have_gradients_everywhere(camera_type: CameraType) -> None:
    directions = CameraDirections(make_cameras(camera_type))
    ahead = torch.nn.functional.normalize(torch.tensor([[[0.0, 0.0, -1.0], [0.3, -0.2, -1.0]]]), dim=-1)
    scale = torch.ones(1, requires_grad=True)
    ahead.requires_grad_()
    directions.pixel_areas(torch.tensor([1]), ahead, 18, 24, scale).sum().backward()
    assert ahead.grad is not None and ahead.grad.isfinite().all()
    assert scale.grad is not None and float(scale.grad) < 0


@pytest.mark.parametrize("camera_type", [CameraType.FISHEYE, CameraType.EQUIRECTANGULAR], ids=lambda kind: kind.name)
def test_a_field_of_view_that_no_object_fills_counts_as_120_degrees(camera_type: CameraType) -> None:
    """From the tangent of its half follows how far away cameras are at first."""
    whole = Cameras(POSES, 10.0, 10.0, 10.0, 5.0, width=20, height=10, camera_type=camera_type)
    if camera_type == CameraType.FISHEYE:
        whole.width, whole.height = whole.width * 4, whole.height * 4
    assert CameraDirections(whole).smallest_field_of_view == pytest.approx(math.radians(120.0))


@pytest.mark.parametrize("camera_type", [CameraType.ORTHOPHOTO, CameraType.VR180_L, CameraType.FISHEYE624])
def test_cameras_that_are_not_supported_are_refused(camera_type: CameraType) -> None:
    with pytest.raises(InputError, match=f"of type {camera_type.name}, which is not supported; use one of PERSP"):
        CameraDirections(make_cameras(camera_type))


def test_cameras_of_differing_types_are_refused() -> None:
    cameras = make_cameras()
    cameras.camera_type = torch.tensor([[1], [2], [1]])
    with pytest.raises(InputError, match="are of several types"):
        CameraDirections(cameras)


def test_concatenated_rays_keep_their_order() -> None:
    directions = grid_directions(make_cameras(), 0, 2, 3).reshape(1, 6, 3).expand(3, 6, 3)
    whole = rays_from_poses(POSES, directions, torch.arange(3))
    parts = [rays_from_poses(POSES[i : i + 1], directions[i : i + 1], torch.tensor([i])) for i in range(3)]
    joined = concatenate_rays([*parts, no_rays(torch.device("cpu"))])
    assert len(joined) == len(whole) == 18
    torch.testing.assert_close(joined.origins, whole.origins)
    torch.testing.assert_close(joined.directions, whole.directions)
    assert joined.camera_indices is not None and whole.camera_indices is not None
    assert torch.equal(joined.camera_indices, whole.camera_indices)


def test_rays_of_one_camera_stand_together() -> None:
    directions = grid_directions(make_cameras(), 0, 2, 3).reshape(1, 6, 3).expand(3, 6, 3)
    rays = rays_from_poses(POSES, directions, torch.tensor([7, 8, 9]))
    assert rays.camera_indices is not None
    assert rays.camera_indices.squeeze(-1).tolist() == [7] * 6 + [8] * 6 + [9] * 6
    torch.testing.assert_close(rays.origins, POSES[:, :, 3].repeat_interleave(6, dim=0))
    torch.testing.assert_close(rays.directions[6:12], directions[1] @ POSES[1, :, :3].mT)
    torch.testing.assert_close(rays.directions.norm(dim=-1), torch.ones(18))


def test_rays_are_differentiable_in_the_poses() -> None:
    """As lines (Pluecker coordinates), which is what a color depends on."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(3, 4, 3, generator=generator, dtype=torch.float64)
    directions = torch.nn.functional.normalize(directions, dim=-1)

    def lines(rotation_vectors: torch.Tensor, positions: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        rotations = roma.rotvec_to_rotmat(rotation_vectors)
        rays = rays_from_poses(torch.cat([rotations, positions[..., None]], dim=-1), directions, torch.arange(3))
        return rays.directions, torch.linalg.cross(rays.origins, rays.directions)

    start = torch.randn(2, 3, 3, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lines, (start[0].requires_grad_(), start[1].requires_grad_()))


def test_a_ray_that_slides_along_itself_is_the_same_ray() -> None:
    """To differentiation, too; its samples would say otherwise."""
    poses = decode_pose_9d(encode_pose_9d(POSES.double())).requires_grad_()
    directions = torch.tensor([0.6, 0.0, -0.8], dtype=torch.float64).expand(3, 1, 3)
    rays = rays_from_poses(poses, directions, torch.arange(3))
    assert torch.equal(rays.origins, poses[:, :, 3])
    samples = rays.origins[:, None] + torch.linspace(1.0, 3.0, 5)[:, None] * rays.directions[:, None]
    (slope,) = torch.autograd.grad(samples.square().sum(), poses)
    along = rays.directions.detach()
    assert float((slope[:, :, 3] * along).sum(dim=-1).abs().max()) < 1e-12
    across = samples - (samples * along[:, None]).sum(dim=-1, keepdim=True) * along[:, None]
    torch.testing.assert_close(slope[:, :, 3], 2.0 * across.sum(dim=1))


def test_sphere_golden_values() -> None:
    origins = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.5, 0.0], [3.0, 0.0, 0.0], [3.0, 2.0, 0.0], [0.0, 3.0, 4.0]])
    directions = torch.tensor([[-1.0, 0, 0], [0, 1.0, 0], [1.0, 0, 0], [-1.0, 0, 0], [0, -0.6, -0.8]])
    nears, fars, hits = intersect_sphere(ray_bundle(origins, directions), 1.0)
    # Through the middle; from inside; away from the ball; past it; through the middle again.
    assert hits.tolist() == [True, True, False, False, True]
    torch.testing.assert_close(nears[hits].squeeze(-1), torch.tensor([2.0, 0.0, 4.0]))
    torch.testing.assert_close(fars[hits].squeeze(-1), torch.tensor([4.0, 0.5, 6.0]))
    assert nears.shape == fars.shape == (5, 1)
    assert (fars > nears).all() and (nears >= 0.0).all(), "misses still get an interval that samplers can use"


def test_sphere_against_dense_samples_along_each_ray() -> None:
    generator = torch.Generator().manual_seed(0)
    origins = 3.0 * torch.randn(200, 3, generator=generator)
    directions = torch.nn.functional.normalize(torch.randn(200, 3, generator=generator) - origins, dim=-1)
    nears, fars, hits = intersect_sphere(ray_bundle(origins, directions), 1.5)
    times = torch.linspace(0.0, 20.0, 20001)
    inside = (origins[:, None] + times[:, None] * directions[:, None]).norm(dim=-1) < 1.5
    clear = (inside.sum(dim=1) == 0) | (inside.sum(dim=1) > 5)
    assert torch.equal(inside.any(dim=1)[clear], hits[clear])
    assert 50 < int(hits.sum()) < 200
    for ray in torch.nonzero(hits & clear).flatten().tolist():
        within = times[inside[ray]]
        assert float(nears[ray]) == pytest.approx(float(within[0]), abs=2e-3)
        assert float(fars[ray]) == pytest.approx(float(within[-1]), abs=2e-3)


def test_sphere_of_a_faraway_camera_keeps_its_digits() -> None:
    origins, directions = torch.tensor([[1e4, 0.6, 0.0]]), torch.tensor([[-1.0, 0.0, 0.0]])
    nears, fars, _ = intersect_sphere(ray_bundle(origins, directions), 1.0)
    assert float(fars - nears) == pytest.approx(1.6, abs=5e-3)


def test_intersection_is_a_constant_to_differentiation() -> None:
    origins = torch.tensor([[3.0, 0.0, 0.0]], requires_grad=True)
    nears, fars, _ = intersect_sphere(ray_bundle(origins, torch.tensor([[-1.0, 0.0, 0.0]])), 1.0)
    assert not nears.requires_grad and not fars.requires_grad


def test_mixed_precision_leaves_rays_and_codes_exact() -> None:
    """Half precision would round a direction by half a pixel, and so does bfloat16 more."""
    generator = torch.Generator().manual_seed(0)
    poses = PosePriorConfig("dtu", roll_deg=(-30.0, 30.0)).resolve().sample(5, 2.75, "cpu", generator)
    directions = torch.nn.functional.normalize(torch.randn(5, 7, 3, generator=generator), dim=-1)
    rays = rays_from_poses(poses, directions, torch.arange(5))
    codes = encode_pose_9d(poses)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(rays_from_poses(poses, directions, torch.arange(5)).directions, rays.directions)
        assert torch.equal(encode_pose_9d(poses), codes)
        torch.testing.assert_close(decode_pose_9d(codes), poses)


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
