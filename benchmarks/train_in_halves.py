"""`ns-train` for images of which the first half is never matched with the second: two components, as people get them
who take photos of two sides of a thing that has little texture between.

    python benchmarks/train_in_halves.py gnerf-ns --data FOX
"""

from __future__ import annotations

from dataclasses import replace
from typing import List, Optional

import numpy as np
from nerfstudio.scripts.train import entrypoint

from gnerf_ns.matching.local_matches import LocalMatches, PairMatches
from gnerf_ns.matching.matcher import MatchedImages, match_images
from gnerf_ns.training import placement


def match_halves(images: MatchedImages, seed: int = 0) -> Optional[LocalMatches]:
    """As `match_images`, with matches inside of halves alone, by the order of names."""
    order = np.argsort([str(file) for file in images.files])
    found: List[LocalMatches] = []
    for half in np.array_split(order, 2):
        half = np.sort(half)
        matches = match_images(
            replace(
                images,
                files=[images.files[index] for index in half],
                masks=None if images.masks is None else [images.masks[index] for index in half],
                lenses=[images.lenses[index] for index in half],
            ),
            seed,
        )
        if matches is not None:
            found.append(of_all_images(matches, half))
    return joined(found) if found else None


def of_all_images(matches: LocalMatches, indices: np.ndarray) -> LocalMatches:
    """Matches of some images, with their indices among all."""
    return LocalMatches(
        [replace(each, image_indices=indices[each.image_indices]) for each in matches.components],
        replace(matches.matches, pairs=indices[matches.matches.pairs]),
        indices[matches.misplaced],
    )


def joined(found: List[LocalMatches]) -> LocalMatches:
    """All components, the largest first, and all pairs."""
    components = sorted((each for matches in found for each in matches.components), key=len, reverse=True)
    offsets = np.cumsum([0, *(len(matches.matches.points) for matches in found[:-1])])
    pairs = PairMatches(
        np.concatenate([matches.matches.pairs for matches in found]),
        np.concatenate([matches.matches.ends + offset for matches, offset in zip(found, offsets, strict=True)]),
        np.concatenate([matches.matches.points for matches in found]),
    )
    misplaced = np.concatenate([matches.misplaced for matches in found])
    return LocalMatches(components, pairs, misplaced[np.isin(misplaced, components[0].image_indices)])


if __name__ == "__main__":
    placement.match_images = match_halves
    entrypoint()
