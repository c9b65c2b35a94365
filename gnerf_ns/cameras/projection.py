"""Where cameras see points: the inverse of `CameraDirections`, for lenses of any kind."""

from __future__ import annotations

from typing import Tuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gnerf_ns.cameras.rays import CameraDirections

MAX_ROUNDS = 6
"""Of Newton's method, from a lens without distortion, which needs none."""
STEP, TOLERANCE, ROUGH = 1e-3, 1e-5, 1e-2
"""Of its numeric derivative, in coordinates; and of what is exact, and of what another step makes so, in the plane at
distance 1."""
MIN_DEPTH = 1e-3
"""A point is in front if it is so far in front of the camera, as a share of its distance."""
FARTHEST_COORD = 1.3
"""Beyond, outside of the image, polynomials of distortion may turn back."""


def tangents(directions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 2"]:
    """Directions in a camera's own frame (OpenGL axes), where they meet the plane at distance 1 (x right, y down)."""
    depth = (-directions[..., 2:]).clamp_min(MIN_DEPTH)
    return torch.cat([directions[..., :1], -directions[..., 1:2]], dim=-1) / depth


class Projection:
    """Image coordinates of points in cameras' own frames."""

    def __init__(self, lenses: CameraDirections, device: torch.device) -> None:
        """
        Args:
            lenses: of all cameras.
            device: where they are.
        """
        self._lenses = lenses
        everyone = torch.arange(len(lenses), device=device)
        self._middles, slopes = self._around(everyone, torch.zeros(len(lenses), 2, device=device))
        self._slopes = slopes.diagonal(dim1=-2, dim2=-1)

    def _around(
        self, camera_indices: Int[Tensor, "points"], coords: Float[Tensor, "points 2"]
    ) -> Tuple[Float[Tensor, "points 2"], Float[Tensor, "points 2 2"]]:
        """Tangents, and how they change with the coordinates."""
        steps = coords.new_tensor([[0.0, 0.0], [STEP, 0.0], [0.0, STEP]])
        around = tangents(self._lenses.at(camera_indices, coords[:, None] + steps))
        return around[:, 0], ((around[:, 1:] - around[:, :1]) / STEP).mT

    def slopes(
        self, camera_indices: Int[Tensor, "points"], coords: Float[Tensor, "points 2"]
    ) -> Float[Tensor, "points 2 2"]:
        """How coordinates change with the tangents of the direction that is seen there."""
        return _inverse(self._around(camera_indices, coords)[1])

    def __call__(
        self, camera_indices: Int[Tensor, "points"], in_camera: Float[Tensor, "points 3"]
    ) -> Tuple[Float[Tensor, "points 2"], Bool[Tensor, "points"]]:
        """Coordinates (x, y) of points, -1 and 1 being the image's edges, and whether they were found: not those behind
        the camera, nor some that are far off the axis of a fisheye lens.

        Args:
            camera_indices: the camera that sees each.
            in_camera: where it is in that camera's own frame.
        """
        wanted = tangents(in_camera)
        coords = (wanted - self._middles[camera_indices]) / self._slopes[camera_indices]
        is_in_front = -in_camera[:, 2] > MIN_DEPTH * torch.linalg.vector_norm(in_camera, dim=-1)
        missed = torch.zeros_like(wanted)
        for _ in range(MAX_ROUNDS):
            coords = coords.clamp(-FARTHEST_COORD, FARTHEST_COORD)
            there, slopes = self._around(camera_indices, coords)
            missed = wanted - there
            # Points outside of the image never fit.
            if not bool((missed.abs() > TOLERANCE)[(coords.abs() < 1.0).all(dim=-1)].any()):
                break
            coords = coords + (_inverse(slopes) @ missed[..., None])[..., 0]
        # The last step has made it smaller still.
        return coords, is_in_front & (missed.abs() < ROUGH).all(dim=-1)


def _inverse(slopes: Float[Tensor, "points 2 2"]) -> Float[Tensor, "points 2 2"]:
    """Written out: linear algebra of many small matrices takes long."""
    (a, b), (c, d) = slopes[..., 0, :].unbind(dim=-1), slopes[..., 1, :].unbind(dim=-1)
    return torch.stack([d, -b, -c, a], dim=-1).view(-1, 2, 2) / (a * d - b * c)[:, None, None]
