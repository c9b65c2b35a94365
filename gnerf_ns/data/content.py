"""Whether images and masks show anything to find poses by: looked at once they are decoded, before training."""

import math
from collections import defaultdict
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from gnerf_ns.data.dataset import MIN_IMAGE_SIDE, MIN_SHRUNK_SIDE
from gnerf_ns.data.image_set import ImageStack
from gnerf_ns.data.images import ImageSize, read_header
from gnerf_ns.data.mask_pixels import has_labels
from gnerf_ns.utils.console import named, remark
from gnerf_ns.utils.errors import InputError

_DARK = 25
"""Brightest value, of 255, of an image that is all but black: a tenth."""
_NOISE = 3
"""Values this close, of 255, are the same."""
_LABELED_MASKS = 8
"""So many masks are looked at for labels."""

_SIGNATURE_SIDE = 12
# How much the brightness of 12x12 parts may differ, as root mean square and at most, in terms of its spread.
# Thumbnails, and JPEG copies of small images, differ by as much as views half a degree apart; but copies in files of
# the same format and size hardly differ at all.
_COPY_OF_SAME_KIND = (0.015, 0.06)
_COPY_OF_OTHER_KIND = (0.038, 0.15)
_ALL_THE_SAME = (0.1, 0.35)
"""Not even views from one side only are all that similar."""
_LUMA_WEIGHTS = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True)
class _Look:
    """What an image of its own size shows."""

    signature: Float[np.ndarray, "cells"]
    """Brightness of its 12x12 parts, over gray."""
    has_outline: bool
    """It is not as opaque everywhere."""
    is_flat: bool
    """It is of one color, without an outline."""
    is_dark: bool
    """It is nearly black."""
    is_empty: bool
    """It is transparent everywhere."""
    is_opaque: bool
    """It is opaque everywhere."""
    is_inverted: bool
    """It is opaque along its border, but not in its middle."""


def check_content(
    stacks: Sequence[ImageStack], image_files: Sequence[Path], mask_files: Optional[Sequence[Path]] = None
) -> None:
    """Look through all images of a run; what is doubtful is said on the console.

    Args:
        stacks: training images, and held-out ones.
        image_files: their files, in the same order.
        mask_files: files of their masks, if any; the images have them as alpha.

    Raises:
        InputError: images are too small, show nothing, or are all the same; masks are empty or inverted.
    """
    tiny = [file for file in image_files if min(read_header(file).size) < MIN_IMAGE_SIDE]
    if tiny:
        raise InputError(
            f"{len(tiny)} of {len(image_files)} images have less than {MIN_IMAGE_SIDE} pixels on a side "
            f"({named(tiny)}), too few to tell poses; replace or remove them."
        )
    several = [file for file in image_files if read_header(file).num_images > 1]
    if several:
        remark(f"{len(several)} of {len(image_files)} files hold several images ({named(several)}): the first is read.")
    remaining = iter(image_files)
    looks = [look for stack in stacks for look in _looks(stack, list(islice(remaining, len(stack))))]
    _check_masks(looks, image_files, mask_files)
    _check_brightness(looks, image_files)
    _check_copies(looks, image_files)


def _check_masks(looks: Sequence[_Look], images: Sequence[Path], masks: Optional[Sequence[Path]]) -> None:
    """Also of transparency that images themselves have."""
    files = images if masks is None else masks
    kind = "images" if masks is None else "masks"
    empty = [file for file, look in zip(files, looks, strict=True) if look.is_empty]
    if empty and len(empty) == len(files):
        what = "transparent everywhere" if masks is None else "empty (black everywhere)"
        raise InputError(f"All {len(files)} {kind} are {what}, like {empty[0]}; nothing is left to see.")
    if empty:
        raise InputError(
            f"{len(empty)} of {len(files)} {kind} leave nothing of their image to see ({named(empty)}); remove these "
            "images, or correct them."
        )
    shown = "opaque" if masks is None else "white"
    inverted = [file for file, look in zip(files, looks, strict=True) if look.is_inverted]
    if 2 * len(inverted) > len(files):
        raise InputError(
            f"{len(inverted)} of {len(files)} {kind} look inverted: their border is "
            f"{shown} and their middle is not ({named(inverted)}); the object must be {shown}."
        )
    if inverted:
        remark(f"{len(inverted)} of {len(files)} {kind} look inverted ({named(inverted)}); the object must be {shown}.")
    full = [file for file, look in zip(files, looks, strict=True) if look.is_opaque]
    if full and len(full) < len(files):
        remark(
            f"{len(full)} of {len(files)} {kind} are {shown} everywhere ({named(full)}): there the background stays."
        )
    if masks is None:
        return
    if len(full) == len(files):
        remark(f"All {len(files)} masks are white everywhere: they say nothing, and the background stays.")
    some = masks[:: max(1, len(masks) // _LABELED_MASKS)]
    labeled = [mask for mask in some if has_labels(mask)]
    if labeled:
        remark(f"The masks hold labels of a segmentation ({named(labeled)}): all but 0 is taken for the object.")


def _check_brightness(looks: Sequence[_Look], files: Sequence[Path]) -> None:
    dark = [file for file, look in zip(files, looks, strict=True) if look.is_dark]
    flat = [file for file, look in zip(files, looks, strict=True) if look.is_flat and not look.is_dark]
    if len(flat) == len(files):
        raise InputError(f"All {len(files)} images are of a single color, like {files[0]}; they show nothing.")
    if len(dark) == len(files):
        sentence = (
            f"No image is brighter than 10 %, like {dark[0]}; brighten them (values of 10 or 12 bits in files of 16 "
            "bits are to be scaled to 16)."
        )
        if not any(look.has_outline for look in looks):
            raise InputError(sentence)
        remark(sentence)
    elif dark:
        remark(f"{len(dark)} of {len(files)} images are nearly black ({named(dark)}).")
    if flat:
        remark(f"{len(flat)} of {len(files)} images are of a single color ({named(flat)}); they show nothing.")


def _check_copies(looks: Sequence[_Look], files: Sequence[Path]) -> None:
    signatures = np.stack([look.signature for look in looks])
    if _are_copies(signatures, signatures[0], np.array(_ALL_THE_SAME)[:, None]).all():
        raise InputError(f"All {len(files)} images are the same image, like {named(files)}; take them from all around.")
    groups = [[index for index in group if not looks[index].is_flat] for group in _groups_of_copies(signatures, files)]
    copies = [group for group in groups if len({files[index] for index in group}) > 1]
    if copies:
        remark(
            f"{sum(map(len, copies))} of {len(files)} images come more than once, or nearly so "
            f"({_listed(copies, files)}): copies are trained on and held out at the same time; keep one of each."
        )
    same_stem = [group for group in _groups_of_stems(files) if group not in copies]
    if same_stem:
        remark(
            f"{sum(map(len, same_stem))} of {len(files)} images have the name of another but for its ending "
            f"({_listed(same_stem, files)}); keep one of each if they show the same."
        )


def _listed(groups: Sequence[Sequence[int]], files: Sequence[Path]) -> str:
    """Names of the first few groups."""
    return named([" = ".join(files[index].name for index in group[:3]) for group in groups])


def _groups_of_stems(files: Sequence[Path]) -> List[List[int]]:
    by_stem: Dict[Path, List[int]] = defaultdict(list)
    for index, file in enumerate(files):
        by_stem[file.with_suffix("")].append(index)
    return [group for group in by_stem.values() if len({files[index] for index in group}) > 1]


def _groups_of_copies(signatures: Float[np.ndarray, "images cells"], files: Sequence[Path]) -> Iterator[List[int]]:
    """Images that are copies of the first of each group."""
    kinds = {kind: number for number, kind in enumerate({_kind(file) for file in files})}
    kind_of = np.array([kinds[_kind(file)] for file in files])
    tolerances = np.array([_COPY_OF_SAME_KIND, _COPY_OF_OTHER_KIND])
    grouped = np.zeros(len(files), dtype=bool)
    for index in range(len(files)):
        if not grouped[index]:
            tolerance = tolerances[(kind_of != kind_of[index]).astype(int)].T
            is_copy = _are_copies(signatures, signatures[index], tolerance) & ~grouped
            grouped |= is_copy
            yield np.flatnonzero(is_copy).tolist()


def _are_copies(
    signatures: Float[np.ndarray, "images cells"],
    signature: Float[np.ndarray, "cells"],
    tolerance: Float[np.ndarray, "2 #images"],
) -> Bool[np.ndarray, "images"]:
    """Which images differ from one by no more than a root mean square, and a maximum."""
    spread = np.maximum(signatures.std(axis=1), signature.std()).clip(1e-6)
    differences = np.abs(signatures - signature) / spread[:, None]
    rms, largest = tolerance
    return (np.sqrt((differences**2).mean(axis=1)) <= rms) & (differences.max(axis=1) <= largest)


def _kind(file: Path) -> Tuple[str, ImageSize]:
    return file.suffix.lower(), read_header(file).displayed_size


def _looks(stack: ImageStack, files: Sequence[Path]) -> Iterator[_Look]:
    for index, pixels in enumerate(stack.pixels.cpu().numpy()):
        if stack.extents is not None:
            pixels = _without_padding(pixels, stack.extents[index].tolist())
        height, width = pixels.shape[:2]
        if min(height, width) < MIN_SHRUNK_SIDE:
            raise InputError(
                f"{files[index]} is shrunk to {width}x{height} pixels, which do not tell its pose; use images that are "
                "less elongated, or raise --max-image-side."
            )
        yield _look(pixels)


def _without_padding(
    pixels: UInt8[np.ndarray, "in_height in_width channels"], extent: Sequence[float]
) -> UInt8[np.ndarray, "height width channels"]:
    """The part in the middle that is the image; pixels that are partly padding are left out, too."""
    height, width = pixels.shape[:2]
    top, left = (math.ceil(side * (1 - share) / 2 - 1e-3) for side, share in ((height, extent[1]), (width, extent[0])))
    return pixels[top : height - top, left : width - left]


# NumPy and Pillow, since the threads of torch would be waited for at each of many small steps.
def _look(pixels: UInt8[np.ndarray, "height width channels"]) -> _Look:
    values = pixels.astype(np.float32)
    alpha = values[..., 3] if values.shape[-1] == 4 else np.full_like(values[..., 0], 255)
    colors = values[..., :3] * (alpha[..., None] / 255)
    luma = Image.fromarray(colors @ _LUMA_WEIGHTS + (255 - alpha) / 2)
    has_outline = bool(np.ptp(alpha) > _NOISE)
    border = np.concatenate([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]])
    rows, columns = (slice(side * 3 // 8, side - side * 3 // 8) for side in alpha.shape)
    return _Look(
        signature=np.array(luma.resize((_SIGNATURE_SIDE, _SIGNATURE_SIDE), Image.Resampling.BOX)).ravel(),
        has_outline=has_outline,
        is_flat=not has_outline and bool(np.ptp(colors, axis=(0, 1)).max() <= _NOISE),
        is_dark=bool(colors.max() <= _DARK),
        is_empty=bool(alpha.sum() < 255),
        is_opaque=bool(alpha.min() >= 255 - _NOISE),
        is_inverted=bool(border.mean() > 255 / 2 and alpha[rows, columns].mean() < 255 / 4),
    )
