"""The one owner of learned cameras: poses, up direction and focal lengths become rays and nerfstudio's cameras here."""

from __future__ import annotations

import math
from typing import Dict, List, Literal, Optional

import torch
from jaxtyping import Float, Int
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor, nn
from torch.nn import Parameter

from gnerf_ns.cameras.look_at import look_at
from gnerf_ns.cameras.pose_codec import PoseCodec, PoseMode, UpDirection
from gnerf_ns.cameras.pose_prior import object_filling_radius
from gnerf_ns.cameras.rays import CameraDirections

FocalMode = Literal["fixed", "shared", "per_image"]
Split = Literal["train", "eval"]

START_ELEVATION = math.radians(30.0)
"""Poses start here, at azimuth 0: well away from the poles, where a look-at pose turns infinitely fast."""


class FocalScales(nn.Module):
    """Factors on the given focal lengths, as the parameter ``logarithms``: one for all images, or one for each."""

    def __init__(self, num_images: int, mode: FocalMode) -> None:
        """Starts with the focal lengths as they were given.

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


class LearnedCameras(nn.Module):
    """Cameras of training and held-out images: intrinsics as they were given, and what is learned of them.

    Poses of training images (the table Phi of GNeRF section 3.3) are the parameter ``codes``; those of held-out images
    are the buffer ``eval_codes``, since they are estimated with the field frozen. Where focal lengths are learned,
    codes are in units of a camera distance that grows with them: the object then keeps its size in the image while its
    perspective changes, so that gradient descent need not move both against each other.

    Attributes:
        codec: what a pose may be, and how it is written as numbers.
        up_direction: what is up for cameras that look at the origin.
        focal_scales: factors on the given focal lengths of the training images.
        train_lenses: ray directions of the training images' cameras, with the learned focal lengths.
        eval_lenses: those of the held-out images, with the typical learned focal length.
        eval_step: training step at which held-out poses were estimated; -1 for never.
        held: training images whose poses are not learned, one bool each.
    """

    held: Tensor
    eval_codes: Tensor
    eval_step: Tensor

    def __init__(
        self,
        train: Cameras,
        held_out: Cameras,
        pose_mode: PoseMode = "look_at",
        focal_mode: FocalMode = "fixed",
        learns_up_direction: bool = False,
        unpadded: Optional[Cameras] = None,
    ) -> None:
        """Starts with all cameras at one place, looking at the origin.

        Args:
            train: intrinsics of the training images, as given; their poses are not looked at.
            held_out: those of the held-out images.
            pose_mode: look_at: cameras look at the origin, only positions are learned; free: position and rotation.
            focal_mode: whether focal lengths are learned: see `FocalScales`.
            learns_up_direction: whether the up direction is learned, of cameras that look at the origin.
            unpadded: the training images' cameras without the padding that ``train`` has; None where it has none.
        """
        super().__init__()
        self.focal_scales = FocalScales(len(train), focal_mode)
        self.train_lenses = CameraDirections(train, self.focal_scales if self.focal_scales.is_learned else None)
        self.eval_lenses = CameraDirections(held_out, self.focal_scales.for_others)
        self.up_direction = UpDirection(learns_up_direction and pose_mode == "look_at")
        self._canvas_radius = object_filling_radius(self.train_lenses.smallest_field_of_view)
        radius = self._canvas_radius
        if unpadded is not None:
            radius = object_filling_radius(CameraDirections(unpadded).smallest_field_of_view)
        self.codec = PoseCodec(pose_mode, radius, self.up_direction)
        start = self.codec.radius * torch.tensor([math.cos(START_ELEVATION), 0.0, math.sin(START_ELEVATION)])
        code = self.codec.encode(look_at(start))
        self.codes = nn.Parameter(code.repeat(len(train), 1))
        self.register_buffer("held", torch.zeros(len(train), dtype=torch.bool))
        self.register_buffer("eval_codes", code.repeat(len(held_out), 1))
        self.register_buffer("eval_step", torch.tensor(-1))

    def __len__(self) -> int:
        """Number of training images."""
        return len(self.codes)

    @property
    def radius(self) -> float:
        """Distance, in scene units, at which the unit sphere fills a typical image, with focal lengths as learned."""
        return self._as_learned(self.codec.radius)

    @property
    def canvas_radius(self) -> float:
        """The same with padding counted as image: there, half the images' shorter side sees one unit."""
        return self._as_learned(self._canvas_radius)

    def _as_learned(self, radius: float) -> float:
        return radius * float(self.focal_scales.typical) if self.focal_scales.is_learned else radius

    @property
    def has_eval_poses(self) -> bool:
        """Whether poses of held-out images have been estimated."""
        return int(self.eval_step) >= 0

    def forward(self, indices: Optional[Int[Tensor, "batch"]] = None) -> Float[Tensor, "poses 3 4"]:
        """camera_to_world matrices of the training images at ``indices``, or of all in order; differentiable."""
        upright = self.up_direction() if self.up_direction.is_learned else None
        codes = torch.where(self.held[:, None], self.codes.detach(), self.codes)
        poses = self.codec.decode(codes if indices is None else codes[indices], upright)
        return _scale_distances(poses, self.focal_scales(indices)) if self.focal_scales.is_learned else poses

    @torch.no_grad()
    def assign(self, indices: Int[Tensor, "batch"], camera_to_worlds: Float[Tensor, "batch 3 4"]) -> None:
        """Overwrite the poses of some training images; in mode "look_at" only their positions are kept."""
        indices = indices.to(self.codes.device)
        poses = camera_to_worlds.to(self.codes)
        if self.focal_scales.is_learned:
            poses = _scale_distances(poses, 1.0 / self.focal_scales(indices))
        self.codes[indices] = self.codec.encode(poses)

    def hold(self, indices: Int[Tensor, "batch"]) -> None:
        """Keep the poses of some training images as they are; only for poses that are free."""
        self.held[indices.to(self.held.device)] = True

    @torch.no_grad()
    def assign_eval(self, camera_to_worlds: Float[Tensor, "m 3 4"], step: int) -> None:
        """Overwrite the poses of all held-out images, as estimated at a training step."""
        self.eval_codes.copy_(self.codec.encode(camera_to_worlds.to(self.eval_codes)))
        self.eval_step.fill_(step)

    @torch.no_grad()
    def poses(self, split: Split) -> Float[Tensor, "n 3 4"]:
        """Estimated camera_to_world matrices of a split, in the learned frame; no gradient."""
        return self() if split == "train" else self.codec.decode(self.eval_codes)

    @torch.no_grad()
    def estimated(self, split: Split, given: Cameras) -> Cameras:
        """nerfstudio's cameras with estimated poses and focal lengths: for viewer, export, files and datamanager.

        Args:
            split: whose cameras.
            given: the same images' cameras with the focal lengths that were given, at any image size; left alone.
        """
        scales = self.focal_scales() if split == "train" else self.focal_scales.typical.expand(len(self.eval_codes))
        cameras = given[...]
        columns = scales.to(given.fx)[:, None]
        cameras.fx, cameras.fy = given.fx * columns, given.fy * columns
        cameras.camera_to_worlds = self.poses(split).to(given.camera_to_worlds)
        return cameras

    def get_param_groups(self) -> Dict[str, List[Parameter]]:
        """Parameters by optimizer. Held-out poses are not among them: they never meet the training losses."""
        groups = {"poses": [self.codes]}
        if self.focal_scales.is_learned:
            groups["focal_lengths"] = list(self.focal_scales.parameters())
        if self.up_direction.is_learned:
            groups["up_direction"] = list(self.up_direction.parameters())
        return groups

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Focal lengths as given and +z up again. Poses stay: they are looked up at the end of phase A."""
        self.focal_scales.logarithms.zero_()
        self.up_direction.tilt.zero_()


def _scale_distances(
    camera_to_worlds: Float[Tensor, "poses 3 4"], factors: Float[Tensor, "poses"]
) -> Float[Tensor, "poses 3 4"]:
    """The same cameras, farther from the origin by a factor each."""
    return torch.cat([camera_to_worlds[..., :3], camera_to_worlds[..., 3:] * factors[:, None, None]], dim=-1)
