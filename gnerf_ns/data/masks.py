"""Which file of the folder ``masks/`` belongs to which image."""

import os
from pathlib import Path
from typing import Dict, List, Optional

from gnerf_ns.data.images import is_image
from gnerf_ns.utils.errors import InputError


def masks_of_folder(images: List[Path], folder: Path) -> Optional[Dict[Path, Path]]:
    """The mask of each image, or None where there is no mask at all.

    A mask is named like its image (``a.png`` or ``a.jpg.png`` for ``a.jpg``). It lies in ``masks/`` where the image
    lies in the data folder (``masks/train/a.png``), else where it lies in ``images/``, else directly in ``masks/``.

    Args:
        images: the image files.
        folder: the data folder, which may have a folder ``masks``.

    Raises:
        InputError: an image has no mask, or two images would have the same one.
    """
    masks = _named_like_images(folder / "masks")
    if not masks:
        return None
    found: Dict[Path, Path] = {}
    image_of_mask: Dict[Path, Path] = {}
    for image in images:
        mask = _mask_of(image, folder, masks)
        if mask is None:
            raise InputError(
                f"The folder {folder / 'masks'} has no mask for {image.name}; add one of that name, or remove the "
                "folder to go without masks."
            )
        # One image may be listed twice.
        other = image_of_mask.setdefault(mask, image)
        if os.path.abspath(other) != os.path.abspath(image):
            raise InputError(
                f"The mask {mask} would serve both {other} and {image}; give each its own, in subfolders of "
                f"{folder / 'masks'} like those of the images."
            )
        found[image] = mask
    return found


def _named_like_images(folder: Path) -> Dict[str, Path]:
    """All masks by their path within the folder, without their own ending."""
    return {os.path.relpath(path.with_suffix(""), folder): path for path in sorted(folder.rglob("*")) if is_image(path)}


def _mask_of(image: Path, folder: Path, masks: Dict[str, Path]) -> Optional[Path]:
    # Not Path.relative_to: a transforms.json may list "train/../other/a.png", or absolute paths.
    names = [os.path.relpath(image, folder), os.path.relpath(image, folder / "images"), image.name]
    for name in names:
        mask = masks.get(name) or masks.get(os.path.splitext(name)[0])
        if mask is not None:
            return mask
    return None
