"""Colors of single rays through Gaussians, differentiable in the rays: what a pose is found by.

Rays that begin at one point are points of the image of a virtual camera there, which looks the way that they do on
average and has pixels as large as theirs. Gaussians are projected into it as into any image, and blended by the rules
of `rendering`, but for the tiles: every Gaussian reaches as far as it shows at all (1/255). So a ray has the color of
the pixel that it goes through, up to how much a projection to first order depends on where the camera looks.
"""

from __future__ import annotations

import math
from typing import List, NamedTuple, Tuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from gnerf_ns.splats.gaussians import Gaussians
from gnerf_ns.splats.rendering import NEAR, PinholeView, project
from gnerf_ns.utils.compiled_kernels import run_kernel

MAX_ALPHA = 0.99
"""As in `tile_kernels`, which is not imported here because numba takes a second."""
WIDEST_COSINE = 0.5
"""Rays farther than 60 degrees from their mean do not go into one image, but into those of a cube's sides."""
LEAST_FIELD = 1.0
"""Sides of a group's image, at least, at distance 1."""
SMALLEST_PIXEL = 1e-8
"""Area of a pixel at distance 1 where rays say that theirs is nothing: Gaussians are not blurred then."""
PAIRS_PER_RAY = 64
"""For so many Gaussians on a ray, on average, memory is set aside at first."""
PAIRS_PER_CHUNK = 2**18
"""Pairs of a ray and a Gaussian computed at a time; bounds memory where there are no gradients."""
KERNELS = "gnerf_ns.splats.ray_kernels"
"""The module of the compiled code."""


class RayRendering(NamedTuple):
    """What rays see."""

    colors: Float[Tensor, "rays 3"]
    """Not limited to 1."""
    depth: Float[Tensor, "rays"]
    """Sum of w_i t_i in scene units: distances along the ray, weighted as colors are, and not divided by the
    accumulation."""
    accumulation: Float[Tensor, "rays"]
    """Sum of all weights w_i, 0 to 1."""


class _Pairs(NamedTuple):
    """Gaussians on rays, ray by ray, front to back."""

    rays: Int[Tensor, "pairs"]
    gaussians: Int[Tensor, "pairs"]
    places: Int[Tensor, "pairs"]
    """The how manieth each is on its ray."""
    counts: Int[Tensor, "rays"]
    """Of each ray."""


def render_rays(
    gaussians: Gaussians,
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    pixel_areas: Float[Tensor, "rays"],
    background: Float[Tensor, "3"],
) -> RayRendering:
    """What rays see of one scene.

    Differentiable in origins, each ray's own, in directions, and in all of the Gaussians' values. On CUDA, too; which
    Gaussians a ray meets is found on the CPU.

    Args:
        gaussians: without a batch.
        origins: in scene units. Those of one camera's rays are the same to the last digit.
        directions: of length 1.
        pixel_areas: what each ray's pixel covers at distance 1; 0 for nothing.
        background: what is behind all Gaussians.
    """
    with torch.autocast(origins.device.type, enabled=False):
        groups = _groups(origins.detach(), directions.detach())
        parts = [
            _render_from_one_place(gaussians, origins[some], directions[some], pixel_areas[some], rotation)
            for some, rotation in groups
        ]
    back = torch.cat([some for some, _ in groups]).argsort()
    colors, depth, accumulation = (torch.cat(values)[back] for values in zip(*parts, strict=True))
    return RayRendering(colors + (1.0 - accumulation)[:, None] * background, depth, accumulation)


def _groups(
    origins: Float[Tensor, "rays 3"], directions: Float[Tensor, "rays 3"]
) -> List[Tuple[Int[Tensor, "_"], Float[Tensor, "3 3"]]]:
    """Rays that go into one image, and the rotation from the scene's axes to those of its camera."""
    found = []
    _, members = origins.unique(dim=0, return_inverse=True)
    for number in range(int(members.max()) + 1):
        some = (members == number).nonzero()[:, 0]
        forward = F.normalize(directions[some].mean(dim=0), dim=0)
        if float((directions[some] @ forward).min()) >= WIDEST_COSINE:
            found.append((some, _looking_along(forward)))
            continue
        longest = directions[some].abs().argmax(dim=1)
        axes = F.one_hot(longest, 3) * directions[some].sign()
        for axis in axes.unique(dim=0):
            found.append((some[(axes == axis).all(dim=1)], _looking_along(axis)))
    return found


def _looking_along(forward: Float[Tensor, "3"]) -> Float[Tensor, "3 3"]:
    """Rows are a camera's right, down and forward; how it is rolled does not matter."""
    other = F.one_hot(forward.abs().argmin(), 3).to(forward)
    right = F.normalize(torch.linalg.cross(other, forward, dim=0), dim=0)
    return torch.stack([right, torch.linalg.cross(forward, right, dim=0), forward])


def _render_from_one_place(
    gaussians: Gaussians,
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    pixel_areas: Float[Tensor, "rays"],
    rotation: Float[Tensor, "3 3"],
) -> Tuple[Float[Tensor, "rays 3"], Float[Tensor, "rays"], Float[Tensor, "rays"]]:
    """Colors before a black background, depth and accumulation of rays whose origins are equal."""
    in_camera = directions @ rotation.mT
    focal = pixel_areas.max().clamp_min(SMALLEST_PIXEL).rsqrt().detach()
    points = focal * in_camera[:, :2] / in_camera[:, 2:]
    # The image is what the rays cover, and wide where they cover little: Gaussians beside it would count as oblique.
    first, last = points.detach().aminmax(dim=0)
    sides = torch.maximum(last - first, focal * LEAST_FIELD).ceil() + 1.0
    corner = (first + last - sides) / 2.0
    width, height = (int(side) for side in sides.tolist())
    # The camera is at the origin and the Gaussians come to it, so that each ray can have an origin of its own.
    pose = torch.cat([rotation, torch.zeros(3, 1).to(rotation)], dim=1)
    view = PinholeView(pose, focal.expand(2), 0.5 - corner, width, height)
    points = points - corner
    pairs = _find_pairs(gaussians, origins[0].detach(), points.detach(), view)
    ends = pairs.counts.cumsum(dim=0)
    per_chunk = len(origins) if torch.is_grad_enabled() else max(1, PAIRS_PER_CHUNK // max(1, int(pairs.counts.max())))
    parts = []
    for first in range(0, len(origins), per_chunk):
        last = min(first + per_chunk, len(origins))
        some = slice(int(ends[first] - pairs.counts[first]), int(ends[last - 1]))
        rays = pairs.rays[some]
        near = gaussians[pairs.gaussians[some]]
        moved = Gaussians(near.means - origins[rays], near.scales, near.quaternions, near.opacities, near.harmonics)
        projected = project(moved, view)
        offsets = projected.centers - points[rays]
        xx, xy, yy = projected.covariances.unbind(dim=1)
        x, y = offsets.unbind(dim=1)
        powers = -(yy * x * x - 2 * xy * x * y + xx * y * y) / (2 * (xx * yy - xy * xy))
        alphas = (near.opacities * powers.exp()).clamp_max(MAX_ALPHA)
        where = rays - first, pairs.places[some]
        table = torch.zeros(last - first, int(pairs.counts[first:last].max()) + 1).to(alphas)
        table = table.index_put(where, alphas)
        through = torch.cat([torch.ones_like(table[:, :1]), (1.0 - table[:, :-1]).cumprod(dim=1)], dim=1)
        weights = (through * table)[where]
        distances = projected.depths / in_camera[rays, 2]
        values = torch.cat([projected.colors, distances[:, None], torch.ones_like(distances[:, None])], dim=1)
        parts.append(torch.zeros(last - first, 5).to(alphas).index_add(0, where[0], weights[:, None] * values))
    blended = torch.cat(parts)
    return blended[:, :3], blended[:, 3], blended[:, 4]


@torch.no_grad()
def _find_pairs(
    gaussians: Gaussians, origin: Float[Tensor, "3"], points: Float[Tensor, "rays 2"], view: PinholeView
) -> _Pairs:
    """Which Gaussians rays from one origin meet.

    Args:
        gaussians: all.
        origin: of the rays.
        points: where they meet the image, in pixels; (0, 0) is the middle of the first.
        view: the camera, as if the origin were that of the scene.
    """
    # Colors are not wanted here.
    moved = Gaussians(
        gaussians.means - origin,
        gaussians.scales,
        gaussians.quaternions,
        gaussians.opacities,
        gaussians.harmonics[..., :1],
    )
    centers, covariances, depths, _ = (value.cpu() for value in project(moved, view))
    order = depths.argsort(stable=True)
    order = order[int((depths <= NEAR).sum()) :]
    device, points, count = points.device, points.cpu().contiguous(), len(points)
    # About one ray in a cell of a grid over the image.
    cell = max(1.0, math.sqrt(view.width * view.height / count))
    columns, rows = (int(side // cell) + 1 for side in (view.width, view.height))
    cells = (points[:, 1] / cell).long() * columns + (points[:, 0] / cell).long()
    starts = F.pad(torch.bincount(cells, minlength=columns * rows).cumsum(dim=0), (1, 0))
    lists = (centers, covariances, gaussians.opacities.cpu().contiguous(), order, points)
    grid = (starts, cells.argsort(stable=True), cell, columns)
    capacity, total = PAIRS_PER_RAY * count, torch.zeros(1, dtype=torch.int64)
    while True:
        transmittances, counts = torch.ones(count).to(points), torch.zeros(count, dtype=torch.int64)
        pairs = torch.empty(capacity, 3, dtype=torch.int64)
        run_kernel(KERNELS, "list_pairs", *lists, *grid, transmittances, counts, pairs, total)
        if int(total) <= capacity:
            break
        capacity = int(total)
    pairs = pairs[: int(total)]
    pairs = pairs[pairs[:, 0].argsort(stable=True)].to(device)
    return _Pairs(pairs[:, 0], pairs[:, 1], pairs[:, 2], counts.to(device))
