import math

import pytest
import torch

from gnerf_ns.noposplat.gaussian_parameters import (
    centers,
    gaussians_of_pixels,
    harmonic_weights,
    parameters_per_gaussian,
)


def test_official_sizes() -> None:
    assert parameters_per_gaussian(4) == 83
    assert parameters_per_gaussian(0) == 11


def test_centers_grow_exponentially() -> None:
    vectors = torch.tensor([[3.0, 0.0, 4.0], [0.0, -0.001, 0.0]], dtype=torch.float64)
    expected = [[0.6 * math.expm1(5), 0.0, 0.8 * math.expm1(5)], [0.0, -math.expm1(0.001), 0.0]]
    torch.testing.assert_close(centers(vectors), torch.tensor(expected, dtype=torch.float64))


def test_each_channel_becomes_what_it_is() -> None:
    torch.manual_seed(0)
    vectors, parameters = torch.randn(2, 3, 3, 4, 5), 3 * torch.randn(2, 3, 83, 4, 5)
    gaussians = gaussians_of_pixels(vectors, parameters)
    for batch, view, row, column in ((0, 0, 0, 0), (1, 2, 3, 1), (0, 1, 2, 4)):
        n = (view * 4 + row) * 5 + column
        channels = parameters[batch, view, :, row, column]
        torch.testing.assert_close(gaussians.means[batch, n], centers(vectors[batch, view, :, row, column]))
        torch.testing.assert_close(gaussians.opacities[batch, n], 1 / (1 + (-channels[0]).exp()))
        torch.testing.assert_close(gaussians.scales[batch, n], 0.001 * (1 + channels[1:4].exp()).log())
        x, y, z, w = (channels[4:8] / channels[4:8].norm()).tolist()
        torch.testing.assert_close(gaussians.quaternions[batch, n], torch.tensor([w, x, y, z]))
        for color in range(3):
            for band in range(5):
                weight = 0.1 * 0.25**band if band else 1.0
                mine = slice(band * band, (band + 1) ** 2)
                theirs = channels[8 + 25 * color : 8 + 25 * (color + 1)][mine]
                torch.testing.assert_close(gaussians.harmonics[batch, n, color, mine], weight * theirs)


def test_scales_end() -> None:
    parameters = torch.full((1, 2, 11, 1, 1), 1e4)
    assert gaussians_of_pixels(torch.zeros(1, 2, 3, 1, 1), parameters).scales.max() == torch.tensor(0.3)


def test_nothing_is_infinite_at_zero() -> None:
    vectors = torch.zeros(1, 2, 3, 1, 1, requires_grad=True)
    parameters = torch.zeros(1, 2, 83, 1, 1, requires_grad=True)
    values = vars(gaussians_of_pixels(vectors, parameters))
    torch.stack([value.sum() for value in values.values()]).sum().backward()
    for value in (*values.values(), vectors.grad, parameters.grad):
        assert value is not None and value.isfinite().all()
    assert not values["means"].any() and not values["quaternions"].any()


@pytest.mark.parametrize("degree", [0, 4])
def test_gradients(degree: int) -> None:
    torch.manual_seed(0)
    vectors = torch.randn(1, 2, 3, 2, 1, dtype=torch.float64, requires_grad=True)
    channels = parameters_per_gaussian(degree)
    parameters = torch.randn(1, 2, channels, 2, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *inputs: tuple(vars(gaussians_of_pixels(*inputs)).values()), (vectors, parameters)
    )


def test_weights_of_bands() -> None:
    weights = harmonic_weights(torch.zeros(25, dtype=torch.float64)).tolist()
    expected = [1.0] + [0.025] * 3 + [0.1 / 16] * 5 + [0.1 / 64] * 7 + [0.1 / 256] * 9
    assert weights == pytest.approx(expected)
