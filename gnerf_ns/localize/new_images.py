"""Images whose place in a trained scene is wanted, read as training images are."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

import numpy as np
import torch
from jaxtyping import Float, Int
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from gnerf_ns.cameras.rays import CameraDirections
from gnerf_ns.data.dataparser import UnposedDataParserConfig, placeholder_cameras
from gnerf_ns.data.dataset import MIN_IMAGE_SIDE, UnposedDataset, scale_focal
from gnerf_ns.data.frames import read_all_frames
from gnerf_ns.data.image_set import ImageSet, ImageStack
from gnerf_ns.data.images import ImageSize, advice_on, is_image, read_header, read_image
from gnerf_ns.data.lens_sources import LensSource, lenses_of_frames
from gnerf_ns.data.mask_pixels import read_mask
from gnerf_ns.data.orientation import ORIENTATIONS_KEY
from gnerf_ns.data.transforms_json import Frame
from gnerf_ns.data.transforms_writer import FileFrames
from gnerf_ns.data.video import is_video
from gnerf_ns.localize.scene import RunLens
from gnerf_ns.utils.console import named, remark
from gnerf_ns.utils.errors import InputError

SMALL = ImageSize(MIN_IMAGE_SIDE, MIN_IMAGE_SIDE)
"""What files are decoded to where only that they can be decoded matters."""


@dataclass(frozen=True)
class NewImages:
    """Images, in groups of one size each."""

    frames: List[Frame]
    """All that can be used."""
    cameras: Cameras
    """Their intrinsics, at the size that these were given for; the poses say nothing."""
    lens_source: LensSource
    """Who gave their focal lengths; "default" stands for the run."""
    groups: List[Tuple[Int[Tensor, "_"], ImageSet]]
    """Indices into them, and those images."""
    orientations: Mapping[Path, int]
    """EXIF orientations to apply to images and masks in place of their own (see `FileFrames`)."""
    skipped: List[Path]
    """Files that cannot be used."""

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def image_filenames(self) -> List[Path]:
        """The image files, in order."""
        return [frame.image for frame in self.frames]

    @property
    def given_poses(self) -> Optional[Float[Tensor, "n 3 4"]]:
        """Poses that came with the images, in the frame of their file; None unless all have one."""
        poses = [frame.camera_to_world for frame in self.frames if frame.camera_to_world is not None]
        return torch.from_numpy(np.stack(poses)).float() if len(poses) == len(self.frames) else None

    def with_cameras(
        self, camera_to_worlds: Float[Tensor, "n 3 4"], focal_scales: Float[Tensor, "n"], remarks: List[Dict[str, Any]]
    ) -> FileFrames:
        """What a transforms.json says about them.

        Args:
            camera_to_worlds: their poses.
            focal_scales: factors on their focal lengths.
            remarks: further entries of each frame.
        """
        cameras = scale_focal(self.cameras, focal_scales)
        cameras.camera_to_worlds = camera_to_worlds
        masks = [frame.mask for frame in self.frames if frame.mask is not None]
        all_masks = masks if len(masks) == len(self.frames) else None
        return FileFrames(cameras, self.image_filenames, all_masks, self.orientations, remarks)


def check_path(path: Path) -> None:
    """Raises:
    InputError: there is nothing at a path that can be read as images.
    """
    if not path.exists():
        raise InputError(f"There is no {path}; give --images an image, a folder of images or a transforms.json.")
    if path.is_file() and path.suffix.lower() != ".json" and not is_image(path) and not is_video(path):
        raise InputError(
            f"--images {path} is no image or video of a known kind{advice_on(path)}, no folder and no transforms.json."
        )


def read_new_images(
    path: Path, lens: RunLens, max_image_side: int, device: torch.device, fov_deg: Optional[float] = None
) -> NewImages:
    """Read images; those that cannot be decoded or are too small are named and skipped.

    Args:
        path: an image, a folder of them, or a transforms.json that lists them.
        lens: that of the run, which images have if nothing else tells about theirs.
        max_image_side: longest side that they are brought to, in pixels.
        device: where they are wanted.
        fov_deg: field of view along an image's longer side, in degrees, as the user says; None for nothing said.

    Raises:
        InputError: there is no image that can be used, or the lens or mask of one cannot be.
    """
    check_path(path)
    UnposedDataParserConfig(data=path, fov_deg=fov_deg).setup()  # checks the field of view
    frames, skipped = _usable(read_all_frames(path))
    lenses = lenses_of_frames(frames, fov_deg, lens.fov_deg)
    origin, intrinsics = lenses.origin, lenses.intrinsics
    if lenses.source == "default":
        origin = "this run"
        intrinsics = [replace(each, camera_type=lens.camera_type, distortion=lens.distortion) for each in intrinsics]
    CONSOLE.print(f"{len(frames)} images from {path}; intrinsics from {origin}", markup=False)
    lenses.remark_doubts(path)
    focal_scale = lens.focal_scale_of(lenses.source)
    cameras = scale_focal(placeholder_cameras(intrinsics), torch.full((len(frames),), focal_scale))
    orientations = {file: turn for frame in frames for file, turn in frame.orientations.items()}
    groups = []
    for indices in _of_one_kind(frames, orientations):
        outputs = DataparserOutputs(
            image_filenames=[frames[index].image for index in indices],
            cameras=cameras[torch.tensor(indices)],
            mask_filenames=[mask for index in indices if (mask := frames[index].mask) is not None] or None,
            metadata={ORIENTATIONS_KEY: orientations},
        )
        dataset = UnposedDataset(outputs, max_image_side)
        orientations = {**orientations, **dataset.orientations}
        image_set = ImageSet(ImageStack.from_dataset(dataset, device), CameraDirections(dataset.cameras.to(device)))
        groups.append((torch.tensor(indices), image_set))
    return NewImages(frames, cameras, lenses.source, groups, orientations, skipped)


def _usable(frames: List[Frame]) -> Tuple[List[Frame], List[Path]]:
    """Those that can be used, and the files of the others."""
    usable: List[Frame] = []
    reasons: Dict[Path, str] = {}
    for frame in frames:
        try:
            _check(frame)
            usable.append(frame)
        except InputError as error:
            reasons[frame.image] = str(error)
    if not usable:
        raise InputError(next(iter(reasons.values())))
    skipped = list(reasons)
    if skipped:
        remark(f"{len(skipped)} of {len(frames)} images are skipped ({named(skipped)}): {reasons[skipped[0]]}")
    return usable, skipped


def _check(frame: Frame) -> None:
    """Raises:
    InputError: an image or its mask cannot be decoded, or it is too small.
    """
    size = read_header(frame.image).size
    if min(size) < MIN_IMAGE_SIDE:
        raise InputError(
            f"The image {frame.image} has {size} pixels, but at least {MIN_IMAGE_SIDE} on a side are needed to tell "
            "where it was taken from."
        )
    read_image(frame.image, size=SMALL)
    if frame.mask is not None:
        read_mask(frame.mask, SMALL)


def _of_one_kind(frames: List[Frame], orientations: Mapping[Path, int]) -> List[List[int]]:
    """Indices of frames of one size, with masks or without."""
    members: Dict[Tuple[ImageSize, bool], List[int]] = defaultdict(list)
    for index, frame in enumerate(frames):
        header = read_header(frame.image)
        size = header.size_as(orientations.get(frame.image, header.orientation))
        members[size, frame.mask is None].append(index)
    return list(members.values())
