"""One learnable pose per image: the table Phi of GNeRF section 3.3."""

import math
from typing import Optional

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gnerf_ns.cameras.look_at import look_at
from gnerf_ns.cameras.pose_codec import PoseCodec

START_ELEVATION = math.radians(30.0)
"""Poses start here, at azimuth 0: well away from the poles, where a look-at pose turns infinitely fast."""


class PoseTable(nn.Module):
    """Poses of all images, as the parameter ``codes``."""

    def __init__(self, num_poses: int, codec: PoseCodec) -> None:
        """Starts with all cameras at one place, looking at the origin.

        Args:
            num_poses: number of images.
            codec: what a pose may be, and how it is written.
        """
        super().__init__()
        self.codec = codec
        start = codec.radius * torch.tensor([math.cos(START_ELEVATION), 0.0, math.sin(START_ELEVATION)])
        self.codes = nn.Parameter(codec.encode(look_at(start)).repeat(num_poses, 1))

    @property
    def num_poses(self) -> int:
        """How many poses the table holds."""
        return self.codes.shape[0]

    def forward(self, indices: Optional[Int[Tensor, "batch"]] = None) -> Float[Tensor, "poses 3 4"]:
        """camera_to_world matrices of the images at ``indices``, or of all of them in order."""
        return self.codec.decode(self.codes if indices is None else self.codes[indices])

    @torch.no_grad()
    def assign(self, indices: Int[Tensor, "batch"], camera_to_worlds: Float[Tensor, "batch 3 4"]) -> None:
        """Overwrites the poses of some images; in mode "look_at" only their positions are kept."""
        self.codes[indices] = self.codec.encode(camera_to_worlds.to(self.codes))
