"""The dataparser for images without poses: a folder in, placeholder cameras out."""

# nerfstudio loads this module while its own data packages are half imported: nothing here, nor in the packages above,
# may import nerfstudio.engine, nerfstudio.pipelines or nerfstudio.data.datamanagers.

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Type

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.plugins.registry_dataparser import DataParserSpecification
from nerfstudio.utils.colors import get_color
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from gnerf_ns.data.frames import Frame, read_all_frames, read_frames
from gnerf_ns.data.intrinsics import Intrinsics, intrinsics_from_images, intrinsics_from_transforms
from gnerf_ns.utils.errors import InputError

GROUND_TRUTH_KEY = "ground_truth_camera_to_worlds"
"""Entry of the outputs' metadata: [n, 3, 4], or None where some frame has no pose."""

HAS_CALIBRATION_KEY = "has_calibration"
"""Entry of the outputs' metadata: whether the focal lengths come from a transforms.json."""

PLACEHOLDER_CAMERA_TO_WORLD = ((0.0, 0.0, 1.0, 2.8), (1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0))
"""Level, on the x axis, looking at the origin: what every camera has until its pose is estimated."""


@dataclass
class UnposedDataParserConfig(DataParserConfig):
    """Images whose camera poses are unknown: a folder of PNG, JPEG or WebP files, with or without transforms*.json.

    Poses found in a transforms file are set aside for evaluation and never trained on.
    """

    _target: Type = field(default_factory=lambda: UnposedDataParser)
    """Target class to instantiate."""
    data: Path = Path(".")
    """Folder of images (or holding a folder `images`), or a transforms.json."""
    fov_deg: float = 50.0
    """Field of view along the images' longer side, in degrees, where neither a transforms file nor EXIF data tell."""
    eval_interval: int = 8
    """Hold out every n-th image for evaluation, but at least two, unless a transforms file names held-out images. 0
    holds out none."""
    min_images: int = 6
    """Fewest images, held-out ones included, that are accepted."""
    alpha_color: Optional[str] = "white"
    """Color behind transparent or masked-out pixels for methods other than ours, which lay images over their model's
    background; None hands RGBA images to the model."""


class UnposedDataParser(DataParser):
    """Parses a folder of unposed images. The splits "val" and "test" are the same held-out images; "all" is all."""

    config: UnposedDataParserConfig

    def __init__(self, config: UnposedDataParserConfig):
        super().__init__(config)
        if not 0 < config.fov_deg < 180:
            raise InputError(f"--fov-deg {config.fov_deg:g} is not between 0 and 180 degrees; correct it.")
        if config.eval_interval < 0 or config.eval_interval == 1:
            raise InputError(
                f"--eval-interval {config.eval_interval} leaves no image to train on; use 2 or more, or 0 for none."
            )

    def _generate_dataparser_outputs(
        self, split: str = "train", **kwargs: Optional[Dict[Any, Any]]
    ) -> DataparserOutputs:
        """Placeholder cameras, with intrinsics, of one split; true poses, if all are known, are metadata.

        Raises:
            InputError: see ``read_frames`` and ``intrinsics_from_transforms``; or there are too few images.
        """
        del kwargs
        if split == "all":
            train, held_out = read_all_frames(self.config.data), []
        else:
            train, held_out = read_frames(self.config.data, self.config.eval_interval)
        count = len(train) + len(held_out)
        if count < self.config.min_images or not train:
            raise InputError(
                f"{self.config.data} has {count} images ({len(train)} to train on), but at least "
                f"{self.config.min_images} are needed; add more, or lower --min-images (behind the word unposed-data)."
            )
        frames = train if split in ("train", "all") else held_out
        intrinsics, origin, has_calibration = self._intrinsics(frames, train + held_out)
        if split == "train":
            CONSOLE.print(
                f"{len(train)} images to train on, {len(held_out)} held out, from {self.config.data}; "
                f"intrinsics from {origin}"
            )
        elif split == "all":
            CONSOLE.print(f"{count} images from {self.config.data}; intrinsics from {origin}")
        masks = [frame.mask for frame in frames if frame.mask is not None]
        if len(masks) not in (0, len(frames)):
            raise InputError(f"Only {len(masks)} of {len(frames)} frames have a mask; give every frame one, or none.")
        return DataparserOutputs(
            image_filenames=[frame.image for frame in frames],
            cameras=_placeholder_cameras(intrinsics),
            alpha_color=None if self.config.alpha_color is None else get_color(self.config.alpha_color),
            scene_box=unit_scene_box(),
            mask_filenames=masks or None,
            metadata={GROUND_TRUTH_KEY: _ground_truth(frames), HAS_CALIBRATION_KEY: has_calibration},
        )

    def _intrinsics(self, frames: List[Frame], everyone: List[Frame]) -> Tuple[List[Intrinsics], str, bool]:
        """Intrinsics of all frames of a split from the same kind of source, which one in words, and whether calibrated.

        Args:
            frames: those of the split.
            everyone: those of all splits, which tell about a frame that does not tell about itself.
        """
        listed = [
            intrinsics_from_transforms(frame.values, frame.image, frame.source)
            for frame in frames
            if frame.source is not None
        ]
        complete = [intrinsics for intrinsics in listed if intrinsics is not None]
        if frames and len(complete) == len(frames):
            return complete, str(frames[0].source), True
        images = [frame.image for frame in everyone]
        found, origin = intrinsics_from_images(images, self.config.fov_deg)
        by_image = dict(zip(images, found, strict=True))
        return [by_image[frame.image] for frame in frames], origin, False


def unit_scene_box() -> SceneBox:
    """The box around the unit sphere, in which the object sits by convention."""
    return SceneBox(aabb=torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]]))


def placeholder_camera_to_worlds(count: int) -> Float[Tensor, "n 3 4"]:
    """The same pose for each camera, saying nothing."""
    return torch.tensor(PLACEHOLDER_CAMERA_TO_WORLD).repeat(count, 1, 1)


def _placeholder_cameras(intrinsics: List[Intrinsics]) -> Cameras:
    def column(values: List[float]) -> Float[Tensor, "n 1"]:
        return torch.tensor(values, dtype=torch.float32)[:, None]

    def integers(values: List[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64)[:, None]

    distortion = torch.tensor([item.distortion for item in intrinsics]).reshape(-1, 6)
    return Cameras(
        camera_to_worlds=placeholder_camera_to_worlds(len(intrinsics)),
        fx=column([item.focal[0] for item in intrinsics]),
        fy=column([item.focal[1] for item in intrinsics]),
        cx=column([item.center[0] for item in intrinsics]),
        cy=column([item.center[1] for item in intrinsics]),
        width=integers([item.size.width for item in intrinsics]),
        height=integers([item.size.height for item in intrinsics]),
        distortion_params=distortion if bool(distortion.any()) else None,  # without, rays cost no undistortion
        camera_type=integers([item.camera_type.value for item in intrinsics]),
    )


def _ground_truth(frames: List[Frame]) -> Optional[Float[Tensor, "n 3 4"]]:
    poses = [frame.camera_to_world for frame in frames if frame.camera_to_world is not None]
    if not poses or len(poses) < len(frames):
        return None
    return torch.from_numpy(np.stack(poses)).float()


unposed_dataparser = DataParserSpecification(
    config=UnposedDataParserConfig(),
    description="Images without camera poses: a bare folder, or one with transforms*.json.",
)
