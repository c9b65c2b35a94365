"""The compiled MLP against the formula, with all gradients, and against nerfstudio's."""

from typing import List, Tuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nerfstudio.field_components.mlp import MLP
from torch import Tensor, nn

from gnerf_ns.fields.compiled_mlp import TwoLayers


def layers(features: int, hidden: int, outputs: int, groups: int, dtype: torch.dtype, seed: int = 0) -> TwoLayers:
    generator = torch.Generator().manual_seed(seed)
    shapes = (hidden, features), (groups, hidden), (outputs, hidden), (outputs,)
    return TwoLayers(
        *(torch.randn(shape, generator=generator, dtype=dtype).mul(0.5).requires_grad_() for shape in shapes)
    )


def formula(mlp: TwoLayers, features: Tensor) -> Tensor:
    per_group = features.shape[1] // len(mlp.biases)
    hidden = torch.relu(mlp.weights @ features + mlp.biases.repeat_interleave(per_group, dim=0).T)
    return mlp.last_weights @ hidden + mlp.last_biases[:, None]


def outcome(outputs: Tensor, weights: Tensor, inputs: List[Tensor]) -> Tuple[Tensor, ...]:
    return outputs.detach(), *torch.autograd.grad((outputs * weights).sum(), inputs)


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 2**31),
    st.sampled_from([(16, 32, 16), (15, 32, 3), (8, 16, 1), (3, 5, 2), (1, 1, 1)]),
    # Groups that end within blocks and tasks, or are longer than either; one; and one of each sample.
    st.sampled_from([(1, 1), (1, 700), (1, 5000), (9, 20), (130, 24), (3, 999), (2, 2500), (300, 1)]),
)
def test_it_is_the_formula_with_all_gradients(seed: int, sizes: Tuple[int, int, int], groups: Tuple[int, int]) -> None:
    count, per_group = groups
    mlp = layers(*sizes, count, torch.float64, seed)
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(sizes[0], count * per_group, generator=generator, dtype=torch.float64).requires_grad_()
    weights = torch.randn(sizes[2], count * per_group, generator=generator, dtype=torch.float64)
    inputs = [features, *mlp]
    found = outcome(mlp(features), weights, inputs)
    for mine, expected in zip(found, outcome(formula(mlp, features), weights, inputs), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-9)


def test_gradients_in_double_precision() -> None:
    mlp = layers(5, 6, 2, 3, torch.float64)
    features = torch.randn(5, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda *values: TwoLayers(*values[1:])(values[0]), (features, *mlp))


def test_single_precision_is_as_good_as_torchs() -> None:
    mlp = layers(16, 32, 16, 1, torch.float32)
    features = torch.randn(16, 4000, generator=torch.Generator().manual_seed(1))
    exact = formula(TwoLayers(*(value.double() for value in mlp)), features.double())
    torch.testing.assert_close(mlp(features), exact.float(), rtol=0, atol=2e-5)


def test_it_does_not_depend_on_the_number_of_threads() -> None:
    mlp = layers(16, 32, 16, 1, torch.float32)
    features = torch.randn(16, 9000, generator=torch.Generator().manual_seed(1)).requires_grad_()
    weights, threads = torch.ones(16, 9000), torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(outcome(mlp(features), weights, [features, mlp.weights, mlp.biases]))
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_it_is_nerfstudios_mlp() -> None:
    torch.manual_seed(0)
    mlp = MLP(in_dim=7, num_layers=2, layer_width=12, out_dim=3, activation=nn.ReLU(), implementation="torch")
    compiled = TwoLayers.of(mlp)
    assert compiled is not None
    samples = torch.randn(50, 7)
    torch.testing.assert_close(compiled(samples.mT).mT, mlp(samples), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "device"),
    [
        ({"num_layers": 3}, "cpu"),
        ({"activation": nn.SiLU()}, "cpu"),
        ({}, "meta"),
    ],
)
def test_of_others_it_is_none(options: dict, device: str) -> None:
    kind = {"num_layers": 2, "activation": nn.ReLU(), **options}
    assert TwoLayers.of(MLP(in_dim=7, layer_width=12, out_dim=3, implementation="torch", **kind).to(device)) is None
