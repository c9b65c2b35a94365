"""The one place that knows nerfstudio's ``transforms.json`` format: read it, and write cameras as one."""

import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.utils.rich_utils import CONSOLE
from PIL import ExifTags, Image
from torch import Tensor

from gnerf_ns.data.images import IMAGE_SUFFIXES, read_exif
from gnerf_ns.utils.errors import InputError

CAMERA_MODELS = {
    CameraType.PERSPECTIVE: "OPENCV",
    CameraType.FISHEYE: "OPENCV_FISHEYE",
    CameraType.EQUIRECTANGULAR: "EQUIRECTANGULAR",
}
"""Camera types that the file format can hold with six distortion numbers."""

SPLIT_KEYS = ("train_filenames", "val_filenames", "test_filenames")
"""Entries that name the frames of one split each."""

QUARTER_TURNS_OF_ORIENTATION = {1: 0, 6: 1, 3: 2, 8: 3}
"""How often the upright image is turned a quarter counter-clockwise to give the stored one, by EXIF orientation.
The other four orientations are mirror images, which no camera takes."""


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


@dataclass(frozen=True)
class TransformsJson:
    """What a transforms file says."""

    frames: List[Frame]
    """All of them, by file name."""
    lists: Mapping[str, List[Frame]]
    """Those that each of ``train_filenames``, ``val_filenames`` and ``test_filenames`` names, where there is one."""


def read_transforms_json(path: Path) -> TransformsJson:
    """Read a nerfstudio or Blender transforms file.

    Raises:
        InputError: it cannot be read; an image or mask that it lists is missing; an entry is not what it should be.
    """
    meta = _load(path)
    shared = {key: value for key, value in meta.items() if key != "frames"}
    frames = [_frame_from_entry(entry, shared, path) for entry in meta["frames"]]
    frames.sort(key=lambda frame: str(frame.image))
    return TransformsJson(frames, {key: _listed(meta[key], key, frames, path) for key in SPLIT_KEYS if key in meta})


def _listed(names: Any, key: str, frames: List[Frame], path: Path) -> List[Frame]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f'{path} has "{key}" that is no list of file names; correct it, or remove that entry.')
    wanted = {str((path.parent / name).resolve()) for name in names}
    return [frame for frame in frames if str(frame.image.resolve()) in wanted]


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


@dataclass(frozen=True)
class _Frame:
    """One camera in pixels, image origin at the top left."""

    width: int
    height: int
    focal: Tuple[float, float]
    center: Tuple[float, float]
    distortion: Tuple[float, ...]
    """k1, k2, k3, k4, p1, p2."""
    camera_to_world: Float[Tensor, "3 4"]

    def resized(self, width: int, height: int) -> "_Frame":
        """The same view at another size in pixels."""
        x, y = width / self.width, height / self.height
        return replace(
            self,
            width=width,
            height=height,
            focal=(self.focal[0] * x, self.focal[1] * y),
            center=(self.center[0] * x, self.center[1] * y),
        )

    def turned_counter_clockwise(self) -> "_Frame":
        """The camera of the image turned a quarter counter-clockwise: x' = y, y' = width - x."""
        *radial, p1, p2 = self.distortion
        right, upward, backward, position = self.camera_to_world.unbind(dim=-1)
        return replace(
            self,
            width=self.height,
            height=self.width,
            focal=(self.focal[1], self.focal[0]),
            center=(self.center[1], self.width - self.center[0]),
            # The tangential term is r^2 t + 2 (t . x) x with t = (p2, p1), and t turns like any vector.
            distortion=(*radial, -p2, p1),
            camera_to_world=torch.stack([-upward, right, backward, position], dim=-1),
        )

    def to_json(self, image: Path, mask: Optional[Path]) -> Dict:
        """One entry of the file's list of frames."""
        bottom = torch.tensor([[0.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
        entry = {
            "file_path": image.absolute().as_posix(),
            "w": self.width,
            "h": self.height,
            "fl_x": self.focal[0],
            "fl_y": self.focal[1],
            "cx": self.center[0],
            "cy": self.center[1],
            **dict(zip(("k1", "k2", "k3", "k4", "p1", "p2"), self.distortion, strict=True)),
            "transform_matrix": torch.cat([self.camera_to_world, bottom]).tolist(),
        }
        if mask is not None:
            entry["mask_path"] = mask.absolute().as_posix()
        return entry


def _stored(path: Path, applies_orientation: bool) -> Tuple[int, int, int]:
    """Width and height of the pixels as stored, and the EXIF orientation (1 where its camera ignores that)."""
    with Image.open(path) as image:
        orientation = read_exif(image).get(ExifTags.Base.Orientation, 1) if applies_orientation else 1
        return image.width, image.height, orientation


def write_transforms_json(
    path: Path,
    cameras: Cameras,
    camera_to_worlds: Float[Tensor, "n 3 4"],
    image_filenames: List[Path],
    mask_filenames: Optional[List[Path]] = None,
    applies_orientation: Optional[List[bool]] = None,
    remarks: Optional[List[Dict[str, Any]]] = None,
) -> None:
    """Writes estimated poses, with intrinsics and distortion of each image file, in nerfstudio's format.

    Intrinsics are scaled from the cameras' own size to the file's. nerfstudio reads files without turning them
    upright, so a file with an EXIF rotation gets the camera of its stored pixels, unless its camera is that one
    already; one that EXIF calls mirrored is left out, with a note on the console. Masks are written if every one of
    them matches its image's stored size and orientation, as nerfstudio demands. The file appears whole or not at all.

    Args:
        path: the file to write; its folder is made if need be.
        cameras: intrinsics of the upright images (see ``applies_orientation``); their poses are not used.
        camera_to_worlds: poses of the same images.
        image_filenames: the images, one per camera.
        mask_filenames: their masks, if any.
        applies_orientation: for each image, whether its camera is that of the image turned as its EXIF orientation
            says, else of the pixels as stored; None for all turned.
        remarks: further entries of each frame; None for none.

    Raises:
        InputError: cameras of differing or unsupported types.
    """
    types = {CameraType(value) for value in cameras.camera_type.flatten().tolist()}
    if len(types) != 1 or not types <= CAMERA_MODELS.keys():
        raise InputError(
            f"{path} cannot hold cameras of type {', '.join(sorted(kind.name for kind in types))}; "
            f"use one of {', '.join(kind.name for kind in CAMERA_MODELS)} for all images."
        )
    turned = [True] * len(image_filenames) if applies_orientation is None else applies_orientation
    stored = [_stored(image, is_turned) for image, is_turned in zip(image_filenames, turned, strict=True)]
    masks: List[Optional[Path]] = [None] * len(image_filenames)
    if mask_filenames is not None:
        if stored == [_stored(mask, is_turned) for mask, is_turned in zip(mask_filenames, turned, strict=True)]:
            masks = list(mask_filenames)
        else:
            CONSOLE.log(f"[yellow]{path.name} names no masks: some differ from their image in size or orientation.")

    frames = []
    for index, (image, mask) in enumerate(zip(image_filenames, masks, strict=True)):
        width, height, orientation = stored[index]
        if orientation not in QUARTER_TURNS_OF_ORIENTATION:
            CONSOLE.log(f"[yellow]{path.name} leaves out {image}, whose EXIF orientation is a mirror image.")
            continue
        turns = QUARTER_TURNS_OF_ORIENTATION[orientation]
        upright_size = (width, height) if turns % 2 == 0 else (height, width)
        frame = _frame_of(cameras, index, camera_to_worlds[index]).resized(*upright_size)
        for _ in range(turns):
            frame = frame.turned_counter_clockwise()
        frames.append({**frame.to_json(image, mask), **({} if remarks is None else remarks[index])})

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps({"camera_model": CAMERA_MODELS[types.pop()], "frames": frames}, indent=2))
    os.replace(partial, path)


def _frame_of(cameras: Cameras, index: int, camera_to_world: Float[Tensor, "3 4"]) -> _Frame:
    distortion = cameras.distortion_params
    return _Frame(
        width=int(cameras.width[index]),
        height=int(cameras.height[index]),
        focal=(float(cameras.fx[index]), float(cameras.fy[index])),
        center=(float(cameras.cx[index]), float(cameras.cy[index])),
        distortion=(0.0,) * 6 if distortion is None else tuple(distortion[index].tolist()),
        camera_to_world=camera_to_world.detach().double().cpu(),
    )
