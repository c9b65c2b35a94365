"""The one owner of learned cameras: poses, up direction and focal lengths."""

import math
from typing import Literal, Optional

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gnerf_ns.cameras.look_at import look_at
from gnerf_ns.cameras.pose_codec import PoseCodec

FocalMode = Literal["fixed", "shared", "per_image"]


class FocalScales(nn.Module):
    """Factors on the assumed focal lengths, as the parameter ``logarithms``: one for all images, or one for each."""

    def __init__(self, num_images: int, mode: FocalMode) -> None:
        """Starts with the focal lengths as they were assumed.

        Args:
            num_images: number of images.
            mode: fixed: they stay; shared: one factor is learned; per_image: one for each image.
        """
        super().__init__()
        self.num_images = num_images
        self.mode: FocalMode = mode
        self.logarithms: Tensor
        logarithms = torch.zeros(num_images if mode == "per_image" else 1)
        if mode == "fixed":
            self.register_buffer("logarithms", logarithms)
        else:
            self.logarithms = nn.Parameter(logarithms)

    @property
    def is_learned(self) -> bool:
        """Whether they may change."""
        return self.mode != "fixed"

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Back to what was assumed."""
        self.logarithms.zero_()

    def forward(self, indices: Optional[Int[Tensor, "batch"]] = None) -> Float[Tensor, "images"]:
        """Factors of the images at ``indices``, or of all of them in order."""
        if self.mode == "per_image":
            return (self.logarithms if indices is None else self.logarithms[indices]).exp()
        return self.logarithms.exp().expand(self.num_images if indices is None else len(indices))

    @property
    def typical(self) -> Float[Tensor, ""]:
        """The factor for images that have none of their own: the median, without gradient."""
        return self.logarithms.detach().median().exp()

    def for_others(self, indices: Int[Tensor, "batch"]) -> Float[Tensor, "batch"]:
        """`typical` for each of some other images of the same lens."""
        return self.typical.expand(len(indices))


START_ELEVATION = math.radians(30.0)
"""Poses start here, at azimuth 0: well away from the poles, where a look-at pose turns infinitely fast."""


class PoseTable(nn.Module):
    """Poses of all images, as the parameter ``codes``.

    Where focal lengths are learned, codes are in units of a camera distance that grows with them: the object then keeps
    its size in the image while its perspective changes, so that descent need not move both against each other.
    """

    def __init__(
        self,
        num_poses: int,
        codec: PoseCodec,
        focal_scales: Optional[FocalScales] = None,
        moves_up_direction: bool = False,
    ) -> None:
        """Starts with all cameras at one place, looking at the origin.

        Args:
            num_poses: number of images.
            codec: what a pose may be, and how it is written.
            focal_scales: of the same images, where they are learned.
            moves_up_direction: whether gradients reach what is up for the codec.
        """
        super().__init__()
        self.codec = codec
        self._moves_up_direction = moves_up_direction
        # In a tuple: these parameters are not the table's.
        self._focal_scales = (focal_scales,)
        start = codec.radius * torch.tensor([math.cos(START_ELEVATION), 0.0, math.sin(START_ELEVATION)])
        self.codes = nn.Parameter(codec.encode(look_at(start)).repeat(num_poses, 1))

    @property
    def num_poses(self) -> int:
        """How many poses the table holds."""
        return self.codes.shape[0]

    def forward(self, indices: Optional[Int[Tensor, "batch"]] = None) -> Float[Tensor, "poses 3 4"]:
        """camera_to_world matrices of the images at ``indices``, or of all of them in order."""
        upright = self.codec.up() if self._moves_up_direction else None
        poses = self.codec.decode(self.codes if indices is None else self.codes[indices], upright)
        (focal_scales,) = self._focal_scales
        return poses if focal_scales is None else _multiply_distances(poses, focal_scales(indices))

    @torch.no_grad()
    def assign(self, indices: Int[Tensor, "batch"], camera_to_worlds: Float[Tensor, "batch 3 4"]) -> None:
        """Overwrites the poses of some images; in mode "look_at" only their positions are kept."""
        poses = camera_to_worlds.to(self.codes)
        (focal_scales,) = self._focal_scales
        if focal_scales is not None:
            poses = _multiply_distances(poses, 1.0 / focal_scales(indices))
        self.codes[indices] = self.codec.encode(poses)


def _multiply_distances(
    camera_to_worlds: Float[Tensor, "poses 3 4"], factors: Float[Tensor, "poses"]
) -> Float[Tensor, "poses 3 4"]:
    """The same cameras, farther from the origin by a factor each."""
    return torch.cat([camera_to_worlds[..., :3], camera_to_worlds[..., 3:] * factors[:, None, None]], dim=-1)
