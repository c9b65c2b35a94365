"""Where the middle of a scene is, how large it is and what is up, by cameras known relative to each other.

Structure from motion leaves all that open: its frame has any origin, any unit and any axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Optional, Tuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from gnerf_ns.cameras.alignment import Similarity

CLEAR_UP_RATIO = 4.0
"""Cameras tell what is level if their right axes spread so many times more (squared) in one plane than out of it."""
FILLED_SHARE = 0.95
"""An object reaches so far towards the edge of the ball that a field fills."""
AIMED_SHARE = 0.02
"""Cameras count as aimed at one point if they miss it by less than so much of their distance, and are level to within
`LEVEL_DEG`: on a turntable, a rail or by a renderer. By hand, nobody is half as exact."""
LEVEL_DEG = 2.0
_OUTLYING_SHARE = 0.05
"""Share of the cameras that may see the object elsewhere: their poses are taken to be wrong."""
_ROUNDS_OF_HALVES = 8
"""Of least trimmed squares: by then it has settled."""
_ROUNDS = 300
_CARVED_CELLS, _CARVED_ROUNDS = 24, 2
"""Cells along each side of the grid that a visual hull is carved from, the second time around what the first leaves."""
_SEEN_SHARE = 0.5
"""A visual hull is where at least so many of the cameras see it: what few see, few can carve."""
_CARVED_AT_ONCE = 4096
"""Points that are compared with all pixels of an image at a time; bounds memory."""


@dataclass(frozen=True)
class ObjectRays:
    """Rays that are known to hit the object, a few of each camera."""

    origins: Float[Tensor, "rays 3"]
    """Where they start."""
    directions: Float[Tensor, "rays 3"]
    """Unit directions."""
    cameras: Int[Tensor, "rays"]
    """Which camera each is of."""


def up_direction(camera_to_worlds: Float[Tensor, "n 3 4"]) -> Float[Tensor, "3"]:
    """What is up for most cameras.

    People hold cameras level: what is up is at right angles to all their right axes, however much they look down. That
    leaves it open where all look the same way, or roll; there it is the mean of their own up axes.
    """
    rights, mean_up = camera_to_worlds[..., 0], functional.normalize(camera_to_worlds[..., 1].mean(dim=0), dim=0)
    spreads, axes = torch.linalg.eigh(rights.mT @ rights / len(rights))
    if float(spreads[1]) < CLEAR_UP_RATIO * float(spreads[0]) or float(spreads[1]) < 1e-3:
        return mean_up
    up = axes[:, 0]
    return up if float(up @ mean_up) >= 0.0 else -up


def ball_around(rays: ObjectRays) -> Tuple[Float[Tensor, "3"], float]:
    """The smallest ball that all rays pass through or touch, but for those of a few cameras.

    The distance of a point from a ray is convex in the point, and so is the largest of many: steps towards the
    farthest ray that become shorter and shorter end at the least one (Badoiu and Clarkson 2003, for points).

    Returns:
        Its center and radius.
    """
    center = _nearest_point(rays)
    kept = torch.ones(len(rays.origins), dtype=torch.bool, device=rays.origins.device)
    for _ in range(2):
        best, radius = center, float("inf")
        for round_number in range(_ROUNDS):
            offsets = _offsets_to(rays, center)
            distances = torch.linalg.vector_norm(offsets, dim=-1).masked_fill(~kept, -1.0)
            farthest = int(distances.argmax())
            if float(distances[farthest]) < radius:
                best, radius = center, float(distances[farthest])
            center = center + offsets[farthest] / (round_number + 2)
        center = best
        kept = _of_usual_cameras(rays, center)
    distances = torch.linalg.vector_norm(_offsets_to(rays, center), dim=-1)
    return center, float(distances[kept].max())


def visual_hull(
    silhouettes: Bool[Tensor, "n pixels"],
    directions: Float[Tensor, "n pixels 3"],
    camera_to_worlds: Float[Tensor, "n 3 4"],
) -> Float[Tensor, "points 3"]:
    """Points, on a grid, of what fits into all silhouettes (Laurentini 1994), or nearly all: some poses may be wrong.

    What an image does not show fits into it: it says how far an object may reach that no image shows whole.

    Args:
        silhouettes: which pixels of each image the object covers.
        directions: rays through all pixels, unit vectors in each camera's own axes, one row of the image after the
            other.
        camera_to_worlds: poses, roughly around the object.
    """
    middle = axes_meet_at(camera_to_worlds)
    reach = torch.linalg.vector_norm(camera_to_worlds[..., 3] - middle, dim=-1).median()
    lowest, highest = middle - reach, middle + reach
    hull = camera_to_worlds[:0, :, 3]
    for _ in range(_CARVED_ROUNDS):
        steps = torch.linspace(0.0, 1.0, _CARVED_CELLS).to(middle)
        shares = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), dim=-1).reshape(-1, 3)
        points = lowest + shares * (highest - lowest)
        seen, inside = _seen_and_inside(points, silhouettes, directions, camera_to_worlds)
        share = torch.where(inside >= _SEEN_SHARE * len(camera_to_worlds), inside / seen.clamp_min(1), 0.0)
        if float(share.max()) == 0.0:
            break
        hull = points[share >= share.max() - _OUTLYING_SHARE]
        margin = (highest - lowest) / _CARVED_CELLS
        lowest, highest = hull.amin(dim=0) - margin, hull.amax(dim=0) + margin
    return hull


def _seen_and_inside(
    points: Float[Tensor, "points 3"],
    silhouettes: Bool[Tensor, "n pixels"],
    directions: Float[Tensor, "n pixels 3"],
    camera_to_worlds: Float[Tensor, "n 3 4"],
) -> Tuple[Int[Tensor, "points"], Int[Tensor, "points"]]:
    """In how many images each point is seen, and in how many of those the object covers it.

    The nearest of all pixels is where a point is seen, which needs no model of the lens.
    """
    seen, inside = points.new_zeros(2, len(points), dtype=torch.long)
    for covered, along, pose in zip(silhouettes, directions.to(points), camera_to_worlds, strict=True):
        # As far from the pixel's middle as its corners are.
        reach = float(torch.linalg.vector_norm(along[0] - along[1])) * math.sqrt(0.5)
        for start in range(0, len(points), _CARVED_AT_ONCE):
            towards = functional.normalize((points[start : start + _CARVED_AT_ONCE] - pose[:, 3]) @ pose[:, :3], dim=-1)
            cosines, pixels = (towards @ along.mT).max(dim=-1)
            is_seen = cosines > math.cos(reach)
            seen[start : start + _CARVED_AT_ONCE] += is_seen
            inside[start : start + _CARVED_AT_ONCE] += is_seen & covered[pixels]
    return seen, inside


def enclosing(
    center: Float[Tensor, "3"], radius: float, points: Float[Tensor, "points 3"]
) -> Tuple[Float[Tensor, "3"], float]:
    """A ball, hardly larger than need be, that holds another one and some points (Ritter 1990)."""
    while len(points) > 0:
        offsets = points - center
        distances = torch.linalg.vector_norm(offsets, dim=-1)
        farthest = int(distances.argmax())
        distance = float(distances[farthest])
        if distance <= radius * (1.0 + 1e-6):
            break
        wider = (radius + distance) / 2
        center, radius = center + offsets[farthest] * (1.0 - wider / distance), wider
    return center, radius


def _usual_points(points: Float[Tensor, "points 3"]) -> Float[Tensor, "usual 3"]:
    """All but the few that are farthest from the middle of all."""
    distances = torch.linalg.vector_norm(points - points.median(dim=0).values, dim=-1)
    return points[distances <= distances.quantile(1.0 - _OUTLYING_SHARE)] if len(points) else points


def axes_meet_at(camera_to_worlds: Float[Tensor, "n 3 4"]) -> Float[Tensor, "3"]:
    """The point that all cameras look at, most nearly, but for a few that look elsewhere."""
    cameras = torch.arange(len(camera_to_worlds), device=camera_to_worlds.device)
    axes = ObjectRays(camera_to_worlds[..., 3], -camera_to_worlds[..., 2], cameras)
    center = _nearest_point(axes)
    kept = _of_usual_cameras(axes, center)
    return _nearest_point(ObjectRays(axes.origins[kept], axes.directions[kept], cameras[kept]))


def common_aim(camera_to_worlds: Float[Tensor, "n 3 4"]) -> Optional[Float[Tensor, "3"]]:
    """The point that cameras were aimed at, held level, if they were; None for cameras that were held by hand."""
    aim, up = axes_meet_at(camera_to_worlds), up_direction(camera_to_worlds)
    level, most = camera_to_worlds[..., 0] @ up, 1.0 - _OUTLYING_SHARE
    is_aimed = float(_misses(camera_to_worlds, aim).quantile(most)) < AIMED_SHARE
    is_level = float(level.abs().quantile(most)) < math.sin(math.radians(LEVEL_DEG))
    return aim if is_aimed and is_level else None


def are_mostly_aimed(camera_to_worlds: Float[Tensor, "n 3 4"]) -> bool:
    """Whether half of the cameras were aimed at one point (`AIMED_SHARE`), whatever is wrong with the others' poses."""
    aim = axes_meet_at(camera_to_worlds)
    for _ in range(_ROUNDS_OF_HALVES):
        misses = _misses(camera_to_worlds, aim)
        aim = axes_meet_at(camera_to_worlds[misses <= misses.median()])
    return float(_misses(camera_to_worlds, aim).median()) < AIMED_SHARE


def _misses(camera_to_worlds: Float[Tensor, "n 3 4"], aim: Float[Tensor, "3"]) -> Float[Tensor, "n"]:
    """How far cameras look past a point, as a share of their distance from it."""
    offsets = aim - camera_to_worlds[..., 3]
    distances = torch.linalg.vector_norm(offsets, dim=-1)
    missed = torch.linalg.vector_norm(torch.linalg.cross(offsets, camera_to_worlds[..., 2], dim=-1), dim=-1)
    return missed / distances.clamp_min(1e-12)


def frame_of_object(
    camera_to_worlds: Float[Tensor, "n 3 4"],
    rays: ObjectRays,
    center: Optional[Float[Tensor, "3"]] = None,
    points: Optional[Float[Tensor, "points 3"]] = None,
) -> Similarity:
    """The map to a frame with the object in the unit ball, and +z up.

    Args:
        camera_to_worlds: cameras, in any frame.
        rays: rays in the same frame that hit the object.
        center: what is to be the origin; None for the middle of the object.
        points: points of the object, or of its `visual_hull`, a few of them perhaps wrong; rays alone say nothing of
            what no image shows whole.
    """
    kept_points = rays.origins[:0] if points is None else _usual_points(points.to(rays.origins))
    if center is None:
        center, radius = enclosing(*ball_around(rays), kept_points)
    else:
        kept = _of_usual_cameras(rays, center)
        radius = float(torch.linalg.vector_norm(_offsets_to(rays, center), dim=-1)[kept].max())
        radius = max([radius, *torch.linalg.vector_norm(kept_points - center, dim=-1).tolist()])
    up = up_direction(camera_to_worlds)
    rotation = torch.stack([*_level_axes(up), up])
    scale = FILLED_SHARE / max(radius, 1e-12)
    return Similarity(rotation, scale, -scale * (rotation @ center))


def frame_of_surroundings(
    camera_to_worlds: Float[Tensor, "n 3 4"], points: Optional[Float[Tensor, "points 3"]] = None
) -> Similarity:
    """The map to a frame with the middle of what is seen in the origin, the cameras in the unit ball, and +z up.

    Args:
        camera_to_worlds: cameras, in any frame.
        points: some of what they see, in the same frame; None if no point is known, for where their axes meet.
    """
    center = axes_meet_at(camera_to_worlds) if points is None else points.median(dim=0).values.to(camera_to_worlds)
    distances = torch.linalg.vector_norm(camera_to_worlds[..., 3] - center, dim=-1)
    up = up_direction(camera_to_worlds)
    rotation = torch.stack([*_level_axes(up), up])
    scale = 1.0 / max(float(distances.quantile(1.0 - _OUTLYING_SHARE)), 1e-12)
    return Similarity(rotation, scale, -scale * (rotation @ center))


def _level_axes(up: Float[Tensor, "3"]) -> Tuple[Float[Tensor, "3"], Float[Tensor, "3"]]:
    """Two directions at right angles to `up` and to each other, so that with it they are a right-handed frame."""
    farthest = functional.one_hot(up.abs().argmin(), 3).to(up)
    x = functional.normalize(torch.linalg.cross(farthest, up, dim=0), dim=0)
    return x, torch.linalg.cross(up, x, dim=0)


def _offsets_to(rays: ObjectRays, point: Float[Tensor, "3"]) -> Float[Tensor, "rays 3"]:
    """From a point to the nearest point of each ray."""
    offsets = rays.origins - point
    return offsets - (offsets * rays.directions).sum(dim=-1, keepdim=True) * rays.directions


def _nearest_point(rays: ObjectRays) -> Float[Tensor, "3"]:
    """The point with the least sum of squared distances from the rays."""
    directions = rays.directions
    projections = torch.eye(3).to(directions) - directions[:, :, None] * directions[:, None, :]
    wanted = (projections * rays.origins[:, None, :]).sum(dim=(0, 2))
    return torch.linalg.lstsq(projections.sum(dim=0), wanted).solution


def _of_usual_cameras(rays: ObjectRays, center: Float[Tensor, "3"]) -> Tensor:
    """Which rays are not of the few cameras whose farthest ray is farthest."""
    distances = torch.linalg.vector_norm(_offsets_to(rays, center), dim=-1)
    count = int(rays.cameras.max()) + 1
    farthest = distances.new_zeros(count).scatter_reduce(0, rays.cameras, distances, "amax")
    limit = farthest[rays.cameras.unique()].quantile(1.0 - _OUTLYING_SHARE, interpolation="higher")
    return farthest[rays.cameras] <= limit
