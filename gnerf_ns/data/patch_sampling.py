"""Patches of images: where their pixels lie, and what the images show there (GNeRF, arXiv 2103.15606).

Coordinates are those of ``torch.nn.functional.grid_sample`` with ``align_corners=False``: (x, y), -1 and 1 being the
outer edges of an image, not its outermost pixel centers. nerfstudio's pixel centers, at +0.5, are then
``(grid + 1) / 2 * (width, height)``, and a patch keeps its meaning when the image is resampled.
"""

from typing import Optional, Tuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from gnerf_ns.utils.errors import InputError


def image_coords(height: int, width: int, device: torch.device | str = "cpu") -> Float[Tensor, "{height} {width} 2"]:
    """Coordinates (x, y) of the pixel centers of an image resampled to a size.

    Args:
        height: of the resampled image, in pixels.
        width: of the resampled image, in pixels.
        device: where the coordinates go.
    """
    rows = (2 * torch.arange(height, device=device) + 1) / height - 1
    columns = (2 * torch.arange(width, device=device) + 1) / width - 1
    grid_rows, grid_columns = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([grid_columns, grid_rows], dim=-1)


def static_patch_coords(
    batch: int, patch_side: int, device: torch.device | str = "cpu"
) -> Float[Tensor, "{batch} {patch_side} {patch_side} 2"]:
    """Coordinates of patches that cover the whole image: the inversion network's view.

    Args:
        batch: number of patches.
        patch_side: pixels along a patch's side.
        device: where the coordinates go.

    Returns:
        (x, y) of the centers of ``patch_side`` x ``patch_side`` equal cells of the image.
    """
    return image_coords(patch_side, patch_side, device).expand(batch, -1, -1, -1)


def dynamic_patch_coords(
    batch: int,
    patch_side: int,
    scale_range: Tuple[float, float],
    generator: Optional[torch.Generator] = None,
    device: torch.device | str = "cpu",
) -> Tuple[Float[Tensor, "{batch} {patch_side} {patch_side} 2"], Float[Tensor, "{batch}"]]:
    """Coordinates of patches of random scale and place, each wholly inside its image: the discriminator's view.

    Args:
        batch: number of patches.
        patch_side: pixels along a patch's side.
        scale_range: smallest and largest scale, uniform between them. A scale is the share of the image's width (and
            height) that the patch spans; at ``patch_side / image_width`` neighboring samples are one pixel apart.
        generator: source of randomness, on ``device``; torch's own if None.
        device: where the coordinates go.

    Returns:
        (x, y) coordinates, and the patches' scales.

    Raises:
        InputError: the scales are not 0 < smallest <= largest <= 1.
    """
    smallest, largest = scale_range
    if not 0 < smallest <= largest <= 1:
        raise InputError(
            f"Patch scales run from {smallest} to {largest}; give a range with 0 < smallest <= largest <= 1."
        )
    uniform = torch.rand(batch, 3, generator=generator, device=device)
    scales = smallest + (largest - smallest) * uniform[:, 0]
    shifts = (2 * uniform[:, 1:] - 1) * (1 - scales[:, None])
    coords = static_patch_coords(batch, patch_side, device) * scales[:, None, None, None] + shifts[:, None, None, :]
    return coords, scales


def sample_patches(
    images: Float[Tensor, "batch channels height width"], coords: Float[Tensor, "batch rows columns 2"]
) -> Float[Tensor, "batch channels rows columns"]:
    """What the images show at a patch's coordinates, interpolated bilinearly between pixel centers.

    Beyond the outermost pixel centers the image goes on as its border pixels are. Differentiable in both arguments.

    Args:
        images: one image for each patch.
        coords: (x, y), -1 and 1 being the image's edges.
    """
    return F.grid_sample(images, coords, mode="bilinear", padding_mode="border", align_corners=False)
