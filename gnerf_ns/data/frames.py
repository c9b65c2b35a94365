"""Find the images of a folder, divide them into training and held-out ones, and give each its mask."""

import math
import os
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple

from gnerf_ns.data.images import HEIC_ADVICE, HEIC_SUFFIXES, IMAGE_SUFFIXES, READS_HEIC, is_image, looks_like_image
from gnerf_ns.data.mask_files import is_named_like_masks, masks_of_images, split_off_masks
from gnerf_ns.data.recordings import is_recording, recorded_frames
from gnerf_ns.data.transforms_json import Frame, TransformsJson, read_transforms_json
from gnerf_ns.data.video import DEFAULT_FRAMES, RECORD, VIDEO_SUFFIXES, folder_of_frames, is_video
from gnerf_ns.utils.console import named, remark
from gnerf_ns.utils.errors import InputError

_ARCHIVE_SUFFIXES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")

UNREAD_SUFFIXES = (
    *(".gif", ".jp2", ".jxl", ".exr", ".hdr", ".tga", ".psd", ".ppm", ".pgm", ".pnm", ".jpe", ".mpo", ".svg", ".pdf"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw", ".raw"),
    *VIDEO_SUFFIXES,
    *_ARCHIVE_SUFFIXES,
    *(() if READS_HEIC else HEIC_SUFFIXES),
)
"""File name endings of images, videos and archives that are passed over, in lower case."""

_NO_ENDING, _NOTHING_THERE = "without an ending", "whose link leads nowhere"
"""What else is passed over."""

_ADVICE = {
    **dict.fromkeys(HEIC_SUFFIXES, HEIC_ADVICE),
    **dict.fromkeys(_ARCHIVE_SUFFIXES, "unpack archives"),
    _NO_ENDING: "give names an ending",
    _NOTHING_THERE: "restore what links lead to",
}
"""How to have a kind read, where it is not to be converted."""

_MAX_FOLDERS = 200
"""So many folders are searched for the images of one that has none."""


def read_frames(
    folder: Path, eval_interval: int, video_frames: int = DEFAULT_FRAMES
) -> Tuple[List[Frame], List[Frame]]:
    """Training and held-out frames of a folder (or of one transforms.json, one image, or one video).

    ``transforms_train.json`` goes with ``transforms_test.json``, else ``transforms_val.json``, as the held-out
    frames. In a single ``transforms.json``, ``train_filenames`` and ``test_filenames`` (else ``val_filenames``)
    decide, where given; without the first, all that is not held out is trained on. In all other cases every
    ``eval_interval``-th image by file name is held out, but at least two are (0: none).

    Raises:
        InputError: the folder is missing, empty or without images; a transforms file cannot be read; an image or
            mask that it lists, or a mask of a ``masks`` folder, is missing; a file of that folder would serve two
            images.
    """
    with _one_sentence_for_what_is_locked(folder):
        folder = _place_of_images(folder, video_frames)
        train, held_out = _split(folder, eval_interval, video_frames)
        _say_overlap(train, held_out, folder)
        # Of both splits at once, since they share the folder.
        frames = _with_masks_of_folder(train + held_out, folder)
    return frames[: len(train)], frames[len(train) :]


def read_all_frames(folder: Path, video_frames: int = DEFAULT_FRAMES) -> List[Frame]:
    """Frames of both splits, and whatever else a single ``transforms.json`` lists.

    Raises:
        InputError: as of ``read_frames``.
    """
    with _one_sentence_for_what_is_locked(folder):
        folder = _place_of_images(folder, video_frames)
        listing = _single_transforms_json(folder)
        if listing is not None:
            return _with_masks_of_folder(read_transforms_json(listing).frames, folder)
        train, held_out = _split(folder, 0, video_frames)
        return _with_masks_of_folder(train + held_out, folder)


@contextmanager
def _one_sentence_for_what_is_locked(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{error.filename or folder} cannot be read ({error.strerror}); correct its permissions, or give another "
            "folder."
        ) from error


def _place_of_images(folder: Path, video_frames: int) -> Path:
    """Where the images are: that of a video's frames, or the only place below a folder that has none itself.

    Raises:
        InputError: a video cannot be read.
    """
    if is_video(folder):
        return folder_of_frames(folder, video_frames)
    if not folder.is_dir() or _has_layout(folder) or _images_in(folder):
        return folder
    places = [*_videos_in(folder), *_places_below(folder)]
    if len(places) != 1 or _unread(folder, besides=(*VIDEO_SUFFIXES, *_ARCHIVE_SUFFIXES)):
        return folder
    remark(f"There are no images in {folder} itself: {places[0]} is read.")
    return _place_of_images(places[0], video_frames)


def _has_layout(folder: Path) -> bool:
    """Whether something says where the images are: a transforms file, a known app's folders, or a folder `images`."""
    listings = ("transforms.json", "transforms_train.json")
    return any((folder / name).is_file() for name in listings) or is_recording(folder) or bool(_inner_images(folder))


def _videos_in(folder: Path) -> List[Path]:
    return sorted(path for path in folder.iterdir() if is_video(path))


def _places_below(folder: Path) -> List[Path]:
    """What could be given in place of a folder without images: folders that have some, or videos, some levels below.

    Neither masks count, nor what was taken from a video.
    """
    places: Dict[Path, None] = {}
    for path in _folders_below(folder, depth=3):
        if is_named_like_masks(path) or (path / RECORD).is_file():
            continue
        found = [path] if _images_in(path) else _videos_in(path)
        if found:
            between = [path, *path.parents][: len(path.relative_to(folder).parts)]
            places.update(dict.fromkeys([each for each in between if _has_layout(each)][-1:] or found))
    return list(places)


def _split(folder: Path, eval_interval: int, video_frames: int) -> Tuple[List[Frame], List[Frame]]:
    listing = _single_transforms_json(folder)
    if listing is not None:
        return _split_by_lists(listing, eval_interval)
    if not folder.exists():
        raise InputError(
            f"There is no folder {folder}; give the folder that holds the images, or if a run does not find its own, "
            "move them beside the run's folder under the name that they had."
        )
    if is_image(folder):
        return [Frame(folder)], []
    if folder.suffix.lower() in _ARCHIVE_SUFFIXES and folder.is_file():
        raise InputError(f"{folder} is an archive; unpack it, and give the folder that holds the images.")
    if not folder.is_dir():
        raise InputError(f"{folder} is neither a folder nor a video; give the folder that holds the images.")
    if not any(folder.iterdir()):
        raise InputError(f"The folder {folder} is empty; put the images there.")
    train = folder / "transforms_train.json"
    if train.is_file():
        frames = read_transforms_json(train).frames
        for split in ("test", "val"):
            held_out = folder / f"transforms_{split}.json"
            held_out_frames = read_transforms_json(held_out).frames if held_out.is_file() else []
            if held_out_frames:
                return frames, held_out_frames
        return hold_out_every(frames, eval_interval)
    return hold_out_every(recorded_frames(folder, video_frames) or frames_from_folder(folder), eval_interval)


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
    """Frames of a folder (or its ``images`` subfolder) without any transforms file, by file name.

    Files that are passed over (in a format that is not read, or beside the folder ``images``) are named on the console.

    Raises:
        InputError: there is no image.
    """
    inner = _inner_images(folder)
    if inner is not None:
        images = _images_in(inner)
        _say_what_is_skipped(inner)
        beside = _images_in(folder)
        if beside:
            remark(f"{inner} is read, but not the images beside that folder: {named(beside)}.")
    else:
        images = _images_in(folder)
        if not images:
            raise InputError(_no_image_in(folder))
        _say_what_is_skipped(folder)
    return [Frame(image) for image in images]


def _split_by_lists(path: Path, eval_interval: int) -> Tuple[List[Frame], List[Frame]]:
    listing = read_transforms_json(path)
    for key, names in listing.unmatched.items():
        if names:
            remark(f"{path} has no frame for {len(names)} of the names in its {key}: {named(names)}.")
    _say_what_is_not_listed(listing.frames, path)
    held_out = _held_out_list(listing, path)
    if "train_filenames" in listing.lists:
        train = listing.lists["train_filenames"]
        if not train:
            raise InputError(
                f"train_filenames in {path} names none of its {len(listing.frames)} frames; correct the names, or "
                "remove that list."
            )
        unused = len(listing.frames) - len({frame.image for frame in train + held_out})
        if unused:
            remark(
                f"{unused} of {len(listing.frames)} frames of {path} are neither trained on nor held out by its lists."
            )
        return train, held_out
    if not held_out:
        return hold_out_every(listing.frames, eval_interval)
    images = {frame.image for frame in held_out}
    return [frame for frame in listing.frames if frame.image not in images], held_out


def _say_what_is_not_listed(frames: List[Frame], path: Path) -> None:
    listed = {file.resolve() for frame in frames for file in (frame.image, frame.mask) if file is not None}
    folders = sorted({frame.image.parent for frame in frames})
    others = [image for folder in folders for image in _images_in(folder) if image.resolve() not in listed]
    if others:
        remark(f"{len(others)} images are not read, since {path} does not list them: {named(others)}.")


def _held_out_list(listing: TransformsJson, path: Path) -> List[Frame]:
    """Those that ``test_filenames`` names, else ``val_filenames``; none where there is neither."""
    for key in ("test_filenames", "val_filenames"):
        if listing.lists.get(key):
            return listing.lists[key]
    wrong = [key for key in ("test_filenames", "val_filenames") if listing.unmatched.get(key)]
    if wrong:
        raise InputError(
            f"{' and '.join(wrong)} in {path} name none of its {len(listing.frames)} frames; correct the names, or "
            "remove the lists."
        )
    return []


def _say_overlap(train: List[Frame], held_out: List[Frame], folder: Path) -> None:
    trained = {frame.image.resolve() for frame in train}
    both = [frame.image for frame in held_out if frame.image.resolve() in trained]
    if both:
        remark(
            f"{len(both)} of {len(held_out)} held-out images of {folder} are trained on, too ({named(both)}): figures "
            "of held-out images say little."
        )


def _inner_images(folder: Path) -> Optional[Path]:
    """The folder `images` in another one, if it has some."""
    inner = next((path for path in sorted(folder.iterdir()) if path.is_dir() and path.name.lower() == "images"), None)
    return inner if inner is not None and _images_in(inner) else None


def _images_in(folder: Path) -> List[Path]:
    """By name; masks beside images are none."""
    images, _ = split_off_masks(sorted(path for path in folder.iterdir() if is_image(path)))
    return images


def _say_what_is_skipped(folder: Path) -> None:
    unread = _unread(folder)
    if unread:
        remark(_were_not_read(unread, folder))


def _unread(folder: Path, besides: Tuple[str, ...] = ()) -> Counter[str]:
    """How many files there are of each kind that has images or video, but is not read; by ending, in lower case."""
    kinds: Counter[str] = Counter()
    for path in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
        suffix = path.suffix.lower()
        if suffix in besides:
            continue
        if suffix in (*IMAGE_SUFFIXES, *UNREAD_SUFFIXES) and path.is_symlink() and not path.exists():
            kinds[_NOTHING_THERE] += 1
        elif suffix in UNREAD_SUFFIXES and path.is_file():
            kinds[suffix] += 1
        elif not suffix and path.is_file() and looks_like_image(path):
            kinds[_NO_ENDING] += 1
    return kinds


def _were_not_read(unread: Counter[str], folder: Path) -> str:
    count = unread.total()
    files = "1 file was" if count == 1 else f"{count} files were"
    counts = ", ".join(f"{number} {kind}" for kind, number in unread.items())
    others = "other formats" if any(kind in _ADVICE for kind in unread) else "them"
    advice = dict.fromkeys(_ADVICE.get(kind, f"convert {others} to JPEG or PNG") for kind in unread)
    return f"{files} not read in {folder}: {counts}; {', '.join(advice)}."


def _no_image_in(folder: Path) -> str:
    """What is said of a folder without images, with a hint at what it has instead."""
    sentence = f"No image is among the files in {folder}"
    unread = _unread(folder, besides=VIDEO_SUFFIXES)
    if unread:
        return f"{sentence}. {_were_not_read(unread, folder)}"
    places = [*_videos_in(folder), *_places_below(folder)]
    if places:
        more = f" and {len(places) - 4} more" if len(places) > 4 else ""
        return f"{sentence}, but in {', '.join(map(str, places[:4]))}{more}; give one of these."
    return f"{sentence}; images end in {', '.join(IMAGE_SUFFIXES)} (in any letter case)."


def _folders_below(folder: Path, depth: int) -> List[Path]:
    """Up to so many levels below a folder, the nearest first, and no more than a few hundred."""
    found = [folder]
    level = [folder]
    for _ in range(depth):
        level = [path for parent in level for path in sorted(parent.iterdir()) if _can_be_listed(path)][:_MAX_FOLDERS]
        found += level
    return found[1 : _MAX_FOLDERS + 1]


def _can_be_listed(path: Path) -> bool:
    return (
        path.is_dir() and not path.is_symlink() and not path.name.startswith(".") and os.access(path, os.R_OK | os.X_OK)
    )


def _with_masks_of_folder(frames: List[Frame], folder: Path) -> List[Frame]:
    """Frames for which no mask is listed take theirs from a folder of masks, or from beside the image."""
    data_folder = folder.parent if folder.is_file() else folder
    masks = masks_of_images([frame.image for frame in frames if frame.mask is None], data_folder)
    if masks is None:
        return frames
    return [replace(frame, mask=frame.mask or masks[frame.image]) for frame in frames]
