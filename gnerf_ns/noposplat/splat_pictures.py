"""What is shown of a splat: each photo beside its rendering, and a film from a camera that sways about theirs."""

from __future__ import annotations

import math
from typing import Callable

import numpy as np
import roma
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from gnerf_ns.noposplat.photos import Photos
from gnerf_ns.noposplat.reconstruction import Reconstruction
from gnerf_ns.splats.axes import world_to_cameras
from gnerf_ns.splats.rendering import render

FILM_FRAMES = 80
"""Four seconds."""
BEYOND = 0.15
"""How far the film goes beyond the first and the last camera, in steps from one to the next."""
SWAY = 0.04
"""How far the film's camera rises and sinks besides, in distances of the scene."""
SMOOTHING = 2
"""So many frames on either side are averaged with each of a film's poses, which rounds the corners at cameras between
others."""
MIN_SHOWN_SIDE = 256
"""Pictures are enlarged to have so many pixels on their longer side at least, to be looked at."""


def enlargement(photos: Photos) -> int:
    """A whole number of times that pictures are enlarged."""
    return math.ceil(MIN_SHOWN_SIDE / max(photos.size))


def comparison(reconstruction: Reconstruction, photos: Photos) -> UInt8[np.ndarray, "height width 3"]:
    """Each photo, and the rendering from its camera to its right; one below the other."""
    rows = []
    for photo, image in enumerate(photos.images):
        shown = reconstruction.seen(photos, photo).image.clamp(0.0, 1.0)
        rows.append(torch.cat([image.permute(1, 2, 0), shown], dim=1))
    pixels = (255.0 * torch.cat(rows)).round().byte().cpu().numpy()
    return pixels.repeat(enlargement(photos), axis=0).repeat(enlargement(photos), axis=1)


def film_poses(
    camera_to_worlds: Float[Tensor, "views 3 4"], scene_depth: float, frames: int = FILM_FRAMES
) -> Float[Tensor, "frames 3 4"]:
    """A smooth way past all cameras in their order, a little beyond, and back, rising and sinking a little.

    Args:
        camera_to_worlds: of two or more cameras, with nerfstudio's axes.
        scene_depth: how far away what they see is, in scene units.
        frames: of the film; the last is a step before the first.

    Returns:
        camera_to_worlds.
    """
    last = len(camera_to_worlds) - 1
    phases = torch.arange(frames) * (2.0 * math.pi / frames)
    places = last / 2.0 - (last / 2.0 + BEYOND) * torch.cos(phases)
    first = places.floor().clamp(0, last - 1).long()
    poses = torch.lerp(
        camera_to_worlds[first], camera_to_worlds[first + 1], (places - first)[:, None, None].to(camera_to_worlds)
    )
    poses = torch.stack([poses.roll(shift, 0) for shift in range(-SMOOTHING, SMOOTHING + 1)]).mean(dim=0)
    # Between cameras, and even a little beyond, the nearest rotation to the mean of two is one between them.
    rotations = roma.special_procrustes(poses[..., :3])
    assert isinstance(rotations, Tensor)
    rise = (SWAY * scene_depth * torch.sin(phases)).to(poses)[:, None] * rotations[..., 1]
    return torch.cat([rotations, poses[..., 3:] + rise[..., None]], dim=-1)


def film(
    reconstruction: Reconstruction, photos: Photos, on_frame: Callable[[], None] = lambda: None
) -> UInt8[np.ndarray, "frames height width 3"]:
    """Frames along `film_poses`, through the lens of the first photo that was given.

    Args:
        reconstruction: in any frame.
        photos: the photos.
        on_frame: called after each.
    """
    poses = world_to_cameras(film_poses(reconstruction.camera_to_worlds, reconstruction.scene_depth))
    frames = []
    for pose in poses:
        with torch.no_grad():
            image = render(reconstruction.gaussians, photos.view(0, pose), torch.zeros(3, device=pose.device)).image
        # Gaussians join at the size that the network saw: drawn larger, gaps would show.
        image = F.interpolate(image.movedim(-1, 0)[None], scale_factor=enlargement(photos), mode="bicubic")[0]
        frames.append((255.0 * image.movedim(0, -1).clamp(0.0, 1.0)).round().byte().cpu().numpy())
        on_frame()
    return np.stack(frames)
