"""What images and matches tell of all poses together, once a field is trained.

A field that stays as it is would make its own images' poses look ten times too sure: it has learned to show each image
from wherever it was believed to be taken. So the field lends its surface alone, and what images tell is what they tell
relative to each other: the colors and places of points on the surface are unknown, too, and are eliminated
(photometric bundle adjustment, its Schur complement). Poses that few others see anything of, and slow bends of a whole
ring of cameras, then come out as unsure as they are.
"""

from __future__ import annotations

from typing import List, NamedTuple, Tuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from gnerf_ns.cameras.pose_covariance import moved
from gnerf_ns.cameras.projection import Projection
from gnerf_ns.cameras.rays import CameraDirections, rays_from_poses, sampson_errors
from gnerf_ns.data.image_set import ImageSet
from gnerf_ns.data.patch_sampling import image_coords
from gnerf_ns.models.gnerf import GNeRFModel
from gnerf_ns.utils.fair_lock import give_way

NUM_POINTS = 4096
"""Points on the surface; half as many give figures that are a tenth larger."""
DEPTH_SIDE = 40
"""Longer side of the depth maps by which it is told who sees a point, in pixels."""
COMPARED_SIDE = 100
"""Longer side of the images whose colors are compared, in pixels."""
MIN_ACCUMULATION = 0.7
"""Less opaque is no surface."""
FARTHEST = 20.0
"""Points farther from the origin, in scene units, are left out: there is nothing but sky."""
SAME_DEPTH = 0.04
"""A camera sees a point if its depth map differs by less than this share of the distance."""
INSIDE = 0.98
"""Points nearer to an image's edge are left out."""
OUTLIER_RATIO, LEAST_OUTLIER = 4.0, 0.05
"""Colors that are off by more than so many times the median, and by more than this, are of something else."""
COLOR_NOISE = 0.01
"""Added to the standard deviation of colors in [0, 1]: rounding, and what no image shows twice."""
APERTURE = 1e-3
"""Of what is known of a point's place where it is best known: along an edge, or with one camera, nothing is."""
ROUNDING = 1e-5
"""Of what it would be if the point's color were known: less is rounding, as where two cameras stand at one place."""
MAX_TOGETHER = 250
"""Images that are looked at together, which bounds memory and time."""
LEAST_MATCH_RAD = 1e-4
"""No match is better than this, in radians: a tenth of a pixel of a thousand."""
MATCH_OUTLIER = 5.0
"""Matches that miss each other by more than so many standard deviations are wrong."""
MAX_MATCHES = 60_000
"""Of more, a random part is looked at and counts for all."""
NOISE_IN_SLOPES = 0.375 * 0.15625
"""Variance of the slope of smoothed white noise, along a pixel, of that of the noise: sums of squares of the kernels
1 2 1 across, and 1 2 0 -2 -1 along."""


class _Sightings(NamedTuple):
    """Which camera sees which point of a surface."""

    points: Int[Tensor, "sightings"]
    cameras: Int[Tensor, "sightings"]
    coords: Float[Tensor, "sightings 2"]
    in_camera: Float[Tensor, "sightings 3"]
    """The point in the camera's own frame."""


@torch.no_grad()
def color_information(
    model: GNeRFModel, image_set: ImageSet, camera_to_worlds: Float[Tensor, "n 3 4"]
) -> Float[Tensor, "six_n six_n"]:
    """Information of the images' colors on their poses, in the six numbers of each (`cameras.pose_covariance`).

    Args:
        model: the field, whose surface is used; its mode is left as it was.
        image_set: the images.
        camera_to_worlds: their poses.
    """
    was_training = model.training
    model.eval()
    depths, points = _surface(model, image_set, camera_to_worlds)
    model.train(was_training)
    seen = _sightings(image_set, camera_to_worlds, depths, points)
    return _information(image_set, model.evaluation_background, camera_to_worlds, points, seen)


def match_information(
    lenses: CameraDirections,
    images: Int[Tensor, "matches 2"],
    coords: Float[Tensor, "matches 2 2"],
    camera_to_worlds: Float[Tensor, "n 3 4"],
) -> Float[Tensor, "six_n six_n"]:
    """Information of matched points on poses, likewise.

    Args:
        lenses: of the images.
        images: the two that each match is of.
        coords: (x, y) of the point in either, -1 and 1 being the image's edges.
        camera_to_worlds: poses of all images.
    """
    count, poses, share = len(camera_to_worlds), camera_to_worlds.detach().double(), 1.0
    if len(images) > MAX_MATCHES:
        chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:MAX_MATCHES]
        share = len(images) / MAX_MATCHES
        images, coords = images[chosen.to(images.device)], coords[chosen.to(coords.device)]
    if len(images) == 0:
        return poses.new_zeros(6 * count, 6 * count)
    directions = [lenses.at(images[:, side], coords[:, side : side + 1])[:, 0].double() for side in (0, 1)]
    with torch.enable_grad():
        motions = poses.new_zeros(len(images), 2, 6).requires_grad_()
        first, second = (moved(poses[images[:, side]], motions[:, side]) for side in (0, 1))
        # The root has no derivative at 0, where the error has two signs.
        errors = (sampson_errors(first, second, *directions) + 1e-20).sqrt()
        (slopes,) = torch.autograd.grad(errors.sum(), motions)
    errors = errors.detach()
    # Of the half of a normal distribution, the median is at 0.67.
    sigma = max(1.5 * float(errors.median()), LEAST_MATCH_RAD)
    weights = share * (errors < MATCH_OUTLIER * sigma).double() / sigma**2
    information = poses.new_zeros(count * count, 6, 6)
    for one in (0, 1):
        for other in (0, 1):
            products = (weights[:, None] * slopes[:, one])[:, :, None] * slopes[:, other][:, None, :]
            information.index_add_(0, images[:, one] * count + images[:, other], products)
    return information.view(count, count, 6, 6).permute(0, 2, 1, 3).reshape(6 * count, 6 * count)


def _surface(
    model: GNeRFModel, image_set: ImageSet, camera_to_worlds: Float[Tensor, "n 3 4"]
) -> Tuple[Float[Tensor, "n 1 height width"], Float[Tensor, "points 3"]]:
    """Depth maps (0 where there is no surface), in scene units along the rays, and some of their points."""
    height, width = image_set.size_at(DEPTH_SIDE)
    everyone = torch.arange(len(camera_to_worlds), device=camera_to_worlds.device)
    coords = image_coords(height, width, everyone.device).view(1, -1, 2)
    directions = image_set.directions.at(everyone, coords.expand(len(everyone), -1, -1))
    areas = image_set.directions.pixel_areas(everyone, directions, height, width)
    rays = rays_from_poses(camera_to_worlds, directions, everyone, areas)
    step = model.config.eval_num_rays_per_chunk
    chunks = []
    for first in range(0, len(rays), step):
        give_way()
        chunks.append(model.render(rays[first : first + step], with_depth=True))
    depths, accumulation = (torch.cat([chunk[name] for chunk in chunks]) for name in ("depth", "accumulation"))
    positions = rays.origins + depths * rays.directions
    is_near = torch.linalg.vector_norm(positions, dim=-1) < FARTHEST  # not if it is NaN
    kept = is_near & (accumulation[:, 0] > MIN_ACCUMULATION)
    depths = torch.where(kept[:, None], depths, 0.0).view(len(everyone), 1, height, width)
    shown = kept.nonzero()[:, 0]
    chosen = torch.randperm(len(shown), generator=torch.Generator().manual_seed(0))[:NUM_POINTS]
    return depths, positions[shown[chosen.to(shown.device)]]


def _sightings(
    image_set: ImageSet,
    camera_to_worlds: Float[Tensor, "n 3 4"],
    depths: Float[Tensor, "n 1 height width"],
    points: Float[Tensor, "points 3"],
) -> _Sightings:
    projection, extents = Projection(image_set.directions, points.device), image_set.images.extents
    found = []
    for index, pose in enumerate(camera_to_worlds):
        give_way()
        in_camera = (points - pose[:, 3]) @ pose[:, :3]
        own = torch.full((len(points),), index, device=points.device)
        coords, is_seen = projection(own, in_camera)
        edges = coords.new_ones(2) if extents is None else extents[index].to(coords)
        is_seen = is_seen & (coords.abs() < INSIDE * edges).all(dim=-1)
        there = functional.grid_sample(depths[index][None], coords[None, None], mode="nearest", align_corners=False)
        distances = torch.linalg.vector_norm(in_camera, dim=-1)
        is_seen &= (distances - there[0, 0, 0]).abs() < SAME_DEPTH * distances
        rows = is_seen.nonzero()[:, 0]
        found.append((rows, own[rows], coords[rows], in_camera[rows]))
    return _Sightings(*(torch.cat(each) for each in zip(*found, strict=True)))


def _information(
    image_set: ImageSet,
    background: Float[Tensor, "3"],
    camera_to_worlds: Float[Tensor, "n 3 4"],
    points: Float[Tensor, "points 3"],
    seen: _Sightings,
) -> Float[Tensor, "six_n six_n"]:
    count, num_points = len(camera_to_worlds), len(points)
    colors, slopes, noise = _sampled(image_set, background, seen)
    is_kept, variance = _agreeing(colors, seen.points, num_points)
    weights = is_kept.to(colors) / variance
    per_point = _sum_of_rows(is_kept.to(colors)[:, None], seen.points, num_points).clamp_min(1.0)[:, 0]

    slopes = _without_noise(slopes, noise, seen.points, num_points)
    of_motion, of_place = _coordinate_slopes(image_set, camera_to_worlds, seen)
    by_pose = slopes @ of_motion  # how colors change with the camera's motion,
    by_place = slopes @ of_place  # and with the point's
    own = _sum_of_rows((weights[:, None, None] * by_pose).mT @ by_pose, seen.cameras, count)
    information = torch.block_diag(*own.double())

    # What a point's own color, the mean of what cameras see, takes away from that.
    roots = weights.sqrt()[:, None, None]
    place = seen.points * count + seen.cameras
    in_sum = _spread(roots * by_pose, place, num_points, count) / per_point.sqrt()[:, None, None]
    place_in_sum = _sum_of_rows(roots * by_place, seen.points, num_points) / per_point.sqrt()[:, None, None]
    # And what its place takes.
    whole = _sum_of_rows((weights[:, None, None] * by_place).mT @ by_place, seen.points, num_points).double()
    of_places = whole - place_in_sum.double().mT @ place_in_sum.double()
    crossed = _spread((weights[:, None, None] * by_place).mT @ by_pose, place, num_points, count)
    crossed = crossed - place_in_sum.mT @ in_sum
    known, axes = torch.linalg.eigh(of_places)  # rounding may leave less than nothing along an axis
    least = APERTURE * known[:, 2:] + ROUNDING * whole.diagonal(dim1=-2, dim2=-1).amax(dim=-1, keepdim=True)
    known = torch.maximum(known, least.clamp_min(1e-9))
    taken = (axes.to(crossed).mT @ crossed) / known.sqrt().to(crossed)[:, :, None]
    for rows in (in_sum.flatten(0, 1), taken.flatten(0, 1)):
        information -= (rows.mT @ rows).double()
    return information


def _sampled(
    image_set: ImageSet, background: Float[Tensor, "3"], seen: _Sightings
) -> Tuple[Float[Tensor, "sightings 3"], Float[Tensor, "sightings 3 2"], Float[Tensor, "2"]]:
    """Colors of smoothed images where points are seen, their slopes in the coordinates, and the variances that noise
    gives these."""
    height, width = image_set.size_at(COMPARED_SIDE)
    images = image_set.resized(height, width, background)
    padded = functional.pad(images, (2, 2, 2, 2), mode="replicate")
    smooth = _convolved(padded, [0.25, 0.5, 0.25])
    # Half a difference of neighbors but one, in pixels; an image is two units wide.
    across = 0.25 * width * (smooth[..., 1:-1, 2:] - smooth[..., 1:-1, :-2])
    along = 0.25 * height * (smooth[..., 2:, 1:-1] - smooth[..., :-2, 1:-1])
    # What is left without anything that is plane is mostly noise (Immerkaer 1996).
    unruly = _convolved(padded, [1.0, -2.0, 1.0]).abs()
    whole = torch.cat([each[..., 1:-1, 1:-1] for each in (smooth, unruly)] + [across, along], dim=1)
    values = seen.coords.new_zeros(len(seen.coords), whole.shape[1])
    for index in range(len(images)):
        rows = (seen.cameras == index).nonzero()[:, 0]
        found = functional.grid_sample(whole[index][None], seen.coords[rows][None, None], align_corners=False)
        values[rows] = found[0, :, 0].mT
    colors, unruly, across, along = values.split(3, dim=1)
    # The median, since texture is unruly here and there; of white noise it is 0.6745 standard deviations of 6 times it.
    variance = (float(unruly.median()) / (0.6745 * 6.0)) ** 2 if len(values) else 0.0
    noise = NOISE_IN_SLOPES * variance * torch.tensor([width**2 / 4, height**2 / 4]).to(values)
    return colors, torch.stack([across, along], dim=-1), noise


def _convolved(
    images: Float[Tensor, "n 3 height width"], kernel: List[float]
) -> Float[Tensor, "n 3 less_high less_wide"]:
    """With a kernel across, and the same along."""
    line = torch.tensor(kernel).to(images)
    return functional.conv2d(images.flatten(0, 1)[:, None], (line[:, None] * line)[None, None])[:, 0].unflatten(
        0, (-1, 3)
    )


def _without_noise(
    slopes: Float[Tensor, "sightings 3 2"],
    noise: Float[Tensor, "2"],
    points: Int[Tensor, "sightings"],
    num_points: int,
) -> Float[Tensor, "sightings 3 2"]:
    """Slopes of color, smaller by what noise alone adds to their squares: it would seem to hold cameras in place.

    Args:
        slopes: in the coordinates.
        noise: variance of each by noise.
        points: the point that each is of: what all who see it say of its slopes counts.
        num_points: how many points there are.
    """
    squares = (slopes.square() / noise.clamp_min(1e-12)).sum(dim=(1, 2))
    sums = _sum_of_rows(torch.stack([squares, torch.full_like(squares, 6.0)], dim=1), points, num_points)
    shares = (1.0 - sums[:, 1] / sums[:, 0].clamp_min(1e-12)).clamp_min(0.0)
    return slopes * shares.sqrt()[points][:, None, None]


def _agreeing(
    colors: Float[Tensor, "sightings 3"], points: Int[Tensor, "sightings"], num_points: int
) -> Tuple[Bool[Tensor, "sightings"], float]:
    """Sightings whose color is about that of others of the same point, and the variance of colors of one point."""

    def departures(kept: Float[Tensor, "sightings"]) -> Tuple[Float[Tensor, "sightings 3"], Float[Tensor, "points"]]:
        counts = _sum_of_rows(kept[:, None], points, num_points)
        means = _sum_of_rows(kept[:, None] * colors, points, num_points) / counts.clamp_min(1.0)
        return colors - means[points], counts[:, 0]

    everything = torch.ones_like(colors[:, 0])
    errors = departures(everything)[0].square().mean(dim=1).sqrt()
    usual = float(errors.median()) if len(errors) else 0.0
    kept = (errors < max(OUTLIER_RATIO * usual, LEAST_OUTLIER)).to(colors)
    differences, counts = departures(kept)
    is_kept = (kept > 0) & (counts[points] >= 2)
    # The mean is made of the same colors.
    unbiased = differences.square().mean(dim=1) * counts[points] / (counts[points] - 1.0).clamp_min(1.0)
    variance = float(unbiased[is_kept].mean()) if bool(is_kept.any()) else 1.0
    return is_kept, variance + COLOR_NOISE**2


def _coordinate_slopes(
    image_set: ImageSet, camera_to_worlds: Float[Tensor, "n 3 4"], seen: _Sightings
) -> Tuple[Float[Tensor, "sightings 2 6"], Float[Tensor, "sightings 2 3"]]:
    """How coordinates of points change with the motion of the camera, and with that of the point."""
    rotations = camera_to_worlds[seen.cameras][..., :3]
    arms = (rotations @ seen.in_camera[..., None])[..., 0]
    x, y, z = seen.in_camera.unbind(dim=-1)
    none, depth = torch.zeros_like(x), -z
    in_plane = torch.stack([1 / depth, none, x / depth**2, none, -1 / depth, -y / depth**2], dim=-1).view(-1, 2, 3)
    slopes = Projection(image_set.directions, x.device).slopes(seen.cameras, seen.coords)
    of_place = slopes @ in_plane @ rotations.mT
    # The point, seen from a camera that turns by w and moves by v, moves by -w x arm - v.
    crossed = torch.linalg.cross(of_place, arms[:, None].expand_as(of_place), dim=-1)
    return torch.cat([crossed, -of_place], dim=-1), of_place


def _sum_of_rows(rows: Float[Tensor, "rows *shape"], places: Int[Tensor, "rows"], count: int) -> Tensor:
    return rows.new_zeros(count, *rows.shape[1:]).index_add(0, places, rows)


def _spread(
    rows: Float[Tensor, "rows three 6"], places: Int[Tensor, "rows"], num_points: int, count: int
) -> Float[Tensor, "points three six_n"]:
    """Each row where its point and its camera meet, in a matrix of all of them."""
    whole = rows.new_zeros(num_points * count, *rows.shape[1:])
    whole[places] = rows
    return whole.view(num_points, count, -1, 6).permute(0, 2, 1, 3).flatten(2)
