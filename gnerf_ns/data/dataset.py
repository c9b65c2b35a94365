"""A nerfstudio dataset whose images and cameras have all been brought to one small size."""

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from torch import Tensor

from gnerf_ns.data.images import ImageSize, centered_window, fit_max_side, read_header, read_image
from gnerf_ns.data.intrinsics import Intrinsics
from gnerf_ns.data.mask_pixels import read_mask
from gnerf_ns.data.orientation import ORIENTATIONS_KEY, mask_orientation, upright_outputs
from gnerf_ns.data.transforms_writer import FileFrames
from gnerf_ns.utils.console import named
from gnerf_ns.utils.errors import InputError

MIN_IMAGE_SIDE = 16
"""Images do not tell where they were taken from if their shorter side, or the longer one that they are shrunk to, is
less, in pixels."""
MIN_SHRUNK_SIDE = 8
"""Likewise of the shorter side that they are shrunk to."""

_SAME_ASPECT_TOLERANCE = 0.01
"""Relative; aspects this close differ by rounding and nothing is cut off."""
_CROPPED_ASPECT_TOLERANCE = 0.05
"""Relative; images whose aspects differ by less lose their outer borders, others are padded."""
WRONG_ASPECT_TOLERANCE = 0.05
"""Relative; beyond it the intrinsics cannot be those of this file."""
_LARGE_QUANTILE = 0.75
"""Which of the images' sizes counts as theirs: a large one, since thumbnails may lie among them."""


@dataclass(frozen=True)
class Placement:
    """Where an image comes to lie on the canvas, always in its middle."""

    window: Tuple[float, float]
    """Width and height of its part that is kept, in pixels of the file."""
    crop_aspect: Optional[float]
    """Width over height of that part, the largest one in the middle; None where it is all of the image."""
    size: ImageSize
    """What this is resized to, in pixels of the canvas."""


@dataclass(frozen=True)
class ImageFormat:
    """The one canvas that all images are brought to."""

    size: ImageSize
    """Of the images that the dataset returns."""
    aspect: float
    """Width over height before rounding to whole pixels."""

    def placement(self, size: ImageSize) -> Placement:
        """Of an image of some size: it covers the canvas, with its borders cropped where its aspect differs little.

        Where it differs more, all of the image is kept, as large as it fits.
        """
        ratio = size.width / size.height / self.aspect
        if abs(ratio - 1) <= _SAME_ASPECT_TOLERANCE:
            return Placement(centered_window(size, None), None, self.size)
        if abs(np.log(ratio)) <= np.log1p(_CROPPED_ASPECT_TOLERANCE):
            return Placement(centered_window(size, self.aspect), self.aspect, self.size)
        scale = min(self.size.width / size.width, self.size.height / size.height)
        fitted = ImageSize(
            _with_equal_margins(self.size.width, scale * size.width),
            _with_equal_margins(self.size.height, scale * size.height),
        )
        return Placement(centered_window(size, None), None, fitted)


def _with_equal_margins(whole: int, part: float) -> int:
    """The nearest length, in whole pixels, that leaves as many on either side."""
    return max(2 - whole % 2, whole - 2 * round((whole - part) / 2))


def common_format(sizes: List[ImageSize], max_side: Optional[int]) -> ImageFormat:
    """A canvas that suits the images, shrunk to ``max_side`` pixels (None: not shrunk).

    Where all aspects are about the same, it has the median one. Else it holds all images, their longer sides being
    equal.
    """
    aspects = np.array([size.width / size.height for size in sizes])
    aspect = float(np.exp(np.median(np.log(aspects))))
    if np.abs(np.log(aspects / aspect)).max() <= np.log1p(_CROPPED_ASPECT_TOLERANCE):
        height = round(_usual_length([centered_window(size, aspect)[1] for size in sizes]))
        size = ImageSize(max(1, round(height * aspect)), max(1, height))
    else:
        side = _usual_length([float(max(size)) for size in sizes])
        width, height = (side * max(size[axis] / max(size) for size in sizes) for axis in (0, 1))
        size, aspect = ImageSize(max(1, round(width)), max(1, round(height))), width / height
    return ImageFormat(fit_max_side(size, max_side), aspect)


def _usual_length(lengths: List[float]) -> float:
    return float(np.quantile(lengths, _LARGE_QUANTILE, method="nearest"))


class UnposedDataset(InputDataset):
    """Images of one size, with cameras whose intrinsics match them exactly.

    A mask is taken for a silhouette and becomes alpha (times the image's own, where it has one), so that every
    consumer sees the object over the background color. Images of other proportions are padded with transparent, else
    with black pixels; only then does an item have a ``mask`` [height, width, 1], which is true inside the image.

    Args:
        dataparser_outputs: from any dataparser; its poses are copied as they are (turned to those of upright images).
        max_image_side: longest side of the images, in pixels; None leaves them at the files' size.
        image_format: bring the images to this format instead, so that two datasets agree.
        scale_factor: shrinks the format further.

    Attributes:
        image_format: that all images and cameras now have.
        given_cameras: the cameras with the intrinsics that were given; those of ``cameras`` may be estimated.
        file_sizes: sizes of the files, turned as their cameras have them.
        file_cameras: the cameras at the size of the files, neither cropped nor padded.
        orientations: all cameras are those of the images turned as their EXIF orientation says, or as it is said here.
        mask_filenames: the masks' files, if any.

    Raises:
        InputError: an image or mask is missing or cannot be read, images are too small, a mask's size differs from its
            image's, or an image's proportions contradict its camera's.
    """

    def __init__(
        self,
        dataparser_outputs: DataparserOutputs,
        max_image_side: Optional[int] = None,
        image_format: Optional[ImageFormat] = None,
        scale_factor: float = 1.0,
    ):
        dataparser_outputs = upright_outputs(dataparser_outputs)
        super().__init__(dataparser_outputs)
        self.mask_filenames: Optional[List[Path]] = dataparser_outputs.mask_filenames or None
        self.file_sizes = sizes = [self._file_size(index) for index in range(len(self))]
        self.orientations: Mapping[Path, int] = {
            **dataparser_outputs.metadata[ORIENTATIONS_KEY],
            **{mask: self._mask_orientation(index) for index, mask in enumerate(self.mask_filenames or [])},
        }
        if image_format is None:
            image_format = self._suitable_format(max_image_side, scale_factor)
        self.image_format = image_format
        self._placements = [image_format.placement(size) for size in sizes]
        self.file_cameras = _placed_cameras(
            self.cameras, sizes, [Placement(centered_window(size, None), None, size) for size in sizes], sizes
        )
        self.cameras = _placed_cameras(self.cameras, sizes, self._placements, [image_format.size] * len(self))
        self.given_cameras = self.cameras[...]
        # One Cameras object, so that a pose written to the dataset is what ns-export finds here.
        self._dataparser_outputs = replace(dataparser_outputs, cameras=self.cameras, mask_filenames=None)
        self.mask_color = None

    def use_lenses(self, lenses: Sequence[Intrinsics]) -> None:
        """Give all cameras other lenses: each the one that is for images of its file's size, if there is one.

        Args:
            lenses: for files of some sizes, as displayed.
        """
        by_size = {lens.size: lens for lens in lenses}
        rows = [index for index, size in enumerate(self.file_sizes) if size in by_size]
        if not rows:
            return
        chosen = [by_size[self.file_sizes[index]] for index in rows]
        of_files = self.file_cameras
        columns = torch.tensor([[*lens.focal, *lens.center] for lens in chosen])
        for column, name in enumerate(("fx", "fy", "cx", "cy")):
            getattr(of_files, name)[rows] = columns[:, column : column + 1]
        if of_files.distortion_params is None:
            of_files.distortion_params = torch.zeros(len(self), 6)
        of_files.distortion_params[rows] = torch.tensor([lens.distortion for lens in chosen])
        placed = _placed_cameras(of_files, self.file_sizes, self._placements, [self.image_format.size] * len(self))
        for cameras in (self.cameras, self.given_cameras):  # in place: others hold them
            for name in ("fx", "fy", "cx", "cy"):
                getattr(cameras, name).copy_(getattr(placed, name))
            cameras.distortion_params = placed.distortion_params

    @cached_property
    def extents(self) -> Optional[Float[Tensor, "n 2"]]:
        """The share of the width and height that each image covers, in the middle; None where all cover everything."""
        covered = _column_pair([placement.size for placement in self._placements])
        extents = (covered / _column_pair([self.image_format.size])).float()
        return None if bool((extents == 1).all()) else extents

    def get_numpy_image(self, image_idx: int) -> npt.NDArray[np.uint8]:
        """The image [height, width, 3 or 4] at the dataset's format, with its mask as (or multiplied into) alpha."""
        path, placement = self.image_filenames[image_idx], self._placements[image_idx]
        image = read_image(
            path,
            size=placement.size,
            aspect=placement.crop_aspect,
            orientation=self.orientations.get(path),
        )
        if self.mask_filenames is not None:
            mask_path = self.mask_filenames[image_idx]
            mask = read_mask(mask_path, placement.size, placement.crop_aspect, self.orientations[mask_path])
            if image.shape[-1] == 4:
                mask = (image[..., 3].astype(np.uint16) * mask // 255).astype(np.uint8)
            image = np.concatenate([image[..., :3], mask[..., None]], axis=-1)
        rows, columns = self._inside(image_idx)
        if placement.size == self.image_format.size:
            return image
        return np.pad(image, ((rows.start, rows.start), (columns.start, columns.start), (0, 0)))

    def _inside(self, index: int) -> Tuple[slice, slice]:
        """Rows and columns that an image covers."""
        canvas, size = self.image_format.size, self._placements[index].size
        top, left = (canvas.height - size.height) // 2, (canvas.width - size.width) // 2
        return slice(top, top + size.height), slice(left, left + size.width)

    def get_metadata(self, data: Dict) -> Dict:
        """Where images are padded, the item's ``mask``."""
        if self.extents is None:
            return {}
        mask = torch.zeros((self.image_format.size.height, self.image_format.size.width, 1), dtype=torch.bool)
        mask[self._inside(data["image_idx"])] = True
        return {"mask": mask}

    def file_frames(self, cameras: Cameras, remarks: Optional[List[Dict[str, Any]]] = None) -> FileFrames:
        """What ``write_transforms_json`` writes of these images.

        Args:
            cameras: ``file_cameras``, with estimated poses and focal lengths.
            remarks: further entries of each frame; None for none.
        """
        return FileFrames(cameras, self.image_filenames, self.mask_filenames, self.orientations, remarks)

    def changes(self) -> Optional[str]:
        """What was done to the images to bring them to the dataset's format, in words; None for nothing."""
        count, canvas = len(self), self.image_format.size
        padded, cropped, enlarged, losses = [], [], [], [0.0]
        for path, file_size, placement in zip(self.image_filenames, self.file_sizes, self._placements, strict=True):
            if placement.size != canvas:
                padded.append(path)
            if placement.crop_aspect is not None:
                cropped.append(path)
                losses += [1 - kept / whole for kept, whole in zip(placement.window, file_size, strict=True)]
            if max(placement.size) > max(placement.window) + 1:
                enlarged.append(path)
        parts = [
            f"{len(paths)} of {count} {what} ({named(paths)})"
            for paths, what in (
                (padded, "are padded"),
                (cropped, f"lose up to {100 * max(losses):.0f} % of a side"),
                (enlarged, "are smaller, and enlarged"),
            )
            if paths
        ]
        counts = Counter(self.file_sizes)
        usual = counts.most_common(1)[0][0] if count else canvas
        if max(usual) > max(canvas):
            others = " and other sizes" if len(counts) > 1 else ""
            parts.insert(0, f"shrunk from {usual}{others}")
        return f"Images are brought to {canvas} pixels: {'; '.join(parts)}." if parts else None

    def _suitable_format(self, max_side: Optional[int], scale_factor: float) -> ImageFormat:
        if max_side is not None and max_side < MIN_IMAGE_SIDE:
            raise InputError(f"--max-image-side {max_side} is too small to tell poses; use at least {MIN_IMAGE_SIDE}.")
        small = [
            path for path, size in zip(self.image_filenames, self.file_sizes, strict=True) if min(size) < MIN_IMAGE_SIDE
        ]
        if small:
            raise InputError(
                f"{len(small)} of {len(self)} images have less than {MIN_IMAGE_SIDE} pixels on a side "
                f"({named(small)}), too few to tell poses; replace or remove them."
            )
        image_format = common_format(self.file_sizes, max_side)
        if scale_factor != 1.0:
            width, height = (max(1, int(side * scale_factor)) for side in image_format.size)
            image_format = replace(image_format, size=ImageSize(width, height))
        if max(image_format.size) < MIN_IMAGE_SIDE or min(image_format.size) < MIN_SHRUNK_SIDE:
            raise InputError(
                f"Images shrunk to {image_format.size} pixels do not tell poses; raise --max-image-side, or "
                "use less elongated images."
            )
        return image_format

    def _file_size(self, index: int) -> ImageSize:
        """Size of a file, turned as its camera has it."""
        path = self.image_filenames[index]
        header = read_header(path)
        size = header.size_as(self.metadata[ORIENTATIONS_KEY].get(path, header.orientation))
        camera_size = ImageSize(int(self.cameras.width[index]), int(self.cameras.height[index]))
        if abs(size.width / size.height / (camera_size.width / camera_size.height) - 1) > WRONG_ASPECT_TOLERANCE:
            raise InputError(
                f"The image {path} has {size} pixels, but its intrinsics are for {camera_size}; "
                "correct the width and height beside the intrinsics, or replace the image."
            )
        return size

    def _mask_orientation(self, index: int) -> int:
        assert self.mask_filenames is not None
        listed: Mapping[Path, int] = self.metadata[ORIENTATIONS_KEY]
        path, mask_path, size = self.image_filenames[index], self.mask_filenames[index], self.file_sizes[index]
        image, mask = read_header(path), read_header(mask_path)
        preferred = listed.get(mask_path, mask.orientation)
        orientation = mask_orientation(mask, image, listed.get(path, image.orientation), preferred)
        if mask.size_as(orientation) != size:
            raise InputError(
                f"The mask {mask_path} has {mask.size_as(orientation)} pixels, but its image {path} has {size}; "
                "make the mask as large as its image."
            )
        return orientation


def _placed_cameras(
    cameras: Cameras, file_sizes: List[ImageSize], placements: List[Placement], canvases: List[ImageSize]
) -> Cameras:
    """Cameras of the centered windows of images, resized and laid in the middle of a canvas.

    Pixel centers lie at half-integers, so a resize scales all four intrinsics by the ratio of the sizes, and a crop or
    a margin shifts the principal point. Distortion acts on normalized coordinates and stays.
    """
    files, outs, sides = (
        _column_pair(sizes) for sizes in (file_sizes, [placement.size for placement in placements], canvases)
    )
    window_sides = torch.tensor([placement.window for placement in placements], dtype=torch.float64).reshape(-1, 2)
    cameras_sides = torch.cat([cameras.width, cameras.height], dim=-1).double().cpu()
    to_file = files / cameras_sides
    to_out = outs / window_sides
    offsets, margins = (files - window_sides) / 2, (sides - outs) / 2
    focal = torch.cat([cameras.fx, cameras.fy], dim=-1).double().cpu() * to_file * to_out
    center = (torch.cat([cameras.cx, cameras.cy], dim=-1).double().cpu() * to_file - offsets) * to_out + margins
    return _replace_intrinsics(cameras, focal.float(), center.float(), sides)


def scale_focal(cameras: Cameras, factors: Float[Tensor, "n"]) -> Cameras:
    """The same cameras with focal lengths so many times longer."""
    scaled = cameras[...]
    columns = factors.detach().to(cameras.fx)[:, None]
    scaled.fx, scaled.fy = cameras.fx * columns, cameras.fy * columns
    return scaled


def _column_pair(sizes: List[ImageSize]) -> Float[Tensor, "n 2"]:
    return torch.tensor(sizes, dtype=torch.float64).reshape(-1, 2)


def _replace_intrinsics(
    cameras: Cameras, focal: Float[Tensor, "n 2"], center: Float[Tensor, "n 2"], sides: Float[Tensor, "n 2"]
) -> Cameras:
    """The same cameras with other focal lengths, principal points and sizes (x, y columns, in pixels)."""
    return Cameras(
        camera_to_worlds=cameras.camera_to_worlds.clone(),
        fx=focal[:, :1],
        fy=focal[:, 1:],
        cx=center[:, :1],
        cy=center[:, 1:],
        width=sides[:, :1].long(),
        height=sides[:, 1:].long(),
        distortion_params=cameras.distortion_params,
        camera_type=cameras.camera_type,
        times=cameras.times,
        metadata=cameras.metadata,
    )
