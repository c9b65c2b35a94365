"""Who says where images were taken before training begins: local matches, and the transforms.json where its poses are
to be used. What matches say counts: they hold to a fraction of a pixel what a phone's sensors know to some degrees. Of
given poses that fit them as well, nothing is changed.
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import List, Literal, NamedTuple, Optional, Tuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from gnerf_ns.cameras.alignment import fit_similarity
from gnerf_ns.cameras.rays import CameraDirections, sampson_errors
from gnerf_ns.data.datamanager import UnposedDataManager
from gnerf_ns.data.dataparser import LENS_SOURCE_KEY
from gnerf_ns.data.images import ImageSize
from gnerf_ns.matching.consistency import CLEAR_SHARE, shows_no_motion
from gnerf_ns.matching.local_matches import LocalMatches
from gnerf_ns.matching.matcher import MAX_SIDE, MatchedImages, match_images
from gnerf_ns.training.schedule import FEW_IMAGES
from gnerf_ns.utils.console import named, remark
from gnerf_ns.utils.errors import InputError

GivenPoses = Literal["unknown", "given", "fixed"]
"""What is made of the poses of a transforms.json."""
Matching = Literal["auto", "off", "only"]
"""Whether images are matched. auto: unless they show an object alone on a plain ground, without alpha. only: always;
a run stops where matches place too few to begin with."""

MIN_SHARE = 0.5
"""Of images of an object alone, so many have to be in one component, or phase A is as good a beginning; in a room,
nothing else is one."""
MIN_SHARE_OF_FEW = 0.9
"""The same of few images (`FEW_IMAGES`), and their matches have to be sharp (`SHARP_DEG`), too: phase A tries each of
them elsewhere, finds what matches miss, and ends nearer."""
MIN_COUNT = 4
"""Fewer images are no beginning, and fewer poses fix no frame."""
SHARP_DEG = 0.01
"""Matches that know poses better than this (`precision_deg`) hold them better than colors do. Photographs with hundreds
of points each (0.001 to 0.005) and 100 Lego images at 200 pixels (0.008) do; of twelve of these (0.011 to 0.014), poses
that were held came out at 0.4 degrees in place of 0.2, and of images of 96 pixels at 1.1 in place of 0.4."""
BELIEVED_RAD = 0.02
"""Matches that miss each other by more where they have placed cameras say nothing of other places, in radians."""
MIN_FITTING_SHARE = 0.5
"""An image fewer of whose matches fit is not where they have put it."""
CONFIRMED_RATIO = 2.0
"""Given poses are confirmed where matches miss each other by at most so many times more than at poses of their own."""
MIN_GROUP = 6
"""Fewer training images are placed one by one: so few hang together by few points (of three, one was turned by 37
degrees against the others)."""


class PoseOrigin(IntEnum):
    """Where the pose of an image is from."""

    APPEARANCE = 0
    """From what the images look like as a whole: phase A."""
    MATCHES = 1
    """From local matches."""
    GIVEN = 2
    """From the transforms.json, whose poses were to be used."""
    LOOKED_UP = 3
    """Found in what the other images have made of the field."""
    GROUP = 4
    """Found likewise, together with all images that matches place relative to each other."""
    DOUBTFUL_MATCHES = 5
    """From local matches that contradict each other or are few (`LocalMatches.misplaced`), or most of which do not fit
    there: it may be moved to where it fits."""
    CONFIRMED = 6
    """From the transforms.json, and as good as matches can tell."""
    DOUBTFUL_GROUP = 7
    """As `GROUP`, but the field shows about as much of them from elsewhere."""


FOUND_BY_FIELD = (PoseOrigin.APPEARANCE, PoseOrigin.LOOKED_UP, PoseOrigin.GROUP, PoseOrigin.DOUBTFUL_GROUP)
"""Poses that nothing speaks for but the field."""

FEW_ALONE = 8
"""Of no more images than this that only a field speaks for, it may show all from wrong poses, and held-out ones, too.
Of five draws of six of Lego, it did of one; in another, two were 5 degrees off, and shown as well as the others, as
were held-out ones (95 %). Seven and eight are taken to be no better."""


def are_found(origins: Int[Tensor, "n"]) -> Bool[Tensor, "n"]:
    """Which poses only the field speaks for."""
    return torch.isin(origins, torch.tensor(FOUND_BY_FIELD).to(origins))


def are_few_alone(origins: Int[Tensor, "n"]) -> bool:
    """Whether there are too few training images for a field to tell right poses from wrong ones, and most of them have
    nothing else that speaks for them; poses that were given are believed.

    Args:
        origins: where their poses are from: `PoseOrigin`.
    """
    return len(origins) <= FEW_ALONE and float(are_found(origins).float().mean()) > 0.5


def are_sure(origins: Int[Tensor, "n"]) -> Bool[Tensor, "n"]:
    """Which poses matches placed or confirmed, and do not contradict.

    Args:
        origins: where poses are from: `PoseOrigin`.
    """
    return (origins == PoseOrigin.MATCHES) | (origins == PoseOrigin.CONFIRMED)


class Placement(NamedTuple):
    """Where some of the images were taken, training and held-out ones, in one frame of any origin and unit."""

    indices: Int[Tensor, "k"]
    """Which images: of all training images and then all held-out ones."""
    camera_to_worlds: Float[Tensor, "k 3 4"]
    """Their poses."""
    origins: Int[Tensor, "k"]
    """Where each is from: `PoseOrigin`."""


def enough_matches(
    manager: UnposedDataManager, matching: Matching, keeps_lens: bool, seed: int
) -> Optional[LocalMatches]:
    """What local matches say of training and held-out images, one after the other; None where that is too little.

    Args:
        manager: has the images.
        matching: whether they are matched.
        keeps_lens: whether lenses stay as they are.
        seed: of matching.

    Raises:
        InputError: only matches are to be begun with, and there are too few.
    """
    train, held_out, images = manager.train_dataset, manager.eval_dataset, manager.train_images
    if matching == "off" or (matching == "auto" and not (images.has_alpha or images.show_surroundings)):
        return None
    # Also one that was not measured, if it is to stay as it was given.
    has_focal_guess = train.metadata.get(LENS_SOURCE_KEY) in ("exif", "user")
    matches = match_images(MatchedImages.of([train, held_out], keeps_lens, has_focal_guess), seed)
    files = [*train.image_filenames, *held_out.image_filenames]
    sizes = ", ".join(str(len(each)) for each in (matches.components if matches else [])) or "none"
    enough = matches is not None and is_enough(
        matches, train.file_sizes, images.show_surroundings or matching == "only"
    )
    if matching == "only" and not enough:
        raise InputError(
            f"Local matches place {sizes} of {len(files)} images, but at least {MIN_COUNT} to train on are needed to "
            "begin with. Leave out --pipeline.matching only to begin otherwise."
        )
    if matches is None:
        return None
    verdict = "" if enough else ", too few or too roughly to begin with"
    CONSOLE.print(f"Local matches place {sizes} of {len(files)} images{verdict}.")
    if enough and len(matches.misplaced) > CLEAR_SHARE * len(matches.components[0]):
        remark(
            f"In doubt is where {len(matches.misplaced)} of the images were taken "
            f"({named([files[index] for index in matches.misplaced])}): few matches place them, neighbors have little "
            "in common with them there, or fewer matches place them elsewhere. The object may have sides that are "
            "alike, and these and others may be half or a quarter of a turn off."
        )
    if not images.has_alpha and shows_no_motion(matches.matches, next(iter(matches.components), None)):
        remark(
            "Matches say that the camera hardly moved. If it was an object that was turned, as on a turntable, "
            "poses will be wrong, since what stands still is seen, too. Mask it: give masks of the object, white, "
            "in a folder masks beside the images, named like them."
        )
    return matches if enough else None


def is_enough(matches: LocalMatches, sizes: List[ImageSize], is_only_beginning: bool = False) -> bool:
    """Whether a run can begin with the largest component.

    Args:
        matches: of training and held-out images, one after the other.
        sizes: of the training images' files, in pixels.
        is_only_beginning: whether there is no other, as in a room.
    """
    count = len(sizes)
    placed = 0 if not matches.components else int((matches.components[0].image_indices < count).sum())
    if placed < MIN_COUNT or is_only_beginning:
        return placed >= MIN_COUNT
    if count > FEW_IMAGES:
        return placed >= MIN_SHARE * count
    return placed >= MIN_SHARE_OF_FEW * count and are_sharp(matches, sizes)


def are_sharp(matches: LocalMatches, sizes: List[ImageSize]) -> bool:
    """Whether matches know poses better than colors do; see `precision_deg`."""
    return precision_deg(matches, sizes) < SHARP_DEG


def precision_deg(matches: LocalMatches, sizes: List[ImageSize]) -> float:
    """How well matches know where a typical image looks, in degrees, were errors of its points independent: the error
    of one over the square root of how many there are.

    Args:
        matches: with a component.
        sizes: of the image files, in pixels.
    """
    component = matches.components[0]
    width = float(np.median([min(size.width, MAX_SIDE) for size in sizes]))
    pixel_deg = math.degrees(1.0 / (float(np.median(component.focal)) * width))
    points = float(np.median(np.unique(component.seen_by, return_counts=True)[1])) if len(component.seen_by) else 0.0
    return pixel_deg * float(component.error_px) / math.sqrt(points) if points else math.inf


def given_placement(manager: UnposedDataManager) -> Placement:
    """Poses that came with the images.

    Raises:
        InputError: fewer than half of the training images have one, or fewer than `MIN_COUNT` of more.
    """
    of_splits = [
        torch.full((len(dataset), 3, 4), torch.nan) if poses is None else poses.cpu()
        for dataset, poses in (
            (manager.train_dataset, manager.train_ground_truth),
            (manager.eval_dataset, manager.eval_ground_truth),
        )
    ]
    count = int(of_splits[0].isfinite().all(dim=(1, 2)).sum())
    # Of fewer images, all: nobody then has to find a place in what the others show.
    needed = min(MIN_COUNT, max(2, len(of_splits[0])))
    if count < max(needed, MIN_SHARE * len(of_splits[0])):
        raise InputError(
            f"{count} of {len(of_splits[0])} images to train on have a pose in the transforms.json, but half of them, "
            f"and at least {needed}, are needed to begin with; add some, or leave out --pipeline.poses."
        )
    poses = torch.cat(of_splits).double()
    indices = poses.isfinite().all(dim=(1, 2)).nonzero()[:, 0]
    return Placement(indices, poses[indices], torch.full_like(indices, PoseOrigin.GIVEN))


def joined(
    matches: LocalMatches, given: Optional[Placement], directions: Tuple[CameraDirections, CameraDirections]
) -> Placement:
    """Images of the largest component where matches put them, and those others that came with a pose, moved into the
    same frame; or the reverse, where matches confirm most poses that came.

    Args:
        matches: with a component.
        given: poses that came with the images, if they are to be used.
        directions: of the rays of training images, and of held-out ones.
    """
    component = matches.components[0]
    indices, poses = torch.from_numpy(component.image_indices), torch.from_numpy(component.camera_to_worlds)
    origins = torch.full_like(indices, PoseOrigin.MATCHES)
    doubtful = [torch.from_numpy(matches.misplaced), images_that_match_elsewhere(matches, directions)]
    origins[torch.isin(indices, torch.cat(doubtful))] = PoseOrigin.DOUBTFUL_MATCHES
    placed = Placement(indices, poses.double(), origins)
    if given is None:
        return placed
    confirmed = torch.isin(given.indices, confirmed_images(matches, given, directions))
    if int(confirmed.sum()) < max(MIN_COUNT, MIN_SHARE * int(torch.isin(given.indices, indices).sum())):
        return _with_others(placed, given)
    sure = Placement(*(each[confirmed] for each in given))
    sure.origins.fill_(PoseOrigin.CONFIRMED)
    # Most given poses being right, others are more likely to be than matches that contradict each other.
    matched = Placement(*(each[are_sure(placed.origins)] for each in placed))
    return _with_others(_with_others(_with_others(sure, matched), given), placed)


def confirmed_images(
    matches: LocalMatches, given: Placement, directions: Tuple[CameraDirections, CameraDirections]
) -> Int[Tensor, "confirmed"]:
    """Images whose given poses fit the matches about as well as poses that were made from these.

    Args:
        matches: with a component.
        given: poses that came with the images.
        directions: of the rays of training images, and of held-out ones.
    """
    component, images = matches.components[0], torch.from_numpy(matches.matches.images)
    missed_given = _misses(matches, given.indices, given.camera_to_worlds, directions)
    missed_placed = _misses(
        matches, torch.from_numpy(component.image_indices), torch.from_numpy(component.camera_to_worlds), directions
    )
    believed = missed_given.isfinite() & (missed_placed < BELIEVED_RAD)
    if not bool(believed.any()):
        return given.indices[:0]
    usual = missed_placed[believed].median()
    confirmed = []
    for image in images[believed].unique().tolist():
        of_image = believed & (images == image).any(dim=1)
        # Blurred images have larger errors; images in wrong places, too.
        least = missed_placed[of_image].median().clamp(usual, CONFIRMED_RATIO * usual)
        if missed_given[of_image].median() <= CONFIRMED_RATIO * least:
            confirmed.append(image)
    return torch.tensor(confirmed, dtype=torch.long)


def images_that_match_elsewhere(
    matches: LocalMatches, directions: Tuple[CameraDirections, CameraDirections]
) -> Int[Tensor, "elsewhere"]:
    """Images of the largest component most of whose matches do not fit where these have put it.

    An image that was put on the wrong one of two sides that are alike matches its true neighbors best: 0.24 of its
    matches fit there, of images in their place at least 0.59 (a carton; 0.77 and more of fourteen other sets).

    Args:
        matches: with a component.
        directions: of the rays of training images, and of held-out ones.
    """
    component, images = matches.components[0], torch.from_numpy(matches.matches.images)
    indices = torch.from_numpy(component.image_indices)
    missed = _misses(matches, indices, torch.from_numpy(component.camera_to_worlds), directions)
    known = missed.isfinite()
    ends, fits = images[known].flatten(), (missed[known] < BELIEVED_RAD).double().repeat_interleave(2)
    least = int(indices.max()) + 1
    counts, fitting = torch.bincount(ends, minlength=least), torch.bincount(ends, fits, minlength=least)
    return indices[fitting[indices] < MIN_FITTING_SHARE * counts[indices]]


def _misses(
    matches: LocalMatches,
    indices: Int[Tensor, "k"],
    camera_to_worlds: Float[Tensor, "k 3 4"],
    directions: Tuple[CameraDirections, CameraDirections],
) -> Float[Tensor, "matches"]:
    """By how much rays of each match miss each other, in radians (Sampson); NaN where an image has no pose.

    Args:
        matches: of all images.
        indices: images with a pose.
        camera_to_worlds: their poses.
        directions: of the rays of training images, and of held-out ones.
    """
    poses = torch.full((len(directions[0]) + len(directions[1]), 3, 4), torch.nan, dtype=torch.double)
    poses[indices] = camera_to_worlds.double()
    images = torch.from_numpy(matches.matches.images)
    coords = torch.from_numpy(matches.matches.coords).double()
    first, second = (_rays_through(directions, images[:, end], coords[:, end]) for end in range(2))
    return sampson_errors(poses[images[:, 0]], poses[images[:, 1]], first, second).sqrt()


@torch.no_grad()
def _rays_through(
    directions: Tuple[CameraDirections, CameraDirections], images: Int[Tensor, "n"], coords: Float[Tensor, "n 2"]
) -> Float[Tensor, "n 3"]:
    """Directions through one point of each image; the training images come first."""
    rays = coords.new_zeros(len(images), 3)
    is_held_out = images >= len(directions[0])
    for chosen, of_split, first in ((~is_held_out, directions[0], 0), (is_held_out, directions[1], len(directions[0]))):
        rays[chosen] = of_split.at(images[chosen] - first, coords[chosen, None])[:, 0]
    return rays


def _with_others(placed: Placement, others: Placement) -> Placement:
    """All of the first, and those of the others that it does not have, moved into its frame."""
    rows = {int(index): row for row, index in enumerate(others.indices)}
    both = [(row, rows[int(index)]) for row, index in enumerate(placed.indices) if int(index) in rows]
    new = [row for index, row in rows.items() if index not in set(placed.indices.tolist())]
    if len(both) < MIN_COUNT or not new:
        return placed
    mine, theirs = (torch.tensor(column) for column in zip(*both, strict=True))
    similarity = fit_similarity(others.camera_to_worlds[theirs], placed.camera_to_worlds[mine])
    return Placement(
        torch.cat([placed.indices, others.indices[new]]),
        torch.cat([placed.camera_to_worlds, similarity.apply(others.camera_to_worlds[new])]),
        torch.cat([placed.origins, others.origins[new]]),
    )


def groups_of(
    matches: LocalMatches, placed: Int[Tensor, "k"], num_train: int
) -> List[Tuple[Int[Tensor, "g"], Float[Tensor, "g 3 4"]]]:
    """Images of all components but the largest that have no pose yet, held-out ones too.

    Args:
        matches: of training and held-out images, one after the other.
        placed: images that have one.
        num_train: how many training images there are.
    """
    groups = []
    for component in matches.components[1:]:
        indices = torch.from_numpy(component.image_indices)
        kept = ~torch.isin(indices, placed)
        if int((kept & (indices < num_train)).sum()) >= MIN_GROUP:
            groups.append((indices[kept], torch.from_numpy(component.camera_to_worlds)[kept].float()))
    return groups
