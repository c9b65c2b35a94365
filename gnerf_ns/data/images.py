"""Decode image files of any common kind, upright, and shrunk while decoding so that memory stays bounded."""

import math
import struct
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Iterator, NamedTuple, Optional, Tuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from gnerf_ns.utils.errors import InputError

HEIC_SUFFIXES = (".heic", ".heif", ".hif")
"""Of photographs by telephones and cameras that Pillow does not read by itself."""

HEIC_ADVICE = 'pip install "gnerf-ns[heic]" lets .heic files be read'
"""What to do about them."""


def _reads_heic() -> bool:
    """Have Pillow read HEIC, if the package that does is installed. It turns them upright itself."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


READS_HEIC = _reads_heic()
"""Whether HEIC can be read here."""

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".webp", ".avif", ".tif", ".tiff", ".bmp"),
    *(HEIC_SUFFIXES if READS_HEIC else ()),
)
"""File name endings taken for images, in any letter case."""

MAX_MEGAPIXELS = 300
"""Larger images are refused. Telephones and cameras reach 200 megapixels."""

# Pillow takes images above 89 megapixels for attacks on a server: it warns, and refuses those twice as large. Ours are
# the user's own files, so its limit is raised to where memory ends: four bytes a pixel, and one such image at a time.
Image.MAX_IMAGE_PIXELS = MAX_MEGAPIXELS * 10**6

PIXELS_AT_ONCE = 32 * 10**6
"""Images that are decoded at the same time should have no more pixels together. With copies in other modes and as
floats a pixel takes up to 13 bytes, and a thread keeps the memory: images of 50 megapixels are read within a GiB."""

_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, RuntimeError, TypeError, LookupError, struct.error)
"""What Pillow's decoders raise at bytes that are not as they should be."""
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""How files begin, HEIC behind a length and the word "ftyp"."""
_ORIENTATIONS_THAT_SWAP_SIDES = (5, 6, 7, 8)
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF orientation, what is done to the stored pixels."""
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


def advice_on(path: Path) -> str:
    """In brackets, how to have a file of its ending read, where that is known to need something; else nothing."""
    return f" ({HEIC_ADVICE})" if path.suffix.lower() in HEIC_SUFFIXES and not READS_HEIC else ""


def looks_like_image(path: Path) -> bool:
    """Whether a file of any name begins like an image of one of the usual formats."""
    try:
        with Image.open(path, formats=("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "GIF")):
            return True
    except Exception:  # whatever a decoder makes of other bytes, or of a file that cannot be opened
        return False


@contextmanager
def decoding(path: Path) -> Iterator[Image.Image]:
    """Open an image file; whatever goes wrong with it in the block becomes an ``InputError`` that names the file.

    Raises:
        InputError: the file is missing, empty, truncated, too large, of floating-point numbers, or no image.
    """
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
        raise InputError(_why_unidentified(path)) from error
    except Image.DecompressionBombError as error:
        raise InputError(f"The image {path} has more than {MAX_MEGAPIXELS} megapixels; shrink or remove it.") from error
    except _DAMAGE as error:
        raise InputError(f"The image {path} cannot be decoded ({error}); replace or remove it.") from error


def _why_unidentified(path: Path) -> str:
    """What is said of a file that Pillow does not know, which may have the ending of another format."""
    with path.open("rb") as file:
        start = file.read(12)
    if start[4:8] == b"ftyp" and start[8:] in _HEIC_BRANDS and not READS_HEIC:
        return f"The image {path} is HEIC, whatever its ending: {HEIC_ADVICE}; or convert it to JPEG."
    if start.startswith(_TIFF_STARTS):
        return f"The image {path} is a TIFF of a kind that is not read; save it with 8 or 16 bits a channel."
    return f"The file {path} is no image in a known format; replace or remove it."


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
    orientation = read_exif(image).get(ExifTags.Base.Orientation, 1)
    return orientation if orientation in range(1, 9) else 1


def as_displayed(image: Image.Image, orientation: int) -> Image.Image:
    """A stored image as an EXIF orientation wants it displayed."""
    return image if orientation == 1 else image.transpose(_TRANSPOSES[orientation])


def as_stored(image: Image.Image, orientation: int) -> Image.Image:
    """The inverse of `as_displayed`."""
    return as_displayed(image, {6: 8, 8: 6}.get(orientation, orientation))


@dataclass(frozen=True)
class Header:
    """What the beginning of an image file tells."""

    size: ImageSize
    """Of the pixels as stored."""
    orientation: int
    """EXIF orientation, 1 to 8; 1 where there is none."""
    num_images: int = 1
    """How many the file holds (pages of a TIFF, frames of an animation). The first is read."""

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
    with decoding(path) as image:
        # Telephones' MPO files hold the photograph, and data beside it.
        num_images = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        return Header(ImageSize(*image.size), exif_orientation(image), num_images)


def image_size(path: Path) -> ImageSize:
    """Size of an image as displayed, after the EXIF rotation, from its header alone.

    Raises:
        InputError: the file is missing, empty, or no image.
    """
    return read_header(path).displayed_size


def focal_from_exif(path: Path) -> Optional[float]:
    """Focal length in pixels of the image's present size, from its EXIF data, or None where they do not tell.

    The 35 mm equivalent is one of diagonals (CIPA DCG-001). Failing that, the focal length in millimeters serves
    when the sensor's resolution is given as well.
    """
    with decoding(path) as image:
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
    orientation: Optional[int] = None,
) -> UInt8[np.ndarray, "height width channels"]:
    """Read an image, area-averaged down to a size.

    JPEG files are decoded at a fraction of their size, others are shrunk by whole-number averaging first, so that a
    large image never exists as floats.

    Args:
        path: the image file: 8 or 16 bits, gray, color or palette, with or without alpha.
        max_side: longest side of the result, in pixels; None keeps the file's size.
        size: exact size of the result instead of ``max_side``.
        aspect: width over height of the centered window to keep; None keeps the whole image.
        orientation: EXIF orientation to turn the image by; None for its own.

    Returns:
        Three channels, or four with straight (not premultiplied) alpha, in 0-255.

    Raises:
        InputError: the file is missing, empty, truncated, too large, of floating-point numbers, or no image.
    """
    with decoding(path) as image:
        orientation = exif_orientation(image) if orientation is None else orientation
        stored = ImageSize(*image.size)
        window = centered_window(_turned_size(stored, orientation), aspect)
        size = size or fit_max_side(ImageSize(round(window[0]), round(window[1])), max_side)
        width, height = _turned_size(size, orientation)  # on the file's own axes, as all is before the turn
        # A 4001 pixel wide JPEG drafted at 1/8 is 501 pixels wide, of which 500.125 are image. The draft of a HEIC is
        # the thumbnail in it, compressed once more.
        draft = image.draft("RGB", (2 * width, 2 * height)) if image.format != "HEIF" else None
        shrinkage = 1.0 if draft is None else stored.width / draft[1][2]
        return resized(as_rgb_or_rgba(image), stored, size, aspect, orientation, shrinkage)


def as_rgb_or_rgba(image: Image.Image) -> Image.Image:
    """Any image in 8 bits a channel: RGBA where something may be transparent, RGB elsewhere.

    Raises:
        ValueError: its numbers have more than 16 bits, or its colors cannot be converted.
    """
    if image.mode.startswith("I"):  # 16-bit gray, which Pillow would clip rather than scale
        levels = np.asarray(image)
        if levels.size and not 0 <= levels.min() <= levels.max() <= 65535:
            raise ValueError("its numbers do not fit into 16 bits")
        image = Image.fromarray((levels // 257).astype(np.uint8))
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return image if image.mode == mode else image.convert(mode)


def resized(
    image: Image.Image,
    stored: ImageSize,
    size: ImageSize,
    aspect: Optional[float],
    orientation: int,
    shrinkage: float = 1.0,
) -> UInt8[np.ndarray, "height width *channels"]:
    """The centered window of a file's pixels, averaged to a size and turned.

    Args:
        image: gray, color, or color with alpha, as stored.
        stored: size of the file.
        size: of the result.
        aspect: of the window, as displayed; None for the whole image.
        orientation: EXIF orientation to turn the image by.
        shrinkage: how many pixels of the file are one of ``image``.
    """
    window = centered_window(_turned_size(stored, orientation), aspect)
    if orientation in _ORIENTATIONS_THAT_SWAP_SIDES:
        window = (window[1], window[0])
    averaged = _averaged(image, stored, window, shrinkage, _turned_size(size, orientation))
    return np.array(as_displayed(averaged, orientation))


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


def _averaged(
    image: Image.Image, stored: ImageSize, window: Tuple[float, float], shrinkage: float, target: ImageSize
) -> Image.Image:
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
        return image
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
    return Image.fromarray(values.squeeze(dim=-1).round().clamp(0, 255).to(torch.uint8).numpy())


def _turned_size(stored: ImageSize, orientation: int) -> ImageSize:
    return ImageSize(stored.height, stored.width) if orientation in _ORIENTATIONS_THAT_SWAP_SIDES else stored
