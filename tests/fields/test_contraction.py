"""Contraction: nerfstudio's values, exact gradients, none of them NaN."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from nerfstudio.field_components.spatial_distortions import SceneContraction

from gnerf_ns.fields.contraction import UnitBallContraction

contract = UnitBallContraction()


@given(st.lists(st.floats(-1e4, 1e4), min_size=3, max_size=3))
def test_as_nerfstudio_and_the_paper_have_it(position: list):
    positions = torch.tensor([position], dtype=torch.float64)
    torch.testing.assert_close(contract(positions), SceneContraction()(positions))
    assert float(contract(positions).norm()) <= 2.0


def test_golden_values():
    positions = torch.tensor([[0.5, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, -100.0]])
    expected = torch.tensor([[0.5, 0.0, 0.0], [0.0, 1.5, 0.0], [0.0, 0.0, -1.99]])
    torch.testing.assert_close(contract(positions), expected)


def test_gradients():
    torch.manual_seed(0)
    positions = (3.0 * torch.randn(20, 3, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(contract, (positions,))
    origin = torch.zeros(1, 3, requires_grad=True)
    contract(origin).sum().backward()
    assert origin.grad is not None and torch.equal(origin.grad, torch.ones(1, 3))
