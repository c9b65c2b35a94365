import pytest
import torch
from analytic_scene import cameras

from gnerf_ns.cameras.rays import CameraDirections
from gnerf_ns.data.image_set import ImageSet, ImageStack
from gnerf_ns.pose_search.pixel_sampling import PixelChoice, how_much_it_changes, near_keypoints

SIDE = 64
WHITE = torch.ones(3)


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


def test_important_rays_gather_where_the_image_changes():
    torch.manual_seed(0)
    xy = drawn_xy(PixelChoice(image_set(a_dot(45, 15)), "importance", WHITE))
    near = (xy - torch.tensor([45.0, 15.0])).abs().amax(dim=-1) < 12
    share_of_image = (24 / SIDE) ** 2
    assert near.float().mean() > 4 * share_of_image
    assert not bool(near.all()), "some are left for everything else"


def test_interesting_rays_are_near_keypoints_and_nowhere_else():
    torch.manual_seed(0)
    xy = drawn_xy(PixelChoice(image_set(a_busy_patch(45, 15)), "interest", WHITE))
    # Three dilations by 5x5 reach six pixels beyond the patch.
    away = (xy - torch.tensor([45.0, 15.0])).abs().amax(dim=-1)
    assert away.max() < 12 + 7
    assert away.median() > 5, "they are not all near one of them"


def test_where_keypoints_are_few_all_rays_are_interesting():
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


def test_errors_leave_them_out_too():
    pixels = a_dot(45, 15, channels=4)
    pixels[..., 3] = 255
    pixels[:, :, :32, 3] = 0
    coords, colors, counts = PixelChoice(image_set(pixels), "random", None).all_at(16)
    assert colors.shape == (1, 256, 3) and counts.sum() == pytest.approx(1.0)
    assert bool((counts[0][coords[:, 0] < 0] == 0).all())


def test_a_image_of_one_color_has_no_interest_and_all_of_it():
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
