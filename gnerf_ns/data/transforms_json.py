"""nerfstudio's ``transforms.json``, read; `transforms_writer` writes it. No other place knows the format."""

import json
import os
import unicodedata
from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import CAMERA_MODEL_TO_TYPE, CameraType

from gnerf_ns.data.images import IMAGE_SUFFIXES, ImageSize, read_header
from gnerf_ns.data.orientation import listed_orientation, turned_pose
from gnerf_ns.utils.console import named, remark
from gnerf_ns.utils.errors import InputError

SPLIT_KEYS = ("train_filenames", "val_filenames", "test_filenames")
"""Entries that name the frames of one split each."""

_ROTATION_TOLERANCE = 0.02
"""By how much a pose's axes may differ from orthonormal ones: written with two decimals, say."""


@dataclass(frozen=True)
class Frame:
    """One image and what its folder says about it."""

    image: Path
    """The image file."""
    mask: Optional[Path] = None
    """Its mask file, if any."""
    camera_to_world: Optional[Float[np.ndarray, "3 4"]] = None
    """Its true pose, if known: of the upright image."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """Intrinsics as the transforms.json spells them, the frame's own laid over the file's."""
    source: Optional[Path] = None
    """The transforms.json that lists it, if any."""
    quarter_turns: int = 0
    """How often the image that `values` are for is turned a quarter clockwise to be upright."""
    orientations: Mapping[Path, int] = field(default_factory=dict)
    """The EXIF orientation to apply to its image and its mask, where that is not their own."""


@dataclass(frozen=True)
class TransformsJson:
    """What a transforms file says."""

    frames: List[Frame]
    """All of them, by file name."""
    lists: Mapping[str, List[Frame]]
    """Those that each of ``train_filenames``, ``val_filenames`` and ``test_filenames`` names, where there is one."""
    unmatched: Mapping[str, List[str]]
    """Those names of each list that are no frame's."""


def load_transforms_json(path: Path) -> Dict[str, Any]:
    """The bare entries of a transforms file, in any of JSON's encodings, with or without a byte order mark.

    Raises:
        InputError: it cannot be read, is no JSON, or has no list of frames.
    """
    try:
        meta = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} cannot be read ({error}); correct it, or remove it to use the bare images."
        ) from error
    if not isinstance(meta, dict) or not isinstance(meta.get("frames"), list):
        raise InputError(f'{path} has no list called "frames"; correct it, or remove it to use the bare images.')
    return meta


def read_transforms_json(path: Path) -> TransformsJson:
    """Read a nerfstudio or Blender transforms file; a frame that is listed twice counts once.

    Raises:
        InputError: it cannot be read; an image or mask that it lists is missing; an entry is not what it should be.
    """
    meta = load_transforms_json(path)
    shared = {key: value for key, value in meta.items() if key != "frames"}
    frames: Dict[Path, Frame] = {}
    repeated: List[Path] = []
    files = [_file_of_entry(entry, path) for entry in meta["frames"]]
    _check_that_all_are_there(meta["frames"], files, path)
    for entry, image in zip(meta["frames"], files, strict=True):
        assert image is not None
        frame = _frame_from_entry(entry, image, shared, path)
        if frames.setdefault(frame.image.resolve(), frame) is not frame:
            repeated.append(frame.image)
    if repeated:
        remark(f"{path} lists {named(repeated)} more than once; the first entry of each counts.")
    listed = {key: _listed(meta[key], key, frames, path) for key in SPLIT_KEYS if key in meta}
    return TransformsJson(
        sorted(frames.values(), key=lambda frame: str(frame.image)),
        {key: matched for key, (matched, _) in listed.items()},
        {key: unmatched for key, (_, unmatched) in listed.items()},
    )


def frames_of_entries(entries: List[Dict[str, Any]], shared: Mapping[str, Any], source: Path) -> List[Frame]:
    """Frames as a transforms file of that name, with these frames and shared entries, would list them.

    Args:
        entries: of images that are there.
        shared: what holds for all frames.
        source: beside which images are.

    Raises:
        InputError: an entry is not what it should be.
    """
    return [_frame_from_entry(entry, source.parent / entry["file_path"], shared, source) for entry in entries]


def _listed(names: Any, key: str, frames: Mapping[Path, Frame], path: Path) -> Tuple[List[Frame], List[str]]:
    """The frames that a list names, by file name, and the names that are no frame's."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f'{path} has "{key}" that is no list of file names; correct it, or remove that entry.')
    files = {name: _listed_file(path, name, with_endings=True) for name in names}
    wanted = {None if file is None else file.resolve() for file in files.values()}
    matched = [frame for image, frame in frames.items() if image in wanted]
    unmatched = [name for name, file in files.items() if file is None or file.resolve() not in frames]
    return sorted(matched, key=lambda frame: str(frame.image)), unmatched


def _file_of_entry(entry: Any, path: Path) -> Optional[Path]:
    """The image of a frame; None if there is no file of that name."""
    if not isinstance(entry, dict) or not isinstance(entry.get("file_path"), str) or not entry["file_path"]:
        raise InputError(f'{path} lists a frame without "file_path"; correct it, or remove it to use the bare images.')
    return _listed_file(path, entry["file_path"], with_endings=True)


def _check_that_all_are_there(entries: Sequence[Any], files: Sequence[Optional[Path]], path: Path) -> None:
    names = [entry["file_path"] for entry, file in zip(entries, files, strict=True) if file is None]
    if names:
        others = f", like {len(names) - 1} more of {len(entries)}" if len(names) > 1 else ""
        raise InputError(
            f"{path} lists the image {path.parent / names[0]}, which does not exist{others}; restore it or take it off "
            "the list."
        )
    elsewhere = [entry["file_path"] for entry in entries if _is_absolute(entry["file_path"])]
    gone = next((name for name in elsewhere if not os.path.isfile(name)), None)
    if gone is not None:
        remark(f"{path} lists files of another place, like {gone}; they are read from {path.parent}.")


def _frame_from_entry(entry: Mapping[str, Any], image: Path, shared: Mapping[str, Any], path: Path) -> Frame:
    name = entry["file_path"]
    mask = None
    if entry.get("mask_path"):
        if not isinstance(entry["mask_path"], str):
            raise InputError(f'{path} gives {name} a "mask_path" that is no file name; correct or remove that entry.')
        mask = _listed_file(path, entry["mask_path"])
        if mask is None:
            raise InputError(
                f"{path} lists the mask {path.parent / entry['mask_path']}, which does not exist; restore it or "
                "correct the file."
            )
    return _turned_upright(Frame(image, mask, _pose(entry, path), {**shared, **entry}, path))


def _listed_file(path: Path, name: str, with_endings: bool = False) -> Optional[Path]:
    """The file of that name: written on any operating system, on another machine, or in other letter case.

    Blender's layout leaves the ending out. Of a path from the root that is not here, as much of its end is looked for
    beside the list as is there.
    """
    endings = ("", *IMAGE_SUFFIXES, *(suffix.upper() for suffix in IMAGE_SUFFIXES)) if with_endings else ("",)
    slashed = name.replace("\\", "/")
    for spelling in (name, slashed):
        exact = path.parent / spelling
        for ending in endings:
            candidate = exact.with_name(exact.name + ending) if exact.name else exact
            if candidate.is_file():
                return candidate
    parts = PurePosixPath(slashed).parts
    for start in range(1, len(parts)) if _is_absolute(slashed) else (0,):
        found = _in_any_case(path.parent, parts[start:], endings)
        if found is not None:
            return found
    return None


def _is_absolute(name: str) -> bool:
    return PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute()


def _in_any_case(folder: Path, parts: Sequence[str], endings: Sequence[str]) -> Optional[Path]:
    """The one file whose path in a folder differs by no more than letter case, or by how accents are encoded."""
    for part in parts[:-1]:
        inner = _entries(folder).get(_folded(part), ())
        if part != ".." and len(inner) != 1:
            return None
        folder = folder / (part if part == ".." else inner[0])
    names = {name for ending in endings for name in _entries(folder).get(_folded("".join((*parts[-1:], ending))), ())}
    found = [folder / name for name in names if (folder / name).is_file()]
    return found[0] if len(found) == 1 else None


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _entries(folder: Path) -> Mapping[str, Sequence[str]]:
    """The names in a folder that is there, by what they have in common with other spellings."""
    try:
        return _listing(folder, folder.stat().st_mtime_ns)
    except OSError:
        return {}


@lru_cache(maxsize=64)
def _listing(folder: Path, modified_ns: int) -> Mapping[str, Sequence[str]]:
    del modified_ns  # a part of the cache's key
    names: Dict[str, List[str]] = defaultdict(list)
    for name in os.listdir(folder):
        names[_folded(name)].append(name)
    return dict(names)


def _pose(entry: Mapping[str, Any], path: Path) -> Optional[Float[np.ndarray, "3 4"]]:
    if entry.get("transform_matrix") is None:
        return None
    try:
        matrix = np.asarray(entry["transform_matrix"], dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        matrix = np.empty(0)
    fault = _fault_of(matrix)
    if fault is not None:
        raise InputError(f"{path} gives {entry['file_path']} a transform_matrix that {fault}; correct it.")
    scale = np.cbrt(np.linalg.det(matrix[:3, :3]))
    # Left as it is where it is a rotation already.
    rotation = matrix[:3, :3] if abs(scale - 1) < _ROTATION_TOLERANCE else matrix[:3, :3] / scale
    return np.concatenate([rotation, matrix[:3, 3:]], axis=1)


def _fault_of(matrix: Float[np.ndarray, "*shape"]) -> Optional[str]:
    """Why a matrix is no camera_to_world: a rotation, perhaps scaled, and a position; None if it is one."""
    if matrix.shape not in ((3, 4), (4, 4)) or not np.isfinite(matrix).all():
        return "is not 4x4 finite numbers"
    longest, _, shortest = np.linalg.svd(matrix[:3, :3], compute_uv=False)
    if longest == 0:
        return "has only zeros for its rotation"
    if len(matrix) == 4 and not np.allclose(matrix[3], (0.0, 0.0, 0.0, 1.0), atol=1e-6):
        return "does not end with the row 0 0 0 1"
    if shortest < (1 - _ROTATION_TOLERANCE) * longest:
        return "is no rotation (its axes are of differing lengths or not at right angles)"
    return "mirrors the world (its determinant is negative)" if np.linalg.det(matrix[:3, :3]) < 0 else None


def _turned_upright(frame: Frame) -> Frame:
    """The frame with the pose of its upright image.

    A listed pose is that of the stored pixels unless the listed size is that of the displayed ones; a camera without a
    pose is that of the displayed pixels unless its size is that of the stored ones.
    """
    width, height = (_positive(frame.values.get(key)) for key in "wh")
    turns, orientations = listed_orientation(
        frame.image,
        frame.mask,
        _camera_type(frame.values),
        None if width is None or height is None else ImageSize(round(width), round(height)),
        in_doubt=frame.camera_to_world is not None,
    )
    values = frame.values
    if (width is None or height is None) and (turns or orientations):
        stored = read_header(frame.image).size
        scale = width / stored.width if width else height / stored.height if height else 1.0
        values = {**values, "w": scale * stored.width, "h": scale * stored.height}
    pose = frame.camera_to_world
    if pose is not None:
        pose = turned_pose(torch.from_numpy(pose), turns).numpy()
    return replace(frame, camera_to_world=pose, values=values, quarter_turns=turns, orientations=orientations)


def _positive(value: Any) -> Optional[float]:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None  # a wrong number is complained of where intrinsics are read
    return number if np.isfinite(number) and number >= 1 else None


def _camera_type(values: Mapping[str, Any]) -> CameraType:
    """As far as it matters to whether a camera can be turned."""
    if values.get("equirectangular"):
        return CameraType.EQUIRECTANGULAR
    return CAMERA_MODEL_TO_TYPE.get(str(values.get("camera_model")).upper(), CameraType.PERSPECTIVE)
