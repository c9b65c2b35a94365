"""Cameras written as nerfstudio's ``transforms.json``."""

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from PIL import Image

from gnerf_ns.data.images import as_displayed, as_stored, read_header
from gnerf_ns.data.orientation import (
    intrinsics_of,
    resized_intrinsics,
    turned_intrinsics,
    turned_pose,
    turns_to_upright,
)
from gnerf_ns.utils.console import remark
from gnerf_ns.utils.errors import InputError

CAMERA_MODELS = {
    CameraType.PERSPECTIVE: "OPENCV",
    CameraType.FISHEYE: "OPENCV_FISHEYE",
    CameraType.EQUIRECTANGULAR: "EQUIRECTANGULAR",
}
"""Camera types that the file format can hold with six distortion numbers."""


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
