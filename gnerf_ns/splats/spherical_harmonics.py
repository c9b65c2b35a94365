"""Colors that depend on the direction one looks in: real spherical harmonics, in the order and with the signs that
Gaussian splatting has them (Kerbl et al., SIGGRAPH 2023), which are those of files and of gsplat."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

MAX_DEGREE = 3
"""Harmonics of higher degrees are stored by some networks, but the official renderer, files and viewers know none."""


def num_harmonics(degree: int) -> int:
    """Number of harmonics of all degrees up to this one."""
    return (degree + 1) ** 2


def used_degree(num_stored: int) -> int:
    """The highest degree that is rendered, if so many harmonics are stored."""
    return min(math.isqrt(num_stored) - 1, MAX_DEGREE)


def harmonic_basis(directions: Float[Tensor, "*batch 3"], degree: int) -> Float[Tensor, "*batch k"]:
    """The harmonics' values.

    Args:
        directions: of length 1.
        degree: 0 to `MAX_DEGREE`.

    Returns:
        k = (degree + 1)**2 values: by degree l, and within a degree by order m = -l to l. Odd orders have the sign of
        Condon and Shortley, so that the three of degree 1 are -y, z, -x.
    """
    x, y, z = directions.unbind(-1)
    xx, yy, zz, xy = x * x, y * y, z * z, x * y
    values = [torch.full_like(x, math.sqrt(1 / (4 * math.pi)))]
    if degree >= 1:
        first = math.sqrt(3 / (4 * math.pi))
        values += [-first * y, first * z, -first * x]
    if degree >= 2:
        outer, middle = math.sqrt(15 / (16 * math.pi)), math.sqrt(5 / (16 * math.pi))
        values += [
            2 * outer * xy,
            -2 * outer * y * z,
            middle * (3 * zz - 1),
            -2 * outer * x * z,
            outer * (xx - yy),
        ]
    if degree >= 3:
        outer, second = math.sqrt(35 / (32 * math.pi)), math.sqrt(105 / (16 * math.pi))
        first, middle = math.sqrt(21 / (32 * math.pi)), math.sqrt(7 / (16 * math.pi))
        values += [
            -outer * y * (3 * xx - yy),
            2 * second * xy * z,
            -first * y * (5 * zz - 1),
            middle * z * (5 * zz - 3),
            -first * x * (5 * zz - 1),
            second * z * (xx - yy),
            -outer * x * (xx - 3 * yy),
        ]
    return torch.stack(values, dim=-1)


def harmonic_colors(harmonics: Float[Tensor, "n 3 k"], directions: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Colors max(0, 1/2 + sum of all harmonics), as in the official renderer.

    Args:
        harmonics: of each color; those of degrees above `MAX_DEGREE` are ignored.
        directions: from the camera's center to the Gaussians, of length 1.
    """
    degree = used_degree(harmonics.shape[-1])
    used = harmonics[..., : num_harmonics(degree)]
    return (torch.einsum("nck,nk->nc", used, harmonic_basis(directions, degree)) + 0.5).clamp_min(0.0)


def turned_harmonics(
    harmonics: Float[Tensor, "*batch 3 k"], rotation: Float[Tensor, "3 3"]
) -> Float[Tensor, "*batch 3 used"]:
    """The harmonics of a scene that was turned: seen along R d, they have the color that they had along d.

    Args:
        harmonics: before.
        rotation: R.

    Returns:
        As many, but none of degrees above `MAX_DEGREE`, which nothing renders.
    """
    # Harmonics of one degree turn into such of the same degree. How is read off at more directions than there are
    # harmonics, spread over the sphere.
    degree = used_degree(harmonics.shape[-1])
    rotation = rotation.detach().double()
    directions = F.normalize(
        torch.randn(64, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=-1
    ).to(rotation.device)
    before, after = harmonic_basis(directions, degree), harmonic_basis(directions @ rotation.mT, degree)
    turn = torch.linalg.lstsq(after, before).solution.to(harmonics)
    return harmonics[..., : num_harmonics(degree)] @ turn.mT
