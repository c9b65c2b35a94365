"""One learnable pose per image: the table Phi of GNeRF section 3.3."""

import math
from typing import Literal, Optional

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gnerf_ns.cameras.look_at import look_at
from gnerf_ns.cameras.pose_codec import decode_pose_9d, encode_pose_9d

START_ELEVATION = math.radians(30.0)
"""Poses start here, at azimuth 0: well away from the poles, where a look-at pose turns infinitely fast."""


class PoseTable(nn.Module):
    """Poses of all images, as the parameter ``codes``.

    Positions are stored in units of the camera distance, so that one learning rate suits every field of view. In
    mode "look_at" a code is the position alone (3 numbers, along the world's axes) and the camera looks at the origin
    with +z up; in mode "free" a code is that of `encode_pose_9d` (9 numbers, the position along the camera's axes).
    """

    def __init__(self, num_poses: int, mode: Literal["look_at", "free"], radius: float) -> None:
        """Starts with all cameras at one place, looking at the origin.

        Args:
            num_poses: number of images.
            mode: what a pose may be, see the class.
            radius: the camera distance that counts as 1, in scene units.
        """
        super().__init__()
        self.mode: Literal["look_at", "free"] = mode
        self.radius = radius
        start = radius * torch.tensor([math.cos(START_ELEVATION), 0.0, math.sin(START_ELEVATION)])
        self.codes = nn.Parameter(self.encode(look_at(start)).repeat(num_poses, 1))

    @property
    def num_poses(self) -> int:
        """How many poses the table holds."""
        return self.codes.shape[0]

    @property
    def code_dim(self) -> int:
        """Numbers per pose: 3 or 9."""
        return 3 if self.mode == "look_at" else 9

    def encode(self, camera_to_worlds: Float[Tensor, "*batch 3 4"]) -> Float[Tensor, "*batch code"]:
        """Codes of given poses; in mode "look_at" their rotation is dropped."""
        if self.mode == "look_at":
            return camera_to_worlds[..., 3] / self.radius
        codes = encode_pose_9d(camera_to_worlds)
        return torch.cat([codes[..., :3] / self.radius, codes[..., 3:]], dim=-1)

    def decode(self, codes: Float[Tensor, "*batch code"]) -> Float[Tensor, "*batch 3 4"]:
        """camera_to_world matrices of given codes (the table's own, or an inversion network's)."""
        if self.mode == "look_at":
            return look_at(self.radius * codes)
        return decode_pose_9d(torch.cat([self.radius * codes[..., :3], codes[..., 3:]], dim=-1))

    def forward(self, indices: Optional[Int[Tensor, "batch"]] = None) -> Float[Tensor, "poses 3 4"]:
        """camera_to_world matrices of the images at ``indices``, or of all of them in order."""
        return self.decode(self.codes if indices is None else self.codes[indices])

    @torch.no_grad()
    def assign(self, indices: Int[Tensor, "batch"], camera_to_worlds: Float[Tensor, "batch 3 4"]) -> None:
        """Overwrites the poses of some images; in mode "look_at" only their positions are kept."""
        self.codes[indices] = self.encode(camera_to_worlds.to(self.codes))
