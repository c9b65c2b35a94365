"""Structure from motion, as a program of its own: strict first, loosened from there on, and by neighbors where those
contradict.

    python -m gnerf_ns.matching.reconstruction FOLDER

`colmap` is native code that may abort or hang, so that `matcher` runs this in a child process and reads what it leaves
in the folder: whatever was found by then. Lines on standard output say how far it is.
"""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import AbstractSet, Iterator, List, Optional, Set, Tuple

import numpy as np
import torch
from jaxtyping import Int

from gnerf_ns.cameras.alignment import fit_similarity
from gnerf_ns.matching.colmap import FAINT, LOOSE, STRICT, Colmap, MatchedPairs, Model
from gnerf_ns.matching.consistency import (
    CLEAR_SHARE,
    Overlap,
    contradictions,
    misplaced,
    nearest_neighbors,
    placed_otherwise,
    shows_no_motion,
)
from gnerf_ns.matching.job import RESULT, Job
from gnerf_ns.matching.local_matches import Component, LocalMatches
from gnerf_ns.matching.pairs import every_pair, likely_pairs

EXHAUSTIVE_UP_TO = 200
"""More images than this are not all compared with each other."""

NEIGHBORLY = (
    Overlap(covered=0.9, tilt=1.35, count=15),
    Overlap(covered=0.85, tilt=1.6, count=15),
    Overlap(covered=0.75, tilt=1.6, count=15),
    Overlap(covered=0.65, tilt=2.0, count=15),
    Overlap(covered=0.5, tilt=2.0, count=15),
    Overlap(covered=0.4, tilt=2.0, count=15),
    Overlap(covered=0.3, tilt=2.5, count=15),
    Overlap(covered=0.3, tilt=2.5, count=10),
    Overlap(covered=0.0, tilt=math.inf, count=0),
)
"""What images that are matched have to have in common, at least (at most, the tilt), one step after the other, where
any matches at all have put images in places that their neighbors contradict. Of a milk carton (432 pairs that match,
more than half of them wrong) the first leaves 50 pairs, all of them right."""
LOOKALIKE = Overlap(covered=0.6, tilt=1.35, count=0)
"""Images that see a thing the same way, with less tilt, and have less in common, see two things that are alike."""
MOST_STEPS, MOST_IMAGES = 12, 1200
"""Reconstructions, at most, of images that matches put in places that their neighbors contradict, and the images of all
of them: of hundreds, each takes minutes."""
MISPLACED_COST = 5.0
"""An image that neighbors contradict counts as so many lost: others are wrong together with it."""
KEPT_SHARE = 0.8
"""Of what plain matches place without contradiction, neighbors have to place so much: few images that contradict
nothing are no better than many of which a few do."""
NEARLY_ALL = 0.8
"""Where strict matches have put together so much of the images without contradiction, only the others are matched
loosely."""
FEWEST = 3
"""Fewer images are no component."""
FEW_POINTS = 15
"""An image that sees fewer points of the others is in doubt."""
MIN_COMMON_SHARE = 0.5
"""Two ways of putting images together agree only if they have so much in common of the smaller one."""


def reconstruct(colmap: Colmap) -> Iterator[LocalMatches]:
    """Features, matches and cameras of images: a result as soon as there is one; each later one replaces it."""
    count = colmap.job.num_images
    colmap.extract()
    compares_all = count <= EXHAUSTIVE_UP_TO
    pairs = every_pair(count) if compares_all else likely_pairs(colmap.descriptors(), colmap.job.order)
    strict = colmap.match(pairs, STRICT)
    if compares_all and not colmap.job.has_masks and shows_no_motion(strict.matches, None):
        yield judged([], strict)  # nothing to begin with, which takes minutes to find out
        return
    models = colmap.map(strict)
    best, found = next(iter(models), None), judged(models, strict)
    if found.components:
        yield found
    asked = with_neighbors(colmap, models, strict)
    if asked is not strict:
        strict, found, pairs = asked, judged(models, asked), np.array(sorted(asked.compared))
        yield found
    if best is not None and len(best) == count and _is_clear(found):
        return
    if best is not None and _num_sure(found) >= NEARLY_ALL * count:
        sure = np.setdiff1d(best.component.image_indices, found.misplaced)
        some = colmap.match(pairs[~np.isin(pairs, sure).all(axis=1)], LOOSE, beside=strict)
        models = _completed(colmap, some, best)
        found = judged(models, with_neighbors(colmap, models, some))
        yield found
        if _is_clear(found) or not compares_all:  # of many, all over again takes minutes, and hardly tells more
            return
    loose = colmap.match(pairs, LOOSE)
    models = _completed(colmap, loose, best)
    loose = with_neighbors(colmap, models, loose)
    found = judged(models, loose)
    yield found
    if _is_clear(found):
        return
    models, loose = by_neighbors(colmap, loose)
    careful = judged(models, with_neighbors(colmap, models, loose))
    if not careful.components:
        return
    is_better = _score(careful) >= _score(found) and _num_placed(careful) >= KEPT_SHARE * _num_sure(found)
    better, worse = (careful, found) if is_better else (found, careful)
    if is_better and _num_placed(careful) < _num_placed(found) and _agree(better.components[0], worse.components[0]):
        # Caution has only lost images, which are in doubt, but better seen by points than not.
        lost = np.setdiff1d(found.components[0].image_indices, careful.components[0].image_indices)
        better, worse = replace(found, misplaced=np.union1d(found.misplaced, lost)), careful
    # What two ways of putting images together agree on counts as right, although neighbors have little in common.
    otherwise = placed_otherwise(better.components[0], worse.components[0])
    unconfirmed = np.setdiff1d(better.misplaced, worse.components[0].image_indices)
    yield with_lost(replace(better, misplaced=np.union1d(otherwise, unconfirmed)), worse)


def _completed(colmap: Colmap, loose: MatchedPairs, best: Optional[Model]) -> List[Model]:
    """What strict matches began, grown by loose ones, and models of what is left."""
    if best is None or len(best) < colmap.job.num_images:
        grown = colmap.map(loose, best)
        best = max([*grown, *([] if best is None else [best])], key=len, default=None)
    return _with_left(colmap, loose, best)


def by_neighbors(colmap: Colmap, loose: MatchedPairs) -> Tuple[List[Model], MatchedPairs]:
    """Models from pairs that look alike all over, and from lesser ones as long as no neighbors contradict them; the
    largest first.

    Matches of two images that came to stand side by side, but look alike only in part, are not used again.

    Args:
        colmap: puts images together.
        loose: all pairs that match.

    Returns:
        The models, and what is known of pairs by now.
    """
    best, accepted, loose = _grown_by_neighbors(colmap, loose)
    return _with_left(colmap, loose, best, accepted), loose


def _grown_by_neighbors(
    colmap: Colmap, loose: MatchedPairs
) -> Tuple[Optional[Model], Set[Tuple[int, int]], MatchedPairs]:
    """The largest model, the pairs that it was made from, and what is known of pairs by now."""
    overlaps, count = loose.overlaps, colmap.job.num_images
    left = {
        pair
        for pair, overlap in overlaps.items()
        if overlap.tilt > LOOKALIKE.tilt or overlap.covered >= LOOKALIKE.covered
    }
    best, accepted, so_far, steps = None, set(), 0, min(MOST_STEPS, max(1, MOST_IMAGES // count))
    for least in NEIGHBORLY:
        while steps > 0 and (best is None or len(best) < count):
            steps -= 1
            chosen = {pair for pair in left if _has(overlaps[pair], least)}
            grown = next(iter(colmap.map(loose, best, pairs=chosen)), None)
            if grown is None or (best is not None and len(grown) <= len(best)):
                break
            loose = with_neighbors(colmap, [grown], loose)
            overlaps = loose.overlaps
            contradicted = len(misplaced(grown.component, overlaps, loose.compared))
            added = len(grown) - (0 if best is None else len(best))
            if contradicted <= so_far + CLEAR_SHARE * added:
                best, accepted, so_far = grown, chosen, contradicted
                break
            wrong = grown.component.image_indices[contradictions(grown.component, overlaps, loose.compared)]
            wrong = set(map(tuple, np.sort(wrong, axis=1).tolist()))
            if not wrong & chosen:  # the same would come out, and lesser pairs only add to it
                return best, accepted, loose
            left = left - wrong
    return best, accepted, loose


def _has(overlap: Overlap, least: Overlap) -> bool:
    """Whether images have so much in common."""
    return overlap.covered >= least.covered and overlap.tilt <= least.tilt and overlap.count >= least.count


def _with_left(
    colmap: Colmap,
    matched: MatchedPairs,
    model: Optional[Model],
    pairs: Optional[AbstractSet[Tuple[int, int]]] = None,
) -> List[Model]:
    """A model, with what few points add to it, and models of the images that it does not have even so."""
    if model is None:
        return []
    if len(model) < colmap.job.num_images:
        model = max([model, *colmap.map(matched, model, FAINT, pairs=pairs)], key=len)
    left = sorted(set(range(colmap.job.num_images)) - set(model.component.image_indices.tolist()))
    return [model, *(colmap.map(matched, among=left, pairs=pairs) if len(left) >= FEWEST else [])]


def with_neighbors(colmap: Colmap, models: List[Model], matched: MatchedPairs) -> MatchedPairs:
    """The same, with those compared too that came to stand beside each other, and had not been likely to match."""
    if not models:
        return matched
    neighbors = nearest_neighbors(max(models, key=len).component)
    is_new = [pair not in matched.compared for pair in map(tuple, neighbors.tolist())]
    return colmap.match(neighbors[is_new], matched.criteria, beside=matched) if any(is_new) else matched


def judged(models: List[Model], matched: MatchedPairs) -> LocalMatches:
    """What was found, with those images named that their neighbors contradict.

    Args:
        models: in any order; an image may be in several.
        matched: how images match.
    """
    components = _components(models)
    if not components:
        return LocalMatches(components, matched.matches, np.zeros(0, dtype=np.int64))
    rows = misplaced(components[0], matched.overlaps, matched.compared)
    return LocalMatches(components, matched.matches, components[0].image_indices[rows])


def with_lost(better: LocalMatches, worse: LocalMatches) -> LocalMatches:
    """One way of putting images together, and where another one that agrees with it puts images that it has lost.

    Nothing of these but their poses is kept: as no points have placed them, they are in doubt.
    """
    one, other = better.components[0], worse.components[0]
    _, rows, others = np.intersect1d(one.image_indices, other.image_indices, return_indices=True)
    placed = np.concatenate([each.image_indices for each in better.components])
    lost = ~np.isin(other.image_indices, np.union1d(placed, worse.misplaced))
    if not lost.any() or not _agree(one, other):
        return better
    shared, target = (torch.from_numpy(poses) for poses in (other.camera_to_worlds[others], one.camera_to_worlds[rows]))
    moved = fit_similarity(shared, target).apply(torch.from_numpy(other.camera_to_worlds[lost])).numpy()
    of_lost = {"image_indices": other.image_indices[lost], "camera_to_worlds": moved}
    of_lost.update({name: getattr(other, name)[lost] for name in ("focal", "center", "distortion")})
    largest = replace(one, **{name: np.concatenate([getattr(one, name), new]) for name, new in of_lost.items()})
    return replace(better, components=[largest, *better.components[1:]])


def with_doubt(found: LocalMatches) -> LocalMatches:
    """The same, with images named too that few points have placed. Those of further components are left out: each of
    these is placed as one, and nothing would tell which of its images is wrong (of three that saw 14 points, one was
    turned by 37 degrees)."""
    if not found.components:
        return found
    largest, *others = found.components
    few = largest.image_indices[_num_points(largest) < FEW_POINTS]
    groups = [each.of(np.flatnonzero(_num_points(each) >= FEW_POINTS)) for each in others]
    components = [largest, *(each for each in groups if len(each) >= FEWEST)]
    return replace(found, components=components, misplaced=np.union1d(found.misplaced, few))


def _num_points(component: Component) -> Int[np.ndarray, "images"]:
    """How many points each image sees."""
    return np.bincount(component.seen_by, minlength=len(component))


def _components(models: List[Model]) -> List[Component]:
    """Largest first; an image that is in two of them belongs to the larger one."""
    taken: set[int] = set()
    components = []
    for component in sorted((model.component for model in models), key=len, reverse=True):
        new = np.array([row for row, index in enumerate(component.image_indices) if int(index) not in taken], dtype=int)
        if len(new) >= FEWEST:
            components.append(component.of(new))
            taken.update(components[-1].image_indices.tolist())
    return components


def _agree(one: Component, other: Component) -> bool:
    """Whether two ways of putting images together have much in common, and put nearly all of it in the same places."""
    count = len(np.intersect1d(one.image_indices, other.image_indices))
    has_much = count >= max(FEWEST, MIN_COMMON_SHARE * min(len(one), len(other)))
    return has_much and len(placed_otherwise(one, other)) <= CLEAR_SHARE * count


def _is_clear(found: LocalMatches) -> bool:
    return not found.components or len(found.misplaced) <= CLEAR_SHARE * len(found.components[0])


def _score(found: LocalMatches) -> float:
    return _num_placed(found) - MISPLACED_COST * len(found.misplaced)


def _num_placed(found: LocalMatches) -> int:
    return len(found.components[0]) if found.components else 0


def _num_sure(found: LocalMatches) -> int:
    return _num_placed(found) - len(found.misplaced)


if __name__ == "__main__":
    at = Path(sys.argv[1])
    for matches in reconstruct(Colmap(Job.read(at), at)):
        with_doubt(matches).save(at / RESULT)
