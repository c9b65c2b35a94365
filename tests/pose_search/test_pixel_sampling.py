"""Which pixels are compared, with their rays: random pixels of all images, and chosen ones of single images."""

from typing import Tuple

import pytest
import torch
from analytic_scene import Blobs, cameras, image_set_of, model_of, padded_squares, random_poses
from nerfstudio.cameras.cameras import Cameras

from gnerf_ns.cameras.rays import CameraDirections
from gnerf_ns.data.image_set import ImageSet, ImageStack
from gnerf_ns.pose_search.pixel_sampling import (
    PixelChoice,
    how_much_it_changes,
    near_keypoints,
    sample_pixel_rays,
)

SIDE = 64
WHITE = torch.ones(3)

# Random pixels of all images


def labeled_images(count: int, width: int, height: int) -> ImageSet:
    """Images whose red is the column, green the row, blue the image's number."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack([columns, rows, torch.zeros_like(rows)], dim=-1).repeat(count, 1, 1, 1)
    pixels[..., 2] = torch.arange(count)[:, None, None]
    return ImageSet(ImageStack(pixels.byte()), CameraDirections(cameras(count, width, height)))


def test_each_ray_goes_through_the_pixel_whose_color_it_gets():
    count, width, height = 5, 12, 7
    image_set, poses = labeled_images(count, width, height), random_poses(count)
    rays, colors = sample_pixel_rays(image_set, poses, 400, image_side=width)
    column, row, image = (255 * colors).round().long().T
    assert rays.camera_indices is not None
    torch.testing.assert_close(rays.camera_indices[:, 0], image)
    truth: Cameras = cameras(count, width, height)
    truth.camera_to_worlds = poses
    expected = truth.generate_rays(camera_indices=image[:, None], coords=torch.stack([row, column], dim=-1) + 0.5)
    torch.testing.assert_close(rays.origins, expected.origins)
    torch.testing.assert_close(rays.directions, expected.directions)
    # Every image, row and column is drawn.
    assert len(image.unique()) == count and len(row.unique()) == height and len(column.unique()) == width


def test_shrunken_images_are_averages_seen_through_larger_pixels():
    image_set, poses = labeled_images(1, 12, 8), random_poses(1)
    rays, colors = sample_pixel_rays(image_set, poses, 200, image_side=6)
    # The mean of two neighbors, 2k and 2k + 1, whose half is rounded, as bytes are.
    column, row = ((255 * colors[:, :2] / 2).floor() * 2 + 0.5).T
    truth = cameras(1, 12, 8)
    truth.camera_to_worlds = poses
    coords = torch.stack([row, column], dim=-1) + 0.5
    expected = truth.generate_rays(camera_indices=torch.zeros(200, 1).long(), coords=coords)
    torch.testing.assert_close(rays.directions, expected.directions)


def test_rays_are_differentiable_in_the_poses():
    poses = random_poses(3).requires_grad_()
    rays, _ = sample_pixel_rays(labeled_images(3, 8, 8), poses, 64, image_side=8)
    (gradient,) = torch.autograd.grad(rays.origins.sum() + rays.directions[:, 0].sum(), poses)
    assert (gradient.abs().amax(dim=(1, 2)) > 0).all()


@pytest.mark.parametrize("side", [4, 8])
def test_rays_have_the_areas_of_pixels_as_large_as_images_are_shown(side: int):
    image_set = labeled_images(3, 8, 8)
    rays, _ = sample_pixel_rays(image_set, random_poses(3), 20, side)
    ahead = torch.tensor([[[0.0, 0.0, -1.0]]])
    in_the_middle = float(image_set.directions.pixel_areas(torch.tensor([0]), ahead, side, side))
    assert 0.7 * in_the_middle < float(rays.pixel_area.min()) < float(rays.pixel_area.max()) <= in_the_middle


@pytest.mark.parametrize("side", [32, 16])
def test_at_the_true_poses_the_model_shows_the_images(side: int):
    torch.manual_seed(0)
    model = model_of(Blobs())
    poses = random_poses(3)
    image_set = image_set_of(model, poses)
    rays, colors = sample_pixel_rays(image_set, poses, 2000, side)
    model.eval().requires_grad_(False)
    error = float(model.get_photometric_loss(model.render(rays), colors))
    assert error < (1e-4 if side == 32 else 4e-3)
    wrong_rays, colors = sample_pixel_rays(image_set, random_poses(3, seed=9), 2000, side)
    assert float(model.get_photometric_loss(model.render(wrong_rays), colors)) > 0.02


# Chosen pixels of single images


def image_set(pixels: torch.Tensor) -> ImageSet:
    return ImageSet(ImageStack(pixels), CameraDirections(cameras(len(pixels), SIDE, SIDE)))


def a_dot(x: int, y: int, channels: int = 3) -> torch.Tensor:
    """Gray, with one bright blob."""
    pixels = torch.full((1, SIDE, SIDE, channels), 100, dtype=torch.uint8)
    pixels[0, y - 3 : y + 4, x - 3 : x + 4, :3] = 250
    return pixels


def drawn_xy(choice: PixelChoice, side: int = SIDE) -> torch.Tensor:
    coords, _ = choice.draw(torch.zeros(1, dtype=torch.long), 500, side)
    return (coords[0] + 1) / 2 * SIDE


def a_busy_patch(x: int, y: int) -> torch.Tensor:
    """Gray, but for a patch of 24x24 pixels that is full of keypoints."""
    blocks = torch.randint(0, 256, (8, 8), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    pixels = torch.full((1, SIDE, SIDE, 3), 100, dtype=torch.uint8)
    pixels[0, y - 12 : y + 12, x - 12 : x + 12] = blocks.repeat_interleave(3, 0).repeat_interleave(3, 1)[..., None]
    return pixels


def test_importance_gathers_rays_where_the_image_changes():
    torch.manual_seed(0)
    xy = drawn_xy(PixelChoice(image_set(a_dot(45, 15)), "importance", WHITE))
    near = (xy - torch.tensor([45.0, 15.0])).abs().amax(dim=-1) < 12
    share_of_image = (24 / SIDE) ** 2
    assert near.float().mean() > 4 * share_of_image
    assert not bool(near.all()), "some are left for everything else"


def test_interest_chooses_rays_near_keypoints_and_nowhere_else():
    torch.manual_seed(0)
    xy = drawn_xy(PixelChoice(image_set(a_busy_patch(45, 15)), "interest", WHITE))
    # Three dilations by 5x5 reach six pixels beyond the patch.
    away = (xy - torch.tensor([45.0, 15.0])).abs().amax(dim=-1)
    assert away.max() < 12 + 7
    assert away.median() > 5, "they are not all near one of them"


def test_interest_takes_all_pixels_where_keypoints_are_few():
    torch.manual_seed(0)
    xy = drawn_xy(PixelChoice(image_set(a_dot(45, 15)), "interest", WHITE))
    assert torch.allclose(xy.mean(dim=0), torch.tensor([32.0, 32.0]), atol=3.0)
    assert xy.amin() < 4 and xy.amax() > 60


def test_random_rays_are_everywhere():
    torch.manual_seed(0)
    xy = drawn_xy(PixelChoice(image_set(a_dot(45, 15)), "random", WHITE))
    assert torch.allclose(xy.mean(dim=0), torch.tensor([32.0, 32.0]), atol=3.0)
    assert xy.amin() < 4 and xy.amax() > 60


@pytest.mark.parametrize("selection", ["random", "interest", "importance"])
def test_colors_are_those_of_the_pixels_drawn(selection):
    torch.manual_seed(0)
    choice = PixelChoice(image_set(a_dot(45, 15)), selection, WHITE)
    coords, colors = choice.draw(torch.zeros(3, dtype=torch.long), 100, SIDE)
    x, y = ((coords + 1) / 2 * SIDE).long().unbind(dim=-1)
    assert torch.equal(colors, a_dot(45, 15)[0][y, x].float() / 255)


@pytest.mark.parametrize("selection", ["random", "interest", "importance"])
def test_transparent_pixels_are_left_out_where_what_is_behind_them_is_unknown(selection):
    torch.manual_seed(0)
    pixels = a_dot(45, 15, channels=4)
    pixels[..., 3] = 255
    pixels[:, :, :32, 3] = 0
    assert drawn_xy(PixelChoice(image_set(pixels), selection, None))[:, 0].amin() > 32
    xy = drawn_xy(PixelChoice(image_set(pixels), "random", WHITE))
    assert xy[:, 0].amin() < 4


def test_errors_leave_transparent_pixels_out_too():
    pixels = a_dot(45, 15, channels=4)
    pixels[..., 3] = 255
    pixels[:, :, :32, 3] = 0
    coords, colors, counts = PixelChoice(image_set(pixels), "random", None).all_at(16)
    assert colors.shape == (1, 256, 3) and counts.sum() == pytest.approx(1.0)
    assert bool((counts[0][coords[:, 0] < 0] == 0).all())


def test_all_pixels_of_an_image_of_one_color_count_alike():
    flat = torch.full((3, 20, 30), 0.4)
    assert torch.equal(near_keypoints(flat), torch.ones(20, 30))
    assert torch.equal(how_much_it_changes(flat), torch.ones(20, 30))


def test_change_is_the_length_of_the_gradient():
    image = torch.linspace(0, 1, 11).expand(3, 5, 11)
    change = how_much_it_changes(image)
    inner = change[:, 1:-1]
    assert torch.allclose(inner, inner[0, 0].expand_as(inner))
    # Central differences of 0.2 in each of three channels, and the floor on top.
    assert float(inner[0, 0]) == pytest.approx(0.2 * 3**0.5, rel=0.15)
    assert bool((change[:, 0] < inner[0, 0]).all())


# Padded images

SIZES = [(64, 40), (26, 64), (64, 64)]
"""Heights and widths of images that are padded to 64x64."""


def two_paddings(channels: int) -> Tuple[ImageSet, ImageSet]:
    """The same images, with black and with random padding."""
    images = [a_busy_patch(*at) for at in ((30, 32), (32, 30), (40, 20))]
    pixels = torch.cat(images)
    if channels == 4:
        generator = torch.Generator().manual_seed(1)
        alpha = torch.randint(0, 256, (3, SIDE, SIDE, 1), generator=generator, dtype=torch.uint8)
        pixels = torch.cat([pixels, alpha], dim=-1)
    lenses = CameraDirections(cameras(3, SIDE, SIDE))
    black, noise = padded_squares(pixels, SIZES, "black"), padded_squares(pixels, SIZES, "noise")
    return ImageSet(black, lenses), ImageSet(noise, lenses)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("side", [SIDE, 16])
def test_random_pixels_do_not_depend_on_what_padding_is_made_of(channels: int, side: int):
    drawn = []
    for image_set in two_paddings(channels):
        torch.manual_seed(0)
        drawn.append(sample_pixel_rays(image_set, random_poses(3), 2000, side))
    (rays, colors), (other_rays, other_colors) = drawn
    assert torch.equal(colors, other_colors)
    assert torch.equal(rays.directions, other_rays.directions)
    # Every image is drawn alike, whatever share of its canvas it fills.
    assert rays.camera_indices is not None
    assert torch.bincount(rays.camera_indices[:, 0], minlength=3).min() > 550


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("side", [SIDE, 16])
@pytest.mark.parametrize("background", [WHITE, None], ids=["known background", "unknown background"])
@pytest.mark.parametrize("selection", ["random", "interest", "importance"])
def test_chosen_pixels_do_not_depend_on_what_padding_is_made_of(selection, background, side: int, channels: int):
    drawn, counted = [], []
    for image_set in two_paddings(channels):
        torch.manual_seed(0)
        choice = PixelChoice(image_set, selection, background)
        drawn.append(choice.draw(torch.arange(3), 500, side))
        _, colors, counts = choice.all_at(side)
        counted.append((counts, counts[..., None] * colors))
    for first, second in zip((*drawn[0], *counted[0]), (*drawn[1], *counted[1]), strict=True):
        assert torch.equal(first, second)
    # None is taken from padding.
    halves = torch.tensor([[width / SIDE, height / SIDE] for height, width in SIZES])
    assert bool((drawn[0][0].abs() < halves[:, None]).all())
    assert counted[0][0].sum(dim=1).tolist() == pytest.approx([1.0] * 3)


def test_the_border_to_the_padding_is_no_edge():
    """Of the image it says nothing, however much it stands out."""
    pixels = torch.full((1, SIDE, SIDE, 3), 200, dtype=torch.uint8)
    pixels[0, 28:36, 28:36] = 120
    image_set = ImageSet(padded_squares(pixels, [(64, 40)], "black"), CameraDirections(cameras(1, SIDE, SIDE)))
    torch.manual_seed(0)
    x = drawn_xy(PixelChoice(image_set, "importance", WHITE))[:, 0]
    at_the_border = (x < 12 + 2) | (x > SIDE - 12 - 2)
    assert at_the_border.float().mean() < 0.05
