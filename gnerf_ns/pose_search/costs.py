"""How well a field explains images from given poses: by how much renderings there differ from the images."""

from __future__ import annotations

from typing import Optional, Tuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gnerf_ns.data.image_set import ImageSet
from gnerf_ns.pose_search.image_matching import FULLY_INSIDE, pyramid_features, pyramid_weights
from gnerf_ns.pose_search.image_renderer import ImageRenderer
from gnerf_ns.utils.ranks import Ranks

PER_CHUNK = 2048
"""Renderings compared at a time; bounds memory."""
LEAST_CONTRAST = 1e-9
"""Images of one color count as having this much, so that relative costs are finite."""


class ImageCosts:
    """Costs of images against renderings of a field, as squared distances of `pyramid_features`."""

    def __init__(self, renderer: ImageRenderer, background: Float[Tensor, "3"], ranks: Optional[Ranks] = None) -> None:
        """
        Args:
            renderer: shows the field.
            background: color that transparent pixels of the images are laid over.
            ranks: who shares the work; None for this process alone.
        """
        self.renderer = renderer
        self._ranks = ranks or Ranks()
        self._background = background

    @torch.no_grad()
    def at(
        self,
        image_set: ImageSet,
        image_indices: Int[Tensor, "n"],
        camera_to_worlds: Float[Tensor, "n 3 4"],
        image_side: int,
        flipped: bool = False,
    ) -> Float[Tensor, "n"]:
        """Cost of some images, each at a pose of its own.

        Args:
            image_set: all of them.
            image_indices: which ones, as often as poses are to be tried for them.
            camera_to_worlds: those poses.
            image_side: longer side of what is compared, in pixels.
            flipped: whether images are compared with the renderings' mirror images, left for right.
        """
        size = _size(image_set, image_side)
        lenses = image_set.directions

        def of_chunk(indices: Int[Tensor, "some"], poses: Float[Tensor, "some 3 4"]) -> Float[Tensor, "some"]:
            renderings = self.renderer.render_images(poses, lenses, indices.to(self.renderer.device), *size)
            if flipped:
                renderings = renderings.flip(-1)
            images = image_set.resized(*size, self._background, indices)
            difference = pyramid_features(images) - pyramid_features(renderings)
            return self._weighted_sum(difference.square(), image_set, size, indices)

        def of_some(some: slice) -> Float[Tensor, "some"]:
            chunks = zip(image_indices[some].split(PER_CHUNK), camera_to_worlds[some].split(PER_CHUNK), strict=True)
            return torch.cat([of_chunk(*chunk) for chunk in chunks])

        return self._ranks.rows(len(image_indices), of_some)

    @torch.no_grad()
    def relative(
        self, image_set: ImageSet, camera_to_worlds: Float[Tensor, "n 3 4"], image_side: int
    ) -> Float[Tensor, "n"]:
        """Cost of every image at its pose, in units of the image's own contrast."""
        everyone = torch.arange(len(image_set), device=camera_to_worlds.device)
        return self.at(image_set, everyone, camera_to_worlds, image_side) / self.contrast(image_set, image_side)

    @torch.no_grad()
    def explained_variance(
        self, image_set: ImageSet, camera_to_worlds: Float[Tensor, "n 3 4"], image_side: int
    ) -> float:
        """How much of what tells the images apart is also in renderings at their poses.

        Args:
            image_set: all of them.
            camera_to_worlds: their poses.
            image_side: longer side of what is compared, in pixels.

        Returns:
            1 where every image is rendered as it is; 0 where all are rendered as the mean image, or with errors as
            large; less where renderings are empty.
        """
        everyone = torch.arange(len(image_set), device=camera_to_worlds.device)
        cost = self.at(image_set, everyone, camera_to_worlds, image_side)
        return 1.0 - float(cost.mean() / self.variance(image_set, image_side).clamp_min(1e-12))

    def variance(self, image_set: ImageSet, image_side: int) -> Float[Tensor, ""]:
        """Mean cost of images against the mean image."""
        size = _size(image_set, image_side)
        features = pyramid_features(image_set.resized(*size, self._background))
        weights = image_weights(image_set, size)
        if weights is None:
            mean = features.mean(dim=0)
        else:
            mean = (weights * features).sum(dim=0) / weights.sum(dim=0).clamp_min(1e-9)
        return self._weighted_sum((features - mean).square(), image_set, size).mean()

    def contrast(self, image_set: ImageSet, image_side: int) -> Float[Tensor, "n"]:
        """Cost of each image against its mean color: little in a corner of the image has little."""
        size = _size(image_set, image_side)
        images = image_set.resized(*size, self._background)
        validity = image_set.validity(*size)
        if validity is None:
            mean = images.mean(dim=(2, 3), keepdim=True)
        else:
            inside = (validity[:, None] > FULLY_INSIDE).to(images)
            mean = (inside * images).sum(dim=(2, 3), keepdim=True)
            mean = mean / inside.sum(dim=(2, 3), keepdim=True).clamp_min(1e-9)
        squares = pyramid_features(images - mean).square()
        return self._weighted_sum(squares, image_set, size).clamp_min(LEAST_CONTRAST)

    def _weighted_sum(
        self,
        squares: Float[Tensor, "n features"],
        image_set: ImageSet,
        size: Tuple[int, int],
        image_indices: Optional[Int[Tensor, "n"]] = None,
    ) -> Float[Tensor, "n"]:
        weights = image_weights(image_set, size, image_indices)
        return squares.sum(dim=1) if weights is None else (weights * squares).sum(dim=1)


def image_weights(
    image_set: ImageSet, size: Tuple[int, int], image_indices: Optional[Int[Tensor, "n"]] = None
) -> Optional[Float[Tensor, "n features"]]:
    """`pyramid_weights` of images brought to a height and width; None where no image is padded."""
    validity = image_set.validity(*size, image_indices)
    return None if validity is None else pyramid_weights(validity)


def _size(image_set: ImageSet, image_side: int) -> Tuple[int, int]:
    return image_set.size_at(image_side, multiple_of=4)
