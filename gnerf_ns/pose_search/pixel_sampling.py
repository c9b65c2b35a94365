"""Which pixels of an image are compared with the field, and their rays."""

from __future__ import annotations

from typing import Literal, Optional, Tuple

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from nerfstudio.cameras.rays import RayBundle
from torch import Tensor
from torch.nn import functional as F

from gnerf_ns.cameras.rays import rays_from_poses
from gnerf_ns.data.image_set import ImageSet, composite
from gnerf_ns.data.images import area_resize
from gnerf_ns.data.patch_sampling import image_coords
from gnerf_ns.pose_search.image_matching import FULLY_INSIDE

RaySelection = Literal["random", "interest", "importance"]

DILATIONS = 3
"""How often keypoints are grown by a square of 5x5 pixels (iNeRF section 3.3)."""

MIN_KEYPOINTS = 20
"""A small or smooth image may have fewer, and what is near them then leaves out edges that tell poses apart: of 24
poses of soft blobs at 32 pixels, with some ten keypoints each, three came out 1 to 4 degrees off; by all pixels, none
did."""

FLOOR = 0.1
"""Share of importance that is spread evenly, so that no part of an image is never looked at."""


class PixelChoice:
    """Random pixels of images, drawn with weights.

    Transparent pixels are left out where it is not known what the field shows behind them.
    """

    def __init__(self, image_set: ImageSet, selection: RaySelection, background: Optional[Float[Tensor, "3"]]) -> None:
        """
        Args:
            image_set: where pixels come from.
            selection: random: all pixels alike. interest: those near keypoints (iNeRF section 3.3), all where there
                are few. importance: those where the image changes, and moving the camera is seen.
            background: what the field shows where there is nothing; None if that is not known.
        """
        self.image_set = image_set
        self._background = background
        self._weights = _weights(image_set, selection, background)
        self._side = 0
        self._colors: Tensor
        self._shares: Optional[Tensor] = None

    def draw(
        self, image_indices: Int[Tensor, "batch"], rays_each: int, image_side: int
    ) -> Tuple[Float[Tensor, "batch {rays_each} 2"], Float[Tensor, "batch {rays_each} 3"]]:
        """Coordinates as `data.patch_sampling` has them, and colors in [0, 1], for each of some images.

        Args:
            image_indices: the images, each as often as its pixels are wanted.
            rays_each: pixels of each.
            image_side: images are brought to this longer side first, in pixels.
        """
        self._bring_to(image_side)
        height, width = self._colors.shape[-2:]
        if self._shares is None:
            pixels = torch.randint(height * width, (len(image_indices), rays_each), device=image_indices.device)
        else:
            pixels = torch.multinomial(self._shares[image_indices], rays_each, replacement=True)
        coords = image_coords(height, width, image_indices.device).view(-1, 2)[pixels]
        return coords, self._colors.flatten(2)[image_indices[:, None], :, pixels]

    def all_at(
        self, image_side: int
    ) -> Tuple[Float[Tensor, "pixels 2"], Float[Tensor, "n pixels 3"], Float[Tensor, "n pixels"]]:
        """Coordinates and colors of all pixels of all images at a size, and how much each counts in means."""
        height, width = self.image_set.size_at(image_side)
        images = self.image_set.images.at_resolution(height, width)
        colors = composite(images, images.new_zeros(3) if self._background is None else self._background)
        validity = self.image_set.validity(height, width)
        counts = torch.ones_like(colors[:, 0]) if validity is None else (validity > FULLY_INSIDE).to(colors)
        if self._background is None and self.image_set.images.has_alpha:
            counts = counts * images[:, 3]
        counts = counts.flatten(1) / counts.flatten(1).sum(dim=1, keepdim=True).clamp_min(1e-6)
        return image_coords(height, width, colors.device).view(-1, 2), colors.flatten(2).mT, counts

    def _bring_to(self, image_side: int) -> None:
        if image_side == self._side:
            return
        self._side = image_side
        height, width = self.image_set.size_at(image_side)
        images = self.image_set.images.at_resolution(height, width)
        background = images.new_zeros(3) if self._background is None else self._background
        self._colors = composite(images, background)
        if self._weights is not None:
            shares = area_resize(self._weights[:, None], height, width)[:, 0].flatten(1)
            validity = self.image_set.validity(height, width)
            if validity is not None:  # a pixel that is partly padding shows some of its color
                shares = shares * (validity.flatten(1) > FULLY_INSIDE)
            # An image without any pixel to prefer is drawn from evenly.
            self._shares = torch.where(shares.sum(dim=1, keepdim=True) > 0, shares, torch.ones_like(shares))


def _weights(
    image_set: ImageSet, selection: RaySelection, background: Optional[Float[Tensor, "3"]]
) -> Optional[Float[Tensor, "n height width"]]:
    """Of all pixels at full size; None where all count alike."""
    stack = image_set.images
    is_alpha_unknown = background is None and stack.has_alpha
    if selection == "random" and not is_alpha_unknown and stack.extents is None:
        return None
    weights = torch.ones(len(image_set), stack.height, stack.width, device=stack.pixels.device)
    for index in range(len(image_set)):  # one at a time: as floats, all of them take much memory
        chosen = torch.tensor([index])
        (image,) = stack.at_resolution(stack.height, stack.width, chosen)
        covered = image_set.validity(stack.height, stack.width, chosen)
        if selection != "random":
            measure = near_keypoints if selection == "interest" else how_much_it_changes
            # Of the image alone: the border to padding is an edge that says nothing.
            rows, columns = _inside(None if covered is None else covered[0], stack.height, stack.width)
            color = composite(image, image.new_zeros(3) if background is None else background)
            weights[index].zero_()[rows, columns] = measure(color[:, rows, columns])
        if is_alpha_unknown:
            weights[index] *= image[3]
        if covered is not None:
            weights[index] *= covered[0]
    return weights


def _inside(validity: Optional[Float[Tensor, "height width"]], height: int, width: int) -> Tuple[slice, slice]:
    """Rows and columns of the rectangle that an image fills; all of them where it is not padded."""
    if validity is None or not bool((validity > FULLY_INSIDE).any()):
        return slice(height), slice(width)
    inside = validity > FULLY_INSIDE
    rows, columns = inside.any(dim=1).nonzero()[:, 0], inside.any(dim=0).nonzero()[:, 0]
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def near_keypoints(image: Float[Tensor, "3 height width"]) -> Float[Tensor, "height width"]:
    """1 near SIFT keypoints, 0 elsewhere; 1 everywhere if there are fewer than `MIN_KEYPOINTS`."""
    gray = (image.clamp(0.0, 1.0) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    gray = cv2.cvtColor(np.ascontiguousarray(gray), cv2.COLOR_RGB2GRAY)
    keypoints = cv2.SIFT.create().detect(gray, None)
    if len(keypoints) < MIN_KEYPOINTS:
        return torch.ones_like(image[0])
    found = np.zeros(gray.shape, dtype=np.uint8)
    for keypoint in keypoints:
        x, y = keypoint.pt
        found[min(int(y), gray.shape[0] - 1), min(int(x), gray.shape[1] - 1)] = 1
    grown = cv2.dilate(found, np.ones((5, 5), dtype=np.uint8), iterations=DILATIONS)
    return torch.from_numpy(grown).to(image)


def how_much_it_changes(image: Float[Tensor, "3 height width"]) -> Float[Tensor, "height width"]:
    """Length of the colors' gradient, plus its mean's `FLOOR`; 1 everywhere in an image of one color."""
    padded = F.pad(image[None], (1, 1, 1, 1), mode="replicate")[0]
    across = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    along = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    length = (across.square() + along.square()).sum(dim=0).sqrt()
    return length + FLOOR * length.mean() if bool(length.max() > 0) else torch.ones_like(length)


def sample_pixel_rays(
    image_set: ImageSet,
    camera_to_worlds: Float[Tensor, "n 3 4"],
    num_rays: int,
    image_side: int,
    chosen: Optional[Int[Tensor, "chosen"]] = None,
) -> Tuple[RayBundle, Float[Tensor, "rays channels"]]:
    """Uniformly random pixels.

    Args:
        image_set: where pixels come from.
        camera_to_worlds: poses of the images; the rays are differentiable in them.
        num_rays: how many pixels.
        image_side: the images are brought to this longer side first, in pixels.
        chosen: images to take pixels from; None for all.

    Returns:
        The rays, and the pixels' premultiplied colors in [0, 1] with alpha where the images have it.
    """
    device = camera_to_worlds.device
    height, width = image_set.size_at(image_side)
    rows = torch.randint(len(image_set) if chosen is None else len(chosen), (num_rays,), device=device)
    indices = rows if chosen is None else chosen[rows]
    coverage = image_set.images.coverage(height, width)
    if coverage is None:
        pixels = torch.randint(height * width, (num_rays,), device=device)
    else:
        row, column = (_random_place(covered > FULLY_INSIDE, indices) for covered in coverage)
        pixels = row * width + column

    coords = image_coords(height, width, device).view(-1, 2)[pixels]
    directions = image_set.directions.at(indices, coords[:, None])
    colors = image_set.images.pixels_at(height, width, indices, pixels)
    areas = image_set.directions.pixel_areas(indices, directions, height, width)
    return rays_from_poses(camera_to_worlds[indices], directions, indices, areas), colors


def _random_place(inside: Bool[Tensor, "n places"], indices: Int[Tensor, "rays"]) -> Int[Tensor, "rays"]:
    """A random one of the neighboring places that are inside, in the image of each ray."""
    first, count = (each[indices] for each in (inside.int().argmax(dim=1), inside.sum(dim=1)))
    return first + (torch.rand(len(indices), device=indices.device) * count).long().clamp_max(count - 1)
