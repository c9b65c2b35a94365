"""All images of a dataset as one small tensor, at any coarser resolution, with the lens of each."""

from __future__ import annotations

import os
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Optional, Sequence, Tuple

import torch
from jaxtyping import Float, Int, UInt8
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import track
from torch import Tensor

from gnerf_ns.cameras.rays import CameraDirections
from gnerf_ns.data.dataset import UnposedDataset
from gnerf_ns.data.images import PIXELS_AT_ONCE, ImageSize, area_resize
from gnerf_ns.data.patch_sampling import image_coords

_CHUNK_BYTES = 64 * 2**20
_KEPT_BYTES = 2**26
"""Smaller copies of all images are kept up to so many bytes, or as many as the images themselves have: all those of the
searches, and one of those that training grows through."""
_EDGE_CELLS = 32
"""Images are brought to so many pixels a side to look at their edges."""
_PALE_RATIO = 4.0
"""Squared distance from black over that from white. Of a gray carton, a yellow bulldozer, a skull and a chair it is
below 1; of the second and the last made pale, 19 and 14."""
_PLAIN_SHARE, _PLAIN_DEVIATION = 0.85, 0.06
"""The edges of images of an object alone: so much of them has one color, to so little (of 1) in each channel."""


def premultiply(pixels: UInt8[Tensor, "*batch channels"]) -> Float[Tensor, "*batch channels"]:
    """Bytes to floats in [0, 1]; with a fourth channel (straight alpha), colors are multiplied by it."""
    values = pixels.float() / 255
    if values.shape[-1] == 4:
        values[..., :3] *= values[..., 3:]
    return values


def composite(
    premultiplied: Float[Tensor, "*shape"], background: Float[Tensor, "*background"], channel_dim: int = -3
) -> Float[Tensor, "*colors"]:
    """Lay premultiplied RGBA over a background: c + (1 - alpha) background. Three channels come back unchanged.

    Args:
        premultiplied: three or four channels along ``channel_dim``.
        background: a color [3], or anything that broadcasts against the result.
        channel_dim: counted from the end: -3 for images [..., c, h, w], -1 for pixels [..., c].
    """
    if premultiplied.shape[channel_dim] == 3:
        return premultiplied
    color = premultiplied.narrow(channel_dim, 0, 3)
    alpha = premultiplied.narrow(channel_dim, 3, 1)
    if background.ndim == 1:
        background = background.reshape(-1, *([1] * (-channel_dim - 1)))
    return color + (1 - alpha) * background.to(color)


class ImageStack:
    """Images of one size, kept as bytes.

    Smaller copies are made of all images at once, and kept as bytes, too, for the last few sizes; floats exist only of
    what is asked for.

    Attributes:
        pixels: uint8 [n, h, w, 3 or 4], the fourth channel being straight alpha (or the mask).
        extents: share of the width and height that each image covers, in the middle [n, 2]; the rest is padding. None
            where no image is padded.
    """

    def __init__(
        self, pixels: UInt8[Tensor, "n height width channels"], extents: Optional[Float[Tensor, "n 2"]] = None
    ):
        self.extents = None if extents is None or bool((extents == 1).all()) else extents
        # Alpha that is opaque everywhere says nothing about the background.
        if pixels.shape[-1] == 4 and self._is_opaque(pixels[..., 3]):
            pixels = pixels[..., :3].contiguous()
        self.pixels = pixels
        self._smaller: OrderedDict[Tuple[int, int], Tensor] = OrderedDict()

    @classmethod
    def from_dataset(cls, dataset: UnposedDataset, device: torch.device | str = "cpu") -> "ImageStack":
        """Read all of a dataset's images, a few at a time.

        Raises:
            InputError: an image is truncated or cannot be decoded.
        """
        size = dataset.image_format.size
        colors = torch.empty((len(dataset), size.height, size.width, 3), dtype=torch.uint8)
        alphas: Optional[Tensor] = None
        with ThreadPoolExecutor(max_workers=_num_readers(dataset.file_sizes)) as executor:
            images = executor.map(dataset.get_numpy_image, range(len(dataset)))
            bar = track(
                images,
                "Reading images",
                total=len(dataset),
                console=CONSOLE,
                transient=True,
                disable=not CONSOLE.is_terminal,
            )
            for index, image in enumerate(bar):
                colors[index] = torch.from_numpy(image[..., :3])
                if image.shape[-1] == 4:
                    alphas = torch.full_like(colors[..., :1], 255) if alphas is None else alphas
                    alphas[index] = torch.from_numpy(image[..., 3:])
        pixels = colors if alphas is None else torch.cat([colors, alphas], dim=-1)
        stack = cls(pixels.to(device), None if dataset.extents is None else dataset.extents.to(device))
        inside = stack.validity(size.height, size.width)
        if inside is not None:  # padding of images without alpha among others with alpha
            stack.pixels[inside == 0] = 0
        return stack

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, indices: Int[Tensor, "batch"]) -> ImageStack:
        """Some of the images, each as often as its index occurs."""
        extents = None if self.extents is None else self.extents[indices.to(self.extents.device)]
        return ImageStack(self.pixels[indices], extents)

    def _is_opaque(self, alphas: UInt8[Tensor, "n height width"]) -> bool:
        """Whether nothing shows through any image; what padding is made of does not count."""
        opaque, inside = alphas == 255, self.validity(alphas.shape[1], alphas.shape[2])
        return bool((opaque if inside is None else opaque | (inside == 0)).all())

    @property
    def height(self) -> int:
        """Height of the stored images, in pixels."""
        return self.pixels.shape[1]

    @property
    def width(self) -> int:
        """Width of the stored images, in pixels."""
        return self.pixels.shape[2]

    @property
    def has_alpha(self) -> bool:
        """Whether some pixel is less than opaque, so that there is a fourth channel."""
        return self.pixels.shape[-1] == 4

    @property
    def object_extent(self) -> float:
        """How long the object typically is, as a share of the image's longer side; 1 without alpha."""
        if not self.has_alpha:
            return 1.0
        inside = self.pixels[..., 3] >= 128
        longest = [inside.any(dim=3 - axis).int() for axis in (1, 2)]
        extents = torch.stack([_extents(each) for each in longest]).amax(dim=0)
        return float(extents[extents > 0].float().median()) / max(self.height, self.width) if extents.any() else 1.0

    @property
    def are_pale(self) -> bool:
        """Whether what alpha covers is far nearer to white than to black; never without alpha."""
        if not self.has_alpha:
            return False
        colors, alpha = self.at_resolution(_EDGE_CELLS, _EDGE_CELLS).split([3, 1], dim=1)
        # Colors are premultiplied.
        from_black, from_white = (
            float((each.square() / alpha.clamp_min(1e-3)).sum()) for each in (colors, alpha - colors)
        )
        return from_black > _PALE_RATIO * from_white

    @property
    def show_surroundings(self) -> bool:
        """Whether images have their background: not if they have alpha, or if their edges are of one plain color."""
        if self.has_alpha:
            return False
        side = _EDGE_CELLS
        small = self.at_resolution(side, side).permute(0, 2, 3, 1)
        validity = self.validity(side, side)
        inside = torch.ones_like(small[..., 0]) if validity is None else validity
        edges = torch.cat([_along_edges(small), _along_edges(inside[..., None])], dim=-1).flatten(0, 1)
        colors = edges[edges[:, 3] > 0.999, :3]
        if len(colors) == 0:  # long images of both orientations, no part of an edge whole
            return True
        deviations = (colors - colors.median(dim=0).values).abs().amax(dim=-1)
        return float((deviations < _PLAIN_DEVIATION).float().mean()) < _PLAIN_SHARE

    def at_resolution(
        self, height: int, width: int, indices: Optional[Int[Tensor, "batch"]] = None
    ) -> Float[Tensor, "batch channels height width"]:
        """Images area-averaged to a size, as premultiplied floats in [0, 1] (see ``composite``).

        Args:
            height: of the result, in pixels.
            width: of the result, in pixels.
            indices: which images; None for all of them, which should fit into memory as floats.
        """
        stored, is_premultiplied = self._stored(height, width)
        chosen = stored if indices is None else stored[indices.to(stored.device)]
        return _as_floats(chosen, is_premultiplied).permute(0, 3, 1, 2)

    def pixels_at(
        self, height: int, width: int, indices: Int[Tensor, "*batch"], pixels: Int[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch channels"]:
        """Single pixels of what ``at_resolution`` gives, at no more cost for many images than for few.

        Args:
            height: of the images, in pixels.
            width: of the images, in pixels.
            indices: which image each is of.
            pixels: which of its pixels, counted row by row.
        """
        stored, is_premultiplied = self._stored(height, width)
        return _as_floats(stored.flatten(1, 2)[indices.to(stored.device), pixels.to(stored.device)], is_premultiplied)

    def validity(
        self, height: int, width: int, indices: Optional[Int[Tensor, "batch"]] = None
    ) -> Optional[Float[Tensor, "batch height width"]]:
        """Share of each pixel, of images resized to a size, that is image and not padding; None where none is padded.

        Args:
            height: of the resized images, in pixels.
            width: of the resized images, in pixels.
            indices: which images; None for all of them.
        """
        coverage = self.coverage(height, width)
        if coverage is None:
            return None
        rows, columns = coverage if indices is None else (each[indices.to(each.device)] for each in coverage)
        return rows[:, :, None] * columns[:, None, :]

    def coverage(self, height: int, width: int) -> Optional[Tuple[Float[Tensor, "n height"], Float[Tensor, "n width"]]]:
        """Shares of rows and of columns that are image, of which `validity` is the products; None where all are.

        Args:
            height: of the resized images, in pixels.
            width: of the resized images, in pixels.
        """
        if self.extents is None:
            return None
        return _covered(self.extents[:, 1], height), _covered(self.extents[:, 0], width)

    def _stored(self, height: int, width: int) -> Tuple[UInt8[Tensor, "n {height} {width} channels"], bool]:
        """All images at a size, and whether colors are multiplied by alpha, as those of smaller copies are."""
        if (height, width) == (self.height, self.width):
            return self.pixels, False
        key = (height, width)
        if key not in self._smaller:
            resized = self._resized(height, width)
            room = max(_KEPT_BYTES, self.pixels.numel()) - resized.numel()
            while self._smaller and sum(each.numel() for each in self._smaller.values()) > room:
                self._smaller.popitem(last=False)
            self._smaller[key] = resized
        self._smaller.move_to_end(key)
        return self._smaller[key], True

    def _resized(self, height: int, width: int) -> UInt8[Tensor, "n {height} {width} channels"]:
        channels = self.pixels.shape[-1]
        resized = self.pixels.new_empty(len(self), height, width, channels)
        chunk = max(1, _CHUNK_BYTES // (4 * self.height * self.width * channels))
        for start in range(0, len(self), chunk):
            floats = premultiply(self.pixels[start : start + chunk]).permute(0, 3, 1, 2)
            means = area_resize(floats, height, width).permute(0, 2, 3, 1)
            resized[start : start + chunk] = means.mul(255).round_().clamp_(0, 255).byte()
        return resized


def _as_floats(pixels: UInt8[Tensor, "*batch channels"], is_premultiplied: bool) -> Float[Tensor, "*batch channels"]:
    return pixels.float() / 255 if is_premultiplied else premultiply(pixels)


def _num_readers(sizes: Sequence[ImageSize]) -> int:
    """How many threads read files of these sizes: several, because decoding releases Python's lock, but few.

    Each holds one image at its decoded size, and keeps that memory.
    """
    largest = max((size.width * size.height for size in sizes), default=1)
    return max(1, min(4, os.cpu_count() or 1, PIXELS_AT_ONCE // largest))


def _extents(occupied: Int[Tensor, "n cells"]) -> Int[Tensor, "n"]:
    """From the first to the last occupied cell of each row, both included; 0 where none is."""
    first, last = occupied.argmax(dim=1), occupied.flip(1).argmax(dim=1)
    return (occupied.shape[1] - first - last) * occupied.any(dim=1)


def _along_edges(cells: Float[Tensor, "n side side channels"]) -> Float[Tensor, "n parts channels"]:
    """Means over a quarter of an edge each: narrow, for objects come near, and long, so that noise averages out."""
    edges = torch.stack([cells[:, 0], cells[:, -1], cells[:, :, 0], cells[:, :, -1]], dim=1)
    return edges.unflatten(2, (4, -1)).mean(dim=3).flatten(1, 2)


def _covered(shares: Float[Tensor, "batch"], count: int) -> Float[Tensor, "batch {count}"]:
    """How much of each of ``count`` equal cells of [-1, 1] lies in the centered interval of a share of its length."""
    edges = torch.arange(count + 1, device=shares.device, dtype=torch.float64) - count / 2
    halves = (shares.double() * count / 2)[:, None]
    covered = torch.maximum(torch.minimum(edges, halves), -halves).diff(dim=1).float()
    # A share in single precision is not to leave traces where the interval ends between two cells.
    return torch.where((covered - covered.round()).abs() < 1e-5, covered.round(), covered)


@dataclass(frozen=True)
class ImageSet:
    """Images of one size and the directions that their pixels look along."""

    images: ImageStack
    """The images, on the device that they are used on."""
    directions: CameraDirections
    """Ray directions of the camera of each image."""

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, indices: Int[Tensor, "batch"]) -> "ImageSet":
        """Some of the images, each as often as its index occurs."""
        return ImageSet(self.images[indices], self.directions[indices])

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
        """Colors of whole images at a given size, over a background."""
        return composite(self.images.at_resolution(height, width, indices), background)

    def validity(
        self, height: int, width: int, indices: Int[Tensor, "batch"] | None = None
    ) -> Optional[Float[Tensor, "batch height width"]]:
        """See `ImageStack.validity`."""
        return self.images.validity(height, width, indices)

    @torch.no_grad()
    def pixel_directions(
        self, camera_indices: Int[Tensor, "batch"], height: int, width: int
    ) -> Float[Tensor, "batch pixels 3"]:
        """Ray directions through all pixel centers of images resampled to a given size, row by row; no gradient."""
        coords = image_coords(height, width, camera_indices.device).reshape(1, -1, 2)
        return self.directions.at(camera_indices, coords.expand(len(camera_indices), -1, -1))
