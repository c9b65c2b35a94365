"""A film of a trained model, seen from a camera that circles the object once."""

import math
from typing import Callable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.models.base_model import Model
from torch import Tensor

from gnerf_ns.cameras.look_at import look_at
from gnerf_ns.cameras.pose_prior import object_filling_radius

ELEVATION_DEG = 28.0


def orbit_poses(
    frames: int, fov_rad: float, elevation_deg: float = ELEVATION_DEG, margin: float = 1.0
) -> Float[Tensor, "frames 3 4"]:
    """Poses evenly spaced on a circle around +z that look at the origin; the last one is a step before the first.

    Args:
        frames: number of poses.
        fov_rad: field of view, in radians; determines the distance at which the unit sphere fills the image.
        elevation_deg: elevation above the xy plane, in degrees.
        margin: factor on that distance.

    Returns:
        camera_to_world matrices.
    """
    azimuth = torch.arange(frames) * (2.0 * math.pi / frames)
    elevation = torch.tensor(math.radians(elevation_deg)).expand(frames)
    directions = [elevation.cos() * azimuth.cos(), elevation.cos() * azimuth.sin(), elevation.sin()]
    return look_at(margin * object_filling_radius(fov_rad) * torch.stack(directions, dim=-1))


def render_frames(
    model: Model,
    poses: Float[Tensor, "frames 3 4"],
    fov_rad: float,
    side: int,
    on_frame: Callable[[], None] = lambda: None,
) -> UInt8[np.ndarray, "frames side side 3"]:
    """Render square images with a trained model.

    Args:
        model: any nerfstudio model with an `rgb` output.
        poses: camera_to_world matrices.
        fov_rad: field of view, in radians.
        side: side of the images, in pixels.
        on_frame: called after each image.
    """
    focal, center = side / 2.0 / math.tan(fov_rad / 2.0), side / 2.0
    cameras = Cameras(poses, focal, focal, center, center, side, side).to(model.device)
    frames = []
    for number in range(len(poses)):
        rgb = model.get_outputs_for_camera(cameras[number : number + 1])["rgb"]
        frames.append((rgb.clamp(0.0, 1.0) * 255.0).round().byte().cpu().numpy())
        on_frame()
    return np.stack(frames)
