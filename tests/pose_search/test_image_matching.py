"""How alike images are, plainly and up to a shift: against sums written out over pixels."""

import math
from typing import Tuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gnerf_ns.pose_search.image_matching import (
    PlainMatching,
    ShiftTolerantMatching,
    pairwise_cost,
    pyramid_features,
)

WHITE = torch.ones(3)


def test_pyramid_distance_is_the_mean_squared_difference_summed_over_three_scales():
    first, second = torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)
    second[0, 1, 3, 5] = 0.8
    # One of 192 values differs by 0.8; one of 48 by 0.8 / 4; one of 12 by 0.8 / 16.
    expected = 0.8**2 / 192 + 0.2**2 / 48 + 0.05**2 / 12
    cost = pairwise_cost(pyramid_features(first), pyramid_features(second))
    assert cost.shape == (1, 1) and math.isclose(float(cost), expected, rel_tol=1e-5)


def test_pairwise_cost_equals_a_double_loop():
    first, second = random_features(5, 7, seed=1), random_features(3, 7, seed=2)
    expected = torch.tensor([[(a - b).square().sum() for b in second] for a in first], dtype=torch.float64)
    torch.testing.assert_close(pairwise_cost(first, second), expected)


def test_pairwise_cost_of_equal_vectors_is_zero_with_zero_gradient():
    features = (1000 * torch.rand(4, 50)).requires_grad_()
    cost = pairwise_cost(features, features.detach())
    assert (cost.diagonal() >= 0).all()
    gradient = torch.autograd.grad(cost.diagonal().sum(), features)[0]
    assert torch.isfinite(gradient).all() and gradient.abs().max() < 1e-2


def test_mixed_precision_leaves_the_cost_exact():
    first, second = 2.0 * torch.rand(6, 10), 2.0 * torch.rand(4, 10)
    exact = pairwise_cost(first, second)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(pairwise_cost(first, second), exact)


def random_features(n: int, m: int, seed: int) -> Tensor:
    return torch.rand(n, m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_images(count: int, size: Tuple[int, int], seed: int) -> Tensor:
    """Random colors in the middle, white around: nothing is cut off by small shifts."""
    height, width = size
    images = torch.ones(count, 3, height, width)
    generator = torch.Generator().manual_seed(seed)
    images[:, :, 4:-4, 4:-4] = torch.rand(count, 3, height - 8, width - 8, generator=generator)
    return images


def shifted(images: Tensor, right: int, down: int) -> Tensor:
    """Moved by whole pixels; white comes in, the rest goes out."""
    height, width = images.shape[-2:]
    padded = F.pad(images, (width, width, height, height), value=1.0)
    return padded[..., height - down : 2 * height - down, width - right : 2 * width - right]


def test_plain_matching_has_no_shift():
    images = random_images(3, (16, 16), seed=0)
    matching = PlainMatching()
    described = matching.describe(images, WHITE)
    matches = matching.compare(described, described, (16, 16), 0.01)
    assert matches.shift is None
    torch.testing.assert_close(matches.cost, pairwise_cost(described, described))


@pytest.mark.parametrize("size", [(16, 16), (12, 20)])
def test_known_shifts_are_found_at_the_cost_of_their_unlikeliness(size: Tuple[int, int]):
    std, temperature = 0.25, 1e-4
    renderings = random_images(4, size, seed=1)
    moves = [(0, 0), (3, -2), (-4, 1), (2, 4)]
    image_set = torch.stack([shifted(image, *move) for image, move in zip(renderings, moves, strict=True)])
    matching = ShiftTolerantMatching(std)
    matches = matching.compare(
        matching.describe(image_set, WHITE), matching.describe(renderings, WHITE), size, temperature
    )
    assert matches.shift is not None
    own = torch.arange(4)
    half_side = min(size) / 2.0
    torch.testing.assert_close(matches.shift[own, own] * half_side, torch.tensor(moves).float())
    unlikeliness = [temperature * 0.5 * (x * x + y * y) / (std * half_side) ** 2 for x, y in moves]
    torch.testing.assert_close(matches.cost[own, own], torch.tensor(unlikeliness), atol=2e-6, rtol=1e-3)
    assert bool((matches.cost.argmin(dim=1) == own).all())


def test_what_a_shift_moves_out_of_the_image_does_not_count():
    """An image whose upper left is cut off still matches the whole, and nothing else does."""
    renderings = random_images(5, (16, 16), seed=2)
    image_set = shifted(renderings[:1], -7, -7)
    assert (image_set < 1.0).any() and float((shifted(image_set, 7, 7) - renderings[:1]).abs().max()) > 0.5
    matching = ShiftTolerantMatching(0.5)
    matches = matching.compare(
        matching.describe(image_set, WHITE), matching.describe(renderings, WHITE), (16, 16), 1e-6
    )
    assert matches.shift is not None
    torch.testing.assert_close(matches.shift[0, 0] * 8.0, torch.tensor([-7.0, -7.0]))
    # Means over squares reach across the border; pixels alone would cost nothing.
    assert matches.cost[0, 0] < 0.2 * matches.cost[0, 1:].min()


def test_pixel_scale_equals_a_loop_over_shifts(monkeypatch: pytest.MonkeyPatch):
    from gnerf_ns.pose_search import image_matching

    monkeypatch.setattr(image_matching, "POOLED", ())
    generator = torch.Generator().manual_seed(3)
    image_set, renderings = torch.rand(2, 3, 8, 8, generator=generator), torch.rand(3, 3, 8, 8, generator=generator)
    std, temperature, reach = 0.2, 0.01, math.ceil(3.0 * 0.2 * 4.0)
    matching = ShiftTolerantMatching(std)
    matches = matching.compare(
        matching.describe(image_set, WHITE), matching.describe(renderings, WHITE), (8, 8), temperature
    )
    for row, image in enumerate(image_set):
        for column, rendering in enumerate(renderings):
            costs = [
                float((image - shifted(rendering, x, y)).square().mean())
                + temperature * 0.5 * (x * x + y * y) / (std * 4.0) ** 2
                for x in range(-reach, reach + 1)
                for y in range(-reach, reach + 1)
            ]
            assert math.isclose(float(matches.cost[row, column]), min(costs), rel_tol=1e-4)


def test_the_cost_is_differentiable_in_both_images():
    matching = ShiftTolerantMatching(0.2)
    white = WHITE.double()
    generator = torch.Generator().manual_seed(4)
    first = torch.rand(2, 3, 8, 8, generator=generator).requires_grad_()
    second = torch.rand(2, 3, 8, 8, generator=generator).requires_grad_()

    def cost() -> Tensor:
        return matching.compare(
            matching.describe(first, white), matching.describe(second, white), (8, 8), 0.01
        ).cost.sum()

    cost().backward()
    for image in (first, second):
        assert image.grad is not None
        with torch.no_grad():
            for place in ((0, 0, 2, 3), (1, 2, 7, 0)):
                kept = float(image[place])
                image[place] = kept + 1e-2
                above = float(cost())
                image[place] = kept - 1e-2
                slope = (above - float(cost())) / 2e-2
                image[place] = kept
                assert math.isclose(slope, float(image.grad[place]), rel_tol=2e-2, abs_tol=2e-5)
