"""A run's own data, with images beside it whose poses were found in its field; and the frame these are written in."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Type

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import Nerfstudio
from torch import Tensor

from gnerf_ns.data.dataparser import GROUND_TRUTH_KEY, UnposedDataParserConfig
from gnerf_ns.data.orientation import ORIENTATIONS_KEY, stored_outputs, upright_outputs
from gnerf_ns.data.transforms_json import load_transforms_json
from gnerf_ns.utils.errors import InputError

APPLIED_TO_COLMAP = ((0.0, 1.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0), (0.0, 0.0, -1.0, 0.0))
"""What nerfstudio takes for applied_transform where a transforms.json beside COLMAP's own files has none."""


@dataclass(frozen=True)
class WorldFrame:
    """The data's world, as a dataparser has moved it: x in the field is scale * (transform applied to x in the data).

    Camera axes are the same in both: OpenGL's.
    """

    transform: Float[Tensor, "3 4"]
    """A rotation and a translation, in the data's units; on the CPU."""
    scale: float
    """Field units in a unit of the data."""

    @classmethod
    def same(cls) -> WorldFrame:
        """Of a field that was trained without the data's poses: what was found in it stays in its own frame."""
        return cls(torch.eye(4)[:3], 1.0)

    @classmethod
    def of(cls, dataparser: Any, outputs: DataparserOutputs) -> WorldFrame:
        """Of what a dataparser has given out.

        nerfstudio's transform leads from where ns-process-data has its poses from (COLMAP's frame), if a
        transforms.json tells of that in applied_transform; ours leads from the frame of that file.

        Args:
            dataparser: the one that read the data.
            outputs: its training images.
        """
        transform, scale = outputs.dataparser_transform.cpu(), float(outputs.dataparser_scale)
        if isinstance(dataparser, Nerfstudio):
            applied, applied_scale = _applied_before(Path(dataparser.config.data))
            rotation = transform[:, :3] @ applied[:, :3].to(transform).inverse()
            translation = transform[:, 3:] - rotation @ applied[:, 3:].to(transform)
            transform, scale = torch.cat([rotation, translation], dim=1), scale / applied_scale
        return cls(transform, scale)

    def to_field(self, camera_to_worlds: Float[Tensor, "n 3 4"]) -> Float[Tensor, "n 3 4"]:
        """Poses in the data's frame, in the field's; on the CPU."""
        rotation, translation = self.transform.to(torch.float32).split([3, 1], dim=1)
        moved = rotation @ camera_to_worlds.detach().cpu()
        return torch.cat([moved[..., :3], self.scale * (moved[..., 3:] + translation)], dim=-1)

    def to_data(self, camera_to_worlds: Float[Tensor, "n 3 4"]) -> Float[Tensor, "n 3 4"]:
        """The inverse of `to_field`; on the CPU."""
        rotation, translation = self.transform.to(torch.float32).split([3, 1], dim=1)
        poses = camera_to_worlds.detach().cpu()
        positions = poses[..., 3:] / self.scale - translation
        return rotation.inverse() @ torch.cat([poses[..., :3], positions], dim=-1)


def _applied_before(data: Path) -> Tuple[Float[Tensor, "3 4"], float]:
    """What had been done to COLMAP's poses before they were written, by the rules of nerfstudio's dataparser."""
    listed = data if data.suffix == ".json" else data / "transforms.json"
    meta = load_transforms_json(listed)
    applied = meta.get("applied_transform")
    if applied is None:
        applied = APPLIED_TO_COLMAP if (data / "colmap/sparse/0").exists() else torch.eye(4)[:3].tolist()
    return torch.tensor(applied)[:3], float(meta.get("applied_scale", 1.0))


@dataclass
class GrownDataParserConfig(DataParserConfig):
    """Adds localized images to the training images of another dataparser; held-out ones stay as they are."""

    _target: Type = field(default_factory=lambda: GrownDataParser)
    """Target class to instantiate."""
    data: Path = Path(".")
    """Of the other dataparser."""
    base: DataParserConfig = field(default_factory=UnposedDataParserConfig)
    """The other dataparser."""
    localized: Path = Path("localized.json")
    """transforms.json of the images to add, in the frame of the data."""
    base_has_true_poses: bool = True
    """Whether the field was trained on the other dataparser's poses. If not, it has a frame of its own, which is that
    of the localized images, and the truth about these is not known."""


class GrownDataParser(DataParser):
    """See `GrownDataParserConfig`."""

    config: GrownDataParserConfig

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        """Raises:
        InputError: the added images cannot be read, or lack what the others have: masks, depth.
        """
        base = replace(self.config.base, data=self.config.data).setup()
        outputs: DataparserOutputs = base.get_dataparser_outputs(split, **kwargs)
        if split != "train":
            return outputs
        parser = UnposedDataParserConfig(data=self.config.localized, eval_interval=0, min_images=1).setup()
        added = parser.get_dataparser_outputs("all")
        added.cameras.camera_to_worlds = added.metadata[GROUND_TRUTH_KEY]
        world = WorldFrame.same()
        if self.config.base_has_true_poses:
            # Other methods' datasets read images as they are stored.
            world, added = world_frame_of(base, outputs), stored_outputs(added)
        else:
            outputs = upright_outputs(outputs)
        poses = world.to_field(added.cameras.camera_to_worlds)
        metadata: Dict[str, Any] = dict(outputs.metadata)
        self._check_metadata(metadata, len(outputs.image_filenames))
        if not self.config.base_has_true_poses:
            metadata[ORIENTATIONS_KEY] = {**metadata[ORIENTATIONS_KEY], **added.metadata[ORIENTATIONS_KEY]}
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
                    f"Every training image comes with an entry of {name}, which those of {self.config.localized} "
                    "have not; grow a run of a method that needs none."
                )

    def _joined_masks(self, ours: Optional[List[Path]], added: Optional[List[Path]]) -> Optional[List[Path]]:
        if ours is None and added is None:
            return None
        if ours is None or added is None:
            raise InputError(
                f"Either the training images or those of {self.config.localized} have masks, but not both; give all "
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
