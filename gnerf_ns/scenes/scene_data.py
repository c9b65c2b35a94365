"""Scenes to learn from, read from disk when they are needed: chunks of RealEstate10K, ACID and DL3DV, and folders.

A chunk is a file of many scenes as pixelSplat (Charatan et al., CVPR 2024) laid them out and NoPoSplat (Ye et al., ICLR
2025, arXiv 2410.24207) trains on: `train/` and `test/` hold `NNNNNN.torch` and an `index.json` from scene to file.
"""

from __future__ import annotations

import io
import json
import math
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, Dict, List, Literal, NamedTuple, Optional, Protocol, Sequence, Tuple, runtime_checkable

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from nerfstudio.cameras.cameras import CameraType
from PIL import Image
from torch import Tensor

from gnerf_ns.data.images import ImageSize, read_header, read_image
from gnerf_ns.data.intrinsics import Intrinsics
from gnerf_ns.data.lens_sources import DEFAULT_FOV_DEG, lenses_of_frames
from gnerf_ns.data.transforms_json import Frame, read_transforms_json
from gnerf_ns.utils.console import remark
from gnerf_ns.utils.errors import InputError

Split = Literal["train", "test"]

SceneKind = Literal["re10k", "dl3dv", "unordered", "made"]
"""How the frames of a scene follow each other, by which views are chosen (`view_choice.PAIR_RULES`): a video like
those of RealEstate10K and ACID, or like those of DL3DV; photographs in any order; or made by seed."""

WIDEST_FOV_DEG = 100.0
"""Scenes with a wider lens, along either side, are passed over, as in NoPoSplat's training."""

HELD_OUT_INTERVAL = 10
"""Every so many-th scene of a folder without `train` and `test` is held out."""

_TRANSFORMS_FILES = ("transforms_train.json", "transforms.json")
"""The first that is there counts, as everywhere in this package."""

_OPEN_CHUNKS = 32
"""Files kept open by a process: one for each example of a batch (`view_sampling.STEPS_PER_GROUP`). Opening one with
6,000 images takes a second, since each image is an object of its own; they are mapped into memory, not read."""

_ASPECT_TOLERANCE = 0.05
"""Relative; beyond it the intrinsics cannot be those of this image (as in `data.dataset`)."""


class UnusableScene(Exception):
    """A scene, or some views of it, cannot be trained on.

    Attributes:
        reason: a noun phrase, the same for all scenes that it is true of.
        detail: what is wrong with this one; empty where the reason says it all.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


class SceneCameras(NamedTuple):
    """Cameras of all frames of a scene."""

    intrinsics: Float[Tensor, "frames 3 3"]
    """Pinhole matrices K, the first row divided by the image's width and the second by its height."""
    camera_to_worlds: Float[Tensor, "frames 3 4"]
    """Poses in double precision, with OpenCV's axes (x right, y down, z forward); in the scene's own units."""


@runtime_checkable
class Scene(Protocol):
    """Images of one place with known cameras."""

    @property
    def cameras(self) -> SceneCameras:
        """Of all frames."""
        ...

    @property
    def size(self) -> ImageSize:
        """Of the first image, in pixels."""
        ...

    def image(self, frame: int) -> UInt8[np.ndarray, "height width 3"]:
        """The image of one frame, in RGB.

        Raises:
            UnusableScene: it cannot be decoded.
        """
        ...


@runtime_checkable
class SceneWithDepths(Scene, Protocol):
    """A scene of which it is known how far away everything is."""

    def depth(self, frame: int) -> Float[Tensor, "height width"]:
        """Depth along the axis at each pixel's center, in units of the cameras."""
        ...


@runtime_checkable
class SceneGroup(Protocol):
    """Scenes that lie together, so that reading one after the other is cheap."""

    @property
    def name(self) -> str:
        """Where they are from, for messages."""
        ...

    @property
    def kind(self) -> SceneKind:
        """How their frames follow each other."""
        ...

    @property
    def keys(self) -> Sequence[str]:
        """Names of the scenes."""
        ...

    def scene(self, key: str) -> Scene:
        """One of them.

        Raises:
            UnusableScene: it cannot be read.
        """
        ...


# Chunks


class ChunkScene:
    """One entry of a chunk."""

    def __init__(self, entry: Dict[str, Any]) -> None:
        """
        Args:
            entry: `cameras` [frames, 18] is fx / W, fy / H, cx / W, cy / H, two zeros, and world_to_camera [3, 4] row
                by row; `images` are the bytes of JPEG files.

        Raises:
            UnusableScene: it is not that.
        """
        numbers, images = entry.get("cameras"), entry.get("images")
        if (
            not isinstance(numbers, Tensor)
            or not isinstance(images, list)
            or numbers.shape != (len(images), 18)
            or not numbers.isfinite().all()
            or len(images) == 0
        ):
            raise UnusableScene("entries that are not images with 18 numbers each")
        self._images = images
        numbers = numbers.double()
        intrinsics = torch.eye(3, dtype=torch.float64).repeat(len(numbers), 1, 1)
        intrinsics[:, 0, 0], intrinsics[:, 1, 1] = numbers[:, 0], numbers[:, 1]
        intrinsics[:, 0, 2], intrinsics[:, 1, 2] = numbers[:, 2], numbers[:, 3]
        world_to_cameras = numbers[:, 6:].reshape(-1, 3, 4)
        rotations = world_to_cameras[:, :, :3].mT
        positions = -rotations @ world_to_cameras[:, :, 3:]
        self.cameras = SceneCameras(intrinsics.float(), torch.cat([rotations, positions], dim=-1))

    @property
    def size(self) -> ImageSize:
        """Of the first image, from its header."""
        return ImageSize(*self._opened(0).size)

    def image(self, frame: int) -> UInt8[np.ndarray, "height width 3"]:
        """See `Scene.image`."""
        opened = self._opened(frame)
        try:
            return np.array(opened.convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            raise UnusableScene("images that cannot be decoded") from error

    def _opened(self, frame: int) -> Image.Image:
        try:
            return Image.open(io.BytesIO(self._images[frame].numpy().tobytes()))
        except (AttributeError, OSError, SyntaxError, ValueError) as error:
            raise UnusableScene("images that cannot be decoded") from error


_chunks: OrderedDict[Path, Dict[str, Dict[str, Any]]] = OrderedDict()


class ChunkFile:
    """The scenes of one chunk."""

    def __init__(self, path: Path, keys: List[str]) -> None:
        """
        Args:
            path: the file; read when a scene is asked for.
            keys: those that the index says are in it.
        """
        self._path, self.keys, self.name = path, keys, str(path)
        self.kind: SceneKind = _kind_of_chunk(path)

    def scene(self, key: str) -> ChunkScene:
        """See `SceneGroup.scene`."""
        entries = self._entries()
        if key not in entries:
            raise UnusableScene("a file that does not hold what the index says")
        return ChunkScene(entries[key])

    def _entries(self) -> Dict[str, Dict[str, Any]]:
        if self._path not in _chunks:
            while len(_chunks) >= _OPEN_CHUNKS:
                _chunks.popitem(last=False)
            _chunks[self._path] = {entry["key"]: entry for entry in _load_chunk(self._path)}
        _chunks.move_to_end(self._path)
        return _chunks[self._path]


def _kind_of_chunk(path: Path) -> SceneKind:
    """By the nearest folder whose name tells: nothing in a chunk tells how far apart its frames are.

    Folders above may be of several data sets, as that of official weights, mixRe10kDl3dv.
    """
    for folder in path.absolute().parents:
        name = folder.name.lower()
        is_dl3dv, is_other = "dl3dv" in name, any(word in name for word in ("re10k", "realestate", "acid"))
        if is_dl3dv != is_other:
            return "dl3dv" if is_dl3dv else "re10k"
    return "re10k"


def _load_chunk(path: Path) -> List[Dict[str, Any]]:
    for mapped in (True, False):  # files that torch < 1.6 wrote cannot be mapped
        try:
            entries = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
            if mapped and path.is_file():
                continue
            raise UnusableScene("a file that is missing or cannot be read") from error
        if isinstance(entries, list) and all(isinstance(entry, dict) and "key" in entry for entry in entries):
            return entries
        break
    raise UnusableScene("a file that holds no scenes")


def _chunk_files(folder: Path) -> List[ChunkFile]:
    """Those that the index of a split names."""
    path = folder / "index.json"
    try:
        index = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); restore it from where the chunks are from.") from error
    if not isinstance(index, dict) or not all(isinstance(file, str) for file in index.values()):
        raise InputError(f"{path} is no index from scenes to files; restore it from where the chunks are from.")
    files: Dict[str, List[str]] = {}
    for key, file in index.items():
        files.setdefault(file, []).append(key)
    return [ChunkFile(folder / file, files[file]) for file in sorted(files)]


# Folders


class FolderScene:
    """A folder with a transforms.json, or transforms_train.json, of nerfstudio's or Blender's kind.

    Images are upright, over white where they are transparent, and free of lens distortion. Masks are not used.
    """

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            InputError: something that the file lists is missing or wrong.
            UnusableScene: no poses, no focal lengths, or no pinhole camera.
        """
        listing = next(folder / name for name in _TRANSFORMS_FILES if (folder / name).is_file())
        frames = [frame for frame in read_transforms_json(listing).frames if frame.camera_to_world is not None]
        if not frames:
            raise UnusableScene("missing poses")
        lenses = lenses_of_frames(frames, None, DEFAULT_FOV_DEG)
        if lenses.source == "default":
            raise UnusableScene("unknown focal lengths")
        if any(lens.camera_type != CameraType.PERSPECTIVE or lens.distortion[3] for lens in lenses.intrinsics):
            raise UnusableScene("a fisheye or panoramic lens, or a fourth radial distortion")
        self._frames = frames
        self._lenses = [_of_file(lens, frame) for lens, frame in zip(lenses.intrinsics, frames, strict=True)]
        pinholes = {lens: _pinhole(lens) for lens in set(self._lenses)}
        poses = torch.from_numpy(
            np.stack([frame.camera_to_world for frame in frames if frame.camera_to_world is not None])
        )
        self.cameras = SceneCameras(
            torch.stack([_normalized(pinholes[lens], lens.size) for lens in self._lenses]),
            poses.double() * poses.new_tensor([1.0, -1.0, -1.0, 1.0]).double(),  # from OpenGL's axes
        )

    @property
    def size(self) -> ImageSize:
        """See `Scene.size`."""
        return self._lenses[0].size

    def image(self, frame: int) -> UInt8[np.ndarray, "height width 3"]:
        """See `Scene.image`."""
        entry, lens = self._frames[frame], self._lenses[frame]
        try:
            image = read_image(entry.image, orientation=entry.orientations.get(entry.image))
        except InputError as error:
            raise UnusableScene("images that cannot be decoded") from error
        if image.shape[-1] == 4:
            alpha = image[..., 3:].astype(np.float32) / 255.0
            image = (image[..., :3] * alpha + 255.0 * (1.0 - alpha)).round().astype(np.uint8)
        if any(lens.distortion):
            matrix, distortion = _opencv_lens(lens)
            image = cv2.undistort(image, matrix, distortion, newCameraMatrix=_pinhole(lens) - _HALF_PIXEL)
        return image.astype(np.uint8, copy=False)


def _of_file(lens: Intrinsics, frame: Frame) -> Intrinsics:
    """The lens for the image at its file's size."""
    header = read_header(frame.image)
    size = header.size_as(frame.orientations.get(frame.image, header.orientation))
    if abs(math.log(size.width / size.height * lens.size.height / lens.size.width)) > _ASPECT_TOLERANCE:
        raise UnusableScene("intrinsics for images of another shape")
    return lens.at_size(size)


_HALF_PIXEL = np.array([[0.0, 0.0, 0.5], [0.0, 0.0, 0.5], [0.0, 0.0, 0.0]])
"""The first pixel's center is at (0, 0) for OpenCV, and at half a pixel for nerfstudio."""


def _opencv_lens(lens: Intrinsics) -> Tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "5"]]:
    k1, k2, k3, _, p1, p2 = lens.distortion
    matrix = np.array([[lens.focal[0], 0.0, lens.center[0]], [0.0, lens.focal[1], lens.center[1]], [0.0, 0.0, 1.0]])
    return matrix - _HALF_PIXEL, np.array([k1, k2, p1, p2, k3])


def _pinhole(lens: Intrinsics) -> Float[np.ndarray, "3 3"]:
    """The camera, in pixels, of the image without its distortion: as much of it as fills the picture everywhere."""
    matrix, distortion = _opencv_lens(lens)
    if any(lens.distortion):
        matrix, _ = cv2.getOptimalNewCameraMatrix(matrix, distortion, tuple(lens.size), 0.0)
    return np.asarray(matrix, dtype=np.float64) + _HALF_PIXEL


def _normalized(matrix: Float[np.ndarray, "3 3"], size: ImageSize) -> Float[Tensor, "3 3"]:
    return torch.from_numpy(matrix / np.array([[size.width], [size.height], [1.0]])).float()


class SceneFolders:
    """Folders of which each is a scene."""

    kind: SceneKind = "unordered"

    def __init__(self, root: Path, folders: List[Path]) -> None:
        self.name = str(root)
        self._folders = {str(folder.relative_to(root)): folder for folder in folders}
        self._scenes: Dict[str, FolderScene] = {}

    @property
    def keys(self) -> List[str]:
        """Their paths below the root."""
        return list(self._folders)

    def scene(self, key: str) -> FolderScene:
        """See `SceneGroup.scene`; what was read once is kept, images excepted."""
        if key not in self._scenes:
            try:
                self._scenes[key] = FolderScene(self._folders[key])
            except InputError as error:
                raise UnusableScene("a transforms file that cannot be used", str(error)) from error
        return self._scenes[key]


# Finding them


def find_scenes(data: Path, split: Split) -> List[SceneGroup]:
    """All scenes below a folder, unread.

    It may be a folder of chunks (`train/index.json`), a scene (a folder with a transforms.json), or hold any number of
    both. Where scenes lie in `train` and `test`, that is how they are divided; else every tenth is held out. A single
    scene is both. What another split lacks does not matter.

    Raises:
        InputError: there is none for the split, or an index cannot be read.
    """
    if not data.is_dir():
        raise InputError(f"There is no folder {data}; give one with scenes or with chunks of RealEstate10K's kind.")
    groups = _groups(data, split)
    if groups:
        return groups
    other: Split = "test" if split == "train" else "train"
    if _groups(data, other):
        use = "training learns from" if split == "train" else "is held out"
        raise InputError(
            f"{data} has {other}/, but {split}/, which {use}, is missing or has no scenes; bring that, too (chunks "
            "with their index.json, or folders with a transforms.json)."
        )
    raise InputError(
        f"{data} has no scenes for the split {split}: neither chunks ({split}/index.json) nor folders with a "
        "transforms.json; give the folder above them."
    )


def _groups(data: Path, split: Split) -> List[SceneGroup]:
    """Of a folder that is there."""
    children = [path for path in sorted(data.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    groups: List[SceneGroup] = []
    for folder in (data, *children):
        if (folder / split / "index.json").is_file():
            groups.extend(_chunk_files(folder / split))
    folders = _scene_folders(data, split)
    if folders:
        groups.append(SceneFolders(data, folders))
    return groups


def _scene_folders(data: Path, split: Split) -> List[Path]:
    """Of one split."""
    if _is_scene(data):
        return [data]
    divided = {name: _scenes_in(data / name) for name in ("train", "test")}
    folders = _scenes_in(data)
    if divided["train"] or not folders:
        return divided[split]
    if len(folders) == 1:
        remark(f"{data} has one scene only, which is evaluated on as well: figures say little of other scenes.")
        return folders
    return [folder for number, folder in enumerate(folders) if (number % HELD_OUT_INTERVAL == 0) == (split == "test")]


def _scenes_in(folder: Path) -> List[Path]:
    return [path for path in sorted(folder.iterdir()) if _is_scene(path)] if folder.is_dir() else []


def _is_scene(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _TRANSFORMS_FILES)


# Whether they can be used


def check_scene(scene: Scene, smallest: Optional[ImageSize] = None) -> None:
    """Whether a scene's lenses and images are such as can be trained on.

    Args:
        scene: one that was read.
        smallest: width and height, in pixels, that its images must have; None for any.

    Raises:
        UnusableScene: they are not.
    """
    intrinsics, camera_to_worlds = scene.cameras
    focal = intrinsics.diagonal(dim1=-2, dim2=-1)[:, :2]
    if not bool((focal > 0).all()) or not bool(camera_to_worlds.isfinite().all()):
        raise UnusableScene("impossible cameras")
    if math.degrees(2.0 * math.atan(0.5 / float(focal.min()))) > WIDEST_FOV_DEG:
        raise UnusableScene(f"a field of view above {WIDEST_FOV_DEG:g} degrees")
    if smallest is not None and (scene.size.width < smallest.width or scene.size.height < smallest.height):
        raise UnusableScene(f"images smaller than {smallest}")
