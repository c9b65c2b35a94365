"""Which files are masks, and of which images: those of a folder ``masks/`` or the like, and those beside the images."""

import os
import re
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

from gnerf_ns.data.images import is_image
from gnerf_ns.utils.console import named, remark
from gnerf_ns.utils.errors import InputError

_FOLDER_NAME = re.compile(
    r"((object|foreground|fg|image|segmentation|binary)[ _-]?)?masks?|segmentations?|segs?|silhouettes?|mattes?",
    re.IGNORECASE,
)
_WORD_IN_FILE_NAME = re.compile(
    r"(?<![^\W\d_])(?P<ignored>dynamic[_\-. ]?)?(masks?|segmentations?|segs?|silhouettes?|mattes?)(?![^\W\d_])",
    re.IGNORECASE,
)
_SEPARATORS = "_-. "


def is_named_like_masks(folder: Path) -> bool:
    """Whether a folder's name says that masks are in it."""
    return _FOLDER_NAME.fullmatch(folder.name) is not None


def split_off_masks(files: Sequence[Path]) -> Tuple[List[Path], List[Path]]:
    """Images of one folder, and masks among them.

    A mask is named like another file, but for the word "mask": ``a_mask.png``, ``a.mask.png``, ``mask_a.png`` or
    ``dynamic_mask_a.png`` for ``a.jpg``, and ``mask_007.png`` for ``frame_007.jpg``. Images whose names have that word
    without such another file are images.

    Args:
        files: all image files of the folder.

    Returns:
        Images and masks, each in the order of the files.
    """
    image_of = _images_of_masks(files)
    return [file for file in files if file not in image_of], [file for file in files if file in image_of]


def masks_of_images(images: Sequence[Path], folder: Path) -> Optional[Dict[Path, Path]]:
    """The mask of each image, or None where there is no mask at all. What is used or left is said on the console.

    A mask in a folder of masks is named like its image (``a.png``, ``a.jpg.png`` or ``a_mask.png`` for ``a.jpg``). It
    lies there where the image lies in the data folder (``masks/train/a.png``), else where it lies in ``images/``, else
    directly in it. Where there is no such folder, masks may lie beside the images (see ``split_off_masks``).

    Args:
        images: the image files.
        folder: the data folder, which may have a folder ``masks``, or one of a similar name.

    Raises:
        InputError: an image has no mask, or two images would have the same one.
    """
    if not images:
        return None
    place = _folder_of_masks(folder)
    masks = _masks_beside(images, are_used=place is None)
    if place is not None:
        if place.name != "masks":
            remark(f"Masks are read from {place}.")
        masks = _masks_in(place, images, folder)
    elif folder.name == "images":
        other = _folder_of_masks(folder.parent)
        if other is not None:
            remark(f"The masks in {other} are not used; give {folder.parent} as the data to use them.")
    if not masks:
        return None
    _check_that_none_is_shared(masks, place or folder)
    return masks


def _folder_of_masks(folder: Path) -> Optional[Path]:
    """The folder of masks, if any; ``masks`` goes before all other names."""
    # Not in the listing's order, which differs from machine to machine.
    candidates = sorted(path for path in _subfolders(folder) if is_named_like_masks(path))
    candidates.sort(key=lambda path: (path.name != "masks", path.name.casefold() not in ("masks", "mask")))
    return next((path for path in candidates if _named_like_images(path)), None)


def _subfolders(folder: Path) -> Iterator[Path]:
    for parent in (folder, folder / "images"):
        if parent.is_dir():
            yield from (path for path in parent.iterdir() if path.is_dir())


def _masks_in(place: Path, images: Sequence[Path], folder: Path) -> Dict[Path, Path]:
    masks = _named_like_images(place)
    found: Dict[Path, Path] = {}
    for image in images:
        mask = _mask_of(image, folder, masks)
        if mask is None:
            raise InputError(
                f"The folder {place} has no mask for {image.name}; add one of that name, or rename or remove the "
                "folder to go without masks."
            )
        found[image] = mask
    return found


def _check_that_none_is_shared(masks: Dict[Path, Path], place: Path) -> None:
    image_of: Dict[Path, Path] = {}
    for image, mask in masks.items():
        # One image may be listed twice.
        other = image_of.setdefault(mask, image)
        if os.path.abspath(other) != os.path.abspath(image):
            raise InputError(
                f"The mask {mask} would serve both {other} and {image}; give each its own, in subfolders of {place} "
                "like those of the images."
            )


def _named_like_images(place: Path) -> Dict[str, Path]:
    """All masks by their path within the folder, without their own ending, and without the word "mask"."""
    files = [path for path in sorted(place.rglob("*")) if is_image(path)]
    named_so = {os.path.relpath(path.with_suffix(""), place): path for path in files}
    for path in files:
        for name in _names_without_the_word(path.stem):
            named_so.setdefault(os.path.relpath(path.with_name(name), place), path)
    return named_so


def _mask_of(image: Path, folder: Path, masks: Dict[str, Path]) -> Optional[Path]:
    # Not Path.relative_to: a transforms.json may list "train/../other/a.png", or absolute paths.
    names = [os.path.relpath(image, folder), os.path.relpath(image, folder / "images"), image.name]
    for name in names:
        mask = masks.get(name) or masks.get(os.path.splitext(name)[0])
        if mask is not None:
            return mask
    return None


def _masks_beside(images: Sequence[Path], are_used: bool) -> Dict[Path, Path]:
    """Masks that lie beside their images, by image, if they are to be used; what is found is said."""
    masks: Dict[Path, Path] = {}
    ignored: List[Path] = []
    for parent in sorted({image.parent for image in images if image.parent.is_dir()}):
        here = {image.name: image for image in images if image.parent == parent}
        for mask, image in _images_of_masks(_image_files(parent)).items():
            if image.name in here and mask.name not in here:
                if _marks_what_to_ignore(mask):
                    ignored.append(mask)
                else:
                    masks[here[image.name]] = mask
    if ignored:
        remark(
            f"Files beside the images are neither images nor masks of their object: {named(ignored)} (white in "
            "instant-ngp's dynamic masks is what to ignore)."
        )
    if masks and not are_used:
        remark(f"Masks beside the images are not used, since there is a folder of masks: {named([*masks.values()])}.")
        return {}
    if masks:
        remark(f"Files beside the images are used as their masks: {named([*masks.values()])}.")
        lacking = [image for image in images if image not in masks]
        if lacking:
            raise InputError(
                f"There is no mask beside {named(lacking)}, while {len(masks)} other images have one, like "
                f"{next(iter(masks.values())).name}; give every image one, or none."
            )
    return masks


def _image_files(folder: Path) -> List[Path]:
    return sorted(path for path in folder.iterdir() if is_image(path))


def _images_of_masks(files: Sequence[Path]) -> Dict[Path, Path]:
    """Of the files of one folder, the image of each that is a mask."""
    others = [file for file in files if not _WORD_IN_FILE_NAME.search(file.stem)]
    # The name itself goes before that without its ending, and both go before a mere number.
    by_name = {key.casefold(): file for file in reversed(files) for key in (file.stem, file.name)}
    by_number = {number: file for file in reversed(others) if (number := _number_of(file.stem)) is not None}
    found: Dict[Path, Path] = {}
    for file in files:
        names = list(_names_without_the_word(file.stem))
        image = next((by_name[name.casefold()] for name in names if name.casefold() in by_name), None)
        if image is None:
            image = next((by_number[name] for name in names if name in by_number), None)
        if image is not None:
            found[file] = image
    return found


def _names_without_the_word(stem: str) -> Iterator[str]:
    """What is left of a file's name without the word "mask" (or one like it) and the separator beside it."""
    for match in _WORD_IN_FILE_NAME.finditer(stem):
        before, behind = stem[: match.start()], stem[match.end() :]
        yield before.rstrip(_SEPARATORS) + (behind if before else behind.lstrip(_SEPARATORS))
        if before and behind:
            yield before + behind.lstrip(_SEPARATORS)


def _number_of(stem: str) -> Optional[str]:
    """The digits at the end of a name."""
    match = re.search(r"\d+$", stem)
    return None if match is None else match.group()


def _marks_what_to_ignore(mask: Path) -> bool:
    """Whether it is a ``dynamic_mask_*`` of instant-ngp's."""
    match = _WORD_IN_FILE_NAME.search(mask.stem)
    return match is not None and match.group("ignored") is not None
