"""Find the images of a folder, and what is known about each: its mask, pose and intrinsics."""

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

import numpy as np
from jaxtyping import Float

from gnerf_ns.data.images import IMAGE_SUFFIXES, is_image
from gnerf_ns.data.masks import masks_of_folder
from gnerf_ns.utils.errors import InputError


@dataclass(frozen=True)
class Frame:
    """One image and what its folder says about it."""

    image: Path
    """The image file."""
    mask: Optional[Path] = None
    """Its mask file, if any."""
    camera_to_world: Optional[Float[np.ndarray, "3 4"]] = None
    """Its true pose, if known."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """Intrinsics as the transforms.json spells them, the frame's own laid over the file's."""
    source: Optional[Path] = None
    """The transforms.json that lists it, if any."""


def read_frames(folder: Path, eval_interval: int) -> Tuple[List[Frame], List[Frame]]:
    """Training and held-out frames of a folder (or of one transforms.json, or one image).

    ``transforms_train.json`` goes with ``transforms_test.json``, else ``transforms_val.json``, as the held-out
    frames. In a single ``transforms.json``, ``train_filenames`` and ``test_filenames`` (else ``val_filenames``)
    decide, where given. In all other cases every ``eval_interval``-th image by file name is held out, but at least
    two are (0: none).

    Raises:
        InputError: the folder is missing, empty or without images; a transforms file cannot be read; an image or
            mask that it lists, or a mask of a ``masks`` folder, is missing; a file of that folder would serve two
            images.
    """
    train, held_out = _split(folder, eval_interval)
    # Of both splits at once, since they share the folder.
    frames = _with_masks_of_folder(train + held_out, folder)
    return frames[: len(train)], frames[len(train) :]


def read_all_frames(folder: Path) -> List[Frame]:
    """Frames of both splits, and whatever else a single ``transforms.json`` lists.

    Raises:
        InputError: as of ``read_frames``.
    """
    listing = _single_transforms_json(folder)
    train, held_out = _split(folder, eval_interval=0) if listing is None else (frames_from_json(listing), [])
    return _with_masks_of_folder(train + held_out, folder)


def _split(folder: Path, eval_interval: int) -> Tuple[List[Frame], List[Frame]]:
    listing = _single_transforms_json(folder)
    if listing is not None:
        return _split_by_lists(listing, eval_interval)
    if not folder.exists():
        raise InputError(f"There is no folder {folder}; give --data the folder that holds the images.")
    if is_image(folder):
        return [Frame(folder)], []
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give --data the folder that holds the images.")
    if not any(folder.iterdir()):
        raise InputError(f"The folder {folder} is empty; put the images there.")
    train = folder / "transforms_train.json"
    if train.is_file():
        frames = frames_from_json(train)
        for split in ("test", "val"):
            held_out = folder / f"transforms_{split}.json"
            if held_out.is_file():
                return frames, frames_from_json(held_out)
        return hold_out_every(frames, eval_interval)
    return hold_out_every(frames_from_folder(folder), eval_interval)


def _single_transforms_json(folder: Path) -> Optional[Path]:
    """The one file that lists all frames, where there is one."""
    if folder.suffix == ".json" and folder.is_file():
        return folder
    path = folder / "transforms.json"
    return path if path.is_file() and not (folder / "transforms_train.json").is_file() else None


def hold_out_every(frames: List[Frame], interval: int) -> Tuple[List[Frame], List[Frame]]:
    """Split off every ``interval``-th frame, the first included, but at least two (of three or more); 0: none."""
    if interval == 0:
        return frames, []
    if len(frames) <= interval:
        # Two, because ns-render's camera paths run through the held-out poses by default.
        interval = max(2, math.ceil(len(frames) / 2))
    return [frame for index, frame in enumerate(frames) if index % interval], frames[::interval]


def frames_from_folder(folder: Path) -> List[Frame]:
    """Frames of a folder (or its ``images`` subfolder) without any transforms file, by file name."""
    images = _images_in(folder / "images") or _images_in(folder)
    if not images:
        endings = ", ".join(IMAGE_SUFFIXES)
        raise InputError(f"No image is among the files in {folder}; images end in {endings} (in any letter case).")
    return [Frame(image) for image in images]


def frames_from_json(path: Path) -> List[Frame]:
    """Frames of a nerfstudio or Blender transforms file, by file name."""
    meta = _load(path)
    shared = {key: value for key, value in meta.items() if key != "frames"}
    frames = [_frame_from_entry(entry, shared, path) for entry in meta["frames"]]
    frames.sort(key=lambda frame: str(frame.image))
    return frames


def _split_by_lists(path: Path, eval_interval: int) -> Tuple[List[Frame], List[Frame]]:
    meta, frames = _load(path), frames_from_json(path)
    if "train_filenames" not in meta:
        return hold_out_every(frames, eval_interval)

    def listed(key: str) -> List[Frame]:
        names = meta[key]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InputError(f'{path} has "{key}" that is no list of file names; correct it, or remove that entry.')
        wanted = {str((path.parent / name).resolve()) for name in names}
        return [frame for frame in frames if str(frame.image.resolve()) in wanted]

    held_out = next((key for key in ("test_filenames", "val_filenames") if meta.get(key)), None)
    return listed("train_filenames"), [] if held_out is None else listed(held_out)


def _load(path: Path) -> Dict[str, Any]:
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({error}); correct it, or remove it to use the bare images."
        ) from error
    if not isinstance(meta, dict) or not isinstance(meta.get("frames"), list):
        raise InputError(f'{path} has no list called "frames"; correct it, or remove it to use the bare images.')
    return meta


def _frame_from_entry(entry: Any, shared: Mapping[str, Any], path: Path) -> Frame:
    if not isinstance(entry, dict) or not isinstance(entry.get("file_path"), str):
        raise InputError(f'{path} lists a frame without "file_path"; correct it, or remove it to use the bare images.')
    mask = None
    if entry.get("mask_path"):
        if not isinstance(entry["mask_path"], str):
            raise InputError(
                f'{path} gives {entry["file_path"]} a "mask_path" that is no file name; correct or remove that entry.'
            )
        mask = path.parent / entry["mask_path"]
        if not mask.is_file():
            raise InputError(f"{path} lists the mask {mask}, which does not exist; restore it or correct the file.")
    return Frame(
        image=_listed_image(path, entry["file_path"]),
        mask=mask,
        camera_to_world=_pose(entry, path),
        values={**shared, **entry},
        source=path,
    )


def _listed_image(path: Path, file_path: str) -> Path:
    """The file of a frame; Blender's layout leaves the extension out."""
    exact = path.parent / file_path
    endings = ("", *IMAGE_SUFFIXES, *(suffix.upper() for suffix in IMAGE_SUFFIXES))
    for ending in endings:
        candidate = exact.with_name(exact.name + ending)
        if candidate.is_file():
            return candidate
    raise InputError(f"{path} lists the image {exact}, which does not exist; restore it or take it off the list.")


def _pose(entry: Mapping[str, Any], path: Path) -> Optional[Float[np.ndarray, "3 4"]]:
    if entry.get("transform_matrix") is None:
        return None
    try:
        matrix = np.asarray(entry["transform_matrix"], dtype=np.float64)
    except (TypeError, ValueError):
        matrix = np.empty(0)
    if matrix.shape not in ((3, 4), (4, 4)) or not np.isfinite(matrix).all():
        raise InputError(
            f"{path} gives {entry['file_path']} a transform_matrix that is not 4x4 finite numbers; correct it."
        )
    return matrix[:3]


def _images_in(folder: Path) -> List[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if is_image(path))


def _with_masks_of_folder(frames: List[Frame], folder: Path) -> List[Frame]:
    """Frames for which no mask is listed take theirs from ``masks/``."""
    data_folder = folder.parent if folder.is_file() else folder
    masks = masks_of_folder([frame.image for frame in frames if frame.mask is None], data_folder)
    if masks is None:
        return frames
    return [replace(frame, mask=frame.mask or masks[frame.image]) for frame in frames]
