"""Photographs with their cameras' intrinsics: what poses are estimated from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Tuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gnerf_ns.cameras.rays import CameraDirections
from gnerf_ns.data.image_stack import ImageStack, composite
from gnerf_ns.data.patch_sampling import image_coords


@dataclass(frozen=True)
class Photographs:
    """Images of one size and the directions that their pixels look along."""

    images: ImageStack
    """The images, on the device that they are used on."""
    directions: CameraDirections
    """Ray directions of the camera of each image."""

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, indices: Int[Tensor, "batch"]) -> "Photographs":
        """Some of the photographs, each as often as its index occurs."""
        return Photographs(ImageStack(self.images.pixels[indices]), self.directions[indices])

    def size_at(self, longer_side: int, multiple_of: int = 1) -> Tuple[int, int]:
        """Height and width, in pixels, that an image has when its longer side is resampled to a given length.

        Args:
            longer_side: in pixels; more than the images have counts as what they have.
            multiple_of: both sides are rounded to the nearest multiple of this, at least one, which may be up to half
                of it more than the images have.
        """
        height, width = self.images.height, self.images.width
        scale = min(1.0, longer_side / max(height, width))
        rounded = [max(multiple_of, round(side * scale / multiple_of) * multiple_of) for side in (height, width)]
        return rounded[0], rounded[1]

    def resized(
        self, height: int, width: int, background: Float[Tensor, "3"], indices: Int[Tensor, "batch"] | None = None
    ) -> Float[Tensor, "batch 3 height width"]:
        """Colours of whole images at a given size, over a background."""
        return composite(self.images.at_resolution(height, width, indices), background)

    @torch.no_grad()
    def pixel_directions(
        self, camera_indices: Int[Tensor, "batch"], height: int, width: int
    ) -> Float[Tensor, "batch pixels 3"]:
        """Ray directions through all pixel centres of images resampled to a given size, row by row; no gradient."""
        coords = image_coords(height, width, camera_indices.device).reshape(1, -1, 2)
        return self.directions.at(camera_indices, coords.expand(len(camera_indices), -1, -1))
