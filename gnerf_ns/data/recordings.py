"""Raw recordings of two telephone apps, Polycam and Record3D: images, with the lens and rough poses beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, Literal, Mapping, NamedTuple, Optional

import numpy as np
import roma
import torch
from jaxtyping import Float

from gnerf_ns.data.images import is_image
from gnerf_ns.data.transforms_json import Frame, frames_of_entries
from gnerf_ns.utils.console import remark
from gnerf_ns.utils.errors import InputError

_POLYCAM = (("corrected_images", "corrected_cameras"), ("images", "cameras"))
"""Folders of images and of their cameras. Polycam makes the first ones if it has corrected distortion and drift."""
_RECORD3D_IMAGES = ("rgb", "rgbd")
_RECORD3D_METADATA = ("metadata.json", "metadata")

_UPRIGHT = ((0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
"""From ARKit's world, where y is up, to nerfstudio's, where z is."""


class _Recording(NamedTuple):
    app: Literal["Polycam", "Record3D"]
    images: Path
    """Their folder."""
    cameras: Path
    """Polycam's folder of one file for each image, or Record3D's one file for all."""


def is_recording(folder: Path) -> bool:
    """Whether a folder is laid out like a raw recording of Polycam or Record3D."""
    return _find(folder) is not None


def recorded_frames(folder: Path, limit: int) -> Optional[List[Frame]]:
    """Images of a raw recording with their lenses and poses, as if a transforms.json listed them; what is read is said.

    Both apps have their poses from ARKit: OpenGL's camera axes, and y up. They are turned so that z is up.

    Args:
        folder: Polycam's folder, or ``keyframes`` in it; or Record3D's, which has ``rgb`` and ``metadata.json``.
        limit: Record3D writes every frame of its video: so many, evenly spread over time, are taken.

    Returns:
        In the order of the recording; None if the folder is none.

    Raises:
        InputError: what tells lenses and poses cannot be read.
    """
    recording = _find(folder)
    if recording is None:
        return None
    frames = _polycam(recording) if recording.app == "Polycam" else _record3d(recording, limit)
    with_pose = sum(frame.camera_to_world is not None for frame in frames)
    known = f"lenses and {with_pose} rough poses (--pipeline.poses given begins with them)" if with_pose else "lenses"
    remark(
        f"A recording of {recording.app}: {len(frames)} images from {recording.images}, with {known} from "
        f"{recording.cameras}."
    )
    return frames


def _find(folder: Path) -> Optional[_Recording]:
    for place in (folder / "keyframes", folder):
        for images, cameras in _POLYCAM:
            stems = {path.stem for path in (place / cameras).glob("*.json")}
            if any(path.stem in stems for path in _images_in(place / images)):
                return _Recording("Polycam", place / images, place / cameras)
    for images in _RECORD3D_IMAGES:
        for metadata in _RECORD3D_METADATA:
            if (folder / metadata).is_file() and _images_in(folder / images):
                return _Recording("Record3D", folder / images, folder / metadata)
    return None


def _images_in(folder: Path) -> List[Path]:
    """Those named by numbers in the order of these, before all others."""
    files = [path for path in folder.iterdir() if is_image(path)] if folder.is_dir() else []
    return sorted(files, key=lambda path: (int(path.stem) if path.stem.isdecimal() else np.inf, path.name))


def _polycam(recording: _Recording) -> List[Frame]:
    entries = []
    for image in _images_in(recording.images):
        file = recording.cameras / f"{image.stem}.json"
        camera = _read(file) if file.is_file() else {}
        entry = {ours: camera[theirs] for ours, theirs in _POLYCAM_LENS.items() if theirs in camera}
        names = [[f"t_{row}{column}" for column in range(4)] for row in range(3)]
        if all(name in camera for row in names for name in row):
            matrix = _numbers([camera[name] for row in names for name in row], 12, file, "t_00 to t_23")
            entry["transform_matrix"] = _upright(matrix.reshape(3, 4)).tolist()
        entries.append({**entry, "file_path": f"{recording.images.name}/{image.name}"})
    return frames_of_entries(entries, {}, recording.cameras)


_POLYCAM_LENS = {"fl_x": "fx", "fl_y": "fy", "cx": "cx", "cy": "cy", "w": "width", "h": "height"}
"""nerfstudio's names, and Polycam's."""


def _record3d(recording: _Recording, limit: int) -> List[Frame]:
    file, images = recording.cameras, _images_in(recording.images)
    metadata = _read(file)
    lens: Dict[str, Any] = {key: metadata[key] for key in ("w", "h") if key in metadata}
    if "K" in metadata:
        # Written column by column. The principal point is left in the middle: nerfstudio found it unreliable.
        matrix = _numbers(metadata["K"], 9, file, "K")
        lens.update(fl_x=float(matrix[0]), fl_y=float(matrix[4]))
    poses = metadata.get("poses") or []
    if poses and len(poses) != len(images):
        raise InputError(
            f"{file} has {len(poses)} poses, but there are {len(images)} images in {recording.images}; restore the "
            "recording, or give that folder of images alone."
        )
    entries: List[Dict[str, Any]] = [{"file_path": f"{recording.images.name}/{image.name}"} for image in images]
    for entry, pose in zip(entries, poses, strict=False):
        x, y, z, w, *position = _numbers(pose, 7, file, "one of the poses").tolist()
        rotation = roma.unitquat_to_rotmat(roma.quat_normalize(torch.tensor([x, y, z, w], dtype=torch.float64)))
        matrix = np.concatenate([rotation.numpy(), np.array(position)[:, None]], axis=1)
        entry["transform_matrix"] = _upright(matrix).tolist()
    chosen = sorted({round(index) for index in np.linspace(0, len(images) - 1, min(limit, len(images)))})
    return frames_of_entries([entries[index] for index in chosen], lens, file)


def _upright(camera_to_world: Float[np.ndarray, "3 4"]) -> Float[np.ndarray, "3 4"]:
    return np.array(_UPRIGHT) @ camera_to_world


def _read(path: Path) -> Mapping[str, Any]:
    try:
        meta = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}); restore it, or give the folder of images alone.") from error
    if not isinstance(meta, dict):
        raise InputError(f"{path} does not hold a dictionary; restore it, or give the folder of images alone.")
    return meta


def _numbers(values: Any, count: int, path: Path, name: str) -> Float[np.ndarray, "_"]:
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise InputError(f"{path} gives {name} that is not {count} finite numbers; correct it.")
    return numbers
