"""The occupancy grid: what it knows of a field, and where rays meet it, against looking everywhere."""

from typing import Tuple

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from gnerf_ns.fields.occupancy import CELLS, OccupancyGrid

BALL = 0.3
"""Radius of the only matter there is."""


def ball(positions: Tensor) -> Tensor:
    return 50.0 * (positions.norm(dim=-1, keepdim=True) < BALL).float()


def rays_through(seed: int, count: int = 200) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    """Origins, directions, and where they enter and leave the unit ball."""
    generator = torch.Generator().manual_seed(seed)
    entry, way_out = (F.normalize(torch.randn(count, 3, generator=generator), dim=-1) for _ in range(2))
    directions = F.normalize(way_out - entry, dim=-1)
    origins = entry - 2.0 * directions
    near = torch.full((count, 1), 2.0)
    return origins, directions, near, near + (way_out - entry).norm(dim=-1, keepdim=True)


def test_at_first_all_may_be_occupied():
    grid, rays = OccupancyGrid(), rays_through(0)
    first, last = grid.narrow(*rays)
    torch.testing.assert_close(first, rays[2], rtol=0, atol=1e-6)
    torch.testing.assert_close(last, rays[3], rtol=0, atol=2.0 / CELLS)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31))
def test_rays_begin_and_end_around_what_they_meet(seed: int):
    grid = OccupancyGrid()
    grid.update(ball, seed=1)
    origins, directions, nears, fars = rays_through(seed)
    first, last = grid.narrow(origins, directions, nears, fars)
    distances = nears + (fars - nears) * torch.linspace(0.0, 1.0, 400)
    matter = ball(origins[:, None] + distances[..., None] * directions[:, None])[..., 0] > 0
    inside = (distances >= first) & (distances <= last)
    assert bool((inside | ~matter).all()), "no matter is left out"
    # Nor is much else looked at: cells with matter, those around them (two diagonals away: 6.9 / CELLS), and a step
    # (half a cell: 1 / CELLS) before and after.
    closest = -(origins * directions).sum(dim=-1, keepdim=True)
    passes = (origins + closest * directions).norm(dim=-1, keepdim=True)
    assert bool((last == first)[passes > BALL + 7.0 / CELLS].all())
    assert bool((last - first < 2.0 * (BALL + 8.0 / CELLS)).all())
    assert bool((first >= nears).all() and (last <= fars).all())


def test_it_forgets_matter_that_is_gone_but_not_at_once():
    grid = OccupancyGrid()
    grid.update(ball, seed=0)
    known = int(grid.occupied.sum())
    grid.update(lambda positions: 0.0 * ball(positions), seed=1)
    assert int(grid.occupied.sum()) == known
    for step in range(60):
        grid.update(lambda positions: 0.0 * ball(positions), seed=step)
    assert int(grid.occupied.sum()) == 0


def test_it_is_part_of_checkpoints_and_takes_no_random_numbers():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    grid, other = OccupancyGrid(), OccupancyGrid()
    grid.update(ball, seed=5)
    assert torch.equal(torch.rand(1), expected)
    other.load_state_dict(grid.state_dict())
    assert torch.equal(other.occupied, grid.occupied)
