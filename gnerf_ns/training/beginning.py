"""How a run begins where most cameras are roughly known: their poses in the field's frame, and what follows from them.

Who says where they are is told in `placement`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import List, Literal, Optional, Tuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gnerf_ns.cameras.pose_prior import PosePriorConfig, object_filling_radius, roll_of
from gnerf_ns.cameras.rays import CameraDirections
from gnerf_ns.cameras.scene_frame import (
    ObjectRays,
    are_mostly_aimed,
    common_aim,
    frame_of_object,
    frame_of_surroundings,
    visual_hull,
)
from gnerf_ns.data.datamanager import UnposedDataManager
from gnerf_ns.data.image_set import ImageSet
from gnerf_ns.data.images import ImageSize
from gnerf_ns.data.intrinsics import Intrinsics
from gnerf_ns.data.patch_sampling import image_coords
from gnerf_ns.matching.local_matches import Component, LocalMatches, PairMatches
from gnerf_ns.training.placement import (
    MIN_COUNT,
    GivenPoses,
    Matching,
    Placement,
    are_sharp,
    are_sure,
    enough_matches,
    given_placement,
    groups_of,
    joined,
)
from gnerf_ns.training.schedule import A_DOZEN
from gnerf_ns.utils.console import remark

_SILHOUETTE_SIDE = 48
"""Longer side, in pixels, that silhouettes are looked at with."""
_RAYS_PER_IMAGE = 64
_CARVING_SIDE, _CARVING_IMAGES = 32, 50
"""Images that hulls are carved from, at most, and their longer side in pixels: seconds in place of a minute."""
_MARGIN_DEG = 10.0
_OFF_CENTER = 0.12
"""Cameras were held by hand if two thirds of the silhouettes are within no less than this of their usual place, along
one axis, in units of half the image's shorter side. Where cameras were aimed at one point it is 0.03 to 0.07. How much
sizes differ tells nothing: a plate looks small from the side."""
_HANDHELD_ROLL_DEG = 20.0
_WIDEST_RANGE = 2.0
"""Cameras are not taken to have been farther away, or nearer, than so many times the usual distance."""
_MOST_DOUBTFUL_SHARE = 0.25
"""Of an object at which cameras were aimed, matches may leave no more in doubt of the images that they place. Of Lego
it is none, of a chair with alike sides, in 100 and 200 pixels, pale and not, 0.41 to 0.64."""
_WIDEST_GAP_DEG = 90.0
"""Cameras are taken to be all around unless they leave out so much."""


@dataclass
class BeginningConfig:
    """What is kept of a run's beginning, in its configuration, so that it can be resumed and evaluated."""

    prior: PosePriorConfig
    """Where further cameras may stand."""
    certainty: Literal["rough", "matched"] = "matched"
    """How well poses are known: rough ones are learned at once; others, of matches or given with few photographs
    (`colors_tell_little`), are held at first, and then learned slowly."""
    extent: Literal["ball", "unbounded"] = "ball"
    """What the field shows: an object alone, or everything around it."""
    are_all_known: bool = False
    """Whether no training image is without a pose."""
    lenses: List[Intrinsics] = field(default_factory=list)
    """Lenses that were found, by the size of the files; empty where they were known."""


@dataclass(frozen=True)
class KnownPoses:
    """Of some images; the others are to be looked up in what these make of the field."""

    train_indices: Int[Tensor, "k"]
    """Which training images."""
    train: Float[Tensor, "k 3 4"]
    """Where they were taken, in the field's frame: +z up."""
    train_origins: Int[Tensor, "k"]
    """Where each pose is from: `PoseOrigin`."""
    eval_indices: Int[Tensor, "l"]
    """Which held-out images."""
    eval: Float[Tensor, "l 3 4"]
    """Where those were taken."""
    eval_origins: Int[Tensor, "l"]
    """Where each of these poses is from."""
    matches: Optional[PairMatches]
    """Points of images that were matched, if any were."""
    groups: List[Tuple[Int[Tensor, "g"], Float[Tensor, "g 3 4"]]]
    """Further images, of training and held-out ones one after the other, whose poses are known relative to each other,
    in a frame of each group's own."""
    looks_at_origin: bool
    """Whether all were aimed at the origin, and level."""


def find_beginning(
    manager: UnposedDataManager, matching: Matching, poses: GivenPoses, keeps_lens: bool, seed: int
) -> Optional[Tuple[BeginningConfig, KnownPoses]]:
    """Poses that a run can begin with, and what follows from them; None where there are too few.

    Args:
        manager: has the images.
        matching: whether they are matched.
        poses: what is made of those that came with the images. Where they are fixed, nothing is matched.
        keeps_lens: whether lenses stay as they are.
        seed: of matching.

    Raises:
        InputError: poses are to be used, but too few came with the images; or only matches are, and there are too few.
    """
    train, held_out, images = manager.train_dataset, manager.eval_dataset, manager.train_images
    given = None if poses == "unknown" else given_placement(manager)
    matches = None if poses == "fixed" else enough_matches(manager, matching, keeps_lens, seed)
    is_choice = matching == "auto" and given is None and images.has_alpha
    if is_choice and matches is not None and contradict_where_aimed(matches):
        remark(
            "Cameras were aimed at the object: colors then tell sides that are alike apart better than matches that "
            "contradict each other, and training begins without these."
        )
        return None
    if matches is None and given is None:
        return None
    lenses: List[Intrinsics] = []
    if matches is not None and not keeps_lens:
        lenses = found_lenses(matches.components[0], [*train.file_sizes, *held_out.file_sizes])
    manager.use_lenses(lenses)
    directions = CameraDirections(train.given_cameras.to(images.pixels.device))
    of_both = CameraDirections(train.given_cameras), CameraDirections(held_out.given_cameras)
    known = known_poses(matches, given, ImageSet(images, directions), of_both)
    # As `LearnedCameras` has them: what fills the view fills the images, and not the padding around them.
    canvas_radius = object_filling_radius(directions.smallest_field_of_view)
    radius = object_filling_radius(CameraDirections(train.file_cameras).smallest_field_of_view)
    is_known_well = colors_tell_little(len(images), images.has_alpha)
    if matches is not None:
        is_known_well = are_sharp(matches, train.file_sizes)
    beginning = BeginningConfig(
        prior_around(known.train, radius, canvas_radius, known.looks_at_origin),
        "matched" if is_known_well else "rough",
        "ball" if images.has_alpha else "unbounded",
        len(known.train_indices) == len(images),
        lenses,
    )
    return beginning, known


def contradict_where_aimed(matches: LocalMatches) -> bool:
    """Whether matches leave many images in doubt where phase A places them all.

    Phase A expects cameras that were aimed at one point and held level, as a turntable or a renderer has them. Of a
    chair whose left and right differ by a cup, matches left no doubt of 35 to 43 images of a hundred, and up to half of
    these, or more, were turned, by as much as 180 degrees; phase A placed all hundred (in 100 pixels). Those of a
    carton contradicted each other as much, and were right: it was photographed by hand, past its middle by 0.03 of the
    distance, typically, where the chair's cameras missed by 0.001 to 0.002.

    Args:
        matches: of an object alone.
    """
    component = matches.components[0]
    doubtful = np.isin(component.image_indices, matches.misplaced)
    if doubtful.mean() <= _MOST_DOUBTFUL_SHARE:
        return False
    trusted = ~doubtful if int((~doubtful).sum()) >= MIN_COUNT else np.ones_like(doubtful)
    return are_mostly_aimed(torch.from_numpy(component.camera_to_worlds[trusted]).double())


def colors_tell_little(num_images: int, has_alpha: bool) -> bool:
    """Whether colors know less of poses than whoever gave them.

    A dozen photographs that show everything around can be explained from any poses, and outlines do not hold them: six
    poses of `gnerf-splat` that were up to 3 degrees off walked away to 6 to 22 degrees.

    Args:
        num_images: training images.
        has_alpha: whether they show an object alone.
    """
    return num_images <= A_DOZEN and not has_alpha


def known_poses(
    matches: Optional[LocalMatches],
    given: Optional[Placement],
    image_set: ImageSet,
    directions: Tuple[CameraDirections, CameraDirections],
) -> KnownPoses:
    """Poses in the field's frame.

    The object of images with alpha comes to fill the unit ball; cameras of others come to stand in it.

    Args:
        matches: enough of them, of training and held-out images, one after the other.
        given: poses that came with the images; at least one of both has to be there.
        image_set: the training images.
        directions: of the rays of training images, and of held-out ones; on the CPU, as matches and poses are.
    """
    count, component = len(image_set), None if matches is None else matches.components[0]
    placed = given if matches is None else joined(matches, given, directions)
    assert placed is not None
    indices, poses, origins = placed
    is_train = indices < count
    aim, points = None, None if component is None else torch.from_numpy(component.points)
    # The frame is that of poses that can be trusted, where there are any.
    trusted = is_train & are_sure(origins) if component is not None else is_train
    if int(trusted.sum()) < MIN_COUNT:
        trusted = is_train
    if image_set.images.has_alpha:
        aim = common_aim(poses[trusted])
        rays = object_rays(image_set, indices[trusted], poses[trusted])
        if points is None:
            points = hull_points(image_set, indices[trusted], poses[trusted])
        frame = frame_of_object(poses[trusted], rays, aim, points)
    else:
        frame = frame_of_surroundings(poses[trusted], points)
    moved = frame.apply(poses).float()
    return KnownPoses(
        indices[is_train],
        moved[is_train],
        origins[is_train],
        indices[~is_train] - count,
        moved[~is_train],
        origins[~is_train],
        None if matches is None else matches.matches,
        [] if matches is None else groups_of(matches, indices, count),
        aim is not None,
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


def hull_points(
    image_set: ImageSet, indices: Int[Tensor, "k"], camera_to_worlds: Float[Tensor, "k 3 4"]
) -> Float[Tensor, "points 3"]:
    """What fits into the silhouettes.

    Args:
        image_set: images with alpha.
        indices: some of them.
        camera_to_worlds: their poses, in any frame.
    """
    some = torch.linspace(0, len(indices) - 1, min(_CARVING_IMAGES, len(indices))).round().long()
    chosen = indices[some].to(image_set.images.pixels.device)
    height, width = image_set.size_at(_CARVING_SIDE)
    silhouettes = (image_set.images.at_resolution(height, width, chosen)[:, 3] > 0.5).flatten(1).cpu()
    directions = image_set.pixel_directions(chosen, height, width).cpu()
    return visual_hull(silhouettes, directions.to(camera_to_worlds), camera_to_worlds[some])


def object_rays(image_set: ImageSet, indices: Int[Tensor, "k"], camera_to_worlds: Float[Tensor, "k 3 4"]) -> ObjectRays:
    """Rays through the borders of silhouettes, or through the image's edge where the object goes on beyond.

    Args:
        image_set: images with alpha.
        indices: some of them.
        camera_to_worlds: their poses, in any frame.
    """
    height, width = image_set.size_at(_SILHOUETTE_SIDE)
    device = image_set.images.pixels.device
    inside = image_set.images.at_resolution(height, width, indices.to(device))[:, 3] > 0.5
    # What the edge of the image cuts off begins there, at least.
    surrounded = torch.nn.functional.avg_pool2d(inside[:, None].float(), 3, 1, 1)[:, 0] > 0.999
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


def prior_around(
    camera_to_worlds: Float[Tensor, "k 3 4"], radius: float, canvas_radius: float, looks_at_origin: bool = False
) -> PosePriorConfig:
    """Where further cameras may stand: about where these do.

    Args:
        camera_to_worlds: poses in the field's frame.
        radius: the camera distance that counts as 1 in a prior, in scene units.
        canvas_radius: the same with padding counted as image, which look-at jitter is relative to.
        looks_at_origin: whether they were aimed at the origin, and level, so that others will be.
    """
    poses = camera_to_worlds.double()
    positions = poses[..., 3]
    distances = torch.linalg.vector_norm(positions, dim=-1)
    elevations = torch.rad2deg(torch.asin((positions[:, 2] / distances).clamp(-1.0, 1.0)))
    along = (positions * poses[..., 2]).sum(dim=-1, keepdim=True)
    missed = torch.linalg.vector_norm(positions - along * poses[..., 2], dim=-1)
    rolls = torch.rad2deg(roll_of(poses))
    most_rolled = float(rolls.abs().quantile(0.95))
    prior = PosePriorConfig(
        azimuth_deg=_azimuths(torch.rad2deg(torch.atan2(positions[:, 1], positions[:, 0]))),
        elevation_deg=(
            max(-90.0, float(elevations.min()) - _MARGIN_DEG),
            min(90.0, float(elevations.max()) + _MARGIN_DEG),
        ),
        radius=(0.9 * float(distances.min()) / radius, 1.1 * float(distances.max()) / radius),
        look_at_jitter=float(missed.square().mean().sqrt()) / math.sqrt(2.0) / canvas_radius,
        roll_deg=(-min(180.0, most_rolled + 1.0), min(180.0, most_rolled + 1.0)),
    )
    return replace(prior, look_at_jitter=0.0, roll_deg=(0.0, 0.0)) if looks_at_origin else prior


def prior_of_silhouettes(image_set: ImageSet, canvas_radius: float) -> Optional[PosePriorConfig]:
    """Where cameras may have been that were held by hand; None where silhouettes look as if all had been aimed at one
    point.

    A silhouette's middle says where its camera was aimed, and its size about how far away that was.

    Args:
        image_set: images with alpha.
        canvas_radius: distance, in scene units, at which half the shorter side of the images sees one unit.
    """
    height, width = image_set.size_at(_SILHOUETTE_SIDE)
    alpha = image_set.images.at_resolution(height, width)[:, 3]
    areas = alpha.sum(dim=(1, 2))
    seen = areas > 0.0
    if int(seen.sum()) < MIN_COUNT:
        return None
    coords = image_coords(height, width, alpha.device) * torch.tensor([width, height]).to(alpha) / min(height, width)
    weights = (alpha / areas.clamp_min(1e-9)[:, None, None])[seen]
    middles = (weights[..., None] * coords).sum(dim=(1, 2))
    sizes = areas[seen].sqrt()
    # A few spoiled masks do not count.
    off_center = float((middles - middles.median(dim=0).values).abs().quantile(0.68, dim=0).max())
    if off_center < _OFF_CENTER:
        return None
    nearest, farthest = (float(sizes.median() / sizes.quantile(share)) for share in (0.95, 0.05))
    return PosePriorConfig(
        radius=(max(1.0 / _WIDEST_RANGE, nearest), min(_WIDEST_RANGE, farthest)),
        look_at_jitter=off_center / canvas_radius,
        roll_deg=(-_HANDHELD_ROLL_DEG, _HANDHELD_ROLL_DEG),
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
