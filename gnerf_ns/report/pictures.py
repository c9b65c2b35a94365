"""Pictures small enough that a hundred of them fit into one file."""

from __future__ import annotations

import base64
import io
from typing import Tuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

QUALITIES = (85, 70, 50, 30, 15)
"""Of JPEG, one after the other until a picture is small enough."""

DIFFERENCE_GAIN = 3
"""Differences are shown so many times brighter: what is worth a look is seldom more than a third of the full range."""


def fitted_size(width: int, height: int, side: int) -> Tuple[int, int]:
    """Width and height of a picture whose longer side has at most a given length, all in pixels."""
    scale = min(1.0, side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def resized(
    picture: UInt8[np.ndarray, "height width 3"], width: int, height: int
) -> UInt8[np.ndarray, "height_ width_ 3"]:
    """A picture brought to a size, averaged where it becomes smaller."""
    if picture.shape[:2] == (height, width):
        return picture
    is_smaller = width < picture.shape[1]
    filter = Image.Resampling.BOX if is_smaller else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(picture).resize((width, height), filter))


def difference(
    photo: UInt8[np.ndarray, "height width 3"], rendering: UInt8[np.ndarray, "height_ width_ 3"]
) -> UInt8[np.ndarray, "height_ width_ 3"]:
    """How far each pixel of a rendering is off, in gray, `DIFFERENCE_GAIN` times as bright.

    Args:
        photo: of any size.
        rendering: of the size that they are compared at.
    """
    target = resized(photo, rendering.shape[1], rendering.shape[0]).astype(np.int16)
    off = np.abs(target - rendering).mean(axis=2, keepdims=True) * DIFFERENCE_GAIN
    return np.repeat(off.round().clip(0, 255).astype(np.uint8), 3, axis=2)


def jpeg_uri(picture: UInt8[np.ndarray, "height width 3"], max_bytes: int) -> str:
    """A picture as a ``data:`` URI, as well as its size allows.

    Args:
        picture: the picture.
        max_bytes: of the JPEG file; only the lowest of the `QUALITIES` may need more.
    """
    image = Image.fromarray(picture)
    encoded = b""
    for quality in QUALITIES:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality, optimize=True)
        encoded = file.getvalue()
        if len(encoded) <= max_bytes:
            break
    return f"data:image/jpeg;base64,{base64.b64encode(encoded).decode('ascii')}"
