"""Whether cameras that matches have placed are where they seem to be: neighbors have to look alike all over.

What is alike on two sides of an object, a logo or a lid, matches as well as what is the same, and any number of such
matches puts cameras half a turn wrong without a word. But they cover that part alone, where images of true neighbors
match all over. (That missing matches tell what matches do not: Zach et al., CVPR 2010; Heinly et al., ECCV 2014.)
"""

from __future__ import annotations

from typing import Dict, List, Mapping, Tuple

import cv2
import numpy as np
from jaxtyping import Float, Int

from gnerf_ns.matching.local_matches import Component, PairMatches

NEAR_DEG, NEAR_AXES_DEG, NEAR_RATIO = 15.0, 25.0, 1.5
"""Neighbors see the same from directions at most so far apart, look about the same way, and from alike distances."""
MISSING_SHARE = 0.4
"""Neighbors whose matches cover less than this share of what is usual for neighbors are no neighbors."""
FEWEST_NEIGHBORS = 10
"""Fewer pairs of neighbors do not say what is usual."""

Coverage = Mapping[Tuple[int, int], float]
"""Of pairs of images, the smaller index first."""


def coverage_of_pairs(matches: PairMatches) -> Dict[Tuple[int, int], float]:
    """How much of what either image shows the matches of each pair cover: the smaller share of both.

    Areas are those of convex hulls; what an image shows is all that it has in common with any other one.
    """
    ends = matches.ends.tolist()
    of_pairs = [matches.points[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    of_image: Dict[int, list] = {}
    for pair, points in zip(matches.pairs.tolist(), of_pairs, strict=True):
        for image, columns in zip(pair, (slice(0, 2), slice(2, 4)), strict=True):
            of_image.setdefault(image, []).append(points[:, columns])
    whole = {image: max(_area(np.concatenate(points)), 1e-9) for image, points in of_image.items()}
    return {
        (min(i, j), max(i, j)): min(_area(points[:, :2]) / whole[i], _area(points[:, 2:]) / whole[j])
        for (i, j), points in zip(matches.pairs.tolist(), of_pairs, strict=True)
    }


def _area(points: Float[np.ndarray, "points 2"]) -> float:
    return cv2.contourArea(cv2.convexHull(points.astype(np.float32))) if len(points) >= 3 else 0.0


def misplaced(component: Component, coverage: Coverage) -> List[int]:
    """The fewest images, about, without which no two neighbors have less in common than neighbors have.

    Args:
        component: cameras, and the points they see.
        coverage: of all pairs that match; others have none.

    Returns:
        Rows of the component; none where there are too few neighbors to tell.
    """
    pairs = _neighbors(component)
    if len(pairs) < FEWEST_NEIGHBORS:
        return []
    indices = component.image_indices[pairs]
    covered = np.array([coverage.get((int(i), int(j)), 0.0) for i, j in np.sort(indices, axis=1)])
    usual = np.median(covered[covered > 0.0]) if (covered > 0.0).any() else 1.0
    wrong = pairs[covered < MISSING_SHARE * usual]
    taken: List[int] = []
    while len(wrong) > 0:
        # The image that contradicts the largest share of its neighbors: others contradict it, and not each other.
        counts, all_counts = (np.bincount(each.flatten(), minlength=len(component)) for each in (wrong, pairs))
        taken.append(int(np.lexsort((counts / np.maximum(all_counts, 1), counts))[-1]))
        wrong = wrong[(wrong != taken[-1]).all(axis=1)]
    return taken


def _neighbors(component: Component) -> Int[np.ndarray, "pairs 2"]:
    """Rows of cameras that see the same from about the same place."""
    poses, middles = component.camera_to_worlds, _middles(component)
    found = []
    for row in range(len(component)):
        others = np.arange(row + 1, len(component))
        seen = (middles[row] + middles[others]) / 2
        mine, theirs = poses[row, :, 3] - seen, poses[others, :, 3] - seen
        far, farther = np.linalg.norm(mine, axis=1), np.linalg.norm(theirs, axis=1)
        directions = _angles_deg((mine * theirs).sum(axis=1) / np.maximum(far * farther, 1e-12))
        axes = _angles_deg(poses[others, :, 2] @ poses[row, :, 2])
        ratios = np.maximum(far, farther) / np.maximum(np.minimum(far, farther), 1e-12)
        near = others[(directions < NEAR_DEG) & (axes < NEAR_AXES_DEG) & (ratios < NEAR_RATIO)]
        found.append(np.stack([np.full_like(near, row), near], axis=1))
    return np.concatenate(found)


def _middles(component: Component) -> Float[np.ndarray, "n 3"]:
    """The middle of the points that each camera sees."""
    everything = np.median(component.points, axis=0) if len(component.points) else np.zeros(3)
    middles = np.tile(everything, (len(component), 1))
    for row in np.unique(component.seen_by):
        middles[row] = np.median(component.points[component.seen_point[component.seen_by == row]], axis=0)
    return middles


def _angles_deg(cosines: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    return np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0)))
