"""Where cameras see points: the inverse of `CameraDirections`, for lenses of any kind."""

from __future__ import annotations

from typing import Tuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gnerf_ns.cameras.rays import CameraDirections

MAX_ROUNDS = 6
"""Of Newton's method, from a lens without distortion, which needs none."""
STEP, TOLERANCE = 1e-3, 1e-5
"""Of its numeric derivative, and of what is exact enough, in coordinates and in the plane at distance 1."""
MIN_DEPTH = 1e-3
"""A point is in front if it is so far in front of the camera, as a share of its distance."""
FARTHEST_COORD = 1.3
"""Beyond, outside of the image, polynomials of distortion may turn back."""


def tangents(directions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 2"]:
    """Directions in a camera's own frame (OpenGL axes), where they meet the plane at distance 1 (x right, y down)."""
    depth = (-directions[..., 2:]).clamp_min(MIN_DEPTH)
    return torch.cat([directions[..., :1], -directions[..., 1:2]], dim=-1) / depth


class Projection:
    """Image coordinates of points in cameras' own frames.

    Attributes:
        slopes: of tangents in coordinates, in the middle of each camera's image [cameras, 2].
    """

    def __init__(self, lenses: CameraDirections, device: torch.device) -> None:
        """
        Args:
            lenses: of all cameras.
            device: where they are.
        """
        self._lenses = lenses
        everyone, step = torch.arange(len(lenses), device=device), 0.02
        around = step * torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], device=device)
        middle, right, below = tangents(lenses.at(everyone, around.expand(len(lenses), 3, 2))).unbind(dim=1)
        self._middles = middle
        self.slopes = torch.stack([(right - middle)[:, 0], (below - middle)[:, 1]], dim=-1) / step

    def __call__(
        self, camera_indices: Int[Tensor, "points"], in_camera: Float[Tensor, "points 3"]
    ) -> Tuple[Float[Tensor, "points 2"], Bool[Tensor, "points"]]:
        """Coordinates (x, y) of points, -1 and 1 being the image's edges, and whether they are in front of the camera.

        Args:
            camera_indices: the camera that sees each.
            in_camera: where it is in that camera's own frame.
        """
        slopes, wanted = self.slopes[camera_indices], tangents(in_camera)
        coords = (wanted - self._middles[camera_indices]) / slopes
        steps = coords.new_tensor([[0.0, 0.0], [STEP, 0.0], [0.0, STEP]])
        for _ in range(MAX_ROUNDS):
            coords = coords.clamp(-FARTHEST_COORD, FARTHEST_COORD)
            around = tangents(self._lenses.at(camera_indices, coords[:, None] + steps))
            missed = wanted - around[:, 0]
            # Points outside of the image never fit.
            if not bool((missed.abs() > TOLERANCE)[(coords.abs() < 1.0).all(dim=-1)].any()):
                break
            a, b, c, d = ((around[:, 1:] - around[:, :1]) / STEP).flatten(1).unbind(dim=-1)
            determinant = a * d - b * c
            x, y = missed.unbind(dim=-1)
            coords = coords + torch.stack([d * x - c * y, a * y - b * x], dim=-1) / determinant[:, None]
        is_in_front = -in_camera[:, 2] > MIN_DEPTH * torch.linalg.vector_norm(in_camera, dim=-1)
        return coords, is_in_front
