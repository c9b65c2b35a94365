"""The views of examples as cameras: of our renderer, and of nerfstudio."""

from __future__ import annotations

from typing import List

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from gnerf_ns.cameras.alignment import Similarity
from gnerf_ns.scenes.view_sampling import Views
from gnerf_ns.splats.axes import camera_to_worlds, inverse_poses
from gnerf_ns.splats.gaussians import Gaussians
from gnerf_ns.splats.rendering import PinholeView, render

UPRIGHT = Similarity(
    scale=1.0,
    rotation=torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]]),
    translation=torch.zeros(3),
)
"""From an example's frame, whose y points down, to a world for nerfstudio, whose z points up."""


def pinhole_views(views: Views) -> List[PinholeView]:
    """Cameras of the views of one example."""
    height, width = views.images.shape[-2:]
    size = views.intrinsics.new_tensor([width, height])
    focal = views.intrinsics.diagonal(dim1=-2, dim2=-1)[:, :2] * size
    centers = views.intrinsics[:, :2, 2] * size
    columns = inverse_poses(views.camera_to_worlds), focal, centers
    return [PinholeView(*one, width, height) for one in zip(*columns, strict=True)]


def rendered(gaussians: Gaussians, views: Views) -> Float[Tensor, "batch views 3 height width"]:
    """What views of as many scenes as the Gaussians have see of them, before black.

    Args:
        gaussians: with one dimension of a batch.
        views: likewise; their images are not looked at, but for their size.
    """
    black = views.images.new_zeros(3)
    scenes = zip(views.images, views.intrinsics, views.camera_to_worlds, strict=True)
    images = [
        torch.stack([render(gaussians[index], view, black).image for view in pinhole_views(Views(*scene))])
        for index, scene in enumerate(scenes)
    ]
    return torch.stack(images).movedim(-1, -3)


def nerfstudio_cameras(views: Views) -> Cameras:
    """Cameras of the views of one example, in the `UPRIGHT` world."""
    pinholes = pinhole_views(views)
    focal, centers = (torch.stack([getattr(one, name) for one in pinholes]) for name in ("focal", "center"))
    return Cameras(
        camera_to_worlds(inverse_poses(UPRIGHT.apply(views.camera_to_worlds))),
        fx=focal[:, :1],
        fy=focal[:, 1:],
        cx=centers[:, :1],
        cy=centers[:, 1:],
        width=pinholes[0].width,
        height=pinholes[0].height,
    )
