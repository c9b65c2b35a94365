"""A nerfstudio dataset whose images and cameras have all been brought to one small size."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import List, Optional

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from torch import Tensor

from gnerf_ns.data.images import ImageSize, centerd_window, fit_max_side, image_size, read_image, read_mask
from gnerf_ns.utils.errors import InputError

_SAME_ASPECT_TOLERANCE = 0.01
"""Relative; aspects this close differ by rounding and nothing is cut off."""
_WRONG_ASPECT_TOLERANCE = 0.05
"""Relative; beyond it the intrinsics cannot be those of this file."""


@dataclass(frozen=True)
class ImageFormat:
    """The one size that all images are brought to."""

    size: ImageSize
    """Of the images that the dataset returns."""
    aspect: float
    """Width over height before rounding to whole pixels; images of another aspect lose their outer borders."""

    def crop_aspect(self, size: ImageSize) -> Optional[float]:
        """Aspect of the centerd window to cut from an image of this size; None where nothing is to be cut off."""
        ratio = size.width / size.height / self.aspect
        return None if abs(ratio - 1) <= _SAME_ASPECT_TOLERANCE else self.aspect


def common_format(sizes: List[ImageSize], max_side: Optional[int]) -> ImageFormat:
    """The median aspect and size of the images, shrunk to ``max_side`` pixels (None: not shrunk)."""
    aspect = float(np.exp(np.median([np.log(size.width / size.height) for size in sizes])))
    height = round(float(np.median([centerd_window(size, aspect)[1] for size in sizes])))
    size = ImageSize(max(1, round(height * aspect)), max(1, height))
    return ImageFormat(fit_max_side(size, max_side), aspect)


class UnposedDataset(InputDataset):
    """Images of one size, with cameras whose intrinsics match them exactly.

    A mask is taken for a silhouette and becomes alpha (times the image's own, where it has one), so that every
    consumer sees the object over the background color and no ``mask`` entry.

    Args:
        dataparser_outputs: from any dataparser; its poses are copied as they are.
        max_image_side: longest side of the images, in pixels; None leaves them at the files' (median) size.
        image_format: bring the images to this format instead, so that two datasets agree.
        scale_factor: shrinks the format further.

    Attributes:
        image_format: that all images and cameras now have.
        given_cameras: the cameras with the intrinsics that were given; those of ``cameras`` may be estimated.
        file_cameras: the cameras at the size of the files, uncropped, as displayed (or, where the given intrinsics
            belong to the stored pixels, as stored).
        applies_orientation: for each image, whether its cameras are those of the image as displayed, after the EXIF
            rotation; else they are those of the stored pixels.
        mask_filenames: the masks' files, if any.

    Raises:
        InputError: an image or mask is missing or cannot be read, a mask's size differs from its image's, or a
            image's proportions contradict its camera's.
    """

    def __init__(
        self,
        dataparser_outputs: DataparserOutputs,
        max_image_side: Optional[int] = None,
        image_format: Optional[ImageFormat] = None,
        scale_factor: float = 1.0,
    ):
        super().__init__(dataparser_outputs)
        self.mask_filenames: Optional[List[Path]] = dataparser_outputs.mask_filenames or None
        self.applies_orientation: List[bool] = []
        self._file_sizes = sizes = [self._file_size(index) for index in range(len(self))]
        if self.mask_filenames is not None:
            for index, mask_filename in enumerate(self.mask_filenames):
                self._check_mask_size(self.image_filenames[index], mask_filename, sizes[index], index)
        if image_format is None:
            image_format = common_format(sizes, max_image_side)
            if scale_factor != 1.0:
                width, height = (max(1, int(side * scale_factor)) for side in image_format.size)
                image_format = replace(image_format, size=ImageSize(width, height))
        self.image_format = image_format
        self.file_cameras = _cameras_for_windows(self.cameras, sizes, sizes, [None] * len(self))
        self.cameras = _cameras_for_windows(
            self.cameras, sizes, [image_format.size] * len(self), [image_format.crop_aspect(size) for size in sizes]
        )
        self.given_cameras = self.cameras[...]
        # One Cameras object, so that a pose written to the dataset is what ns-export finds here.
        self._dataparser_outputs = replace(dataparser_outputs, cameras=self.cameras, mask_filenames=None)
        self.mask_color = None

    def get_numpy_image(self, image_idx: int) -> npt.NDArray[np.uint8]:
        """The image [height, width, 3 or 4] at the dataset's format, with its mask as (or multiplied into) alpha."""
        size, upright = self.image_format.size, self.applies_orientation[image_idx]
        aspect = self.image_format.crop_aspect(self._file_sizes[image_idx])
        image = read_image(self.image_filenames[image_idx], size=size, aspect=aspect, apply_orientation=upright)
        if self.mask_filenames is None:
            return image
        mask = read_mask(self.mask_filenames[image_idx], size, aspect, apply_orientation=upright)
        if image.shape[-1] == 4:
            mask = (image[..., 3].astype(np.uint16) * mask // 255).astype(np.uint8)
        return np.concatenate([image[..., :3], mask[..., None]], axis=-1)

    def _file_size(self, index: int) -> ImageSize:
        """Size of a file on the axes that its camera's intrinsics refer to; remembers which axes those are.

        Most tools write intrinsics for the stored pixels and ignore the EXIF orientation. Proportions tell.
        """
        path = self.image_filenames[index]
        camera_aspect = int(self.cameras.width[index]) / int(self.cameras.height[index])
        for upright in (True, False):
            size = image_size(path, apply_orientation=upright)
            if abs(size.width / size.height / camera_aspect - 1) <= _WRONG_ASPECT_TOLERANCE:
                self.applies_orientation.append(upright)
                return size
        camera_size = ImageSize(int(self.cameras.width[index]), int(self.cameras.height[index]))
        raise InputError(
            f"The image {path} has {image_size(path)} pixels, but its intrinsics are for {camera_size}; "
            "correct the width and height beside the intrinsics, or replace the image."
        )

    def _check_mask_size(self, path: Path, mask_path: Path, size: ImageSize, index: int) -> None:
        mask_size = image_size(mask_path, self.applies_orientation[index])
        if mask_size != size:
            raise InputError(
                f"The mask {mask_path} has {mask_size} pixels, but its image {path} has {size}; "
                "make the mask as large as its image."
            )


def _cameras_for_windows(
    cameras: Cameras, file_sizes: List[ImageSize], out_sizes: List[ImageSize], aspects: List[Optional[float]]
) -> Cameras:
    """Cameras of the centerd windows of images, resized.

    Pixel centers lie at half-integers, so a resize scales all four intrinsics by the ratio of the sizes, and a crop
    shifts the principal point. Distortion acts on normalized coordinates and stays.
    """
    windows = [centerd_window(size, aspect) for size, aspect in zip(file_sizes, aspects, strict=True)]
    files, outs = _column_pair(file_sizes), _column_pair(out_sizes)
    window_sides = torch.tensor(windows, dtype=torch.float64).reshape(-1, 2)
    cameras_sides = torch.cat([cameras.width, cameras.height], dim=-1).double().cpu()
    to_file = files / cameras_sides
    to_out = outs / window_sides
    offsets = (files - window_sides) / 2
    focal = torch.cat([cameras.fx, cameras.fy], dim=-1).double().cpu() * to_file * to_out
    center = (torch.cat([cameras.cx, cameras.cy], dim=-1).double().cpu() * to_file - offsets) * to_out
    return _replace_intrinsics(cameras, focal.float(), center.float(), outs)


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
