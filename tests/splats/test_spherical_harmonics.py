"""Harmonics against gsplat's, and against what makes them harmonics."""

import pytest
import roma
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gnerf_ns.splats.spherical_harmonics import (
    harmonic_basis,
    harmonic_colors,
    num_harmonics,
    turned_harmonics,
    used_degree,
)


def directions(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, 3, generator=generator, dtype=torch.float64), dim=-1)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_equal_gsplats(degree: int) -> None:
    torch_impl = pytest.importorskip("gsplat.cuda._torch_impl")
    harmonics = torch.randn(50, 3, 25, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    harmonics = harmonics[..., : num_harmonics(degree)]
    expected = torch_impl._spherical_harmonics(degree, directions(50), harmonics.mT)
    torch.testing.assert_close(harmonic_colors(harmonics, directions(50)), (expected + 0.5).clamp_min(0.0))


def test_first_ones_by_hand() -> None:
    axes = torch.eye(3, dtype=torch.float64)
    basis = harmonic_basis(axes, 3)
    torch.testing.assert_close(basis[:, 0], torch.full((3,), 0.28209479177387814, dtype=torch.float64))
    first = 0.4886025119029199 * torch.tensor([[0, 0, -1], [-1, 0, 0], [0, 1, 0]], dtype=torch.float64)
    torch.testing.assert_close(basis[:, 1:4], first)


def test_orthonormal_on_the_sphere() -> None:
    """Exactly, by quadrature: Gauss-Legendre along z, evenly spaced around it."""
    from numpy.polynomial.legendre import leggauss

    z, weights = (torch.from_numpy(value) for value in leggauss(8))
    around = 2 * torch.pi * torch.arange(16, dtype=torch.float64) / 16
    radius = (1 - z**2).sqrt()[:, None]
    points = torch.stack([radius * around.cos(), radius * around.sin(), z[:, None].expand(8, 16)], dim=-1)
    basis = harmonic_basis(points, 3)
    products = torch.einsum("z,zai,zaj->ij", weights, basis, basis) * 2 * torch.pi / 16
    torch.testing.assert_close(products, torch.eye(16, dtype=torch.float64))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(-4, 4), min_size=3, max_size=3), st.sampled_from([1, 4, 9, 16, 25]))
def test_turned_ones_have_the_colors_along_turned_directions(rotation_vector: list, count: int) -> None:
    rotation = roma.rotvec_to_rotmat(torch.tensor(rotation_vector, dtype=torch.float64))
    harmonics = torch.randn(20, 3, count, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    turned = turned_harmonics(harmonics, rotation)
    assert turned.shape == (20, 3, num_harmonics(used_degree(count)))
    before = harmonic_colors(harmonics, directions(20))
    torch.testing.assert_close(harmonic_colors(turned, directions(20) @ rotation.mT), before)


def test_no_gradient_through_colors_below_zero() -> None:
    harmonics = torch.tensor([[[-5.0], [0.1], [5.0]]], requires_grad=True)
    colors = harmonic_colors(harmonics, torch.tensor([[0.0, 0.0, 1.0]]))
    colors.sum().backward()
    assert harmonics.grad is not None
    assert colors[0, 0] == 0 and harmonics.grad.flatten().ne(0).tolist() == [False, True, True]
