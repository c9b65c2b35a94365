"""How well a field explains images from poses; padding, and what it is made of, has no part in it."""

from typing import Literal, Optional

import pytest
import torch
from analytic_scene import Blobs, Nothing, cameras, image_set_of, model_of, padded_squares, random_poses
from torch import Tensor

from gnerf_ns.cameras.rays import CameraDirections
from gnerf_ns.data.image_set import ImageSet, ImageStack
from gnerf_ns.models.gnerf import GNeRFModel
from gnerf_ns.pose_search import costs as costs_module
from gnerf_ns.pose_search import pose_search
from gnerf_ns.pose_search.costs import ImageCosts
from gnerf_ns.pose_search.image_matching import ImageMatching, Matches, PlainMatching, ShiftTolerantMatching
from gnerf_ns.pose_search.image_renderer import ImageRenderer
from gnerf_ns.pose_search.pose_search import match_bank

TRUTH = random_poses(6, seed=3)
EVERYONE = torch.arange(6)
SIDE = 16


@pytest.fixture(scope="module")
def model() -> GNeRFModel:
    return model_of(Blobs(num_samples=16))


@pytest.fixture(scope="module")
def images(model: GNeRFModel) -> ImageSet:
    return image_set_of(model, TRUTH)


def costs_in(model: GNeRFModel) -> ImageCosts:
    return ImageCosts(ImageRenderer(model), model.evaluation_background)


def test_costs_are_low_at_true_poses_and_nowhere_else(model: GNeRFModel, images: ImageSet):
    costs = costs_in(model)
    cost, elsewhere = (costs.at(images, EVERYONE, poses, SIDE) for poses in (TRUTH, random_poses(6, seed=5)))
    assert cost.max() < 0.1 * elsewhere.min()
    mirrored = costs.at(images, EVERYONE, TRUTH, SIDE, flipped=True)
    assert cost.max() < 0.1 * mirrored.min()
    # Each image as often as asked for, in the order asked for.
    some = torch.tensor([4, 1, 4])
    torch.testing.assert_close(costs.at(images, some, TRUTH[some], SIDE), cost[some])


def test_explained_variance(model: GNeRFModel, images: ImageSet):
    assert costs_in(model).explained_variance(images, TRUTH, SIDE) > 0.99
    assert costs_in(model).explained_variance(images, random_poses(6, seed=5), SIDE) < 0.5
    assert costs_in(model_of(Nothing())).explained_variance(images, TRUTH, SIDE) < 0


def test_an_image_of_one_color_has_a_finite_relative_cost(model: GNeRFModel):
    plain = ImageSet(ImageStack(torch.full((6, 32, 32, 3), 90, dtype=torch.uint8)), CameraDirections(cameras(6)))
    relative = costs_in(model).relative(plain, TRUTH, SIDE)
    assert bool(relative.isfinite().all()) and relative.min() > 1e3


# Padded images

SIZES = [(32, 20), (14, 32), (32, 32), (22, 32), (32, 10), (32, 16)]
"""Heights and widths that are left of the images, whose canvas is 32x32."""


def padded(images: ImageSet, content: Literal["black", "noise"]) -> ImageSet:
    """The middle of opaque copies of the images, padded to where they were."""
    values = images.images.pixels.float() / 255
    opaque = (255 * (values[..., :3] * values[..., 3:] + 1 - values[..., 3:])).round().byte()
    return ImageSet(padded_squares(opaque, SIZES, content), images.directions)


@pytest.mark.parametrize("side", [16, 24, 32])
def test_costs_do_not_depend_on_what_padding_is_made_of(model: GNeRFModel, images: ImageSet, side: int):
    costs, found = costs_in(model), []
    for content in ("black", "noise"):
        image_set = padded(images, content)
        found.append(
            torch.cat(
                [
                    costs.at(image_set, EVERYONE, random_poses(6, seed=5), side),
                    costs.relative(image_set, TRUTH, side),
                    costs.contrast(image_set, side),
                    costs.variance(image_set, side)[None],
                    torch.tensor([costs.explained_variance(image_set, TRUTH, side)]),
                ]
            )
        )
    assert torch.equal(*found)


def matches_of(
    model: GNeRFModel, image_set: ImageSet, matching: ImageMatching, bank: Optional[Tensor] = None
) -> Matches:
    poses = TRUTH if bank is None else bank
    return match_bank(ImageRenderer(model), image_set, poses, SIDE, matching, torch.ones(3), 1e-4)


@pytest.mark.parametrize("matching", [PlainMatching(), ShiftTolerantMatching(0.15)], ids=["plain", "shift tolerant"])
def test_matches_do_not_depend_on_what_padding_is_made_of(model: GNeRFModel, images: ImageSet, matching: ImageMatching):
    bank = random_poses(20, seed=9)
    black, noise = (matches_of(model, padded(images, content), matching, bank) for content in ("black", "noise"))
    # Fourier transforms round.
    torch.testing.assert_close(noise.cost, black.cost, atol=2e-6, rtol=1e-5)
    assert (black.shift is None) == (noise.shift is None)
    if black.shift is not None and noise.shift is not None:
        assert torch.equal(noise.shift, black.shift)


@pytest.mark.parametrize("matching", [PlainMatching(), ShiftTolerantMatching(0.15)], ids=["plain", "shift tolerant"])
def test_padded_images_match_the_true_poses_best(model: GNeRFModel, images: ImageSet, matching: ImageMatching):
    matches = matches_of(model, padded(images, "noise"), matching)
    assert bool((matches.cost.argmin(dim=1) == EVERYONE).all())
    whole = matches_of(model, images, matching).cost
    # At most what is compared is a part that happens to be harder to show.
    assert matches.cost.diagonal().max() < 2 * whole.diagonal().max()


def test_a_padded_image_costs_what_the_same_image_costs_without_padding(model: GNeRFModel, images: ImageSet):
    """Half as high as wide, so that the means over squares are those of the canvas."""
    values = images.images.pixels[:, 8:24]
    band = cameras(6, 32, 16)
    band.fx, band.fy = cameras(6).fx, cameras(6).fy
    unpadded = ImageSet(ImageStack(values), CameraDirections(band))
    canvas = ImageSet(padded_squares(images.images.pixels, [(16, 32)] * 6, "noise"), images.directions)
    costs = costs_in(model)
    for poses in (TRUTH, random_poses(6, seed=5)):
        for side in (SIDE, 32):
            expected = costs.at(unpadded, EVERYONE, poses, side)
            torch.testing.assert_close(costs.at(canvas, EVERYONE, poses, side), expected, atol=1e-6, rtol=1e-4)
            torch.testing.assert_close(costs.contrast(canvas, side), costs.contrast(unpadded, side))
            torch.testing.assert_close(costs.variance(canvas, side), costs.variance(unpadded, side))
    plain = PlainMatching()
    bank = random_poses(20, seed=9)
    torch.testing.assert_close(
        matches_of(model, canvas, plain, bank).cost,
        matches_of(model, unpadded, plain, bank).cost,
        atol=1e-5,
        rtol=1e-3,
    )


@pytest.mark.parametrize("matching", [PlainMatching(), ShiftTolerantMatching(0.2)])
def test_many_images_are_compared_a_few_at_a_time(
    model: GNeRFModel, images: ImageSet, matching: ImageMatching, monkeypatch: pytest.MonkeyPatch
):
    torch.manual_seed(3)
    costs, bank, chosen = (
        ImageCosts(ImageRenderer(model), torch.ones(3)),
        random_poses(5),
        torch.tensor([2, 0, 2, 1, 0]),
    )

    def compared() -> Matches:
        return match_bank(ImageRenderer(model), images, bank, 16, matching, torch.ones(3), 0.01, chosen)

    expected, expected_costs = compared(), costs.at(images, chosen, bank, 16)
    monkeypatch.setattr(pose_search, "IMAGES_PER_CHUNK", 2)
    monkeypatch.setattr(costs_module, "PER_CHUNK", 2)
    torch.testing.assert_close(compared().cost, expected.cost)
    assert (compared().shift is None) == (expected.shift is None)
    if expected.shift is not None:
        torch.testing.assert_close(compared().shift, expected.shift)
    torch.testing.assert_close(costs.at(images, chosen, bank, 16), expected_costs)
