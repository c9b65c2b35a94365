"""Points on the surface that a field shows, with the colors of the images: what other methods start from."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import List

import torch
from jaxtyping import Float, Int, UInt8
from nerfstudio.cameras.rays import RayBundle
from torch import Tensor

from gnerf_ns.cameras.rays import rays_from_poses
from gnerf_ns.data.image_set import ImageSet, ImageStack
from gnerf_ns.models.gnerf import GNeRFModel

RAYS = 1 << 14
"""One for each point, at most; of images of an object without alpha, half of them may miss it."""
DRAWN_PIXELS = 8 * RAYS
"""Of these, as many as there are rays are taken from what is not transparent."""
OPAQUE = 128
"""Of 255; pixels that are less opaque show no surface, and their color is not the object's."""
MIN_ACCUMULATION = 0.9
"""Rays that gather less opacity graze the object or miss it, and meet no surface at their median depth."""
FARTHEST = 100.0
"""Distance from the origin, in scene units. In unbounded scenes, samples beyond are so far apart that they tell the sky
from nothing."""


@dataclass(frozen=True)
class SurfacePoints:
    """Points, on the CPU."""

    positions: Float[Tensor, "points 3"]
    """In scene units."""
    colors: UInt8[Tensor, "points 3"]
    """Of the pixel that shows each, 0-255."""
    image_indices: Int[Tensor, "points"]
    """The image that each was seen in."""

    def __len__(self) -> int:
        return len(self.positions)

    def write(self, path: Path) -> None:
        """Write a .ply file, whole or not at all."""
        import trimesh

        cloud = trimesh.PointCloud(self.positions.numpy(), self.colors.numpy())
        partial = path.with_name(f"{path.name}.partial")
        try:
            cloud.export(str(partial), file_type="ply")
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


@torch.no_grad()
def surface_points(
    model: GNeRFModel, image_set: ImageSet, camera_to_worlds: Float[Tensor, "images 3 4"]
) -> SurfacePoints:
    """Where random pixels of the images meet the surface: at the median depth of their rays.

    The same field, cameras and images give the same points.

    Args:
        model: the field; its mode is left as it was.
        image_set: the images, and the lenses as estimated.
        camera_to_worlds: their poses as estimated.
    """
    images = image_set.images
    pixels = _shown_pixels(images)
    index = pixels[:, 0]
    on_device = index.to(model.device)
    directions = image_set.directions.at(on_device, _coords(images, pixels).to(model.device)[:, None])
    areas = image_set.directions.pixel_areas(on_device, directions, images.height, images.width)
    rays = rays_from_poses(camera_to_worlds[on_device], directions, on_device, areas)
    was_training = model.training
    model.eval()
    depth, accumulation = _rendered(model, rays)
    model.train(was_training)
    positions = rays.origins + rays.directions * depth
    is_near = torch.linalg.vector_norm(positions, dim=-1) < FARTHEST  # not if it is NaN
    kept = (is_near & (accumulation[:, 0] > MIN_ACCUMULATION)).cpu()
    colors = images.pixels[tuple(pixels.to(images.pixels.device).unbind(dim=-1))][:, :3].cpu()
    return SurfacePoints(positions.cpu()[kept], colors[kept], index[kept])


def _shown_pixels(images: ImageStack) -> Int[Tensor, "pixels 3"]:
    """Different random pixels that are neither padding nor transparent: image, row and column."""
    shape = images.pixels.shape[:3]
    generator = torch.Generator().manual_seed(0)
    # Two points at the same place would have no size as Gaussians.
    drawn = torch.randint(shape.numel(), (DRAWN_PIXELS,), generator=generator).unique()
    pixels = torch.stack(torch.unravel_index(drawn, shape), dim=-1)
    if images.extents is not None:
        covered = images.extents.cpu()[pixels[:, 0]]
        pixels = pixels[(_coords(images, pixels).abs() < covered).all(dim=-1)]
    if images.has_alpha:
        alpha = images.pixels[..., 3][tuple(pixels.to(images.pixels.device).unbind(dim=-1))]
        pixels = pixels[alpha.cpu() >= OPAQUE]
    return pixels[torch.randperm(len(pixels), generator=generator)[:RAYS]]


def _coords(images: ImageStack, pixels: Int[Tensor, "pixels 3"]) -> Float[Tensor, "pixels 2"]:
    """(x, y) of the pixels' centers, -1 and 1 being the image's edges."""
    sides = torch.tensor([images.width, images.height])
    return (2 * pixels[:, [2, 1]] + 1) / sides - 1.0


def _rendered(model: GNeRFModel, rays: RayBundle) -> List[Float[Tensor, "rays 1"]]:
    """Median depth, in scene units, and accumulated opacity."""
    count = model.config.eval_num_rays_per_chunk
    chunks = [model.render(rays[start : start + count], with_depth=True) for start in range(0, len(rays), count)]
    none = rays.origins.new_zeros(0, 1)
    return [torch.cat([none, *(chunk[name] for chunk in chunks)]) for name in ("depth", "accumulation")]
