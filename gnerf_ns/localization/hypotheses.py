"""Guesses at the cameras of photographs, several for each, which are refined side by side."""

from __future__ import annotations

from typing import Callable, Union

import torch
from jaxtyping import Float, Int
from nerfstudio.cameras.rays import RayBundle
from torch import Tensor, nn

from gnerf_ns.cameras.pose_codec import PoseCodec
from gnerf_ns.cameras.pose_increments import PoseIncrements
from gnerf_ns.cameras.pose_table import PoseTable
from gnerf_ns.cameras.rays import rays_from_poses, with_longer_focal
from gnerf_ns.localization.photographs import Photographs

PoseParameters = Union[PoseTable, PoseIncrements]
"""Poses as a function of what is learned."""

MakePoses = Callable[[Float[Tensor, "n 3 4"]], PoseParameters]
"""How given poses are to be learned from there."""


def learned_as(codec: PoseCodec) -> MakePoses:
    """Poses as a run's own pose table has them."""

    def table(camera_to_worlds: Float[Tensor, "n 3 4"]) -> PoseTable:
        poses = PoseTable(len(camera_to_worlds), codec).to(camera_to_worlds.device)
        poses.assign(torch.arange(len(camera_to_worlds), device=camera_to_worlds.device), camera_to_worlds)
        return poses

    return table


def increments_about(centre: Float[Tensor, "3"]) -> MakePoses:
    """Poses as small motions about the middle of a scene."""
    return lambda camera_to_worlds: PoseIncrements(camera_to_worlds, centre)


class Hypotheses(nn.Module):
    """Poses and, where that is asked for, exposure and focal length, each of some photograph.

    Attributes:
        which: the photograph that each hypothesis is about.
        poses: their poses.
        log_gains: logarithms of how much brighter the photograph is than the field.
        log_focal_factors: logarithms of how much longer the photograph's focal length is than was given.
    """

    which: Tensor
    log_gains: Tensor
    log_focal_factors: Tensor

    def __init__(
        self,
        photographs: Photographs,
        which: Int[Tensor, "n"],
        camera_to_worlds: Float[Tensor, "n 3 4"],
        make_poses: MakePoses,
    ) -> None:
        """
        Args:
            photographs: all of them.
            which: photographs that the poses are for.
            camera_to_worlds: the poses to begin with.
            make_poses: what is learned of them.
        """
        super().__init__()
        self._photographs, self._make_poses = photographs, make_poses
        self.register_buffer("which", which)
        self.poses = make_poses(camera_to_worlds)
        self.log_gains = nn.Parameter(torch.zeros(len(which)).to(camera_to_worlds))
        self.log_focal_factors = nn.Parameter(torch.zeros(len(which)).to(camera_to_worlds))

    def __len__(self) -> int:
        return len(self.which)

    def kept(self, indices: Int[Tensor, "kept"]) -> Hypotheses:
        """Some of them, to be learned from where they are."""
        poses = self.poses().detach()[indices]
        kept = Hypotheses(self._photographs, self.which[indices], poses, self._make_poses)
        kept.log_gains.data.copy_(self.log_gains.detach()[indices])
        kept.log_focal_factors.data.copy_(self.log_focal_factors.detach()[indices])
        return kept

    def rays(self, coords: Float[Tensor, "n rays 2"], height: int, width: int) -> RayBundle:
        """Through points of each photograph, differentiable in all that is learned.

        Args:
            coords: (x, y), -1 and 1 being the image's edges.
            height: of the photograph that the points are pixels of, in pixels.
            width: likewise.
        """
        cameras = self._photographs.directions
        directions = with_longer_focal(cameras.at(self.which, coords), self.log_focal_factors.exp())
        areas = cameras.pixel_areas(self.which, height, width)
        return rays_from_poses(self.poses(), directions, self.which, areas)

    def exposed(self, colours: Float[Tensor, "rays 3"]) -> Float[Tensor, "rays 3"]:
        """Colours of all rays of `rays` as the photographs would show them."""
        gains = self.log_gains.exp().repeat_interleave(len(colours) // max(1, len(self)))
        return colours * gains[:, None]
