"""Which points a camera sees, where what it shows is known."""

from __future__ import annotations

from typing import Tuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

NEAREST = 1e-3
"""Points nearer to a camera's plane than this, in scene units, are not seen."""


def seen_at(
    points: Float[Tensor, "*batch pixels 3"],
    intrinsics: Float[Tensor, "*batch 3 3"],
    depths: Float[Tensor, "*batch height width"],
    same_depth: float,
) -> Tuple[Bool[Tensor, "*batch pixels"], Int[Tensor, "*batch pixels"], Int[Tensor, "*batch pixels"]]:
    """Whether cameras see points, and in which row and column.

    Args:
        points: in each camera's frame, in scene units.
        intrinsics: of each camera, normalized.
        depths: what each camera shows, along its axis, in scene units.
        same_depth: a point is hidden if it is behind what is shown there by more than this share of the depth.

    Returns:
        Whether, rows, columns; the latter two are those of a pixel at the border where a point is outside.
    """
    height, width = depths.shape[-2:]
    projected = points @ intrinsics.mT
    shares = projected[..., :2] / projected[..., 2:].clamp_min(NEAREST)
    inside = (projected[..., 2] > NEAREST) & ((shares >= 0.0) & (shares < 1.0)).all(dim=-1)
    sides = torch.tensor([width, height], device=points.device)
    column, row = (shares.clamp(0.0, 1.0) * sides).long().clamp(max=sides - 1).unbind(dim=-1)
    shown = depths.flatten(-2).gather(-1, row * width + column)
    return inside & (points[..., 2] < shown * (1.0 + same_depth)), row, column
