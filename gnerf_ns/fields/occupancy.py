"""Where there may be matter: a grid that follows the field, so that empty space is not sampled."""

from __future__ import annotations

from typing import Callable, Tuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from gnerf_ns.utils.compiled_kernels import run_kernel

KERNELS = "gnerf_ns.fields.occupancy_kernels"
"""The module of the compiled code."""

CELLS = 64
"""Cells per side of the cube from -1 to 1."""
LEAST_OPACITY = 0.01
"""A cell that takes less of the light that passes through it is empty."""
DECAY = 0.8
"""What is remembered of a cell's density from one update to the next: each looks at one point of a cell only."""
STEPS_PER_CELL = 2.0
"""How often a ray is looked at in a cell."""


class OccupancyGrid(nn.Module):
    """Which cells of the unit ball are not empty (Instant NGP, appendix C), and the cells around them.

    Attributes:
        densities: of each cell (per scene unit), the highest seen of late.
        occupied: one bool per cell; at first, all may be.
    """

    densities: Tensor
    occupied: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("densities", torch.zeros(CELLS, CELLS, CELLS))
        self.register_buffer("occupied", torch.ones(CELLS, CELLS, CELLS, dtype=torch.bool))
        centers = (torch.arange(CELLS) + 0.5) / CELLS * 2.0 - 1.0
        grid = torch.stack(torch.meshgrid(centers, centers, centers, indexing="ij"), dim=-1)
        self._in_ball = (grid.norm(dim=-1) < 1.0 + 2.0 / CELLS).nonzero(as_tuple=True)
        self._centers = grid[self._in_ball]

    def forget(self) -> None:
        """From now on, all may be occupied."""
        self.densities.zero_()
        self.occupied.fill_(True)

    @torch.no_grad()
    def update(self, density: Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n 1"]], seed: int) -> None:
        """Look at each cell once more.

        Args:
            density: of the field (per scene unit) at positions.
            seed: of the random points of the cells that are looked at.
        """
        generator = torch.Generator().manual_seed(seed)
        jitter = (torch.rand(self._centers.shape, generator=generator) * 2.0 - 1.0) / CELLS
        seen = density(self._centers + jitter).view(-1)
        self.densities[self._in_ball] = torch.maximum(DECAY * self.densities[self._in_ball], seen)
        opacities = 1.0 - torch.exp(-self.densities * (2.0 / CELLS))
        dilated = F.max_pool3d((opacities > LEAST_OPACITY).float()[None, None], 3, stride=1, padding=1)
        self.occupied.copy_(dilated[0, 0] > 0)

    @torch.no_grad()
    def narrow(
        self,
        origins: Float[Tensor, "rays 3"],
        directions: Float[Tensor, "rays 3"],
        nears: Float[Tensor, "rays 1"],
        fars: Float[Tensor, "rays 1"],
    ) -> Tuple[Float[Tensor, "rays 1"], Float[Tensor, "rays 1"]]:
        """Distances between which occupied cells lie; the near plane twice, where there is none on the way.

        Args:
            origins: of the rays.
            directions: likewise, of length 1.
            nears: where they enter the ball.
            fars: where they leave it.
        """
        first, last = torch.empty_like(nears), torch.empty_like(fars)
        step = 2.0 / CELLS / STEPS_PER_CELL
        rays = [value.detach().contiguous() for value in (origins, directions, nears[:, 0], fars[:, 0])]
        run_kernel(KERNELS, "narrow", *rays, self.occupied, step, first[:, 0], last[:, 0])
        return first, last
