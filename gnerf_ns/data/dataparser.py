"""The dataparser for images without poses: a folder in, placeholder cameras out."""

# nerfstudio loads this module while its own data packages are half imported: nothing here, nor in the packages above,
# may import nerfstudio.engine, nerfstudio.pipelines or nerfstudio.data.datamanagers.

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Type

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.plugins.registry_dataparser import DataParserSpecification
from nerfstudio.utils.colors import get_color
from torch import Tensor

from gnerf_ns.data.frames import read_all_frames, read_frames
from gnerf_ns.data.images import read_header
from gnerf_ns.data.intrinsics import NARROWEST_FOV_DEG, WIDEST_PERSPECTIVE_FOV_DEG, Intrinsics
from gnerf_ns.data.lens_sources import DEFAULT_FOV_DEG, lenses_of_frames
from gnerf_ns.data.orientation import ORIENTATIONS_KEY
from gnerf_ns.data.transforms_json import Frame
from gnerf_ns.data.video import DEFAULT_FRAMES, is_video
from gnerf_ns.utils.console import named, remark
from gnerf_ns.utils.errors import InputError

GROUND_TRUTH_KEY = "ground_truth_camera_to_worlds"
"""Entry of the outputs' metadata: [n, 3, 4], NaN for a frame that has no pose; None where none has one."""

HAS_CALIBRATION_KEY = "has_calibration"
"""Entry of the outputs' metadata: whether the focal lengths come from a transforms.json."""

LENS_SOURCE_KEY = "lens_source"
"""Entry of the outputs' metadata: where the focal lengths come from, a `LensSource`."""

LENS_ORIGIN_KEY = "lens_origin"
"""Entry of the outputs' metadata: the same in words."""

_FISHEYE_NUDGE = 1e-5
"""By how much of the width a principal point is moved, so that no pixel's center lies on it at any size."""

PLACEHOLDER_CAMERA_TO_WORLD = ((0.0, 0.0, 1.0, 2.8), (1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0))
"""Level, on the x axis, looking at the origin: what every camera has until its pose is estimated."""


@dataclass
class UnposedDataParserConfig(DataParserConfig):
    """Images whose camera poses are unknown: a folder of them, with or without transforms*.json, or a video.

    Poses found in a transforms file are set aside for evaluation and never trained on.
    """

    _target: Type = field(default_factory=lambda: UnposedDataParser)
    """Target class to instantiate."""
    data: Path = Path(".")
    """Folder of images (or holding a folder `images`), a transforms.json, or a video."""
    fov_deg: Optional[float] = None
    """Field of view along the images' longer side, in degrees. Where it is given, it counts, whatever a transforms file
    or EXIF data say; else these, and 50 degrees if they say nothing."""
    eval_interval: int = 8
    """Hold out every n-th image for evaluation, but at least two, unless a transforms file names held-out images. 0
    holds out none."""
    min_images: int = 6
    """Fewest images, held-out ones included, that are accepted."""
    video_frames: int = DEFAULT_FRAMES
    """Into how many equal intervals of time a video is divided; the sharpest frame of each is an image. Of a
    recording of Record3D, so many images are used."""
    alpha_color: Optional[str] = "white"
    """Color behind transparent or masked-out pixels for methods other than ours, which lay images over their model's
    background; None hands RGBA images to the model."""


class UnposedDataParser(DataParser):
    """Parses a folder of unposed images. The splits "val" and "test" are the same held-out images; "all" is all."""

    config: UnposedDataParserConfig

    def __init__(self, config: UnposedDataParserConfig):
        super().__init__(config)
        narrowest, widest = NARROWEST_FOV_DEG, WIDEST_PERSPECTIVE_FOV_DEG
        if config.fov_deg is not None and not narrowest <= config.fov_deg <= widest:
            raise InputError(
                f"--fov-deg {config.fov_deg:g} is not between {narrowest:g} and {widest:g} degrees; correct it."
            )
        if config.eval_interval < 0 or config.eval_interval == 1:
            raise InputError(
                f"--eval-interval {config.eval_interval} leaves no image to train on; use 2 or more, or 0 for none."
            )

    def _generate_dataparser_outputs(
        self, split: str = "train", **kwargs: Optional[Dict[Any, Any]]
    ) -> DataparserOutputs:
        """Placeholder cameras, with intrinsics, of one split; true poses, if all are known, are metadata.

        Raises:
            InputError: see ``read_frames`` and ``lenses_of_frames``; or there are too few images, or masks for some
                only.
        """
        del kwargs
        if split == "all":
            train, held_out = read_all_frames(self.config.data, self.config.video_frames), []
        else:
            train, held_out = read_frames(self.config.data, self.config.eval_interval, self.config.video_frames)
        count = len(train) + len(held_out)
        if count < self.config.min_images or not train:
            several = [frame.image for frame in train + held_out if read_header(frame.image).num_images > 1]
            first = f", and of several in {named(several)} the first is read" if several else ""
            more = "film from more places" if is_video(self.config.data) else "add more"
            raise InputError(
                f"{self.config.data} has {count} images ({len(train)} to train on{first}), but at least "
                f"{self.config.min_images} are needed; {more}, or lower --min-images (behind the word unposed-data)."
            )
        frames = train if split in ("train", "all") else held_out
        everyone = train + held_out
        lenses = lenses_of_frames(everyone, self.config.fov_deg, DEFAULT_FOV_DEG)
        lenses.remark_doubts(self.config.data)
        of_split = slice(len(train)) if frames is train else slice(len(train), None)
        intrinsics = lenses.intrinsics[of_split]
        unmasked = [frame.image for frame in everyone if frame.mask is None]
        if len(unmasked) not in (0, len(everyone)):
            raise InputError(
                f"{len(unmasked)} of {len(everyone)} frames have no mask ({named(unmasked)}); give every frame one, "
                "or none."
            )
        masks = [frame.mask for frame in frames if frame.mask is not None]
        return DataparserOutputs(
            image_filenames=[frame.image for frame in frames],
            cameras=placeholder_cameras(intrinsics),
            alpha_color=None if self.config.alpha_color is None else get_color(self.config.alpha_color),
            scene_box=unit_scene_box(),
            mask_filenames=masks or None,
            metadata={
                GROUND_TRUTH_KEY: None if _are_in_one_place(everyone, self.config.data) else _ground_truth(frames),
                HAS_CALIBRATION_KEY: lenses.source == "transforms.json",
                LENS_SOURCE_KEY: lenses.source,
                LENS_ORIGIN_KEY: lenses.origin,
                ORIENTATIONS_KEY: {file: turn for frame in frames for file, turn in frame.orientations.items()},
            },
        )


def unit_scene_box() -> SceneBox:
    """The box around the unit sphere, in which the object sits by convention."""
    return SceneBox(aabb=torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]]))


def placeholder_camera_to_worlds(count: int) -> Float[Tensor, "n 3 4"]:
    """The same pose for each camera, saying nothing."""
    return torch.tensor(PLACEHOLDER_CAMERA_TO_WORLD).repeat(count, 1, 1)


def placeholder_cameras(intrinsics: List[Intrinsics]) -> Cameras:
    def column(values: List[float]) -> Float[Tensor, "n 1"]:
        return torch.tensor(values, dtype=torch.float32)[:, None]

    def integers(values: List[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64)[:, None]

    def nudge(item: Intrinsics) -> float:
        # nerfstudio's ray on the axis of a fisheye lens is NaN, and so is the area of a pixel beside it.
        return _FISHEYE_NUDGE * item.size.width if item.camera_type == CameraType.FISHEYE else 0.0

    distortion = torch.tensor([item.distortion for item in intrinsics]).reshape(-1, 6)
    return Cameras(
        camera_to_worlds=placeholder_camera_to_worlds(len(intrinsics)),
        fx=column([item.focal[0] for item in intrinsics]),
        fy=column([item.focal[1] for item in intrinsics]),
        cx=column([item.center[0] + nudge(item) for item in intrinsics]),
        cy=column([item.center[1] for item in intrinsics]),
        width=integers([item.size.width for item in intrinsics]),
        height=integers([item.size.height for item in intrinsics]),
        distortion_params=distortion if bool(distortion.any()) else None,  # without, rays cost no undistortion
        camera_type=integers([item.camera_type.value for item in intrinsics]),
    )


def _are_in_one_place(frames: List[Frame], data: Path) -> bool:
    """Whether the poses of all images are placeholders, which nothing can be aligned with."""
    positions = np.array([frame.camera_to_world[:, 3] for frame in frames if frame.camera_to_world is not None])
    if len(positions) < 2 or np.ptp(positions, axis=0).max() > 0:
        return False
    remark(f"The {len(positions)} poses of {data} are all in one place: they say nothing, and are not used.")
    return True


def _ground_truth(frames: List[Frame]) -> Optional[Float[Tensor, "n 3 4"]]:
    if all(frame.camera_to_world is None for frame in frames):
        return None
    unknown = np.full((3, 4), np.nan)
    poses = [unknown if frame.camera_to_world is None else frame.camera_to_world for frame in frames]
    return torch.from_numpy(np.stack(poses)).float()


unposed_dataparser = DataParserSpecification(
    config=UnposedDataParserConfig(),
    description="Images without camera poses: a bare folder, or one with transforms*.json.",
)
