"""Decode image and mask files of any common kind, upright, and shrunk while decoding so that memory stays bounded."""

import math
import threading
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ContextManager, Iterator, NamedTuple, Optional, Tuple

import numpy as np
import torch
from jaxtyping import Float, UInt8, UInt16
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from gnerf_ns.utils.errors import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".avif", ".tif", ".tiff", ".bmp")
"""File name endings taken for images, in any letter case."""

MAX_MEGAPIXELS = 300
"""Larger images are refused. Telephones and cameras reach 200 megapixels."""

# Pillow takes images above 89 megapixels for attacks on a server: it warns, and refuses those twice as large. Ours are
# the user's own files, so its limit is raised to where memory ends: four bytes a pixel, one large image at a time.
Image.MAX_IMAGE_PIXELS = MAX_MEGAPIXELS * 10**6

_LARGE_PIXELS = 50 * 10**6
"""Images above this size are decoded one at a time."""
_LARGE_IMAGE_LOCK = threading.Lock()

_ORIENTATIONS_THAT_SWAP_SIDES = (5, 6, 7, 8)
_FULL_FRAME_DIAGONAL_MM = math.hypot(36.0, 24.0)
_MILLIMETERS_PER_RESOLUTION_UNIT = {2: 25.4, 3: 10.0, 4: 1.0}

_LOSSLESS_FORMATS = ("PNG", "TIFF", "BMP")
_LOSSY_MASK_NOISE = 1 / 8
"""Share of a mask's maximum that lossy compression may add or take away."""
_MAX_LABELS = 64
_MAX_SMALL_LABEL = 32
"""No soft mask is so dark that its maximum, of 255, is below this."""


class ImageSize(NamedTuple):
    """Width and height in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


def is_image(path: Path) -> bool:
    """Whether a file is named like an image; operating systems leave names with a leading dot beside them."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image file; whatever goes wrong with it in the block becomes an ``InputError`` that names the file."""
    if not path.is_file():
        raise InputError(f"The image {path} does not exist; check the path.")
    if path.stat().st_size == 0:
        raise InputError(f"The image {path} is empty (0 bytes); replace or remove it.")
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_MEGAPIXELS * 10**6:
                raise Image.DecompressionBombError
            if image.mode == "F":
                raise InputError(f"The image {path} holds floating-point numbers; save it with 8 or 16 bits a channel.")
            yield image
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(f"The file {path} is no image in a known format; replace or remove it.") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"The image {path} has more than {MAX_MEGAPIXELS} megapixels; shrink or remove it.") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise InputError(f"The image {path} cannot be decoded ({error}); replace or remove it.") from error


def _memory_for(image: Image.Image) -> ContextManager[Any]:
    """Threads that decode images wait here for each other when theirs are large."""
    return _LARGE_IMAGE_LOCK if image.width * image.height > _LARGE_PIXELS else nullcontext()


def read_exif(image: Image.Image) -> Image.Exif:
    """EXIF data of an opened image, without decoding its pixels."""
    # Pillow decodes a whole PNG to look for an EXIF block behind its pixels; only one in front of them is read.
    if image.format == "PNG" and "exif" not in image.info:
        return Image.Exif()
    return image.getexif()


def exif_orientation(image: Image.Image) -> int:
    """How the pixels of an opened image are to be turned for display, as EXIF's number from 1 (not at all) to 8."""
    if image.format == "TIFF":  # these Pillow itself turns while decoding
        return 1
    return read_exif(image).get(ExifTags.Base.Orientation, 1)


@dataclass(frozen=True)
class Header:
    """What the beginning of an image file tells."""

    size: ImageSize
    """Of the pixels as stored."""
    orientation: int
    """EXIF orientation, 1 to 8; 1 where there is none."""

    def size_as(self, orientation: int) -> ImageSize:
        """Size after applying an EXIF orientation."""
        return _turned_size(self.size, orientation)

    @property
    def displayed_size(self) -> ImageSize:
        """Size after applying its own orientation."""
        return self.size_as(self.orientation)


def read_header(path: Path) -> Header:
    """Size and orientation of an image file; it is opened again only after it has changed.

    Raises:
        InputError: the file is missing, empty, or no image.
    """
    try:
        status = path.stat()
    except OSError:
        return _read_header(path, 0, 0)  # which says what is wrong
    return _read_header(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=2**14)
def _read_header(path: Path, modified_ns: int, num_bytes: int) -> Header:
    del modified_ns, num_bytes  # a part of the cache's key
    with _opened(path) as image:
        orientation = exif_orientation(image)
        return Header(ImageSize(*image.size), orientation if orientation in range(1, 9) else 1)


def image_size(path: Path, apply_orientation: bool = True) -> ImageSize:
    """Size of an image, from its header alone.

    Args:
        path: the image file.
        apply_orientation: the size as displayed, after the EXIF rotation; else as stored in the file.

    Raises:
        InputError: the file is missing, empty, or no image.
    """
    header = read_header(path)
    return header.displayed_size if apply_orientation else header.size


def focal_from_exif(path: Path) -> Optional[float]:
    """Focal length in pixels of the image's present size, from its EXIF data, or None where they do not tell.

    The 35 mm equivalent is one of diagonals (CIPA DCG-001). Failing that, the focal length in millimeters serves
    when the sensor's resolution is given as well.
    """
    with _opened(path) as image:
        exif = read_exif(image).get_ifd(ExifTags.IFD.Exif)
        width, height = image.size

    def positive(tag: ExifTags.Base) -> Optional[float]:
        try:
            value = float(exif[tag])
        except (KeyError, TypeError, ValueError, ZeroDivisionError):
            return None
        return value if math.isfinite(value) and value > 0 else None

    equivalent = positive(ExifTags.Base.FocalLengthIn35mmFilm)
    if equivalent is not None:
        return equivalent * math.hypot(width, height) / _FULL_FRAME_DIAGONAL_MM
    focal_mm = positive(ExifTags.Base.FocalLength)
    resolution = positive(ExifTags.Base.FocalPlaneXResolution)
    recorded_width = positive(ExifTags.Base.ExifImageWidth)
    recorded_height = positive(ExifTags.Base.ExifImageHeight)
    millimeters = _MILLIMETERS_PER_RESOLUTION_UNIT.get(exif.get(ExifTags.Base.FocalPlaneResolutionUnit, 2))
    if focal_mm is None or resolution is None or millimeters is None:
        return None
    # The resolution counts the sensor's pixels; the image may have been shrunk since.
    recorded_side = max(recorded_width or width, recorded_height or height)
    return focal_mm * resolution / millimeters * max(width, height) / recorded_side


def fit_max_side(size: ImageSize, max_side: Optional[int]) -> ImageSize:
    """The size shrunk to a longest side of ``max_side`` pixels, aspect kept up to rounding; never enlarged."""
    if max_side is None or max(size) <= max_side:
        return size
    scale = max_side / max(size)
    return ImageSize(max(1, round(size.width * scale)), max(1, round(size.height * scale)))


def centered_window(size: ImageSize, aspect: Optional[float]) -> Tuple[float, float]:
    """Width and height, in (fractional) pixels, of the largest centered window of an aspect; all of it for None."""
    if aspect is None:
        return float(size.width), float(size.height)
    return min(float(size.width), size.height * aspect), min(float(size.height), size.width / aspect)


def read_image(
    path: Path,
    max_side: Optional[int] = None,
    size: Optional[ImageSize] = None,
    aspect: Optional[float] = None,
    apply_orientation: bool = True,
) -> UInt8[np.ndarray, "height width channels"]:
    """Read an image, area-averaged down to a size.

    JPEG files are decoded at a fraction of their size, others are shrunk by whole-number averaging first, so that a
    large image never exists as floats.

    Args:
        path: the image file: 8 or 16 bits, gray, color or palette, with or without alpha.
        max_side: longest side of the result, in pixels; None keeps the file's size.
        size: exact size of the result instead of ``max_side``.
        aspect: width over height of the centered window to keep; None keeps the whole image.
        apply_orientation: turn the image as its EXIF orientation says.

    Returns:
        Three channels, or four with straight (not premultiplied) alpha, in 0-255.

    Raises:
        InputError: the file is missing, empty, truncated, too large, of floating-point numbers, or no image.
    """
    with _opened(path) as image, _memory_for(image):
        orientation = exif_orientation(image) if apply_orientation else 1
        stored = ImageSize(*image.size)
        window = centered_window(_turned_size(stored, orientation), aspect)
        target = size or fit_max_side(ImageSize(round(window[0]), round(window[1])), max_side)
        # All that follows happens before the turn, on the file's own axes.
        if orientation in _ORIENTATIONS_THAT_SWAP_SIDES:
            window, target = (window[1], window[0]), ImageSize(target.height, target.width)
        # A 4001 pixel wide JPEG drafted at 1/8 is 501 pixels wide, of which 500.125 are image.
        draft = image.draft("RGB", (2 * target.width, 2 * target.height))
        shrinkage = 1.0 if draft is None else stored.width / draft[1][2]
        pixels = _averaged(_as_rgb_or_rgba(image), stored, window, shrinkage, target)
    return _turned(pixels, orientation)


def read_mask(
    path: Path, size: ImageSize, aspect: Optional[float] = None, apply_orientation: bool = True
) -> UInt8[np.ndarray, "height width"]:
    """Read a mask, area-averaged to ``size``: 255 where the object is, less along soft edges.

    The brightest pixel of the file is the object, whatever the file's depth: masks of 0 and 1, of 0 and 255, of 16
    bits and of palette colors all serve. Levels in between are partly object, unless they are the labels of a
    segmentation (see ``has_labels``): then the object is whatever is not 0. A mask that is transparent somewhere
    counts by its alpha.

    Args:
        path: the mask file.
        size: of the result.
        aspect: width over height of the centered window to keep; None keeps all.
        apply_orientation: turn the mask as its EXIF orientation says.

    Raises:
        InputError: the file is missing, empty, truncated, too large, of floating-point numbers, or no image.
    """
    with _opened(path) as image, _memory_for(image):
        orientation = exif_orientation(image) if apply_orientation else 1
        stored = ImageSize(*image.size)
        window = centered_window(_turned_size(stored, orientation), aspect)
        if orientation in _ORIENTATIONS_THAT_SWAP_SIDES:
            window, size = (window[1], window[0]), ImageSize(size.height, size.width)
        opacity = Image.fromarray(_opacity(_mask_levels(image), image.format in _LOSSLESS_FORMATS))
        pixels = _averaged(opacity, stored, window, 1.0, size)
    return _turned(pixels[..., 0], orientation)


def has_labels(path: Path) -> bool:
    """Whether a mask holds the labels of a segmentation, say 1 and 3, so that all of them are the object.

    Raises:
        InputError: as of ``read_mask``.
    """
    with _opened(path) as image, _memory_for(image):
        return image.format in _LOSSLESS_FORMATS and _are_labels(_mask_levels(image))


def area_resize(
    images: Float[Tensor, "batch channels in_height in_width"], height: int, width: int
) -> Float[Tensor, "batch channels height width"]:
    """Exact area averaging: each output pixel is the mean of the input area it covers. Differentiable.

    Pixel (i, j) covers [i, i+1] x [j, j+1] on both sides, so intrinsics scale by the ratio of the sizes exactly.
    Colors must be premultiplied by alpha, where there is alpha.
    """
    in_height, in_width = images.shape[-2:]
    if (in_height, in_width) == (height, width):
        return images
    rows = _area_weights(in_height, height, 0.0, float(in_height)).to(images)
    columns = _area_weights(in_width, width, 0.0, float(in_width)).to(images)
    return rows @ images @ columns.T


def _area_weights(in_length: int, out_length: int, start: float, stop: float) -> Float[Tensor, "out_length in_length"]:
    """Row k holds the shares that the input cells have in the k-th of ``out_length`` equal parts of [start, stop]."""
    edges = torch.linspace(start, stop, out_length + 1, dtype=torch.float64)
    cells = torch.arange(in_length, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], cells + 1) - torch.maximum(edges[:-1, None], cells)
    overlap = overlap.clamp(min=0)
    return (overlap / overlap.sum(dim=1, keepdim=True)).float()


def _mask_levels(image: Image.Image) -> UInt8[np.ndarray, "height width"] | UInt16[np.ndarray, "height width"]:
    if image.mode.startswith("I"):
        return np.asarray(image).clip(0, 65535).astype(np.uint16)
    if image.mode == "L" and "transparency" not in image.info:
        return np.array(image)
    pixels = np.asarray(_as_rgb_or_rgba(image))
    if pixels.shape[-1] == 4 and bool((pixels[..., 3] < 255).any()):
        return pixels[..., 3]
    return pixels[..., :3].max(axis=-1)


def _opacity(
    levels: UInt8[np.ndarray, "height width"] | UInt16[np.ndarray, "height width"], is_lossless: bool
) -> UInt8[np.ndarray, "height width"]:
    if is_lossless and _are_labels(levels):
        return (levels > 0) * np.uint8(255)
    opacity = levels * np.float32(1 / max(int(levels.max()), 1))
    if not is_lossless:
        opacity = ((opacity - _LOSSY_MASK_NOISE) / (1 - 2 * _LOSSY_MASK_NOISE)).clip(0, 1)
    return (opacity * 255).round().astype(np.uint8)


def _are_labels(levels: UInt8[np.ndarray, "height width"] | UInt16[np.ndarray, "height width"]) -> bool:
    """Whether levels between 0 and the maximum fill areas rather than soft edges."""
    present = np.unique(levels)
    labels = present[present > 0]
    if not 2 <= len(labels) <= _MAX_LABELS:
        return False
    if labels[-1] < _MAX_SMALL_LABEL:
        return True
    inner = levels[1:-1, 1:-1]
    between = (inner > 0) & (inner < labels[-1])
    is_flat = np.ones_like(between)
    for neighbor in (levels[:-2, 1:-1], levels[2:, 1:-1], levels[1:-1, :-2], levels[1:-1, 2:]):
        is_flat &= neighbor == inner
    return 2 * int((between & is_flat).sum()) > int(between.sum())


def _averaged(
    image: Image.Image, stored: ImageSize, window: Tuple[float, float], shrinkage: float, target: ImageSize
) -> UInt8[np.ndarray, "height width channels"]:
    """The centered window of an image, averaged to the target size.

    Pillow's own box filter counts a pixel on the border between two as all of one of them, which moves edges; it only
    does the whole-number part, to no less than four times the target.

    Args:
        image: gray, color, or color with alpha.
        stored: size of the file.
        window: width and height of the window, in pixels of the file.
        shrinkage: how many pixels of the file are one of ``image``.
        target: size of the result.
    """
    if (image.size, window, shrinkage) == (target, stored, 1.0):
        return np.array(image).reshape(target.height, target.width, -1)
    has_alpha = image.mode == "RGBA"
    image = image.convert("RGBa") if has_alpha else image  # invisible pixels must not lend their color to neighbors
    factor = min(image.width // target.width, image.height // target.height) // 4
    if factor >= 2:
        image, shrinkage = image.reduce(factor), shrinkage * factor
    left, top = (stored.width - window[0]) / 2, (stored.height - window[1]) / 2
    rows = _area_weights(image.height, target.height, top / shrinkage, (top + window[1]) / shrinkage)
    columns = _area_weights(image.width, target.width, left / shrinkage, (left + window[0]) / shrinkage)
    bands = [torch.from_numpy(np.array(band)) for band in image.split()]
    values = torch.stack([rows @ band.float() @ columns.T for band in bands], dim=-1)
    if has_alpha:
        values[..., :3] *= 255 / values[..., 3:].clamp(min=1e-3)
    return values.round().clamp(0, 255).to(torch.uint8).numpy()


def _turned(pixels: UInt8[np.ndarray, "*shape"], orientation: int) -> UInt8[np.ndarray, "*turned_shape"]:
    """Pixels as an EXIF orientation wants them displayed."""
    image = Image.fromarray(pixels)
    image.getexif()[ExifTags.Base.Orientation] = orientation
    return np.array(ImageOps.exif_transpose(image))


def _turned_size(stored: ImageSize, orientation: int) -> ImageSize:
    return ImageSize(stored.height, stored.width) if orientation in _ORIENTATIONS_THAT_SWAP_SIDES else stored


def _as_rgb_or_rgba(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit gray, which Pillow would clip rather than scale
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return image if image.mode == mode else image.convert(mode)
