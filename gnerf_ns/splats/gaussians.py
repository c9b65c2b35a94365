"""3D Gaussians, as networks predict them and rasterizers render them."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Gaussians:
    """3D Gaussians with view-dependent colors."""

    means: Float[Tensor, "*batch n 3"]
    """Centers, in scene units."""
    scales: Float[Tensor, "*batch n 3"]
    """Standard deviations along their own axes, in scene units."""
    quaternions: Float[Tensor, "*batch n 4"]
    """Rotations of their axes, (w, x, y, z), of length 1."""
    opacities: Float[Tensor, "*batch n"]
    """Between 0 and 1."""
    harmonics: Float[Tensor, "*batch n 3 k"]
    """Spherical harmonics of each color, k = (degree + 1)**2."""
