"""What a cone sees of a wave: sines of positions, averaged over Gaussians (Mip-NeRF, arXiv 2103.13415, section 3.1)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from nerfstudio.utils.math import generate_polyhedron_basis
from torch import Tensor, nn
from torch.nn import functional as F


class IntegratedEncoding(nn.Module):
    """Sines and cosines of 2^k p.x for directions p and k = 0, 1, ..., as expected of a Gaussian x.

    E[sin(a)] = sin(mean of a) exp(-variance of a / 2): waves shorter than the Gaussian vanish, which is what makes a
    field free of aliasing (Mip-NeRF eq. 14). Directions are the corners of a polyhedron, one of each opposite pair
    (Mip-NeRF 360, section 5): off-axis ones keep Gaussians apart that differ in shape alone.

    nerfstudio's `NeRFEncoding` scales means by a frequency, but not variances by its square.
    """

    directions: Float[Tensor, "directions 3"]

    def __init__(self, num_frequencies: int, polyhedron: Literal["octahedron", "icosahedron"], subdivisions: int):
        """
        Args:
            num_frequencies: powers of two from 1 on, in radians per unit of length.
            polyhedron: an octahedron's corners are the three axes.
            subdivisions: into how many parts the polyhedron's edges are cut: an icosahedron has 6 directions with 1,
                21 with 2.
        """
        super().__init__()
        self.num_frequencies = num_frequencies
        directions = torch.as_tensor(generate_polyhedron_basis(polyhedron, subdivisions), dtype=torch.float32)
        self.register_buffer("directions", directions, persistent=False)
        self._octave_weights = torch.ones(num_frequencies)

    def get_out_dim(self) -> int:
        """Features of one Gaussian."""
        return 2 * self.num_frequencies * len(self.directions)

    def set_active_frequencies(self, active: float) -> None:
        """Let the first ones through, smoothly (BARF, ICCV 2021, eq. 14).

        Args:
            active: how many, in [0, num_frequencies]; a fractional part fades the next one in.
        """
        progress = (active - torch.arange(self.num_frequencies)).clamp(0.0, 1.0)
        self._octave_weights = 0.5 * (1.0 - torch.cos(math.pi * progress))

    def forward(
        self, means: Float[Tensor, "*batch 3"], covariances: Float[Tensor, "*batch 3 3"]
    ) -> Float[Tensor, "*batch features"]:
        """Encode Gaussians.

        Returns:
            Frequency by frequency, the sines of all directions and then their cosines; 0 for what is not active.
        """
        # What is silent is not computed: coarse to fine, that is most of it.
        weights = self._octave_weights[self._octave_weights > 0].to(means)
        scales = 2.0 ** torch.arange(len(weights)).to(means)
        directions = self.directions.to(means)
        angles = scales[:, None] * (means @ directions.T)[..., None, :]
        # p^T covariance p, as one matrix product.
        squares = (directions[:, :, None] * directions[:, None, :]).flatten(1)
        variances = scales.square()[:, None] * (covariances.flatten(-2) @ squares.T)[..., None, :]
        heights = weights[:, None] * torch.exp(-0.5 * variances)
        features = torch.cat([heights * torch.sin(angles), heights * torch.cos(angles)], dim=-1).flatten(-2)
        return F.pad(features, (0, self.get_out_dim() - features.shape[-1]))
