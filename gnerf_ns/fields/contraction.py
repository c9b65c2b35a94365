"""Unbounded space brought into a ball of radius 2 (Mip-NeRF 360, arXiv 2111.12077, eq. 10)."""

from __future__ import annotations

from jaxtyping import Float
from nerfstudio.field_components.spatial_distortions import SpatialDistortion
from torch import Tensor


class UnitBallContraction(SpatialDistortion):
    """x inside the unit ball; (2 - 1/|x|) x/|x| beyond it.

    nerfstudio's `SceneContraction` is the same, but its gradient at the origin is NaN.
    """

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, positions: Float[Tensor, "*batch 3"]
    ) -> Float[Tensor, "*batch 3"]:
        """Contracted positions, in the ball of radius 2; differentiable everywhere."""
        # Within the unit ball the length counts as 1: the factor is then 1 exactly, and has no gradient.
        squared = positions.square().sum(dim=-1, keepdim=True).clamp_min(1.0)
        length = squared.sqrt()
        return positions * ((2.0 * length - 1.0) / squared)
