from typing import Any, Dict

import pytest
import torch
from nerfstudio.field_components.encodings import HashEncoding
from torch import Tensor

from gnerf_ns.fields.hash_encoding import CoarseToFineHashEncoding

LEVELS, FEATURES, TABLE = 6, 2, 2**10
SIZES: Dict[str, Any] = {
    "num_levels": LEVELS,
    "min_res": 4,
    "max_res": 64,
    "log2_hashmap_size": 10,
    "features_per_level": FEATURES,
    "implementation": "torch",
}


@pytest.fixture
def encoding() -> CoarseToFineHashEncoding:
    torch.manual_seed(0)
    return CoarseToFineHashEncoding(**SIZES)


@pytest.fixture
def stock(encoding: CoarseToFineHashEncoding) -> HashEncoding:
    stock = HashEncoding(**SIZES)
    stock.load_state_dict(encoding.state_dict())
    return stock


def positions(*shape: int) -> Tensor:
    return torch.rand(*shape, 3, generator=torch.Generator().manual_seed(1))


def assert_same_features(features: Tensor, expected: Tensor) -> None:
    """But for rounding: they are at most `hash_init_scale`, 1e-3."""
    torch.testing.assert_close(features, expected, rtol=2e-6, atol=5e-10)


@pytest.mark.parametrize("active_levels", [None, LEVELS, float(LEVELS)])
@pytest.mark.parametrize("shape", [(50,), (4, 5)])
def test_all_levels_on_equals_the_stock_encoding(encoding, stock, active_levels, shape):
    if active_levels is not None:
        encoding.set_active_levels(active_levels)
    points = positions(*shape)
    assert_same_features(encoding(points), stock(points))
    weights = torch.randn(*shape, LEVELS * FEATURES)
    gradients = [torch.autograd.grad((e(points) * weights).sum(), e.hash_table)[0] for e in (encoding, stock)]
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("active_levels", [1, 3, 5])
def test_active_levels_are_the_stock_ones_and_the_others_are_zero(encoding, stock, active_levels):
    encoding.set_active_levels(active_levels)
    features, full = encoding(positions(50)), stock(positions(50))
    assert features.shape == full.shape
    assert_same_features(features[:, : active_levels * FEATURES], full[:, : active_levels * FEATURES])
    assert (features[:, active_levels * FEATURES :] == 0).all()


@pytest.mark.parametrize(("active_levels", "evaluated"), [(1, 1), (3, 3), (3.01, 4), (6, 6)])
def test_inactive_levels_are_not_evaluated_and_get_no_gradient(encoding, active_levels, evaluated):
    encoding.set_active_levels(active_levels)
    assert len(encoding.scalings) == len(encoding.hash_offset) == evaluated
    (gradient,) = torch.autograd.grad(encoding(positions(50)).sum(), encoding.hash_table)
    touched = gradient.view(LEVELS, TABLE, FEATURES).abs().amax(dim=(1, 2)) > 0
    assert touched.tolist() == [True] * evaluated + [False] * (LEVELS - evaluated)


def test_levels_can_be_switched_on_again_after_switching_off(encoding, stock):
    for active_levels in (6, 1, 2.5, 6):
        encoding.set_active_levels(active_levels)
    assert_same_features(encoding(positions(50)), stock(positions(50)))


def test_a_level_fades_in_along_a_half_cosine(encoding, stock):
    full = stock(positions(50))[:, 2 * FEATURES : 3 * FEATURES]
    for fraction, weight in ((0.0, 0.0), (0.25, 0.1464466), (0.5, 0.5), (0.75, 0.8535534), (1.0, 1.0)):
        encoding.set_active_levels(2 + fraction)
        assert_same_features(encoding(positions(50))[:, 2 * FEATURES : 3 * FEATURES], weight * full)


def test_features_are_smooth_in_the_number_of_levels(encoding):
    """Neither value nor slope jumps, at whole numbers in particular, where levels join in."""

    def features(active_levels: float) -> Tensor:
        encoding.set_active_levels(active_levels)
        return encoding(positions(20)).detach() / encoding.hash_init_scale

    steps = torch.arange(1.0, LEVELS, 0.01).tolist()
    values = torch.stack([features(step) for step in steps])
    slopes = values.diff(dim=0) / 0.01
    assert slopes.abs().max() < 2.0  # pi / 2 at most, the features being below 1
    assert slopes.diff(dim=0).abs().max() < 0.1  # pi^2 / 2 times the step, at most


def test_the_table_is_saved_whole_whatever_is_active(encoding, stock):
    encoding.set_active_levels(2)
    assert encoding.state_dict().keys() == stock.state_dict().keys()
    assert encoding.hash_table.shape == (LEVELS * TABLE, FEATURES)
    assert encoding.get_out_dim() == LEVELS * FEATURES
