"""How a run begins where most cameras are roughly known: their poses in the field's frame, and what follows."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import List, Literal, Optional, Tuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gnerf_ns.cameras.pose_prior import PosePriorConfig, roll_of
from gnerf_ns.cameras.scene_frame import ObjectRays, frame_of_object, frame_of_surroundings
from gnerf_ns.data.image_set import ImageSet, ImageStack
from gnerf_ns.data.images import ImageSize
from gnerf_ns.data.intrinsics import Intrinsics
from gnerf_ns.matching.local_matches import Component, LocalMatches, PairMatches

MIN_SHARE = 0.5
"""So many of the images have to be in one component, or there is little to begin with."""
MIN_COUNT = 4

_SILHOUETTE_SIDE = 48
"""Longer side, in pixels, that silhouettes are looked at with."""
_RAYS_PER_IMAGE = 64
_EDGE_CELLS = 32
"""Images are brought to so many pixels a side to look at their edges."""
_PLAIN_SHARE, _PLAIN_DEVIATION = 0.85, 0.06
"""The edges of images of an object alone: so much of them has one color, to so little (of 1) in each channel."""
_MARGIN_DEG = 10.0
_WIDEST_GAP_DEG = 90.0
"""Cameras are taken to be all around unless they leave out so much."""


@dataclass
class BeginningConfig:
    """What is kept of a run's beginning, in its configuration, so that it can be resumed and evaluated."""

    prior: PosePriorConfig
    """Where further cameras may stand."""
    extent: Literal["ball", "unbounded"] = "ball"
    """What the field shows: an object alone, or everything around it."""
    lenses: List[Intrinsics] = field(default_factory=list)
    """Lenses that were found, by the size of the files; empty where they were known."""


@dataclass(frozen=True)
class KnownPoses:
    """Of some images; the others are to be looked up in what these make of the field."""

    train_indices: Int[Tensor, "k"]
    """Which training images."""
    train: Float[Tensor, "k 3 4"]
    """Where they were taken, in the field's frame: +z up."""
    eval_indices: Int[Tensor, "l"]
    """Which held-out images."""
    eval: Float[Tensor, "l 3 4"]
    """Where those were taken."""
    matches: PairMatches
    """Points of all these that were matched."""


def show_surroundings(images: ImageStack) -> bool:
    """Whether images have their background: not if they have alpha, or if their edges are of one plain color."""
    if images.has_alpha:
        return False
    side = _EDGE_CELLS
    small = images.at_resolution(side, side).permute(0, 2, 3, 1)
    validity = images.validity(side, side)
    inside = torch.ones_like(small[..., 0]) if validity is None else validity
    edges = torch.cat([_along_edges(small), _along_edges(inside[..., None])], dim=-1).flatten(0, 1)
    colors = edges[edges[:, 3] > 0.999, :3]
    deviations = (colors - colors.median(dim=0).values).abs().amax(dim=-1)
    return float((deviations < _PLAIN_DEVIATION).float().mean()) < _PLAIN_SHARE


def _along_edges(cells: Float[Tensor, "n side side channels"]) -> Float[Tensor, "n parts channels"]:
    """Means over a quarter of an edge each: narrow, for objects come near, and long, so that noise averages out."""
    edges = torch.stack([cells[:, 0], cells[:, -1], cells[:, :, 0], cells[:, :, -1]], dim=1)
    return edges.unflatten(2, (4, -1)).mean(dim=3).flatten(1, 2)


def known_poses(matches: LocalMatches, image_set: ImageSet) -> Optional[KnownPoses]:
    """Poses from the largest component, if it has enough of the training images.

    The object of images with alpha comes to fill the unit ball; cameras of others come to stand in it.

    Args:
        matches: of training and held-out images, one after the other.
        image_set: the training images.
    """
    if not matches.components:
        return None
    component = matches.components[0]
    indices, poses = torch.from_numpy(component.image_indices), torch.from_numpy(component.camera_to_worlds)
    count = len(image_set)
    is_train = indices < count
    if int(is_train.sum()) < max(MIN_COUNT, MIN_SHARE * count):
        return None
    if image_set.images.has_alpha:
        frame = frame_of_object(poses[is_train], object_rays(image_set, indices[is_train], poses[is_train]))
    else:
        frame = frame_of_surroundings(poses[is_train], torch.from_numpy(component.points))
    placed = frame.apply(poses).float()
    return KnownPoses(
        indices[is_train], placed[is_train], indices[~is_train] - count, placed[~is_train], matches.matches
    )


def found_lenses(component: Component, sizes: List[ImageSize]) -> List[Intrinsics]:
    """One lens for each size of image: the median of what was found for its images.

    Args:
        component: of images whose lenses were not known.
        sizes: of the files of all images, as displayed.
    """
    of_size: dict[ImageSize, List[int]] = {}
    for row, index in enumerate(component.image_indices):
        of_size.setdefault(sizes[index], []).append(row)

    def median(values: Float[np.ndarray, "n figures"], rows: List[int]) -> Tuple[float, ...]:
        return tuple(float(value) for value in np.median(values[rows], axis=0))

    lenses = []
    for size, rows in of_size.items():
        (focal_x, focal_y), (center_x, center_y) = median(component.focal, rows), median(component.center, rows)
        lenses.append(
            Intrinsics(
                size,
                (focal_x * size.width, focal_y * size.width),
                (center_x * size.width, center_y * size.height),
                median(component.distortion, rows),
            )
        )
    return lenses


def object_rays(image_set: ImageSet, indices: Int[Tensor, "k"], camera_to_worlds: Float[Tensor, "k 3 4"]) -> ObjectRays:
    """Rays through the borders of silhouettes.

    Args:
        image_set: images with alpha.
        indices: some of them.
        camera_to_worlds: their poses, in any frame.
    """
    height, width = image_set.size_at(_SILHOUETTE_SIDE)
    device = image_set.images.pixels.device
    inside = image_set.images.at_resolution(height, width, indices.to(device))[:, 3] > 0.5
    surrounded = torch.nn.functional.avg_pool2d(inside[:, None].float(), 3, 1, 1, count_include_pad=False)[:, 0] > 0.999
    border = (inside & ~surrounded).cpu()
    directions = image_set.pixel_directions(indices.to(device), height, width).cpu().to(camera_to_worlds)
    origins, along, cameras = [], [], []
    for row in range(len(indices)):
        pixels = border[row].flatten().nonzero()[:, 0]
        if len(pixels) == 0:
            continue
        chosen = pixels[torch.linspace(0, len(pixels) - 1, min(_RAYS_PER_IMAGE, len(pixels))).round().long()]
        along.append(directions[row, chosen] @ camera_to_worlds[row, :, :3].mT)
        origins.append(camera_to_worlds[row, :, 3].expand(len(chosen), 3))
        cameras.append(torch.full((len(chosen),), row))
    return ObjectRays(torch.cat(origins), torch.cat(along), torch.cat(cameras))


def prior_around(camera_to_worlds: Float[Tensor, "k 3 4"], radius: float) -> PosePriorConfig:
    """Where further cameras may stand: about where these do.

    Args:
        camera_to_worlds: poses in the field's frame.
        radius: the camera distance that counts as 1 in a prior, in scene units.
    """
    poses = camera_to_worlds.double()
    positions = poses[..., 3]
    distances = torch.linalg.vector_norm(positions, dim=-1)
    elevations = torch.rad2deg(torch.asin((positions[:, 2] / distances).clamp(-1.0, 1.0)))
    along = (positions * poses[..., 2]).sum(dim=-1, keepdim=True)
    missed = torch.linalg.vector_norm(positions - along * poses[..., 2], dim=-1)
    rolls = torch.rad2deg(roll_of(poses))
    most_rolled = float(rolls.abs().quantile(0.95))
    return PosePriorConfig(
        azimuth_deg=_azimuths(torch.rad2deg(torch.atan2(positions[:, 1], positions[:, 0]))),
        elevation_deg=(
            max(-90.0, float(elevations.min()) - _MARGIN_DEG),
            min(90.0, float(elevations.max()) + _MARGIN_DEG),
        ),
        radius=(0.9 * float(distances.min()) / radius, 1.1 * float(distances.max()) / radius),
        look_at_jitter=float(missed.square().mean().sqrt()) / math.sqrt(2.0) / radius,
        roll_deg=(-min(180.0, most_rolled + 1.0), min(180.0, most_rolled + 1.0)),
    )


def _azimuths(azimuths_deg: Float[Tensor, "k"]) -> Tuple[float, float]:
    """The range in which cameras stand, with a margin; a full turn where they leave no wide gap."""
    ordered = azimuths_deg.sort().values
    gaps = torch.cat([ordered[1:] - ordered[:-1], ordered[:1] + 360.0 - ordered[-1:]])
    widest = int(gaps.argmax())
    if float(gaps[widest]) < _WIDEST_GAP_DEG:
        return 0.0, 360.0
    first = float(ordered[(widest + 1) % len(ordered)]) - _MARGIN_DEG
    return first, first + 360.0 - float(gaps[widest]) + 2 * _MARGIN_DEG
