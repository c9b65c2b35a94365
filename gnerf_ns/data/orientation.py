"""Which way up an image is: its EXIF orientation, and the cameras of its stored and of its displayed pixels.

Nearly all tools, nerfstudio among them, ignore the EXIF orientation: intrinsics, poses and masks that they write are
those of the pixels as stored. Here every camera is that of the upright image, so listed ones are turned when they are
read, and turned back when they are written.
"""

from dataclasses import replace
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from torch import Tensor

from gnerf_ns.data.images import Header, ImageSize, read_header
from gnerf_ns.data.intrinsics import Intrinsics

ORIENTATIONS_KEY = "orientations"
"""Entry of a dataparser's metadata, a dictionary: the EXIF orientation to apply to each image or mask that is not to be
turned by its own. Where there is the entry, cameras are those of the images turned so; without it, of the stored pixels
(or, where only those have the proportions of the camera, of the displayed ones)."""

_QUARTER_TURNS = {1: 0, 3: 2, 6: 1, 8: 3}
"""By EXIF orientation, the quarter turns clockwise that display the stored image; the other four mirror it."""
_TURNABLE_CAMERAS = (CameraType.PERSPECTIVE, CameraType.FISHEYE)
"""Models that can hold the camera of a turned image."""


def turns_to_upright(orientation: int, camera_type: CameraType) -> Optional[int]:
    """How many quarter turns clockwise make the camera of the stored pixels that of the displayed ones.

    Returns:
        0 to 3, or None where no camera of that type takes the displayed image: it is mirrored, or a panorama on its
        side.
    """
    if orientation == 1:
        return 0
    return _QUARTER_TURNS.get(orientation) if camera_type in _TURNABLE_CAMERAS else None


def is_of_stored_pixels(camera_size: Optional[ImageSize], header: Header, in_doubt: bool) -> bool:
    """Whether a camera is that of an image's stored pixels, rather than of the displayed ones.

    Args:
        camera_size: what its intrinsics refer to, at any scale; None if that is not known.
        header: of the image file.
        in_doubt: the answer where proportions do not tell.
    """
    if camera_size is None or min(camera_size) <= 0:
        return in_doubt
    ratios = [np.log(width / height) for width, height in (camera_size, header.size, header.displayed_size)]
    as_stored, as_displayed = abs(ratios[0] - ratios[1]), abs(ratios[0] - ratios[2])
    return in_doubt if abs(as_stored - as_displayed) < 1e-6 else bool(as_stored < as_displayed)


def turned_intrinsics(intrinsics: Intrinsics, clockwise_quarters: int) -> Intrinsics:
    """Those of the image turned clockwise so many times."""
    for _ in range(clockwise_quarters % 4):
        (width, height), (focal_x, focal_y), (center_x, center_y) = (
            intrinsics.size,
            intrinsics.focal,
            intrinsics.center,
        )
        # A point (x, y) comes to (height - y, x).
        *radial, p1, p2 = intrinsics.distortion
        intrinsics = replace(
            intrinsics,
            size=ImageSize(height, width),
            focal=(focal_y, focal_x),
            center=(height - center_y, center_x),
            # The tangential term is r^2 t + 2 (t . x) x with t = (p2, p1), and t turns like any vector.
            distortion=(*radial, p2, -p1),
        )
    return intrinsics


def resized_intrinsics(intrinsics: Intrinsics, size: ImageSize) -> Intrinsics:
    """Those of the same view at another size in pixels."""
    x, y = size.width / intrinsics.size.width, size.height / intrinsics.size.height
    return replace(
        intrinsics,
        size=size,
        focal=(intrinsics.focal[0] * x, intrinsics.focal[1] * y),
        center=(intrinsics.center[0] * x, intrinsics.center[1] * y),
    )


def turned_pose(camera_to_world: Float[Tensor, "3 4"], clockwise_quarters: int) -> Float[Tensor, "3 4"]:
    """That of the camera of the image turned clockwise so many times."""
    for _ in range(clockwise_quarters % 4):
        right, upward, backward, position = camera_to_world.unbind(dim=-1)
        camera_to_world = torch.stack([upward, -right, backward, position], dim=-1)
    return camera_to_world


def intrinsics_of(cameras: Cameras, index: int) -> Intrinsics:
    """Intrinsics of one of several cameras."""
    distortion = cameras.distortion_params
    return Intrinsics(
        size=ImageSize(int(cameras.width[index]), int(cameras.height[index])),
        focal=(float(cameras.fx[index]), float(cameras.fy[index])),
        center=(float(cameras.cx[index]), float(cameras.cy[index])),
        distortion=(0.0,) * 6 if distortion is None else tuple(distortion[index].tolist()),
        camera_type=CameraType(int(cameras.camera_type[index])),
    )


def turned_cameras(cameras: Cameras, clockwise_quarters: Sequence[int]) -> Cameras:
    """The cameras, poses included, of images that are each turned clockwise so many times.

    Args:
        cameras: with one batch dimension; those to be turned are of `_TURNABLE_CAMERAS`.
        clockwise_quarters: one number each.
    """
    turned = cameras[...]
    if not any(clockwise_quarters):
        return turned
    names = ("camera_to_worlds", "fx", "fy", "cx", "cy", "width", "height", "distortion_params")
    columns = {name: getattr(cameras, name).clone() for name in names if getattr(cameras, name) is not None}
    for index, quarters in enumerate(clockwise_quarters):
        if quarters % 4 == 0:
            continue
        new = turned_intrinsics(intrinsics_of(cameras, index), quarters)
        columns["camera_to_worlds"][index] = turned_pose(cameras.camera_to_worlds[index], quarters)
        for pair, values in ((("fx", "fy"), new.focal), (("cx", "cy"), new.center), (("width", "height"), new.size)):
            for name, value in zip(pair, values, strict=True):
                columns[name][index] = value
        if "distortion_params" in columns:
            columns["distortion_params"][index] = torch.tensor(new.distortion).to(columns["distortion_params"])
    for name, column in columns.items():
        setattr(turned, name, column)
    return turned


def upright_outputs(outputs: DataparserOutputs) -> DataparserOutputs:
    """What any dataparser has given out, with the cameras, poses included, of the upright images.

    Those of nerfstudio's own dataparsers are of the stored pixels, which its datasets do not turn either. Outputs that
    have `ORIENTATIONS_KEY` come back as they are.

    Raises:
        InputError: an image cannot be read.
    """
    if ORIENTATIONS_KEY in outputs.metadata:
        return outputs
    orientations: Dict[Path, int] = {}
    turns: List[int] = []
    masks = outputs.mask_filenames or [None] * len(outputs.image_filenames)
    for index, (image, mask) in enumerate(zip(outputs.image_filenames, masks, strict=True)):
        camera = outputs.cameras[index]
        camera_size = ImageSize(int(camera.width), int(camera.height))
        quarters, applied = listed_orientation(image, mask, CameraType(int(camera.camera_type)), camera_size, True)
        turns.append(quarters)
        orientations.update(applied)
    return replace(
        outputs,
        cameras=turned_cameras(outputs.cameras, turns),
        metadata={**outputs.metadata, ORIENTATIONS_KEY: orientations},
    )


def stored_outputs(outputs: DataparserOutputs) -> DataparserOutputs:
    """The inverse of `upright_outputs`: the cameras of the stored pixels, as nerfstudio's datasets read them.

    Images that EXIF calls mirrored have none, and keep that of the displayed pixels.

    Raises:
        InputError: an image cannot be read.
    """
    orientations: Mapping[Path, int] = outputs.metadata[ORIENTATIONS_KEY]
    turns: List[int] = []
    for index, image in enumerate(outputs.image_filenames):
        camera_type = CameraType(int(outputs.cameras.camera_type[index]))
        turns.append(-(turns_to_upright(orientations.get(image, read_header(image).orientation), camera_type) or 0))
    metadata = {key: value for key, value in outputs.metadata.items() if key != ORIENTATIONS_KEY}
    return replace(outputs, cameras=turned_cameras(outputs.cameras, turns), metadata=metadata)


def listed_orientation(
    image: Path, mask: Optional[Path], camera_type: CameraType, camera_size: Optional[ImageSize], in_doubt: bool
) -> Tuple[int, Mapping[Path, int]]:
    """How a listed camera becomes that of the image as it is used, and how the image and its mask are turned.

    Args:
        image: its file.
        mask: that of its mask, listed beside the camera; None if there is none.
        camera_type: of the listed camera.
        camera_size: what its intrinsics refer to; None if that is not known.
        in_doubt: whether the camera is that of the stored pixels where proportions do not tell.

    Returns:
        Quarter turns clockwise of the camera, and the orientation of each file that is not turned by its own.

    Raises:
        InputError: the image or mask cannot be read.
    """
    header = read_header(image)
    if header.orientation == 1 or not is_of_stored_pixels(camera_size, header, in_doubt):
        return 0, {}
    turns = turns_to_upright(header.orientation, camera_type)
    orientation = 1 if turns is None else header.orientation
    applied = {image: orientation} if turns is None else {}
    if mask is not None and read_header(mask).orientation in (1, header.orientation):
        applied[mask] = orientation
    return turns or 0, applied


def mask_orientation(mask: Header, image: Header, image_orientation: int, preferred: int) -> int:
    """How a mask is turned to lie on its image: as preferred, unless its size fits only otherwise.

    Args:
        mask: of the mask's file.
        image: of the image's.
        image_orientation: how the image is turned.
        preferred: an EXIF orientation.
    """
    size = image.size_as(image_orientation)
    fitting = [each for each in (preferred, image_orientation, 1) if mask.size_as(each) == size]
    return fitting[0] if fitting else preferred
