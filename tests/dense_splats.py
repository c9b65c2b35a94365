"""The rules of rendering written down once more, in torch and for all pairs of a pixel and a Gaussian at once: slow,
and differentiated by autograd. Nothing of the package's code is used but its types."""

from __future__ import annotations

from typing import Tuple

import torch
from gsplat.cuda._torch_impl import _spherical_harmonics
from torch import Tensor

from gnerf_ns.splats.gaussians import Gaussians
from gnerf_ns.splats.rendering import PinholeView, Rendering


def projected(gaussians: Gaussians, view: PinholeView) -> Tuple[Tensor, Tensor, Tensor]:
    """Positions in pixels, covariances there, and distances from the camera's plane, of Gaussians in front of it."""
    rotation, translation = view.world_to_camera[:, :3], view.world_to_camera[:, 3]
    in_camera = torch.einsum("ij,nj->ni", rotation, gaussians.means) + translation
    tan_half = torch.tensor([view.width, view.height]).to(view.focal) / (2 * view.focal)
    middle = torch.tensor([view.width, view.height]).to(view.focal) / 2
    axis = (middle - view.center) / view.focal  # the slope at which the image's middle is seen
    slopes = in_camera[:, :2] / in_camera[:, 2:]
    limited = torch.minimum(torch.maximum(slopes, axis - 1.3 * tan_half), axis + 1.3 * tan_half)
    expansion_points = torch.cat([limited, torch.ones_like(limited[:, :1])], dim=-1) * in_camera[:, 2:]

    def pixel(point: Tensor) -> Tensor:
        return view.focal * point[:2] / point[2] + view.center

    jacobian = torch.func.vmap(torch.func.jacrev(pixel))(expansion_points)  # pyright: ignore[reportArgumentType]
    unit = gaussians.quaternions / torch.linalg.vector_norm(gaussians.quaternions, dim=-1, keepdim=True)
    w, vector = unit[:, :1, None], unit[:, None, 1:]
    axes = torch.eye(3).to(w).expand(len(w), 3, 3)
    across = torch.linalg.cross(vector.expand_as(axes), axes)
    turned = axes + 2 * w * across + 2 * torch.linalg.cross(vector.expand_as(axes), across)  # rows are turned axes
    covariances = torch.einsum("nki,nk,nkj->nij", turned, gaussians.scales.square(), turned)
    to_image = torch.einsum("nij,jk->nik", jacobian, rotation)
    in_image = torch.einsum("nij,njk,nlk->nil", to_image, covariances, to_image) + 0.3 * torch.eye(2).to(w)
    return slopes * view.focal + view.center, in_image, in_camera[:, 2]


def render_densely(gaussians: Gaussians, view: PinholeView, background: Tensor) -> Rendering:
    """What `gnerf_ns.splats.rendering.render` is to give."""
    rotation, translation = view.world_to_camera[:, :3], view.world_to_camera[:, 3]
    depths = torch.einsum("j,nj->n", rotation[2], gaussians.means) + translation[2]
    order = depths.argsort(stable=True)
    gaussians = gaussians[order[depths[order] > 0.2]]
    shape = (view.height, view.width)
    if not len(gaussians):
        return Rendering(background.expand(*shape, 3), torch.zeros(shape).to(depths), torch.zeros(shape).to(depths))
    positions, covariances, depths = projected(gaussians, view)
    degree = min(int(gaussians.harmonics.shape[-1] ** 0.5) - 1, 3)
    seen_from = gaussians.means + rotation.mT @ translation
    harmonics = gaussians.harmonics[..., : (degree + 1) ** 2].mT
    colors = (_spherical_harmonics(degree, seen_from, harmonics) + 0.5).clamp_min(0)

    determinants = torch.linalg.det(covariances)
    mean = (covariances[:, 0, 0] + covariances[:, 1, 1]) / 2
    radii = torch.ceil(3 * torch.sqrt(mean + (mean**2 - determinants).clamp_min(0.1).sqrt()))
    first = torch.floor((positions - 0.5 - radii[:, None]) / 16)
    last = torch.floor((positions - 0.5 + radii[:, None] + 15) / 16)

    y, x = torch.meshgrid(torch.arange(view.height), torch.arange(view.width), indexing="ij")
    pixels = torch.stack([x, y], dim=-1).reshape(-1, 1, 2)
    tiles = pixels // 16
    reached = ((tiles >= first) & (tiles < last)).all(dim=-1)
    offsets = pixels.to(positions) + 0.5 - positions
    powers = -torch.einsum("pni,nij,pnj->pn", offsets, torch.linalg.inv(covariances), offsets) / 2
    alphas = (gaussians.opacities * powers.exp()).clamp_max(0.99)
    alphas = torch.where(reached & (powers <= 0) & (alphas >= 1 / 255), alphas, 0.0)
    after = (1 - alphas).cumprod(dim=1)
    open_ = (after >= 1e-4).cumprod(dim=1)  # once closed, a pixel stays so
    alphas = alphas * open_
    after = (1 - alphas).cumprod(dim=1)
    weights = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], dim=1)[:, : alphas.shape[1]] * alphas
    accumulation = weights.sum(dim=1)
    image = weights @ colors + (1 - accumulation)[:, None] * background
    return Rendering(image.reshape(*shape, 3), (weights @ depths).reshape(shape), accumulation.reshape(shape))
