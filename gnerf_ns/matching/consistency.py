"""Whether cameras that matches have placed are where they seem to be: neighbors have to look alike all over.

What is alike on two sides of an object, a logo or a lid, matches as well as what is the same, and any number of such
matches puts cameras half a turn wrong without a word. But they cover that part alone, where images of true neighbors
match all over. (That missing matches tell what matches do not: Zach et al., CVPR 2010; Heinly et al., ECCV 2014.)
And what is on two sides is mostly seen aslant on one of them, where true neighbors see it alike.
"""

from __future__ import annotations

import math
from typing import AbstractSet, Dict, List, Mapping, NamedTuple, Optional, Tuple

import cv2
import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import cKDTree  # pyright: ignore[reportAttributeAccessIssue]

from gnerf_ns.matching.local_matches import Component, PairMatches

NEAR_DEG, NEAR_AXES_DEG, NEAR_RATIO = 15.0, 25.0, 1.5
"""Neighbors see the same from directions at most so far apart, look about the same way, and from alike distances."""
MISSING_SHARE = 0.55
"""Neighbors whose matches cover less than this share of what is usual for neighbors are no neighbors."""
USUAL = 0.75
"""The quantile that is usual: where a half of an object was laid upon the other, up to half of the pairs are wrong."""
SURE_COUNT = 15
"""Fewer matches do not say how much images can have in common."""
NEAR_SHARE = 0.12
"""A feature is near a match that is as far away as this share of the width of all that is seen. With convex hulls, a
logo at the top and small print at the bottom cover all that is between; with 0.05, faint features cover too little."""
STILL_MOTION, STILL_SHARE = 0.005, 0.2
"""Matches stay where they are if they move by less than the first, as a share of the width of all that matches; in
photographs from places all around, that is so in fewer than the second, as a share of all pairs that match."""
STILL_DEG = 10.0
"""Cameras that moved see what they show from directions farther apart: 19 degrees where a phone was moved by a step."""
CLEAR_SHARE = 0.05
"""Share of the images, or of those that are added, that neighbors may contradict: so many are among right ones, too."""
OTHERWISE_DEG = 10.0
"""Two reconstructions of the same images differ by less where both are right."""
FEWEST_NEIGHBORS = 10
"""Fewer pairs of neighbors do not say what is usual."""
NEAREST = 6
"""So many of a camera's nearest neighbors are compared to tell whether it is in its place: where one side was laid upon
another, half of them are of the other."""

_MAX_FEATURES = 500
"""Of an image, spread over it, to tell how much of it matches."""


class Overlap(NamedTuple):
    """What two images have in common, as their matches say."""

    covered: float
    """Which share of the features of either image lies near a match, the smaller one of both; as a share of the most
    that one of them has in common with any image. Features are those that are matched in any image."""
    tilt: float
    """How many times one image is stretched along some direction against the direction across, to look like the other:
    1 for what is seen the same way, 2 where a side that one image sees frontally is seen at 60 degrees (Morel and Yu
    2009, transition tilt)."""
    count: int
    """How many matches there are."""


Overlaps = Mapping[Tuple[int, int], Overlap]
"""Of pairs of images that match, the smaller index first."""


def overlaps_of_pairs(matches: PairMatches, aspects: Float[np.ndarray, "images"]) -> Dict[Tuple[int, int], Overlap]:
    """What the images of each pair that matches have in common.

    Args:
        matches: verified ones.
        aspects: width over height of every image.
    """
    of_pairs = [points.astype(np.float64) for points in matches.of_pairs]
    of_image: Dict[int, list] = {}
    for (i, j), points in zip(matches.pairs.tolist(), of_pairs, strict=True):
        points *= [aspects[i], 1.0, aspects[j], 1.0]
        of_image.setdefault(i, []).append(points[:, :2])
        of_image.setdefault(j, []).append(points[:, 2:])
    features = {image: np.unique(np.concatenate(points), axis=0) for image, points in of_image.items()}
    reach = {image: NEAR_SHARE * math.sqrt(max(_area(points), 1e-9)) for image, points in features.items()}

    # They are in order, from left to right.
    features = {image: points[:: math.ceil(len(points) / _MAX_FEATURES)] for image, points in features.items()}

    def covered(image: int, points: Float[np.ndarray, "matches 2"]) -> float:
        distances, _ = cKDTree(points).query(features[image], distance_upper_bound=reach[image])
        return float(np.isfinite(distances).mean())

    pairs = np.sort(matches.pairs, axis=1)
    counts = np.diff(matches.ends, prepend=0)
    shares = np.array(
        [
            min(covered(i, points[:, :2]), covered(j, points[:, 2:]))
            for (i, j), points in zip(matches.pairs.tolist(), of_pairs, strict=True)
        ]
    )
    best = np.zeros(len(aspects))
    sure = counts >= SURE_COUNT
    np.maximum.at(best, pairs[sure].flatten(), np.repeat(shares[sure], 2))
    most = best[pairs].max(axis=1)
    relative = np.minimum(shares / np.where(most > 0.0, most, 1.0), 1.0)
    return {
        (i, j): Overlap(share, _tilt(points), count)
        for (i, j), share, points, count in zip(
            pairs.tolist(), relative.tolist(), of_pairs, counts.tolist(), strict=True
        )
    }


def _area(points: Float[np.ndarray, "points 2"]) -> float:
    return cv2.contourArea(cv2.convexHull(points.astype(np.float32))) if len(points) >= 3 else 0.0


def _tilt(points: Float[np.ndarray, "matches 4"]) -> float:
    """Of the affine map that fits matches best; infinite where none does."""
    centered = points - points.mean(axis=0)
    map_transposed, _, rank, _ = np.linalg.lstsq(centered[:, :2], centered[:, 2:], rcond=1e-6)
    largest, smallest = np.linalg.svd(map_transposed, compute_uv=False)
    return float(largest / smallest) if rank == 2 and smallest > 1e-6 * largest else math.inf


def nearest_neighbors(component: Component) -> Int[np.ndarray, "pairs 2"]:
    """Pairs of images, the smaller index first, of which one is among the other's `NEAREST` neighbors."""
    pairs, angles = _all_neighbors(component)
    ends, angles = np.concatenate([pairs, pairs[:, ::-1]]), np.tile(angles, 2)
    order = np.lexsort((angles, ends[:, 0]))
    rows = ends[order, 0]
    rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
    nearest = component.image_indices[ends[order[rank < NEAREST]]]
    return np.unique(np.sort(nearest, axis=1), axis=0)


def contradictions(
    component: Component, overlaps: Overlaps, compared: Optional[AbstractSet[Tuple[int, int]]] = None
) -> Int[np.ndarray, "pairs 2"]:
    """Pairs of rows of cameras that are neighbors, but have less in common than neighbors have.

    Args:
        component: cameras, and the points they see.
        overlaps: of all pairs that match.
        compared: pairs that were compared at all, the smaller index first; others say nothing. None for all.

    Returns:
        No rows where there are too few neighbors to tell.
    """
    return _contradictions(component, overlaps, _neighbors(component, compared))


def _contradictions(
    component: Component, overlaps: Overlaps, pairs: Int[np.ndarray, "neighbors 2"]
) -> Int[np.ndarray, "pairs 2"]:
    if len(pairs) < FEWEST_NEIGHBORS:
        return pairs[:0]
    indices = component.image_indices[pairs]
    none = Overlap(0.0, math.inf, 0)
    covered = np.array([overlaps.get((int(i), int(j)), none).covered for i, j in np.sort(indices, axis=1)])
    return pairs[covered < MISSING_SHARE * np.quantile(covered, USUAL)]


def misplaced(
    component: Component, overlaps: Overlaps, compared: Optional[AbstractSet[Tuple[int, int]]] = None
) -> Int[np.ndarray, "misplaced"]:
    """Rows of the fewest images, about, without which there are no `contradictions`, whose arguments these are."""
    neighbors, count = _neighbors(component, compared), len(component)
    wrong = _contradictions(component, overlaps, neighbors)
    all_counts = np.maximum(np.bincount(neighbors.flatten(), minlength=count), 1)
    taken: List[int] = []
    while len(wrong) > 0:
        # The image that contradicts the largest share of its neighbors: others contradict it, and not each other.
        counts = np.bincount(wrong.flatten(), minlength=count)
        taken.append(int(np.lexsort((counts / all_counts, counts))[-1]))
        wrong = wrong[(wrong != taken[-1]).all(axis=1)]
    return np.array(taken, dtype=np.int64)


def shows_no_motion(matches: PairMatches, component: Optional[Component]) -> bool:
    """Whether cameras seem to have stood still, against how far away things are: as before a turntable, where what is
    behind it matches better than it does.

    Args:
        matches: of all pairs.
        component: where matches place cameras, if anywhere.
    """
    moved = [
        float(np.median(np.linalg.norm(points[:, :2] - points[:, 2:], axis=1)))
        / math.sqrt(max(_area(points[:, :2]), 1e-9))
        for points in matches.of_pairs
    ]
    if len(moved) >= FEWEST_NEIGHBORS and float((np.array(moved) < STILL_MOTION).mean()) > STILL_SHARE:
        return True
    if component is None or len(component.points) == 0:
        return False
    towards = component.camera_to_worlds[:, :, 3] - np.median(component.points, axis=0)
    towards /= np.maximum(np.linalg.norm(towards, axis=1, keepdims=True), 1e-12)
    return float(np.quantile(_angles_deg((towards @ towards.T).flatten()), 0.95)) < STILL_DEG


def placed_otherwise(one: Component, other: Component) -> Int[np.ndarray, "images"]:
    """Images of both that are not turned by the same angles, up to `OTHERWISE_DEG`, as most are."""
    both, rows, others = np.intersect1d(one.image_indices, other.image_indices, return_indices=True)
    turns = one.camera_to_worlds[rows, :, :3] @ np.swapaxes(other.camera_to_worlds[others, :, :3], 1, 2)
    cosines = (np.einsum("aij,bij->ab", turns, turns) - 1.0) / 2.0
    is_like = cosines > math.cos(math.radians(OTHERWISE_DEG))
    return both[~is_like[int(is_like.sum(axis=1).argmax())]] if len(both) else both


def _neighbors(
    component: Component, compared: Optional[AbstractSet[Tuple[int, int]]] = None
) -> Int[np.ndarray, "pairs 2"]:
    """Rows of cameras that see the same from about the same place, of images that were compared."""
    pairs, _ = _all_neighbors(component)
    if compared is None:
        return pairs
    images = np.sort(component.image_indices[pairs], axis=1)
    return pairs[[pair in compared for pair in map(tuple, images.tolist())]]


def _all_neighbors(component: Component) -> Tuple[Int[np.ndarray, "pairs 2"], Float[np.ndarray, "pairs"]]:
    """Rows of cameras that see the same from about the same place, and the angle between their directions, in
    degrees."""
    poses, middles = component.camera_to_worlds, _middles(component)
    found, angles = [], []
    for row in range(len(component)):
        others = np.arange(row + 1, len(component))
        seen = (middles[row] + middles[others]) / 2
        mine, theirs = poses[row, :, 3] - seen, poses[others, :, 3] - seen
        far, farther = np.linalg.norm(mine, axis=1), np.linalg.norm(theirs, axis=1)
        directions = _angles_deg((mine * theirs).sum(axis=1) / np.maximum(far * farther, 1e-12))
        axes = _angles_deg(poses[others, :, 2] @ poses[row, :, 2])
        ratios = np.maximum(far, farther) / np.maximum(np.minimum(far, farther), 1e-12)
        is_near = (directions < NEAR_DEG) & (axes < NEAR_AXES_DEG) & (ratios < NEAR_RATIO)
        found.append(np.stack([np.full(is_near.sum(), row), others[is_near]], axis=1))
        angles.append(directions[is_near])
    return np.concatenate(found), np.concatenate(angles)


def _middles(component: Component) -> Float[np.ndarray, "n 3"]:
    """The middle of the points that each camera sees."""
    everything = np.median(component.points, axis=0) if len(component.points) else np.zeros(3)
    middles = np.tile(everything, (len(component), 1))
    for row in np.unique(component.seen_by):
        middles[row] = np.median(component.points[component.seen_point[component.seen_by == row]], axis=0)
    return middles


def _angles_deg(cosines: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    return np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0)))
