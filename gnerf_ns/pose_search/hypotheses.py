"""Guesses at the cameras of images, several for each, which are refined side by side."""

from __future__ import annotations

from typing import Callable

import torch
from jaxtyping import Float, Int
from nerfstudio.cameras.rays import RayBundle
from torch import Tensor, nn

from gnerf_ns.cameras.pose_codec import PoseCodec, PoseIncrements, PoseTable
from gnerf_ns.cameras.rays import rays_from_poses
from gnerf_ns.data.image_set import ImageSet

MakePoses = Callable[[Float[Tensor, "n 3 4"]], nn.Module]
"""How given poses are to be learned from there: a module that puts out poses."""


def learned_as(codec: PoseCodec) -> MakePoses:
    """Poses as a run of ours learns them."""
    return lambda camera_to_worlds: PoseTable(camera_to_worlds, codec)


def increments_about(center: Float[Tensor, "3"]) -> MakePoses:
    """Poses as small motions about the middle of a scene."""
    return lambda camera_to_worlds: PoseIncrements(camera_to_worlds, center)


class Hypotheses(nn.Module):
    """Poses and, where that is asked for, exposure and focal length, each of some image.

    Attributes:
        image_indices: the image that each hypothesis is about.
        poses: their poses.
        log_gains: logarithms of how much brighter the image is than the field.
        log_focal_scales: logarithms of how much longer the image's focal length is than was given.
    """

    image_indices: Tensor
    log_gains: Tensor
    log_focal_scales: Tensor

    def __init__(
        self,
        image_set: ImageSet,
        image_indices: Int[Tensor, "n"],
        camera_to_worlds: Float[Tensor, "n 3 4"],
        make_poses: MakePoses,
    ) -> None:
        """
        Args:
            image_set: all of them.
            image_indices: images that the poses are for.
            camera_to_worlds: the poses to begin with.
            make_poses: what is learned of them.
        """
        super().__init__()
        self._image_set, self._make_poses = image_set, make_poses
        self.register_buffer("image_indices", image_indices)
        self.poses = make_poses(camera_to_worlds)
        self.log_gains = nn.Parameter(torch.zeros(len(image_indices)).to(camera_to_worlds))
        self.log_focal_scales = nn.Parameter(torch.zeros(len(image_indices)).to(camera_to_worlds))

    def __len__(self) -> int:
        return len(self.image_indices)

    def select(self, indices: Int[Tensor, "kept"]) -> Hypotheses:
        """Some of them, to be learned from where they are."""
        poses = self.poses().detach()[indices]
        kept = Hypotheses(self._image_set, self.image_indices[indices], poses, self._make_poses)
        kept.log_gains.data.copy_(self.log_gains.detach()[indices])
        kept.log_focal_scales.data.copy_(self.log_focal_scales.detach()[indices])
        return kept

    def rays(self, coords: Float[Tensor, "n rays 2"], height: int, width: int) -> RayBundle:
        """Through points of each image, differentiable in all that is learned.

        Args:
            coords: (x, y), -1 and 1 being the image's edges.
            height: of the image that the points are pixels of, in pixels.
            width: likewise.
        """
        cameras = self._image_set.directions
        scales = self.log_focal_scales.exp()
        directions = cameras.at(self.image_indices, coords, scales)
        areas = cameras.pixel_areas(self.image_indices, directions, height, width, scales)
        return rays_from_poses(self.poses(), directions, self.image_indices, areas)

    def apply_exposure(self, colors: Float[Tensor, "rays 3"]) -> Float[Tensor, "rays 3"]:
        """Colors of all rays of `rays` as the images would show them."""
        gains = self.log_gains.exp().repeat_interleave(len(colors) // max(1, len(self)))
        return colors * gains[:, None]
