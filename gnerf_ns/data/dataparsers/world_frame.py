"""Between the frame in which a folder's own files have their poses, and the one that a field was trained in."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Tuple

import torch
from jaxtyping import Float
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import Nerfstudio
from torch import Tensor

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
            outputs: its training pictures.
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
    meta = json.loads(listed.read_text())
    applied = meta.get("applied_transform")
    if applied is None:
        applied = APPLIED_TO_COLMAP if (data / "colmap/sparse/0").exists() else torch.eye(4)[:3].tolist()
    return torch.tensor(applied)[:3], float(meta.get("applied_scale", 1.0))
