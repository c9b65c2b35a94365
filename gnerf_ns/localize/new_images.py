"""Images whose place in a trained scene is wanted, read as training images are."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import torch
from jaxtyping import Float, Int
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from torch import Tensor

from gnerf_ns.cameras.rays import CameraDirections
from gnerf_ns.data.dataparser import GROUND_TRUTH_KEY, UnposedDataParserConfig
from gnerf_ns.data.dataset import UnposedDataset, scale_focal
from gnerf_ns.data.image_set import ImageSet, ImageStack
from gnerf_ns.data.images import ImageSize


@dataclass(frozen=True)
class NewImages:
    """Images, in groups of one size each."""

    dataset: UnposedDataset
    """All of them, with the cameras of their files."""
    groups: List[Tuple[Int[Tensor, "_"], ImageSet]]
    """Indices into it, and those images."""
    given_poses: Optional[Float[Tensor, "n 3 4"]]
    """Poses that came with them, in the frame that these were written in; None unless all have one."""

    def __len__(self) -> int:
        return len(self.dataset)


def read_new_images(
    path: Path, fov_deg: float, max_image_side: int, device: torch.device, focal_scale: float = 1.0
) -> NewImages:
    """Read images.

    Args:
        path: an image, a folder of them, or a transforms.json that lists them.
        fov_deg: field of view along an image's longer side, in degrees, where neither a transforms.json nor EXIF data
            tell.
        max_image_side: longest side that they are brought to, in pixels.
        device: where they are wanted.
        focal_scale: how many times longer their focal lengths are than any of these say, as the run has found out.

    Raises:
        InputError: there is no image, or some cannot be read.
    """
    parser = UnposedDataParserConfig(data=path, fov_deg=fov_deg, eval_interval=0, min_images=1).setup()
    outputs = parser.get_dataparser_outputs("all")  # even if a transforms.json calls some held out
    outputs = replace(outputs, cameras=scale_focal(outputs.cameras, torch.full((len(outputs.cameras),), focal_scale)))
    dataset = UnposedDataset(outputs)
    members: Dict[ImageSize, List[int]] = defaultdict(list)
    for index, size in enumerate(_sizes(dataset.file_cameras)):
        members[size].append(index)
    groups = []
    for indices in members.values():
        some = torch.tensor(indices)
        of_one_size = UnposedDataset(_chosen(outputs, some), max_image_side)
        image_set = ImageSet(
            ImageStack.from_dataset(of_one_size, device), CameraDirections(of_one_size.cameras.to(device))
        )
        groups.append((some, image_set))
    return NewImages(dataset, groups, outputs.metadata[GROUND_TRUTH_KEY])


def _chosen(outputs: DataparserOutputs, indices: Int[Tensor, "some"]) -> DataparserOutputs:
    masks = outputs.mask_filenames
    return replace(
        outputs,
        image_filenames=[outputs.image_filenames[index] for index in indices.tolist()],
        mask_filenames=None if masks is None else [masks[index] for index in indices.tolist()],
        cameras=outputs.cameras[indices],
    )


def _sizes(cameras: Cameras) -> List[ImageSize]:
    return [
        ImageSize(int(width), int(height))
        for width, height in zip(cameras.width.flatten(), cameras.height.flatten(), strict=True)
    ]
