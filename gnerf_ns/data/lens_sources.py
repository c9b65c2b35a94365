"""Where an image's lens is known from: the user, else a transforms.json, else EXIF data, else an assumption."""

import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Literal, Mapping, Optional, Tuple

from nerfstudio.cameras.cameras import CAMERA_MODEL_TO_TYPE, CameraType

from gnerf_ns.cameras.rays import CENTRAL_CAMERA_TYPES
from gnerf_ns.data.images import ImageSize, focal_from_exif, image_size
from gnerf_ns.data.intrinsics import (
    NARROWEST_FOV_DEG,
    WIDEST_PERSPECTIVE_FOV_DEG,
    Intrinsics,
    check_intrinsics,
    doubts_about,
    focal_from_fov,
)
from gnerf_ns.data.orientation import turned_intrinsics
from gnerf_ns.data.transforms_json import Frame
from gnerf_ns.utils.console import named, remark
from gnerf_ns.utils.errors import InputError

DEFAULT_FOV_DEG = 50.0
"""Assumed along the longer side of images that nothing is known about; a telephone's or a camera's normal lens."""

LensSource = Literal["user", "transforms.json", "exif", "default"]
"""Who tells the focal lengths."""

CAMERA_MODELS: Dict[str, CameraType] = {
    **{name: kind for name, kind in CAMERA_MODEL_TO_TYPE.items() if kind in CENTRAL_CAMERA_TYPES},
    # COLMAP's other names for what nerfstudio's models can hold, and plain ones.
    "FULL_OPENCV": CameraType.PERSPECTIVE,
    "SIMPLE_RADIAL_FISHEYE": CameraType.FISHEYE,
    "RADIAL_FISHEYE": CameraType.FISHEYE,
    "PERSPECTIVE": CameraType.PERSPECTIVE,
    "FISHEYE": CameraType.FISHEYE,
}
"""Spellings of camera models that are understood, in any letter case."""

_MODELS_WITHOUT_DISTORTION = ("SIMPLE_PINHOLE", "PINHOLE", "EQUIRECTANGULAR")

_DISTORTION_KEYS = ("k1", "k2", "k3", "k4", "p1", "p2")
"""In the order of nerfstudio's Cameras.distortion_params."""

_FOREIGN_KEYS = (
    *("k5", "k6", "p3", "p4", "s1", "s2", "s3", "s4", "sx1", "sy1", "omega"),
    *("ftheta_p0", "ftheta_p1", "ftheta_p2", "ftheta_p3", "ftheta_p4", "latlong", "orthographic"),
)
"""Of lens models that no camera of nerfstudio has (OpenCV's rational and thin prism ones, Metashape, instant-ngp)."""

_UNDISTORT = "undistort the images with the program that wrote the file."
_LARGEST_CONTRADICTION = 1.5


@dataclass(frozen=True)
class Lenses:
    """Intrinsics of several images."""

    intrinsics: List[Intrinsics]
    """One for each, of the upright image."""
    source: LensSource
    """Where the focal lengths come from."""
    origin: str
    """Likewise, in words."""
    doubts: Dict[str, List[Path]]
    """What is unusual but used: the middle of a sentence, and the files whose names end it."""

    def remark_doubts(self, data: Path) -> None:
        """Say once what is unusual about images of a folder or list."""
        for doubt, images in self.doubts.items():
            remark(f"In {data}, {doubt} {named(images)}.")


@dataclass(frozen=True)
class _Lens:
    """All but the focal length, which is not always known; see `Intrinsics`."""

    size: ImageSize
    center: Tuple[float, float]
    distortion: Tuple[float, ...] = (0.0,) * 6
    camera_type: CameraType = CameraType.PERSPECTIVE
    focal: Optional[Tuple[float, float]] = None
    doubts: Tuple[str, ...] = ()

    @property
    def relative_focal(self) -> Optional[float]:
        """In units of the longer side."""
        return None if self.focal is None else math.sqrt(self.focal[0] * self.focal[1]) / max(self.size)

    def with_relative_focal(self, relative_focal: float) -> Intrinsics:
        focal = relative_focal * max(self.size)
        return Intrinsics(self.size, (focal, focal), self.center, self.distortion, self.camera_type)

    def as_known(self) -> Optional[Intrinsics]:
        if self.focal is None:
            return None
        return Intrinsics(self.size, self.focal, self.center, self.distortion, self.camera_type)


def lenses_of_frames(frames: List[Frame], fov_deg: Optional[float], fallback_fov_deg: float) -> Lenses:
    """Intrinsics of all frames from the same kind of source, the first one that tells anything.

    Where that source tells about some of the images only, the others get the median focal length of these, relative to
    the longer side. Principal points, distortion and camera models are those of the transforms.json, whoever tells the
    focal length.

    Args:
        frames: of all splits, since images tell about each other.
        fov_deg: field of view along an image's longer side, in degrees, as the user says; None for nothing said.
        fallback_fov_deg: likewise, where nothing tells.

    Raises:
        InputError: a figure is no number or out of range, the camera models are unknown or differ, or the distortion
            cannot be undone.
    """
    lenses = [_lens_of_frame(frame) for frame in frames]
    _check_one_camera_type(frames, lenses)
    doubts: Dict[str, List[Path]] = defaultdict(list)
    intrinsics, source, origin = _with_focal_lengths(frames, lenses, fov_deg, fallback_fov_deg, doubts)
    checked = set()
    for frame, lens, found in zip(frames, lenses, intrinsics, strict=True):
        if found not in checked:
            check_intrinsics(found, _where(frame, source))
            checked.add(found)
        for doubt in (*lens.doubts, *doubts_about(found)):
            doubts[doubt].append(frame.image)
    upright = [turned_intrinsics(found, frame.quarter_turns) for frame, found in zip(frames, intrinsics, strict=True)]
    return Lenses(upright, source, origin, dict(doubts))


def _with_focal_lengths(
    frames: List[Frame],
    lenses: List[_Lens],
    fov_deg: Optional[float],
    fallback_fov_deg: float,
    doubts: Dict[str, List[Path]],
) -> Tuple[List[Intrinsics], LensSource, str]:
    if fov_deg is not None:
        origin = f"--fov-deg {fov_deg:g} along the longer side, whatever a transforms.json or EXIF data say"
        return [_with_field_of_view(lens, fov_deg) for lens in lenses], "user", origin
    listed = [lens.relative_focal for lens in lenses]
    if any(focal is not None for focal in listed):
        others = _median(listed)
        for frame, focal in zip(frames, listed, strict=True):
            if focal is None:
                doubts["the focal length is not listed, and taken from the other images, of"].append(frame.image)
        found = [lens.as_known() or lens.with_relative_focal(others) for lens in lenses]
        return found, "transforms.json", str(next(frame.source for frame in frames if frame.source is not None))
    for frame, lens in zip(frames, lenses, strict=True):
        if lens.camera_type != CameraType.PERSPECTIVE:
            raise InputError(
                f"{frame.source} gives no focal length (fl_x, in pixels) for the {lens.camera_type.name.lower()} "
                f"image {frame.image.name}; add it, or say --fov-deg."
            )
    photographed = [_focal_from_plausible_exif(frame, lens, doubts) for frame, lens in zip(frames, lenses, strict=True)]
    count = sum(focal is not None for focal in photographed)
    if count:
        others = _median(photographed)
        found = [
            lens.with_relative_focal(focal if focal is not None else others)
            for lens, focal in zip(lenses, photographed, strict=True)
        ]
        return found, "exif", f"EXIF data ({count} of {len(frames)} images)"
    origin = f"an assumed field of view of {fallback_fov_deg:g} degrees along the longer side (--fov-deg says another)"
    return [_with_field_of_view(lens, fallback_fov_deg) for lens in lenses], "default", origin


def _with_field_of_view(lens: _Lens, fov_deg: float) -> Intrinsics:
    if lens.camera_type == CameraType.EQUIRECTANGULAR:
        raise InputError("--fov-deg tells nothing about equirectangular images; leave it out.")
    return lens.with_relative_focal(focal_from_fov(fov_deg, 1.0, lens.camera_type))


def _median(values: List[Optional[float]]) -> float:
    known = sorted(value for value in values if value is not None)
    return known[len(known) // 2]


def _focal_from_plausible_exif(frame: Frame, lens: _Lens, doubts: Dict[str, List[Path]]) -> Optional[float]:
    """Relative to the longer side."""
    focal = focal_from_exif(frame.image)
    if focal is None:
        return None
    relative = focal / max(image_size(frame.image))
    fields = lens.with_relative_focal(relative).fields_of_view
    if min(fields) < NARROWEST_FOV_DEG or max(fields) > WIDEST_PERSPECTIVE_FOV_DEG:
        doubts["the focal length in the EXIF data is impossible, and not used, of"].append(frame.image)
        return None
    return relative


def _where(frame: Frame, source: LensSource) -> str:
    if source == "transforms.json" and frame.source is not None:
        return f"{frame.source} says that {frame.image.name}"
    said = {"user": "--fov-deg", "exif": "EXIF data", "default": "the default field of view"}.get(source, source)
    if frame.source is not None:
        said = f"{frame.source} (with {said})"
    return f"By {said}, {frame.image}"


def _check_one_camera_type(frames: List[Frame], lenses: List[_Lens]) -> None:
    examples = {lens.camera_type: frame for frame, lens in zip(frames, lenses, strict=True)}
    if len(examples) > 1:
        listed = ", ".join(f"{kind.name.lower()} for {frame.image.name}" for kind, frame in examples.items())
        # Images beside those that it lists, or elsewhere, are taken for perspective ones.
        source = next(frame.source for frame in examples.values() if frame.source is not None)
        raise InputError(f"{source} mixes camera models ({listed}); keep images of one model.")


def _lens_of_frame(frame: Frame) -> _Lens:
    if frame.source is None:
        size = image_size(frame.image)
        return _Lens(size, (size.width / 2, size.height / 2))
    return _ListedLens(frame.values, frame.image, frame.source).read()


class _ListedLens:
    """One frame's lens as its transforms.json spells it."""

    def __init__(self, values: Mapping[str, Any], image: Path, source: Path) -> None:
        """
        Args:
            values: the frame's own entries laid over the file's.
            image: the frame's image, for its size where the file has none.
            source: the transforms.json, for messages.
        """
        self._values, self._image, self._source = values, image, source

    def read(self) -> _Lens:
        """Raises:
        InputError: a figure is no number or out of range, or the camera model is unknown.
        """
        camera_type = self._camera_type()
        size = self._size()
        focal = self._focal(size, camera_type)
        center_x, center_y = self._number("cx"), self._number("cy")
        return _Lens(
            size=size,
            center=(
                size.width / 2 if center_x is None else center_x,
                size.height / 2 if center_y is None else center_y,
            ),
            distortion=self._distortion(camera_type),
            camera_type=camera_type,
            focal=focal,
            doubts=self._contradictions(size, focal),
        )

    def _number(self, key: str) -> Optional[float]:
        raw = self._values.get(key)
        if raw is None:
            return None
        try:
            value = math.nan if isinstance(raw, bool) else float(raw)
        except (TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value):
            raise self._error(f"gives {key} = {raw!r}", "it must be a finite number.")
        return value

    def _positive(self, key: str) -> Optional[float]:
        value = self._number(key)
        if value is not None and value <= 0:
            raise self._error(f"gives {key} = {value:g}", "it must be positive.")
        return value

    def _error(self, what: str, cure: str) -> InputError:
        return InputError(f"{self._source} {what} for {self._image.name}; {cure}")

    def _size(self) -> ImageSize:
        width, height = self._positive("w"), self._positive("h")
        if width is None or height is None:
            actual = image_size(self._image)
            if width is not None:
                height = width * actual.height / actual.width
            elif height is not None:
                width = height * actual.width / actual.height
            else:
                return actual
        size = ImageSize(round(width), round(height))
        if min(size) < 1:
            raise self._error(f"gives a size of {width:g} x {height:g} pixels", "correct w and h.")
        return size

    def _focal(self, size: ImageSize, camera_type: CameraType) -> Optional[Tuple[float, float]]:
        focal_x, focal_y = self._positive("fl_x"), self._positive("fl_y")
        if focal_x is None and focal_y is None:
            if camera_type == CameraType.EQUIRECTANGULAR:
                return size.width / 2.0, float(size.height)  # as nerfstudio has them
            focal_x = self._focal_from_angle("x", float(size.width))
            focal_y = self._focal_from_angle("y", float(size.height))
        focal_x, focal_y = focal_x or focal_y, focal_y or focal_x
        return None if focal_x is None or focal_y is None else (focal_x, focal_y)

    def _focal_from_angle(self, axis: str, side: float) -> Optional[float]:
        """From nerfstudio's angle in radians, else from instant-ngp's in degrees; fisheye lenses have them, too."""
        angle = self._positive(f"camera_angle_{axis}")
        if angle is not None and angle >= math.pi:
            raise self._error(
                f"gives camera_angle_{axis} = {angle:g}",
                f"it must be in radians, below π ({angle:g} degrees are {math.radians(angle):.4g}).",
            )
        if angle is None:
            degrees = self._positive(f"{axis}_fov")
            if degrees is not None and degrees >= 180.0:
                raise self._error(f"gives {axis}_fov = {degrees:g}", "it must be in degrees, below 180.")
            angle = None if degrees is None else math.radians(degrees)
        return None if angle is None else focal_from_fov(math.degrees(angle), side)

    def _contradictions(self, size: ImageSize, focal: Optional[Tuple[float, float]]) -> Tuple[str, ...]:
        angle = self._number("camera_angle_x")
        if self._values.get("fl_x") is None or focal is None or angle is None:
            return ()
        if 0 < angle < math.pi:
            ratio = focal_from_fov(math.degrees(angle), float(size.width)) / focal[0]
            if 1 / _LARGEST_CONTRADICTION < ratio < _LARGEST_CONTRADICTION:
                return ()
        return ("fl_x contradicts camera_angle_x, and fl_x is used, of",)

    def _model(self) -> Optional[str]:
        """The camera model in the spelling of `CAMERA_MODELS`, if it is one of these."""
        model = self._values.get("camera_model")
        if model is None:
            return "EQUIRECTANGULAR" if self._values.get("equirectangular") else None  # instant-ngp's
        spelled = model.strip().upper().replace("-", "_").replace(" ", "_") if isinstance(model, str) else ""
        if spelled not in CAMERA_MODELS:
            known = ", ".join(CAMERA_MODELS)
            raise self._error(f"names the camera model {model!r}", f"use one of {known}, or {_UNDISTORT}")
        return spelled

    def _camera_type(self) -> CameraType:
        model, is_fisheye = self._model(), self._values.get("is_fisheye")
        if is_fisheye not in (None, True, False):
            raise self._error(f"gives is_fisheye = {is_fisheye!r}", "it must be true or false.")
        if model is None:
            return CameraType.FISHEYE if is_fisheye else CameraType.PERSPECTIVE
        camera_type = CAMERA_MODELS[model]
        if is_fisheye is not None and bool(is_fisheye) != (camera_type == CameraType.FISHEYE):
            raise self._error(
                f"names the camera model {model} but has is_fisheye = {is_fisheye}", "correct one of them."
            )
        return camera_type

    def _distortion(self, camera_type: CameraType) -> Tuple[float, ...]:
        single = {key: self._number(key) for key in _DISTORTION_KEYS}
        distortion: Tuple[float, ...] = tuple(value or 0.0 for value in single.values())
        listed = self._values.get("distortion_params")
        if listed is not None:
            try:
                figures = [float(value) for value in listed]
            except (TypeError, ValueError):
                figures = []
            if len(figures) != len(_DISTORTION_KEYS) or not all(math.isfinite(value) for value in figures):
                order = ", ".join(_DISTORTION_KEYS)
                raise self._error("gives distortion_params", f"that must be 6 finite numbers: {order}.")
            if any(value is not None for value in single.values()) and distortion != tuple(figures):
                raise self._error("gives distortion_params and other figures as k1 to p2", "remove one of them.")
            distortion = tuple(figures)
        self._refuse_foreign_models(camera_type, k4=distortion[3])
        model = self._model()
        if model in _MODELS_WITHOUT_DISTORTION and any(distortion):
            raise self._error(
                f"names the camera model {model}, which has no distortion, but gives distortion figures",
                "remove them if the images are undistorted, else name the model that they belong to.",
            )
        if camera_type == CameraType.FISHEYE and any(distortion[4:]):
            raise self._error("gives p1 or p2, which OPENCV_FISHEYE has not,", f"remove them, or {_UNDISTORT}")
        return distortion

    def _refuse_foreign_models(self, camera_type: CameraType, k4: float) -> None:
        foreign = {key: self._values[key] for key in _FOREIGN_KEYS if _is_set(self._values.get(key))}
        # Without k5 and k6, k4 is the fourth radial term of nerfstudio (and Metashape), not OpenCV's denominator.
        is_rational = any(key in self._values for key in ("k5", "k6")) or self._model() == "FULL_OPENCV"
        if camera_type == CameraType.PERSPECTIVE and is_rational and k4 != 0:
            foreign = {"k4": k4, **foreign}
        if foreign:
            figures = ", ".join(f"{key} = {value}" for key, value in foreign.items())
            raise self._error(f"gives {figures}, of a lens model that cannot be read,", _UNDISTORT)


def _is_set(value: Any) -> bool:
    """Whether a figure of a lens model is there and does something."""
    if isinstance(value, str):
        try:
            return float(value) != 0.0
        except ValueError:
            return True
    return value not in (None, False, 0, [])
