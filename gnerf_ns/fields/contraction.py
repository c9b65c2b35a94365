"""Unbounded space brought into a ball of radius 2, points and Gaussians (Mip-NeRF 360, arXiv 2111.12077, eq. 10)."""

from __future__ import annotations

from typing import Tuple

import torch
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


def contract_gaussians(
    means: Float[Tensor, "*batch 3"], covariances: Float[Tensor, "*batch 3 3"]
) -> Tuple[Float[Tensor, "*batch 3"], Float[Tensor, "*batch 3 3"]]:
    """Gaussians as the contraction carries them over to first order: f(mean) and J covariance J^T (eq. 9).

    Beyond the unit ball, with r = |x| and the unit vector u = x/r, the Jacobian is J = (2r - 1)/r^2 (I - u u^T) +
    1/r^2 u u^T: the derivative across x and the one along it. Within the ball it is the identity. On the sphere both
    are the identity, too.

    Args:
        means: centers.
        covariances: symmetric.

    Returns:
        Means in the ball of radius 2, and covariances; differentiable everywhere.
    """
    squared = means.square().sum(dim=-1, keepdim=True).clamp_min(1.0)
    length = squared.sqrt()
    across = (2.0 * length - 1.0) / squared
    # Within the ball both are 1, so that it does not matter that x/1 is not of length 1 there.
    less_along = 1.0 / squared - across
    unit = means / length
    jacobians = (
        across[..., None] * torch.eye(3).to(means) + less_along[..., None] * unit[..., None] * unit[..., None, :]
    )
    return means * across, jacobians @ covariances @ jacobians.mT
