"""Poses of views in Gaussians that a perfect network would have made."""

from dataclasses import replace
from typing import Tuple

import pytest
import roma
import torch
from made_surface import color_at, pixel_gaussians, view_from
from skimage.metrics import structural_similarity
from torch import Tensor

from gnerf_ns.noposplat import camera_poses
from gnerf_ns.noposplat.camera_poses import pose_from_points, refined_pose, structure
from gnerf_ns.splats.axes import inverse_poses
from gnerf_ns.splats.rendering import render

WIDTH, HEIGHT, FOCAL = 40, 32, 38.0
SECOND = view_from((0.5, 0.1, -0.1), (2, -8, 3), WIDTH, HEIGHT, FOCAL)
VIEWS = [view_from((0, 0, 0), (0, 0, 0), WIDTH, HEIGHT, FOCAL), SECOND]


def errors(found: Tensor, true: Tensor) -> Tuple[float, float]:
    """Angle in degrees, and distance of the cameras."""
    one, other = inverse_poses(found), inverse_poses(true)
    angle = torch.rad2deg(roma.rotmat_geodesic_distance(one[:, :3], other[:, :3]))
    return float(angle), float((one[:, 3] - other[:, 3]).norm())


def points_of_second() -> Tuple[Tensor, Tensor]:
    """Means and opacities of the second view's Gaussians, in the first one's frame."""
    made = pixel_gaussians(VIEWS)
    return (
        made.means.unflatten(0, (2, HEIGHT, WIDTH))[1].clone(),
        made.opacities.unflatten(0, (2, HEIGHT, WIDTH))[1].clone(),
    )


def test_points_tell_the_pose_to_a_hundredth_of_a_degree():
    # Half a pixel at the wrong side would be half a degree.
    means, opacities = points_of_second()
    found = pose_from_points(means, opacities, SECOND.focal, SECOND.center)
    assert found is not None and found.agreeing == 1.0
    angle, distance = errors(found.world_to_camera, SECOND.world_to_camera)
    assert angle < 0.01 and distance < 1e-3


def test_wrong_points_do_not_count_nor_do_transparent_ones():
    means, opacities = points_of_second()
    generator = torch.Generator().manual_seed(0)
    means[:10] += torch.randn(10, WIDTH, 3, generator=generator)  # a third
    means[16:24], opacities[16:24] = 100.0, 0.2
    found = pose_from_points(means, opacities, SECOND.focal, SECOND.center)
    assert found is not None and found.agreeing == pytest.approx(14 / 24, abs=0.1)
    angle, distance = errors(found.world_to_camera, SECOND.world_to_camera)
    assert angle < 1.0 and distance < 0.06


def test_points_count_where_another_view_shows_them():
    means, opacities = points_of_second()
    opacities[:] = 0.002
    opacities[:4], means[:4] = 0.9, torch.randn(4, WIDTH, 3, generator=torch.Generator().manual_seed(0))
    found = pose_from_points(means, opacities, SECOND.focal, SECOND.center)
    assert found is not None and found.agreeing == pytest.approx(28 / 32, abs=0.05)
    angle, distance = errors(found.world_to_camera, SECOND.world_to_camera)
    assert angle < 1.0 and distance < 0.06


def test_rough_points_tell_a_rough_pose(monkeypatch: pytest.MonkeyPatch):
    """As those of small networks; the official limit of 5 pixels of 256 leaves too few of them."""
    means, opacities = points_of_second()
    means += 0.25 * torch.randn(means.shape, generator=torch.Generator().manual_seed(0))
    found = pose_from_points(means, opacities, SECOND.focal, SECOND.center)
    assert found is not None
    angle, distance = errors(found.world_to_camera, SECOND.world_to_camera)
    assert angle < 6.0 and distance < 0.4
    monkeypatch.setattr(camera_poses, "PIXEL_ERRORS", (5.0,))
    assert pose_from_points(means, opacities, SECOND.focal, SECOND.center) is None


@pytest.mark.parametrize("what", ["random", "line", "one place", "behind"])
def test_what_tells_no_pose_gives_none(what: str):
    means, opacities = points_of_second()
    if what == "random":
        means = torch.randn(HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(0)) + torch.tensor([0, 0, 4.0])
    elif what == "line":
        means[..., :2] = 0.0
    elif what == "one place":
        means[:] = 1.0
    else:
        means = torch.randn(HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(0)) - torch.tensor([0, 0, 4.0])
    assert pose_from_points(means, opacities, SECOND.focal, SECOND.center) is None


def test_a_pose_ten_degrees_off_is_refined():
    # Gaussians reach beyond what the view sees, so that no edge of theirs attracts it.
    wide = [replace(view, width=60, height=48, center=torch.tensor([30.0, 24.0])) for view in VIEWS]
    gaussians = pixel_gaussians(wide)
    image = render(gaussians, SECOND, torch.zeros(3)).image.permute(2, 0, 1).contiguous()
    true = inverse_poses(SECOND.world_to_camera)
    turn = roma.rotvec_to_rotmat(torch.deg2rad(torch.tensor([4.0, -7.0, 5.9])))
    middle = gaussians.means.median(dim=0).values  # nearly all else stays in view, and looks alike
    moved = torch.cat([turn @ true[:, :3], (turn @ (true[:, 3] - middle) + middle)[:, None]], dim=1)
    start = inverse_poses(moved)
    assert errors(start, SECOND.world_to_camera)[0] == pytest.approx(10.0, abs=0.1)
    found = refined_pose(gaussians, image, replace(SECOND, world_to_camera=start))
    angle, distance = errors(found, SECOND.world_to_camera)
    assert angle < 0.1 and distance < 0.01


def test_the_true_pose_is_not_left_for_a_worse_one():
    gaussians = pixel_gaussians(VIEWS)
    image = render(gaussians, SECOND, torch.zeros(3)).image.permute(2, 0, 1).contiguous()
    found = refined_pose(gaussians, image, SECOND, steps=2)  # the first steps are large
    torch.testing.assert_close(found, SECOND.world_to_camera)


def test_structure_is_the_third_factor_of_ssim():
    x, y = torch.meshgrid(torch.linspace(-1, 1, 40), torch.linspace(-1, 1, 32), indexing="xy")
    first = color_at(x, y).permute(2, 0, 1)
    assert float(structure(first, first)) == pytest.approx(0.98)
    assert float(structure(first, 0.5 * first + 0.3)) == pytest.approx(0.98, abs=2e-3)  # brightness and contrast
    assert float(structure(first, -first)) < -0.7
    # Of images of equal mean and contrast, all of SSIM is structure.
    noise = 0.2 * torch.randn(3, 40, 40, generator=torch.Generator().manual_seed(0))
    base = torch.randn(3, 40, 40, generator=torch.Generator().manual_seed(1))
    one, other = 0.5 + 0.1 * (base + noise), 0.5 + 0.1 * (base - noise)
    reference, image = structural_similarity(  # pyright: ignore[reportAssignmentType]
        one.numpy(),
        other.numpy(),
        channel_axis=0,
        gaussian_weights=True,
        use_sample_covariance=False,
        data_range=1.0,
        full=True,
    )
    inner = image[:, 5:-5, 5:-5].clip(max=0.98).mean()
    assert float(structure(one, other)) == pytest.approx(float(inner), abs=0.01) and reference < 0.97


def test_structure_of_one_color_has_finite_gradients():
    plain = torch.full((3, 16, 16), 0.5, requires_grad=True)
    structure(plain, torch.rand(3, 16, 16)).backward()
    assert plain.grad is not None and bool(plain.grad.isfinite().all())
