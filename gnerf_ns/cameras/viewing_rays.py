"""Viewing rays as what a network sees of a lens."""

from __future__ import annotations

import math
from typing import List

import torch
from jaxtyping import Float
from torch import Tensor


def pixel_rays(
    intrinsics: Float[Tensor, "*batch 3 3"], height: int, width: int
) -> Float[Tensor, "*batch 3 height width"]:
    """Directions in which pixels look, of length 1, in the camera's frame: x right, y down, z forward.

    Args:
        intrinsics: camera matrices that are given as shares of the image: row 0 of its width, row 1 of its height.
        height: rows of the image.
        width: columns of the image.
    """
    options = {"dtype": intrinsics.dtype, "device": intrinsics.device}
    y = (torch.arange(height, **options) + 0.5) / height
    x = (torch.arange(width, **options) + 0.5) / width
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    points = torch.stack((columns, rows, torch.ones_like(rows))).flatten(1)
    directions = torch.linalg.solve(intrinsics, points.expand(*intrinsics.shape[:-2], -1, -1))
    return torch.nn.functional.normalize(directions, dim=-2).unflatten(-1, (height, width))


def real_harmonics(directions: Float[Tensor, "*batch 3"], degree: int) -> Float[Tensor, "*batch components"]:
    """Real spherical harmonics, orthonormal on the sphere, of all bands up to a degree.

    Component l² + l + m is that of band l and order m, -l ≤ m ≤ l, with the factor (-1)^m of Condon and Shortley:
    band 1 is (-y, z, -x) times √(3/4π). nerfstudio's function ends at degree 4 and leaves that factor out.

    Args:
        directions: vectors of length 1.
        degree: the highest band.
    """
    x, y, z = directions.unbind(-1)
    components: List[Tensor] = [z] * (degree + 1) ** 2
    # sin(θ)^m times cos(mφ) and sin(mφ), and the Legendre polynomial P_m^m without its sin(θ)^m.
    cosine, sine, diagonal = torch.ones_like(x), torch.zeros_like(x), 1.0
    for m in range(degree + 1):
        previous, current = torch.zeros_like(z), torch.full_like(z, diagonal)
        for band in range(m, degree + 1):
            norm = math.sqrt((2 * band + 1) / (4 * math.pi) * math.factorial(band - m) / math.factorial(band + m))
            if m == 0:
                components[band * band + band] = norm * current
            else:
                signed = (-1) ** m * math.sqrt(2) * norm * current
                components[band * band + band + m] = signed * cosine
                components[band * band + band - m] = signed * sine
            previous, current = current, ((2 * band + 1) * z * current - (band + m) * previous) / (band + 1 - m)
        cosine, sine = x * cosine - y * sine, x * sine + y * cosine
        diagonal *= 2 * m + 1
    return torch.stack(components, dim=-1)
