"""The one place that knows nerfstudio's ``transforms.json`` format: read it, and write cameras as one."""

import hashlib
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
from nerfstudio.cameras.cameras import CAMERA_MODEL_TO_TYPE, Cameras, CameraType
from PIL import Image

from gnerf_ns.data.images import IMAGE_SUFFIXES, ImageSize, as_displayed, as_stored, read_header
from gnerf_ns.data.orientation import (
    intrinsics_of,
    listed_orientation,
    resized_intrinsics,
    turned_intrinsics,
    turned_pose,
    turns_to_upright,
)
from gnerf_ns.utils.console import named, remark
from gnerf_ns.utils.errors import InputError

CAMERA_MODELS = {
    CameraType.PERSPECTIVE: "OPENCV",
    CameraType.FISHEYE: "OPENCV_FISHEYE",
    CameraType.EQUIRECTANGULAR: "EQUIRECTANGULAR",
}
"""Camera types that the file format can hold with six distortion numbers."""

SPLIT_KEYS = ("train_filenames", "val_filenames", "test_filenames")
"""Entries that name the frames of one split each."""

_ROTATION_TOLERANCE = 0.02
"""By how much a pose's axes may differ from orthonormal ones: written with two decimals, say."""


# Reading


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
        others = f", and neither do {len(names) - 1} others of {len(entries)}" if len(names) > 1 else ""
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


# Writing


@dataclass(frozen=True)
class FileFrames:
    """Image files of one split with their cameras, to be written."""

    cameras: Cameras
    """Intrinsics, at any size, and poses of the images."""
    image_filenames: List[Path]
    """The files, one per camera."""
    mask_filenames: Optional[List[Path]] = None
    """Their masks, if any."""
    orientations: Mapping[Path, int] = field(default_factory=dict)
    """The cameras are those of the images turned as their EXIF orientation says, or as it is said here."""
    remarks: Optional[List[Dict[str, Any]]] = None
    """Further entries of each frame; None for none."""

    def orientation_of(self, file: Path) -> int:
        """How an image or mask is turned for its camera."""
        return self.orientations.get(file, read_header(file).orientation)


def write_transforms_json(
    path: Path, splits: Mapping[str, FileFrames], further: Optional[Mapping[str, Any]] = None
) -> None:
    """Write poses, with intrinsics and distortion of each image file, in nerfstudio's format.

    Intrinsics are scaled from the cameras' own size to the file's. nerfstudio reads files without turning them
    upright, so a file with an EXIF rotation gets the camera of its stored pixels. No camera takes one that EXIF calls
    mirrored: an upright copy is written, into a folder beside the file. So is a copy of a mask that is not stored the
    way up that its image is. Masks are named if every one of them has its image's size, as nerfstudio demands. Files
    in the folder of the file or below are named from there, so that all can be moved together. The file appears whole
    or not at all.

    Args:
        path: the file to write; its folder is made if need be.
        splits: the images of "train", and perhaps of "val" and "test"; if only one of these two is given, it serves as
            the other, too. A single split of any name is written as a file without splits.
        further: entries of the file besides; None for none.

    Raises:
        InputError: cameras of differing or unsupported types, an image that cannot be read, or a camera that is not
            finite.
    """
    types = {CameraType(value) for split in splits.values() for value in split.cameras.camera_type.flatten().tolist()}
    if len(types) != 1 or not types <= CAMERA_MODELS.keys():
        raise InputError(
            f"{path} cannot hold cameras of type {', '.join(sorted(kind.name for kind in types))}; "
            f"use one of {', '.join(kind.name for kind in CAMERA_MODELS)} for all images."
        )
    with_masks = all(_masks_fit(split, path) for split in splits.values())
    frames = {
        name: [_entry(split, index, path, with_masks) for index in range(len(split.image_filenames))]
        for name, split in splits.items()
    }
    meta: Dict[str, Any] = {"camera_model": CAMERA_MODELS[types.pop()], **(further or {})}
    if sum(len(entries) > 0 for entries in frames.values()) > 1:
        for key, *names in (("train", "train"), ("val", "val", "test"), ("test", "test", "val")):
            entries = next((frames[name] for name in names if name in frames), [])
            meta[f"{key}_filenames"] = [entry["file_path"] for entry in entries]
    meta["frames"] = [entry for entries in frames.values() for entry in entries]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_text(json.dumps(meta, indent=2), encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _masks_fit(split: FileFrames, path: Path) -> bool:
    """Whether masks can be named, of which there are some or none."""
    for image, mask in zip(split.image_filenames, split.mask_filenames or [], strict=False):
        size = read_header(image).size_as(split.orientation_of(image))
        if read_header(mask).size_as(split.orientation_of(mask)) != size:
            remark(f"{path.name} names no masks: {mask} is not of the size of its image {image}.")
            return False
    return True


def _entry(split: FileFrames, index: int, path: Path, with_mask: bool) -> Dict[str, Any]:
    """One of the file's list of frames."""
    image, pose = split.image_filenames[index], split.cameras.camera_to_worlds[index].detach().double().cpu()
    header, orientation = read_header(image), split.orientation_of(image)
    intrinsics = resized_intrinsics(intrinsics_of(split.cameras, index), header.size_as(orientation))
    figures = [*intrinsics.focal, *intrinsics.center, *intrinsics.distortion]
    if not (torch.isfinite(pose).all() and np.isfinite(figures).all()):
        raise InputError(
            f"The camera of {image} is not finite numbers, so that {path} is not written; train anew, with another "
            "--machine.seed or fewer changes to the defaults."
        )
    turns = turns_to_upright(orientation, intrinsics.camera_type)
    if turns is None:
        image, stored_orientation = _upright_copy(image, orientation, 1, path), 1
    else:
        intrinsics, pose = turned_intrinsics(intrinsics, -turns), turned_pose(pose, -turns)
        stored_orientation = orientation
    entry: Dict[str, Any] = {
        "file_path": _named_from(path, image),
        "w": intrinsics.size.width,
        "h": intrinsics.size.height,
        "fl_x": intrinsics.focal[0],
        "fl_y": intrinsics.focal[1],
        "cx": intrinsics.center[0],
        "cy": intrinsics.center[1],
        **dict(zip(("k1", "k2", "k3", "k4", "p1", "p2"), intrinsics.distortion, strict=True)),
        "transform_matrix": [*pose.tolist(), [0.0, 0.0, 0.0, 1.0]],
    }
    if with_mask and split.mask_filenames is not None:
        mask = split.mask_filenames[index]
        mask_orientation = split.orientation_of(mask)
        if mask_orientation != stored_orientation:
            mask = _upright_copy(mask, mask_orientation, stored_orientation, path)
        entry["mask_path"] = _named_from(path, mask)
    return {**entry, **({} if split.remarks is None else split.remarks[index])}


def _named_from(path: Path, file: Path) -> str:
    """A file as it is named in a transforms.json: from its folder if it is there or below, else from the root."""
    file, folder = file.absolute(), path.absolute().parent
    return (file.relative_to(folder) if file.is_relative_to(folder) else file).as_posix()


def _upright_copy(file: Path, orientation: int, wanted: int, path: Path) -> Path:
    """A PNG file of an image or mask whose pixels are stored as a given EXIF orientation wants them, made if need be.

    Args:
        file: the original.
        orientation: the one that turns it upright.
        wanted: the one that is to turn the copy upright.
        path: the transforms.json that the copy is for.
    """
    digest = hashlib.sha256(f"{file.absolute()} {orientation} {wanted}".encode()).hexdigest()[:8]
    copy = path.absolute().with_name(f"{path.stem}_upright") / f"{file.stem}_{digest}.png"
    if copy.is_file() and copy.stat().st_mtime >= file.stat().st_mtime:
        return copy
    copy.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(file) as image:
        turned = as_stored(as_displayed(image, orientation), wanted)
        if turned.mode not in ("1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA"):
            turned = turned.convert("RGB")
        turned.save(copy, exif=Image.Exif())
    return copy
