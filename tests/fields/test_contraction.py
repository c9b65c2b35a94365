"""Contraction: nerfstudio's values, exact gradients, none of them NaN."""

from typing import Any, Tuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nerfstudio.field_components.spatial_distortions import SceneContraction
from nerfstudio.utils.math import Gaussians

from gnerf_ns.fields.contraction import UnitBallContraction, contract_gaussians

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


points = st.lists(st.floats(-1e4, 1e4), min_size=3, max_size=3).map(lambda point: torch.tensor(point).double())


@given(points)
def test_directions_are_kept_and_all_space_is_within_2(position: torch.Tensor):
    contracted = contract(position)
    cosine = torch.nn.functional.cosine_similarity(position, contracted, dim=0)
    assert float(position.norm()) < 1e-9 or float(cosine) == pytest.approx(1.0, abs=1e-9)
    assert float(contracted.norm()) < 2.0


@given(points)
def test_it_can_be_undone(position: torch.Tensor):
    contracted = contract(position)
    length = contracted.norm()
    undone = contracted if length <= 1 else contracted / length / (2.0 - length)
    torch.testing.assert_close(undone, position, rtol=1e-6, atol=1e-9)


@given(points.filter(lambda point: bool(point.norm() > 1e-3)), st.floats(1e-12, 1e-6))
def test_nothing_jumps_on_the_sphere(position: torch.Tensor, distance: float):
    inside, outside = (position / position.norm() * (1.0 + sign * distance) for sign in (-1, 1))
    covariance = 0.01 * torch.eye(3).double()
    for within, beyond in zip(
        contract_gaussians(inside, covariance), contract_gaussians(outside, covariance), strict=True
    ):
        assert float((within - beyond).abs().max()) < 10 * distance


def some_gaussians(count: int) -> Tuple[torch.Tensor, torch.Tensor]:
    """In the ball, on the sphere, at the origin, and far away."""
    torch.manual_seed(0)
    means = torch.randn(count, 3).double() * torch.logspace(-2, 3, count).double()[:, None]
    means[0], means[1] = 0.0, torch.nn.functional.normalize(means[1], dim=0)
    roots = torch.randn(count, 3, 3).double()
    return means, roots @ roots.mT


def test_gaussians_go_by_the_jacobian_of_points():
    means, covariances = some_gaussians(40)
    moved, spread = contract_gaussians(means, covariances)
    for mean, covariance, where, found in zip(means, covariances, moved, spread, strict=True):
        jacobian: Any = torch.autograd.functional.jacobian(contract, mean)
        torch.testing.assert_close(where, contract(mean))
        torch.testing.assert_close(found, jacobian @ covariance @ jacobian.T)
    blobs = SceneContraction()(Gaussians(mean=means[2:], cov=covariances[2:]))  # nerfstudio's is NaN at the origin
    torch.testing.assert_close(moved[2:], blobs.mean)
    torch.testing.assert_close(spread[2:], blobs.cov)


def test_small_gaussians_are_what_their_points_become():
    torch.manual_seed(0)
    mean, root = torch.tensor([1.5, -2.0, 0.5]).double(), 0.02 * torch.randn(3, 3).double()
    moved, spread = contract_gaussians(mean, root @ root.T)
    drawn = contract(mean + torch.randn(400_000, 3).double() @ root.T)
    torch.testing.assert_close(drawn.mean(dim=0), moved, rtol=0, atol=1e-3)
    torch.testing.assert_close(drawn.T.cov(), spread, rtol=0.03, atol=1e-6)


def test_gradients_of_gaussians():
    means, covariances = some_gaussians(12)
    means = means[2:]  # on the sphere, finite differences see both sides
    assert torch.autograd.gradcheck(contract_gaussians, (means.requires_grad_(), covariances[2:].requires_grad_()))


@pytest.mark.parametrize("length", [0.0, 1.0, 1e6])
def test_gradients_of_gaussians_are_finite_everywhere(length: float):
    mean = torch.tensor([0.6, 0.0, 0.8]) * length
    covariance = torch.eye(3) * max(1e-4, 0.1 * length) ** 2
    mean.requires_grad_()
    moved, spread = contract_gaussians(mean, covariance)
    (moved.sum() + spread.sum()).backward()
    assert mean.grad is not None and mean.grad.isfinite().all() and spread.isfinite().all()
