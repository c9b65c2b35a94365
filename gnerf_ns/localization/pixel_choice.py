"""Which pixels of a photograph are compared with the field: any, those near keypoints, or those that tell most."""

from __future__ import annotations

from typing import Literal, Optional, Tuple

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from gnerf_ns.data.image_stack import composite
from gnerf_ns.data.images import area_resize
from gnerf_ns.data.patch_sampling import image_coords
from gnerf_ns.localization.photographs import Photographs

RaySelection = Literal["random", "interest", "importance"]

DILATIONS = 3
"""How often keypoints are grown by a square of 5x5 pixels (iNeRF section 3.3)."""

MIN_KEYPOINTS = 20
"""A small or smooth photograph may have fewer, and what is near them then leaves out edges that tell poses apart: of 24
poses of soft blobs at 32 pixels, with some ten keypoints each, three came out 1 to 4 degrees off; by all pixels, none
did."""

FLOOR = 0.1
"""Share of importance that is spread evenly, so that no part of a photograph is never looked at."""


class PixelChoice:
    """Random pixels of photographs, drawn with weights.

    Transparent pixels are left out where it is not known what the field shows behind them.
    """

    def __init__(
        self, photographs: Photographs, selection: RaySelection, background: Optional[Float[Tensor, "3"]]
    ) -> None:
        """
        Args:
            photographs: where pixels come from.
            selection: random: all pixels alike. interest: those near keypoints (iNeRF section 3.3), all where there
                are few. importance: those where the picture changes, and moving the camera is seen.
            background: what the field shows where there is nothing; None if that is not known.
        """
        self.photographs = photographs
        self._background = background
        self._weights = _weights(photographs, selection, background)
        self._side = 0
        self._colours: Tensor
        self._shares: Optional[Tensor] = None

    def draw(
        self, which: Int[Tensor, "batch"], rays_each: int, image_side: int
    ) -> Tuple[Float[Tensor, "batch {rays_each} 2"], Float[Tensor, "batch {rays_each} 3"]]:
        """Coordinates as `data.patch_sampling` has them, and colours in [0, 1], for each of some photographs.

        Args:
            which: the photographs, each as often as its pixels are wanted.
            rays_each: pixels of each.
            image_side: photographs are brought to this longer side first, in pixels.
        """
        self._bring_to(image_side)
        height, width = self._colours.shape[-2:]
        if self._shares is None:
            pixels = torch.randint(height * width, (len(which), rays_each), device=which.device)
        else:
            pixels = torch.multinomial(self._shares[which], rays_each, replacement=True)
        coords = image_coords(height, width, which.device).view(-1, 2)[pixels]
        return coords, self._colours.flatten(2)[which[:, None], :, pixels]

    def all_at(
        self, image_side: int
    ) -> Tuple[Float[Tensor, "pixels 2"], Float[Tensor, "n pixels 3"], Float[Tensor, "n pixels"]]:
        """Coordinates and colours of all pixels of all photographs at a size, and how much each counts in means."""
        height, width = self.photographs.size_at(image_side)
        pictures = self.photographs.images.at_resolution(height, width)
        colours = composite(pictures, pictures.new_zeros(3) if self._background is None else self._background)
        counts = torch.ones_like(colours[:, 0])
        if self._background is None and self.photographs.images.has_alpha:
            counts = pictures[:, 3]
        counts = counts.flatten(1) / counts.flatten(1).sum(dim=1, keepdim=True).clamp_min(1e-6)
        return image_coords(height, width, colours.device).view(-1, 2), colours.flatten(2).mT, counts

    def _bring_to(self, image_side: int) -> None:
        if image_side == self._side:
            return
        self._side = image_side
        height, width = self.photographs.size_at(image_side)
        pictures = self.photographs.images.at_resolution(height, width)
        background = pictures.new_zeros(3) if self._background is None else self._background
        self._colours = composite(pictures, background)
        if self._weights is not None:
            shares = area_resize(self._weights[:, None], height, width)[:, 0].flatten(1)
            # A photograph without any pixel to prefer is drawn from evenly.
            self._shares = torch.where(shares.sum(dim=1, keepdim=True) > 0, shares, torch.ones_like(shares))


def _weights(
    photographs: Photographs, selection: RaySelection, background: Optional[Float[Tensor, "3"]]
) -> Optional[Float[Tensor, "n height width"]]:
    """Of all pixels at full size; None where all count alike."""
    images = photographs.images
    pictures = images.at_resolution(images.height, images.width)
    colours = composite(pictures, pictures.new_zeros(3) if background is None else background)
    weights = None
    if selection == "interest":
        weights = torch.stack([near_keypoints(picture) for picture in colours])
    elif selection == "importance":
        weights = torch.stack([how_much_it_changes(picture) for picture in colours])
    if background is None and images.has_alpha:
        opacity = pictures[:, 3]
        weights = opacity if weights is None else weights * opacity
    return weights


def near_keypoints(picture: Float[Tensor, "3 height width"]) -> Float[Tensor, "height width"]:
    """1 near SIFT keypoints, 0 elsewhere; 1 everywhere if there are fewer than `MIN_KEYPOINTS`."""
    grey = (picture.clamp(0.0, 1.0) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    grey = cv2.cvtColor(np.ascontiguousarray(grey), cv2.COLOR_RGB2GRAY)
    keypoints = cv2.SIFT.create().detect(grey, None)
    if len(keypoints) < MIN_KEYPOINTS:
        return torch.ones_like(picture[0])
    found = np.zeros(grey.shape, dtype=np.uint8)
    for keypoint in keypoints:
        x, y = keypoint.pt
        found[min(int(y), grey.shape[0] - 1), min(int(x), grey.shape[1] - 1)] = 1
    grown = cv2.dilate(found, np.ones((5, 5), dtype=np.uint8), iterations=DILATIONS)
    return torch.from_numpy(grown).to(picture)


def how_much_it_changes(picture: Float[Tensor, "3 height width"]) -> Float[Tensor, "height width"]:
    """Length of the colours' gradient, plus its mean's `FLOOR`; 1 everywhere in a picture of one colour."""
    padded = F.pad(picture[None], (1, 1, 1, 1), mode="replicate")[0]
    across = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    along = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    length = (across.square() + along.square()).sum(dim=0).sqrt()
    return length + FLOOR * length.mean() if bool(length.max() > 0) else torch.ones_like(length)
