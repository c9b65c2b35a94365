import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nerfstudio.cameras.cameras import Cameras

from gnerf_ns.data.patch_sampling import dynamic_patch_coords, sample_patches, static_patch_coords
from gnerf_ns.utils.errors import InputError


def ramp_image(height: int, width: int) -> torch.Tensor:
    """Each pixel's value is its own center in nerfstudio's pixels: x in the first channel, y in the second."""
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([columns, rows])[None]


def camera(height: int, width: int) -> Cameras:
    return Cameras(
        camera_to_worlds=torch.eye(4)[None, :3],
        fx=80.0,
        fy=90.0,
        cx=width / 2,
        cy=height / 2,
        width=width,
        height=height,
    )


def coords_to_pixels(coords: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The same places (x, y) in pixels, pixel centers being at +0.5."""
    return (coords + 1) / 2 * coords.new_tensor([width, height])


@pytest.mark.parametrize("side", [1, 16, 64])
def test_static_patch_at_the_image_s_own_side_is_the_image(side: int) -> None:
    images = torch.rand(3, 4, side, side)
    assert torch.equal(sample_patches(images, static_patch_coords(3, side)), images)


@pytest.mark.parametrize("side", [7, 37, 100])
def test_static_patch_is_the_image_where_float32_cannot_hold_pixel_centers_exactly(side: int) -> None:
    images = torch.rand(2, 3, side, side)
    torch.testing.assert_close(sample_patches(images, static_patch_coords(2, side)), images, atol=2e-5, rtol=0)


def test_static_patch_of_half_the_side_averages_two_by_two_pixels() -> None:
    images = torch.rand(2, 3, 32, 48)
    expected = torch.nn.functional.interpolate(images, (16, 16), mode="bilinear", align_corners=False)
    torch.testing.assert_close(sample_patches(images, static_patch_coords(2, 16)), expected)


def test_static_coords_are_nerfstudio_s_pixel_centers() -> None:
    pixels = coords_to_pixels(static_patch_coords(1, 20)[0], 20, 20)
    torch.testing.assert_close(pixels.flip(-1), camera(20, 20).get_image_coords())


def test_golden_coords() -> None:
    assert static_patch_coords(1, 2).tolist() == [[[[-0.5, -0.5], [0.5, -0.5]], [[-0.5, 0.5], [0.5, 0.5]]]]
    assert coords_to_pixels(torch.tensor([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.5]]), height=40, width=10).tolist() == [
        [0.0, 0.0],
        [10.0, 40.0],
        [5.0, 30.0],
    ]


def test_patches_and_rays_agree_on_where_a_pixel_is() -> None:
    height, width = 40, 64
    # Scales up to 0.9 only where they stay off the outermost half pixel, at which the image goes on unchanged.
    coords, _ = dynamic_patch_coords(20, 8, (0.3, 0.9), generator=torch.Generator().manual_seed(0))
    seen = sample_patches(ramp_image(height, width).expand(20, -1, -1, -1), coords).permute(0, 2, 3, 1)
    pixels = coords_to_pixels(coords, height, width)
    limits = torch.tensor([width - 0.5, height - 0.5])
    assert ((pixels > 0.5) & (pixels < limits)).all()
    torch.testing.assert_close(seen, pixels, atol=1e-4, rtol=0)

    rays = camera(height, width).generate_rays(camera_indices=0, coords=pixels.flip(-1))
    # What the image shows at a patch's pixel is where the pixel's ray pierces the image plane.
    pierced_x = width / 2 + 80.0 * rays.directions[..., 0] / -rays.directions[..., 2]
    pierced_y = height / 2 - 90.0 * rays.directions[..., 1] / -rays.directions[..., 2]
    torch.testing.assert_close(seen, torch.stack([pierced_x, pierced_y], dim=-1), atol=1e-4, rtol=0)


@settings(deadline=None, max_examples=50)
@given(
    smallest=st.floats(0.05, 1.0),
    largest=st.floats(0.05, 1.0),
    side=st.integers(2, 33),
    seed=st.integers(0, 10_000),
)
def test_dynamic_patches_lie_inside_and_span_their_scale(smallest: float, largest: float, side: int, seed: int) -> None:
    scale_range = (min(smallest, largest), max(smallest, largest))
    coords, scales = dynamic_patch_coords(6, side, scale_range, torch.Generator().manual_seed(seed))
    assert (scales >= scale_range[0] - 1e-6).all() and (scales <= scale_range[1] + 1e-6).all()
    half_pixel = (scales / side)[:, None, None, None]
    assert ((coords.abs() + half_pixel) <= 1 + 1e-5).all()
    spacing_x = coords[:, :, 1:, 0] - coords[:, :, :-1, 0]
    spacing_y = coords[:, 1:, :, 1] - coords[:, :-1, :, 1]
    expected = (2 * scales / side)[:, None, None]
    torch.testing.assert_close(spacing_x, expected.expand_as(spacing_x), atol=1e-5, rtol=0)
    torch.testing.assert_close(spacing_y, expected.expand_as(spacing_y), atol=1e-5, rtol=0)


def test_smallest_scale_shows_neighboring_pixels_one_apart() -> None:
    coords, _ = dynamic_patch_coords(4, 16, (0.25, 0.25))
    pixels = coords_to_pixels(coords, 64, 64)
    torch.testing.assert_close(pixels[:, :, 1:, 0] - pixels[:, :, :-1, 0], torch.ones(4, 16, 15), atol=1e-4, rtol=0)


def test_full_scale_leaves_no_room_to_shift() -> None:
    coords, scales = dynamic_patch_coords(5, 16, (1.0, 1.0))
    assert torch.equal(coords, static_patch_coords(5, 16)) and torch.equal(scales, torch.ones(5))


def test_shifts_reach_all_four_edges_and_the_generator_repeats_them() -> None:
    coords, scales = dynamic_patch_coords(400, 4, (0.25, 0.5), torch.Generator().manual_seed(3))
    centers = coords.mean(dim=(1, 2)) / (1 - scales)[:, None]
    assert centers.min(dim=0).values.max() < -0.95 and centers.max(dim=0).values.min() > 0.95
    assert torch.corrcoef(centers.T)[0, 1].abs() < 0.15
    again, _ = dynamic_patch_coords(400, 4, (0.25, 0.5), torch.Generator().manual_seed(3))
    assert torch.equal(coords, again)


@pytest.mark.parametrize("scale_range", [(0.0, 1.0), (0.5, 1.5), (0.8, 0.4), (-0.5, 0.5), (float("nan"), 1.0)])
def test_impossible_scales_are_refused(scale_range: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="Patch scales"):
        dynamic_patch_coords(1, 16, scale_range)


def test_sampling_is_differentiable() -> None:
    images = torch.rand(2, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    # Between pixel centers, where bilinear interpolation has a derivative.
    coords = (torch.rand(2, 3, 3, 2, dtype=torch.float64) * 0.1 + 0.21).requires_grad_()
    assert torch.autograd.gradcheck(sample_patches, (images, coords))
