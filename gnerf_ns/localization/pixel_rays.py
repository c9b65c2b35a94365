"""Random pixels of photographs, with their rays at given poses."""

from __future__ import annotations

from typing import Optional, Tuple

import torch
from jaxtyping import Float, Int
from nerfstudio.cameras.rays import RayBundle
from torch import Tensor

from gnerf_ns.cameras.rays import rays_from_poses
from gnerf_ns.data.patch_sampling import image_coords
from gnerf_ns.localization.photographs import Photographs

MAX_IMAGES_PER_BATCH = 256
"""Of larger sets only so many photographs are looked at in one step, which bounds memory."""


def sample_pixel_rays(
    photographs: Photographs,
    camera_to_worlds: Float[Tensor, "n 3 4"],
    num_rays: int,
    image_side: int,
    chosen: Optional[Int[Tensor, "chosen"]] = None,
) -> Tuple[RayBundle, Float[Tensor, "rays channels"]]:
    """Uniformly random pixels.

    Args:
        photographs: where pixels come from.
        camera_to_worlds: poses of the photographs; the rays are differentiable in them.
        num_rays: how many pixels.
        image_side: the photographs are brought to this longer side first, in pixels.
        chosen: photographs to take pixels from; None for all.

    Returns:
        The rays, and the pixels' premultiplied colours in [0, 1] with alpha where the photographs have it.
    """
    device = camera_to_worlds.device
    height, width = photographs.size_at(image_side)
    count = len(photographs) if chosen is None else len(chosen)
    if count > MAX_IMAGES_PER_BATCH:
        batch = torch.randperm(count, device=device)[:MAX_IMAGES_PER_BATCH]
        chosen = batch if chosen is None else chosen[batch]
    images = photographs.images.at_resolution(height, width, chosen)
    row_of_image = torch.randint(len(images), (num_rays,), device=device)
    pixel = torch.randint(height * width, (num_rays,), device=device)

    indices = row_of_image if chosen is None else chosen[row_of_image]
    coords = image_coords(height, width, device).view(-1, 2)[pixel]
    directions = photographs.directions.at(indices, coords[:, None])
    colours = images.flatten(2)[row_of_image, :, pixel]
    return rays_from_poses(camera_to_worlds[indices], directions, indices), colours
