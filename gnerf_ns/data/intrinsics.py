"""Pinhole intrinsics and lens distortion: from a transforms.json, from EXIF data, or from a field of view."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, List, Mapping, Optional, Tuple

from nerfstudio.cameras.cameras import CAMERA_MODEL_TO_TYPE, CameraType

from gnerf_ns.data.images import ImageSize, focal_from_exif, image_size
from gnerf_ns.utils.errors import InputError

# In the order of nerfstudio's Cameras.distortion_params.
_DISTORTION_KEYS = ("k1", "k2", "k3", "k4", "p1", "p2")


@dataclass(frozen=True)
class Intrinsics:
    """Of one image, in pixels of ``size``."""

    size: ImageSize
    """The size that the other figures refer to; not necessarily the file's."""
    focal: Tuple[float, float]
    """Along x and y."""
    center: Tuple[float, float]
    """Principal point; (0, 0) is the outer corner of the first pixel."""
    distortion: Tuple[float, ...] = (0.0,) * 6
    """k1, k2, k3, k4, p1, p2."""
    camera_type: CameraType = CameraType.PERSPECTIVE
    """Camera model."""


def centerd_pinhole(size: ImageSize, focal: float) -> Intrinsics:
    """Square pixels, the principal point in the middle, no distortion."""
    return Intrinsics(size, (focal, focal), (size.width / 2, size.height / 2))


def focal_from_fov(fov_deg: float, side: float) -> float:
    """Focal length in pixels of a field of view in degrees across ``side`` pixels."""
    return side / 2 / math.tan(math.radians(fov_deg) / 2)


def intrinsics_from_transforms(values: Mapping[str, Any], image: Path, source: Path) -> Optional[Intrinsics]:
    """Intrinsics of one frame of a transforms.json, or None where it holds no focal length.

    Args:
        values: the frame's own entries laid over the file's.
        image: the frame's image, for its size where the file has none.
        source: the transforms.json, for messages.

    Raises:
        InputError: a figure is no number or out of range, or the camera model is unknown.
    """

    def number(key: str) -> Optional[float]:
        if values.get(key) is None:
            return None
        try:
            value = float(values[key])
        except (TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value):
            raise InputError(f"{source} gives {key} = {values[key]!r} for {image.name}; it must be a finite number.")
        return value

    width, height = number("w"), number("h")
    size = ImageSize(round(width), round(height)) if width and height else image_size(image)
    focal_x, focal_y = number("fl_x"), number("fl_y")
    angle_x, angle_y = number("camera_angle_x"), number("camera_angle_y")
    for angle in (angle_x, angle_y):
        if angle is not None and not 0 < angle < math.pi:
            raise InputError(f"{source} gives a camera angle of {angle} for {image.name}; use radians below π.")
    if focal_x is None and angle_x is not None:
        focal_x = focal_from_fov(math.degrees(angle_x), float(size.width))
    if focal_y is None and angle_y is not None and number("fl_x") is None:
        focal_y = focal_from_fov(math.degrees(angle_y), float(size.height))
    focal_x, focal_y = focal_x or focal_y, focal_y or focal_x
    if focal_x is None or focal_y is None:
        return None
    if min(focal_x, focal_y) <= 0 or min(size) <= 0:
        raise InputError(f"{source} gives a focal length or size that is not positive for {image.name}; correct it.")
    model = values.get("camera_model", "OPENCV")
    if not isinstance(model, str) or model not in CAMERA_MODEL_TO_TYPE:
        known = ", ".join(CAMERA_MODEL_TO_TYPE)
        raise InputError(f"{source} names the camera model {model!r}, which is unknown; use one of {known}.")
    center_x, center_y = number("cx"), number("cy")
    return Intrinsics(
        size=size,
        focal=(focal_x, focal_y),
        center=(
            size.width / 2 if center_x is None else center_x,
            size.height / 2 if center_y is None else center_y,
        ),
        distortion=_distortion(values, number, image, source),
        camera_type=CAMERA_MODEL_TO_TYPE[model],
    )


def _distortion(
    values: Mapping[str, Any], number: Callable[[str], Optional[float]], image: Path, source: Path
) -> Tuple[float, ...]:
    listed = values.get("distortion_params")
    if listed is None:
        return tuple(number(key) or 0.0 for key in _DISTORTION_KEYS)
    try:
        distortion = tuple(float(value) for value in listed)
    except (TypeError, ValueError):
        distortion = ()
    if len(distortion) != len(_DISTORTION_KEYS):
        raise InputError(f"{source} gives distortion_params for {image.name} that are not 6 numbers; correct them.")
    return distortion


def intrinsics_from_images(images: List[Path], fov_deg: float) -> Tuple[List[Intrinsics], str]:
    """Intrinsics of images that come without any: from EXIF data where they tell, else from a field of view.

    An image without a focal length among images that have one gets their median field of view.

    Args:
        images: the image files.
        fov_deg: field of view along an image's longer side, in degrees.

    Returns:
        The intrinsics at the displayed size of each file, and where they come from, in words.
    """
    sizes = [image_size(image) for image in images]
    focals = [focal_from_exif(image) for image in images]
    relative = sorted(focal / max(size) for focal, size in zip(focals, sizes, strict=True) if focal is not None)
    if relative:
        fallback = relative[len(relative) // 2]
        origin = f"EXIF data ({len(relative)} of {len(images)} images)"
    else:
        fallback = focal_from_fov(fov_deg, 1.0)
        origin = f"--fov-deg {fov_deg:g} along the longer side"
    return [
        centerd_pinhole(size, focal if focal is not None else fallback * max(size))
        for size, focal in zip(sizes, focals, strict=True)
    ], origin
