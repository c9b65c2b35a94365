"""A surface of known shape and colors, seen by any camera, and the Gaussians that a perfect network makes of it."""

from __future__ import annotations

import math
from typing import List, Sequence, Tuple

import roma
import torch
from torch import Tensor, nn

from gnerf_ns.noposplat.network import NoPoSplatNetwork, tiny_network
from gnerf_ns.splats.axes import inverse_poses
from gnerf_ns.splats.gaussians import Gaussians
from gnerf_ns.splats.rendering import PinholeView

FIRST_HARMONIC = math.sqrt(4 * math.pi)


def height_at(x: Tensor, y: Tensor) -> Tensor:
    """z of the surface, in front of a camera at the origin."""
    return 3.0 + 0.5 * torch.sin(1.1 * x + 0.3) * torch.cos(0.9 * y - 0.2) + 0.2 * x


def color_at(x: Tensor, y: Tensor, hue: float = 0.0) -> Tensor:
    """Colors of the surface: large waves and small ones. Another hue is another texture."""
    waves = [
        0.5
        + 0.2 * torch.sin((2.1 + k) * x + 1.7 * y + 2.0 * k + hue)
        + 0.15 * torch.cos(3.3 * y - (1.3 + hue) * k * x + k)
        + 0.12 * torch.sin(9.0 * x + k + 3.0 * torch.sin(2.0 * y)) * torch.cos((8.0 + k) * y - 2.0 * x + hue)
        for k in range(3)
    ]
    return torch.stack(waves, dim=-1)


def view_from(
    position: Sequence[float], turned_deg: Sequence[float], width: int, height: int, focal: float
) -> PinholeView:
    """A camera somewhere, turned from the z axis by a rotation vector."""
    rotation = roma.rotvec_to_rotmat(torch.deg2rad(torch.tensor(turned_deg)))
    pose = torch.cat([rotation, torch.tensor(position)[:, None]], dim=1)
    center = torch.tensor([width / 2, height / 2])
    return PinholeView(inverse_poses(pose), torch.tensor([focal, focal]), center, width, height)


def seen(view: PinholeView, hue: float = 0.0) -> Tuple[Tensor, Tensor]:
    """Points of the surface [height, width, 3] and their colors, where the pixels' rays meet it."""
    pose = inverse_poses(view.world_to_camera)
    rows, columns = torch.meshgrid(torch.arange(view.height), torch.arange(view.width), indexing="ij")
    slopes = (torch.stack([columns, rows], dim=-1) + 0.5 - view.center) / view.focal
    rays = torch.cat([slopes, torch.ones_like(slopes[..., :1])], dim=-1) @ pose[:, :3].mT
    along = torch.full_like(rays[..., 0], 3.0)
    for _ in range(60):  # a contraction, since the surface is less steep than the rays
        points = pose[:, 3] + along[..., None] * rays
        along = along + 0.8 * (height_at(points[..., 0], points[..., 1]) - points[..., 2]) / rays[..., 2]
    points = pose[:, 3] + along[..., None] * rays
    return points, color_at(points[..., 0], points[..., 1], hue)


def photo(view: PinholeView, hue: float = 0.0) -> Tensor:
    """What a camera sees [3, height, width]."""
    return seen(view, hue)[1].permute(2, 0, 1)


def pixel_gaussians(views: List[PinholeView], hues: Sequence[float] = (), opacity: float = 0.95) -> Gaussians:
    """One Gaussian for each pixel of each view, in the frame of the first one."""
    parts = []
    for view, hue in zip(views, hues or [0.0] * len(views), strict=True):
        points, colors = (value.reshape(-1, 3) for value in seen(view, hue))
        depths = points @ view.world_to_camera[2, :3] + view.world_to_camera[2, 3]
        in_first = points @ views[0].world_to_camera[:, :3].mT + views[0].world_to_camera[:, 3]
        parts.append(
            Gaussians(
                in_first,
                (0.35 * depths / view.focal[0])[:, None].expand(-1, 3),
                torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(len(points), 4),
                torch.full((len(points),), opacity),
                ((colors - 0.5) * FIRST_HARMONIC)[..., None],
            )
        )
    return Gaussians(*(torch.cat(values) for values in zip(*(vars(part).values() for part in parts), strict=True)))


class PerfectNetwork(NoPoSplatNetwork):
    """Has no weights, but knows some photos, and puts out the Gaussians that it should."""

    def __init__(self, views: List[PinholeView], hues: Sequence[float] = ()) -> None:
        nn.Module.__init__(self)
        self.config = tiny_network()
        self.views, self.hues = views, list(hues) or [0.0] * len(views)
        self.photos = torch.stack([photo(view, hue) for view, hue in zip(views, self.hues, strict=True)])

    def forward(self, images: Tensor, intrinsics: Tensor) -> Gaussians:
        """As `NoPoSplatNetwork.forward`."""
        known = [int((self.photos - image).square().flatten(1).mean(dim=1).argmin()) for image in images[0]]
        made = pixel_gaussians([self.views[each] for each in known], [self.hues[each] for each in known])
        return Gaussians(*(value[None] for value in vars(made).values()))
