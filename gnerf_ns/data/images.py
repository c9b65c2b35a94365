"""Decode image files of any common kind, upright, and shrunk while decoding so that memory stays bounded."""

import math
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, NamedTuple, Optional, Tuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from gnerf_ns.utils.errors import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""File name endings taken for images, in any letter case."""

_TRANSPOSE_OF_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATIONS_THAT_SWAP_SIDES = (5, 6, 7, 8)
_FULL_FRAME_DIAGONAL_MM = math.hypot(36.0, 24.0)
_MILLIMETERS_PER_RESOLUTION_UNIT = {2: 25.4, 3: 10.0, 4: 1.0}


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
            yield image
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(f"The file {path} is no image in a known format; replace or remove it.") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise InputError(f"The image {path} cannot be decoded ({error}); replace or remove it.") from error


def read_exif(image: Image.Image) -> Image.Exif:
    """EXIF data of an opened image, without decoding its pixels."""
    # Pillow decodes a whole PNG to look for an EXIF block behind its pixels; only one in front of them is read.
    if image.format == "PNG" and "exif" not in image.info:
        return Image.Exif()
    return image.getexif()


def image_size(path: Path, apply_orientation: bool = True) -> ImageSize:
    """Size of an image, from its header alone.

    Args:
        path: the image file.
        apply_orientation: the size as displayed, after the EXIF rotation; else as stored in the file.

    Raises:
        InputError: the file is missing, empty, or no image.
    """
    with _opened(path) as image:
        width, height = image.size
        if apply_orientation and read_exif(image).get(ExifTags.Base.Orientation) in _ORIENTATIONS_THAT_SWAP_SIDES:
            width, height = height, width
    return ImageSize(width, height)


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


def centerd_window(size: ImageSize, aspect: Optional[float]) -> Tuple[float, float]:
    """Width and height, in (fractional) pixels, of the largest centerd window of an aspect; all of it for None."""
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
        aspect: width over height of the centerd window to keep; None keeps the whole image.
        apply_orientation: turn the image as its EXIF orientation says.

    Returns:
        Three channels, or four with straight (not premultiplied) alpha, in 0-255.

    Raises:
        InputError: the file is missing, empty, truncated or no image.
    """
    with _opened(path) as image:
        orientation = read_exif(image).get(ExifTags.Base.Orientation, 1) if apply_orientation else 1
        swapped = orientation in _ORIENTATIONS_THAT_SWAP_SIDES
        stored = ImageSize(*image.size)
        displayed = ImageSize(stored.height, stored.width) if swapped else stored
        window = centerd_window(displayed, aspect)
        target = size or fit_max_side(ImageSize(round(window[0]), round(window[1])), max_side)
        # All that follows happens before the turn, on the file's own axes.
        if swapped:
            window, target = (window[1], window[0]), ImageSize(target.height, target.width)
        image, shrinkage = _shrink_cheaply(image, target)
        pixels = _as_rgb_or_rgba(image)
    if image.size != target or shrinkage != 1.0 or window != stored:
        pixels = _resample_window(pixels, stored, window, shrinkage, target)
    return _turned(pixels, orientation)


def read_mask(
    path: Path, size: ImageSize, aspect: Optional[float] = None, apply_orientation: bool = True
) -> UInt8[np.ndarray, "height width"]:
    """Read a mask, area-averaged to ``size``: 255 where the object is.

    The object is whatever is brighter than half of the mask's brightest pixel, so that masks of 0 and 1, of 0 and 255,
    of palette colors and with JPEG noise all serve. A mask that is transparent somewhere counts by its alpha.

    Args:
        path: the mask file.
        size: of the result.
        aspect: width over height of the centerd window to keep; None keeps all.
        apply_orientation: turn the mask as its EXIF orientation says.

    Raises:
        InputError: the file is missing, empty, truncated or no image.
    """
    with _opened(path) as image:
        orientation = read_exif(image).get(ExifTags.Base.Orientation, 1) if apply_orientation else 1
        pixels = _as_rgb_or_rgba(image)
    transparent = pixels.shape[-1] == 4 and bool((pixels[..., 3] < 255).any())
    brightness = pixels[..., 3] if transparent else pixels[..., :3].max(axis=-1)
    mask = _turned((brightness > brightness.max() / 2).astype(np.uint8) * 255, orientation)
    stored = ImageSize(mask.shape[1], mask.shape[0])
    shrunk, shrinkage = _shrink_cheaply(Image.fromarray(mask), size)
    layer = np.array(shrunk)[..., None]
    return _resample_window(layer, stored, centerd_window(stored, aspect), shrinkage, size)[..., 0]


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


def _shrink_cheaply(image: Image.Image, target: ImageSize) -> Tuple[Image.Image, float]:
    """Shrink in the decoder, to no less than twice the target's sides; also returns by how much.

    The remainder is for exact averaging over a fractional window: a 4001 pixel wide JPEG drafted at 1/8 is 501 pixels
    wide, of which 500.125 are image.
    """
    stored_width = image.size[0]
    draft = image.draft("RGB", (2 * target.width, 2 * target.height))
    if draft is not None:
        return image, stored_width / draft[1][2]
    factor = min(image.size[0] // target.width, image.size[1] // target.height) // 4
    if factor >= 2 and image.mode in ("L", "RGB", "LA", "RGBA") and "transparency" not in image.info:
        return image.reduce(factor), float(factor)
    return image, 1.0


def _turned(pixels: UInt8[np.ndarray, "*shape"], orientation: int) -> UInt8[np.ndarray, "*turned_shape"]:
    """Pixels as an EXIF orientation wants them displayed."""
    if orientation not in _TRANSPOSE_OF_ORIENTATION:
        return pixels
    return np.array(Image.fromarray(pixels).transpose(_TRANSPOSE_OF_ORIENTATION[orientation]))


def _as_rgb_or_rgba(image: Image.Image) -> UInt8[np.ndarray, "height width channels"]:
    if image.mode.startswith("I"):  # 16-bit gray, which Pillow would clip rather than scale
        gray = np.asarray(image).clip(0, 65535) // 257
        return np.repeat(gray.astype(np.uint8)[..., None], 3, axis=-1)
    has_alpha = image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
    return np.array(image.convert("RGBA" if has_alpha else "RGB"))


def _resample_window(
    pixels: UInt8[np.ndarray, "in_height in_width channels"],
    stored: ImageSize,
    window: Tuple[float, float],
    shrinkage: float,
    target: ImageSize,
) -> UInt8[np.ndarray, "height width channels"]:
    """Average the centerd window (in stored pixels) of an image already shrunk by ``shrinkage`` to the target size."""
    left, top = (stored.width - window[0]) / 2, (stored.height - window[1]) / 2
    rows = _area_weights(pixels.shape[0], target.height, top / shrinkage, (top + window[1]) / shrinkage)
    columns = _area_weights(pixels.shape[1], target.width, left / shrinkage, (left + window[0]) / shrinkage)
    values = torch.from_numpy(pixels).permute(2, 0, 1).float()
    if len(values) == 4:  # invisible pixels must not lend their color to visible neighbors
        values = torch.cat([values[:3] * values[3:] / 255, values[3:]])
    values = rows @ values @ columns.T
    if len(values) == 4:
        values = torch.cat([values[:3] * 255 / values[3:].clamp(min=1e-3), values[3:]])
    return values.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
