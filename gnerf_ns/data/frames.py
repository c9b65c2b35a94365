"""Find the images of a folder, divide them into training and held-out ones, and give each its mask."""

import math
from dataclasses import replace
from pathlib import Path
from typing import List, Optional, Tuple

from gnerf_ns.data.images import IMAGE_SUFFIXES, is_image
from gnerf_ns.data.masks import masks_of_folder
from gnerf_ns.data.transforms_json import Frame, read_transforms_json
from gnerf_ns.utils.errors import InputError


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
    train, held_out = _split(folder, eval_interval=0) if listing is None else (read_transforms_json(listing).frames, [])
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
        frames = read_transforms_json(train).frames
        for split in ("test", "val"):
            held_out = folder / f"transforms_{split}.json"
            if held_out.is_file():
                return frames, read_transforms_json(held_out).frames
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


def _split_by_lists(path: Path, eval_interval: int) -> Tuple[List[Frame], List[Frame]]:
    listing = read_transforms_json(path)
    if "train_filenames" not in listing.lists:
        return hold_out_every(listing.frames, eval_interval)
    held_out = listing.lists.get("test_filenames") or listing.lists.get("val_filenames") or []
    return listing.lists["train_filenames"], held_out


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
