import pytest
import torch
from analytic_scene import cameras
from hypothesis import given
from hypothesis import strategies as st

from gnerf_ns.cameras.rays import CameraDirections
from gnerf_ns.data.image_set import ImageSet, ImageStack


def image_set(count: int, width: int, height: int, channels: int = 4) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, height, width, channels), dtype=torch.uint8, generator=generator)
    return ImageSet(ImageStack(pixels), CameraDirections(cameras(count, width, height)))


@pytest.mark.parametrize(
    ("width", "height", "longer_side", "multiple", "expected"),
    [
        (100, 100, 16, 1, (16, 16)),
        (100, 60, 50, 1, (30, 50)),
        (60, 100, 50, 1, (50, 30)),
        (100, 60, 400, 1, (60, 100)),  # never enlarged
        (100, 60, 16, 4, (8, 16)),
        (100, 10, 16, 4, (4, 16)),  # never nothing
    ],
)
def test_sizes(width, height, longer_side, multiple, expected):
    assert image_set(1, width, height).size_at(longer_side, multiple) == expected


@given(
    width=st.integers(4, 60), height=st.integers(4, 60), side=st.integers(4, 99), multiple=st.sampled_from([1, 2, 4])
)
def test_sizes_keep_the_shape_and_never_grow(width: int, height: int, side: int, multiple: int):
    found_height, found_width = image_set(1, width, height).size_at(side, multiple)
    assert found_height % multiple == found_width % multiple == 0
    assert multiple <= found_width < max(multiple + 1, min(width, side) + multiple / 2 + 1)
    scale = min(1.0, side / max(width, height))
    assert abs(found_height - height * scale) <= max(multiple / 2, multiple - height * scale)
    assert abs(found_width - width * scale) <= max(multiple / 2, multiple - width * scale)


def test_colors_are_laid_over_the_background():
    some = image_set(2, 6, 4)
    background = torch.tensor([0.3, 0.6, 0.9])
    values = some.images.pixels.float().permute(0, 3, 1, 2) / 255
    expected = values[:, :3] * values[:, 3:] + (1 - values[:, 3:]) * background[:, None, None]
    torch.testing.assert_close(some.resized(4, 6, background), expected)
    torch.testing.assert_close(some.resized(4, 6, background, torch.tensor([1])), expected[1:])


def test_directions_of_pixels_run_row_by_row_and_shrinking_keeps_the_view():
    some = image_set(3, 8, 4)
    directions = some.pixel_directions(torch.tensor([2, 0]), 4, 8)
    assert directions.shape == (2, 32, 3)
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(2, 32))
    grid = directions[0].view(4, 8, 3)
    assert (grid[:, 1:, 0] > grid[:, :-1, 0]).all(), "x grows along a row"
    assert (grid[1:, :, 1] < grid[:-1, :, 1]).all(), "y falls from row to row"
    halves = some.pixel_directions(torch.tensor([2]), 2, 4)[0].view(2, 4, 3)
    projected, projected_halves = grid / grid[..., 2:], halves / halves[..., 2:]
    means = projected.view(2, 2, 4, 2, 3).mean(dim=(1, 3))
    torch.testing.assert_close(projected_halves, means)


def test_chosen_images_keep_their_padding():
    stack = ImageStack(
        torch.zeros((3, 8, 8, 3), dtype=torch.uint8), torch.tensor([[1.0, 1.0], [0.5, 1.0], [1.0, 0.75]])
    )
    some = ImageSet(stack, CameraDirections(cameras(3, 8, 8)))[torch.tensor([2, 1])]
    assert some.images.extents is not None and some.images.extents.tolist() == [[1.0, 0.75], [0.5, 1.0]]
    assert ImageSet(stack, CameraDirections(cameras(3, 8, 8)))[torch.tensor([0])].validity(4, 4) is None


def test_how_long_an_object_typically_is():
    """Of those images that show it, and as a share of the longer side."""
    pixels = torch.zeros(4, 40, 100, 4, dtype=torch.uint8)
    assert ImageStack(pixels).object_extent == 1.0
    pixels[0, 10:20, 30:80, 3] = 255
    pixels[1, :, 95:, 3] = 200
    pixels[2, 5:38, 2, 3] = 255
    assert ImageStack(pixels).object_extent == 0.4
    assert ImageStack(pixels[..., :3]).object_extent == 1.0


@pytest.mark.parametrize(("level", "alpha", "pale"), [(200, True, True), (120, True, False), (200, False, False)])
def test_pale_objects_are_told_by_their_colors_and_not_by_what_is_around_them(level: int, alpha: bool, pale: bool):
    pixels = torch.zeros(2, 16, 16, 4, dtype=torch.uint8)
    pixels[:, 4:12, 4:12] = torch.tensor([level, level, level, 255], dtype=torch.uint8)
    assert ImageStack(pixels if alpha else pixels[..., :3]).are_pale == pale
