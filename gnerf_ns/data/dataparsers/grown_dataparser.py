"""A run's own data, and pictures beside it whose poses were found in its field."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Type

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from torch import Tensor

from gnerf_ns.data.dataparsers.unposed_dataparser import GROUND_TRUTH_KEY, UnposedDataParserConfig
from gnerf_ns.data.dataparsers.world_frame import WorldFrame
from gnerf_ns.errors import InputError


@dataclass
class GrownDataParserConfig(DataParserConfig):
    """Adds localised pictures to the training pictures of another dataparser; held-out ones stay as they are."""

    _target: Type = field(default_factory=lambda: GrownDataParser)
    """Target class to instantiate."""
    data: Path = Path(".")
    """Of the other dataparser."""
    base: DataParserConfig = field(default_factory=UnposedDataParserConfig)
    """The other dataparser."""
    localized: Path = Path("localized.json")
    """transforms.json of the pictures to add, in the frame of the data."""
    base_has_true_poses: bool = True
    """Whether the field was trained on the other dataparser's poses. If not, it has a frame of its own, which is that
    of the localised pictures, and the truth about these is not known."""


class GrownDataParser(DataParser):
    """See `GrownDataParserConfig`."""

    config: GrownDataParserConfig

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        """Raises:
        InputError: the added pictures cannot be read, or lack what the others have: masks, depth.
        """
        base = replace(self.config.base, data=self.config.data).setup()
        outputs: DataparserOutputs = base.get_dataparser_outputs(split, **kwargs)
        if split != "train":
            return outputs
        parser = UnposedDataParserConfig(data=self.config.localized, eval_interval=0, min_images=1).setup()
        added = parser.get_dataparser_outputs("all")
        world = world_frame_of(base, outputs) if self.config.base_has_true_poses else WorldFrame.same()
        poses = world.to_field(added.metadata[GROUND_TRUTH_KEY])
        metadata: Dict[str, Any] = dict(outputs.metadata)
        self._check_metadata(metadata, len(outputs.image_filenames))
        if not self.config.base_has_true_poses:
            truth: Optional[Tensor] = metadata.get(GROUND_TRUTH_KEY, outputs.cameras.camera_to_worlds)
            if truth is not None:
                metadata[GROUND_TRUTH_KEY] = torch.cat([truth, torch.full_like(poses, float("nan"))])
        return replace(
            outputs,
            image_filenames=[*outputs.image_filenames, *added.image_filenames],
            cameras=_joined(outputs.cameras, added.cameras, poses),
            mask_filenames=self._joined_masks(outputs.mask_filenames, added.mask_filenames),
            metadata=metadata,
        )

    def _check_metadata(self, metadata: Dict[str, Any], count: int) -> None:
        for name, value in metadata.items():
            if isinstance(value, (list, tuple)) and len(value) == count:
                raise InputError(
                    f"Every training picture comes with an entry of {name}, which those of {self.config.localized} "
                    "have not; grow a run of a method that needs none."
                )

    def _joined_masks(self, ours: Optional[List[Path]], added: Optional[List[Path]]) -> Optional[List[Path]]:
        if ours is None and added is None:
            return None
        if ours is None or added is None:
            raise InputError(
                f"Either the training pictures or those of {self.config.localized} have masks, but not both; give all "
                "of them masks, or none."
            )
        return [*ours, *added]


def world_frame_of(dataparser: Any, outputs: DataparserOutputs) -> WorldFrame:
    """`WorldFrame.of`, for data that has grown, too: that of the data before."""
    while isinstance(dataparser, GrownDataParser):
        config = dataparser.config
        dataparser = replace(config.base, data=config.data).setup()
    return WorldFrame.of(dataparser, outputs)


def _joined(ours: Cameras, added: Cameras, poses_of_added: Float[Tensor, "n 3 4"]) -> Cameras:
    """Both, one after the other."""

    def both(name: str) -> Tensor:
        first = getattr(ours, name)
        return torch.cat([first, getattr(added, name).to(first)])

    distortion: Optional[Tensor] = None
    if ours.distortion_params is not None or added.distortion_params is not None:
        distortion = torch.cat(
            [
                torch.zeros(len(cameras), 6) if cameras.distortion_params is None else cameras.distortion_params
                for cameras in (ours, added)
            ]
        )
    return Cameras(
        camera_to_worlds=torch.cat([ours.camera_to_worlds, poses_of_added.to(ours.camera_to_worlds)]),
        distortion_params=distortion,
        fx=both("fx"),
        fy=both("fy"),
        cx=both("cx"),
        cy=both("cy"),
        width=both("width"),
        height=both("height"),
        camera_type=both("camera_type"),
    )
