"""From what the network puts out for each pixel to 3D Gaussians."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from gnerf_ns.splats.gaussians import Gaussians

SCALE_UNIT, MAX_SCALE = 0.001, 0.3
"""Scales are softplus times the one, at most the other, in scene units: absolute, not relative to the depth."""

BAND_WEIGHT, WEIGHT_PER_BAND = 0.1, 0.25
"""Spherical harmonics of band l > 0 are multiplied by the one and l times by the other: colors begin almost
independent of the direction."""

EPSILON = 1e-8
"""Keeps lengths off zero."""


def parameters_per_gaussian(degree: int) -> int:
    """Channels that a Gaussian has besides its center: opacity, 3 scales, 4 of a quaternion, harmonics of 3 colors."""
    return 1 + 3 + 4 + 3 * (degree + 1) ** 2


def centers(vectors: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """Each vector in its direction, at a distance that grows exponentially with its length (exp(length) - 1)."""
    lengths = vectors.norm(dim=-1, keepdim=True)
    return vectors / lengths.clamp_min(EPSILON) * torch.expm1(lengths)


def gaussians_of_pixels(
    vectors: Float[Tensor, "batch views 3 height width"],
    parameters: Float[Tensor, "batch views channels height width"],
) -> Gaussians:
    """One Gaussian for each pixel, in the first view's frame.

    Args:
        vectors: those that centers are computed from.
        parameters: opacity, scales, quaternion (x, y, z, w) and harmonics, color by color, before their activations.

    Returns:
        Gaussians in the order views, rows, columns: ``means.unflatten(1, (views, height, width))`` is by pixel.
    """
    vectors, parameters = (maps.permute(0, 1, 3, 4, 2).flatten(1, 3) for maps in (vectors, parameters))
    opacities, scales, quaternions, harmonics = parameters.split((1, 3, 4, parameters.shape[-1] - 8), dim=-1)
    harmonics = harmonics.unflatten(-1, (3, -1))
    return Gaussians(
        means=centers(vectors),
        scales=(SCALE_UNIT * F.softplus(scales)).clamp_max(MAX_SCALE),
        quaternions=(quaternions / (quaternions.norm(dim=-1, keepdim=True) + EPSILON)).roll(1, dims=-1),
        opacities=opacities.squeeze(-1).sigmoid(),
        harmonics=harmonics * harmonic_weights(harmonics),
    )


def harmonic_weights(harmonics: Float[Tensor, "*batch k"]) -> Float[Tensor, "k"]:
    """What each component of spherical harmonics is multiplied by, a weight for each band."""
    bands = torch.arange(harmonics.shape[-1], dtype=harmonics.dtype, device=harmonics.device).sqrt().floor()
    return torch.where(bands == 0, 1.0, BAND_WEIGHT * WEIGHT_PER_BAND**bands)
