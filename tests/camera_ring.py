"""Cameras about a point, for tests of what is done with known cameras."""

import math

import torch

from gnerf_ns.scenes.scene_data import SceneCameras


def ring(count: int, fov_deg: float = 60.0) -> SceneCameras:
    """Cameras around the origin, which they look at from distance 3; 0, 1, … are neighbors."""
    angles = torch.arange(count).double() * 2.0 * math.pi / count
    forward = -torch.stack([angles.cos(), angles.sin(), torch.zeros(count)], dim=-1).double()
    down = torch.tensor([0.0, 0.0, -1.0]).double().expand(count, 3)
    right = torch.linalg.cross(down, forward)
    focal = 0.5 / math.tan(math.radians(fov_deg) / 2.0)
    matrix = torch.tensor([[focal, 0.0, 0.5], [0.0, focal, 0.5], [0.0, 0.0, 1.0]])
    poses = torch.stack([right, down, forward, -3.0 * forward], dim=-1)
    return SceneCameras(matrix.repeat(count, 1, 1), poses)
