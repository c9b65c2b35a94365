"""Waves averaged over Gaussians: against samples, and where nerfstudio's own encoding is wrong."""

import math
from typing import Tuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gnerf_ns.fields.integrated_encoding import IntegratedEncoding


def gaussian() -> Tuple[torch.Tensor, torch.Tensor]:
    """One that is longer than wide, and the root of its covariance."""
    torch.manual_seed(1)
    return torch.tensor([0.3, -0.8, 0.5]).double(), torch.randn(3, 3).double() * torch.tensor([0.3, 0.1, 0.05])


@pytest.mark.parametrize(("polyhedron", "subdivisions", "count"), [("octahedron", 1, 3), ("icosahedron", 1, 6)])
def test_features_are_what_samples_average_to(polyhedron, subdivisions, count):
    encoding = IntegratedEncoding(4, polyhedron, subdivisions)
    mean, root = gaussian()
    drawn = mean + torch.randn(400_000, 3).double() @ root.T
    angles = 2.0 ** torch.arange(4)[:, None] * (drawn @ encoding.directions.double().T)[:, None]
    expected = torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1).mean(dim=0).flatten()
    assert len(expected) == encoding.get_out_dim() == 4 * 2 * count
    torch.testing.assert_close(encoding(mean, root @ root.T), expected, rtol=0, atol=4e-3)


def test_published_directions():
    directions = IntegratedEncoding(12, "icosahedron", 2).directions
    assert directions.shape == (21, 3)
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(21))
    cosines = directions @ directions.T - torch.eye(21)
    assert cosines.abs().max() < 0.95, "no two are the same, nor opposite"
    # Evenly spread: what is summed over them is the same from everywhere.
    torch.testing.assert_close(directions.T @ directions, 7.0 * torch.eye(3), rtol=0, atol=0.5)


def test_variances_grow_by_the_square_of_a_frequency():
    """nerfstudio's `NeRFEncoding` scales them by the frequency itself."""
    encoding = IntegratedEncoding(2, "octahedron", 1)
    _, second = encoding(torch.zeros(3), 0.1 * torch.eye(3)).view(2, 6)
    torch.testing.assert_close(second[3:], torch.full((3,), math.exp(-0.5 * 0.1 * 4)))


def test_a_point_is_encoded_as_itself():
    encoding = IntegratedEncoding(12, "octahedron", 1)
    first = encoding(torch.tensor([0.3, 0.0, 0.0]), torch.zeros(3, 3)).view(12, 6)
    index = int(encoding.directions[:, 0].abs().argmax())
    sign = float(encoding.directions[index, 0])
    expected = [math.sin(sign * 0.3 * 2**k) for k in range(12)]
    torch.testing.assert_close(first[:, index], torch.tensor(expected), rtol=0, atol=1e-4)


@given(st.floats(0.0, 12.0), st.integers(0, 11))
def test_frequencies_fade_in_one_after_the_other(active: float, frequency: int):
    """BARF's eq. 14."""
    encoding = IntegratedEncoding(12, "octahedron", 1)
    point = torch.tensor([0.3, -0.8, 0.5]), torch.zeros(3, 3)
    whole = encoding(*point).view(12, 6)[frequency]
    encoding.set_active_frequencies(active)
    weight = 0.0
    if active - frequency >= 1:
        weight = 1.0
    elif active > frequency:
        weight = (1.0 - math.cos((active - frequency) * math.pi)) / 2.0
    torch.testing.assert_close(encoding(*point).view(12, 6)[frequency], weight * whole, rtol=0, atol=1e-6)


def test_gradients():
    encoding = IntegratedEncoding(3, "icosahedron", 1)
    mean, root = gaussian()
    covariances = torch.stack([root @ root.T, torch.zeros(3, 3).double()])
    means = torch.stack([mean, 0 * mean])
    assert torch.autograd.gradcheck(encoding, (means.requires_grad_(), covariances.requires_grad_()))
