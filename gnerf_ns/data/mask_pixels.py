"""What the pixels of a mask mean: where the object is, whatever the depth, the mode and the labels of the file."""

from pathlib import Path
from typing import Optional

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image

from gnerf_ns.data.images import ImageSize, as_rgb_or_rgba, decoding, exif_orientation, resized

_LOSSLESS_FORMATS = ("PNG", "TIFF", "BMP")
_LOSSY_MASK_NOISE = 1 / 8
"""Share of a mask's maximum that lossy compression may add or take away."""
_MAX_LABELS = 64
_MAX_SMALL_LABEL = 32
"""No soft mask is so dark that its maximum, of 255, is below this."""


def read_mask(
    path: Path, size: ImageSize, aspect: Optional[float] = None, orientation: Optional[int] = None
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
        orientation: EXIF orientation to turn the mask by; None for its own.

    Raises:
        InputError: the file is missing, empty, truncated, too large, of floating-point numbers, or no image.
    """
    with decoding(path) as image:
        orientation = exif_orientation(image) if orientation is None else orientation
        opacity = Image.fromarray(_opacity(_mask_levels(image), image.format in _LOSSLESS_FORMATS))
        return resized(opacity, ImageSize(*image.size), size, aspect, orientation)


def has_labels(path: Path) -> bool:
    """Whether a mask holds the labels of a segmentation, say 1 and 3, so that all of them are the object.

    Raises:
        InputError: as of ``read_mask``.
    """
    with decoding(path) as image:
        return image.format in _LOSSLESS_FORMATS and _are_labels(_mask_levels(image))


def _mask_levels(image: Image.Image) -> UInt8[np.ndarray, "height width"] | UInt16[np.ndarray, "height width"]:
    if image.mode.startswith("I"):
        return np.asarray(image).clip(0, 65535).astype(np.uint16)
    if image.mode == "L" and "transparency" not in image.info:
        return np.array(image)
    pixels = np.asarray(as_rgb_or_rgba(image))
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
