"""Where a group of images stands whose cameras are known relative to each other: all of them are placed as one.

Single images looked up in a young field are mostly wrong, and then wrong in all directions; those that are right agree.
Two of them fix the similarity by which the whole group moves, and the group as a whole says whether that is right.
"""

from __future__ import annotations

import itertools
import math
from typing import List, Optional, Tuple, cast

import roma
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gnerf_ns.cameras.alignment import Similarity, fit_similarity
from gnerf_ns.data.image_set import ImageSet
from gnerf_ns.pose_search.costs import ImageCosts

AGREEING_DEG = 20.0
"""Images agree on how the group is turned to within this angle, in degrees."""
AGREEING_SHARE = 0.25
"""Images agree on where they stand to within this share of how far the group reaches."""
MAX_PROPOSING = 24
"""Images of which pairs propose similarities; of more, a part spread over all."""
MAX_TRIED = 12
"""Similarities with which most images agree, that are compared with the images."""


def place_group(
    costs: ImageCosts,
    image_set: ImageSet,
    indices: Int[Tensor, "k"],
    relative: Float[Tensor, "k 3 4"],
    candidates: Float[Tensor, "k count 3 4"],
    image_side: int,
) -> Optional[Float[Tensor, "k 3 4"]]:
    """Poses of all images of a group, moved as one to where the field shows them best.

    Args:
        costs: how well the field explains images.
        image_set: all images.
        indices: those of the group.
        relative: their poses, in a frame and unit of the group's own.
        candidates: where each may have been taken, looked up by itself.
        image_side: longer side of the renderings that are compared, in pixels.

    Returns:
        None where no two images agree.
    """
    best, lowest = None, float("inf")
    contrast = costs.contrast(image_set, image_side)[indices]
    for similarity in _proposals(relative, candidates):
        poses = similarity.apply(relative.double()).to(candidates)
        cost = float((costs.at(image_set, indices, poses, image_side) / contrast).mean())
        if cost < lowest:
            best, lowest = poses, cost
    return best


def _proposals(relative: Float[Tensor, "k 3 4"], candidates: Float[Tensor, "k count 3 4"]) -> List[Similarity]:
    """Similarities that two images agree on, those first that most others agree on, too."""
    found: List[Tuple[int, Similarity]] = []
    relative, candidates = relative.double().cpu(), candidates.double().cpu()
    turns = candidates[..., :3] @ relative[:, None, :, :3].mT
    each = range(candidates.shape[1])
    proposing = range(0, len(relative), math.ceil(len(relative) / MAX_PROPOSING))
    for (i, j), a, b in itertools.product(itertools.combinations(proposing, 2), each, each):
        angle = torch.rad2deg(roma.rotmat_geodesic_distance(turns[i, a], turns[j, b]))
        apart = torch.linalg.vector_norm(relative[i, :, 3] - relative[j, :, 3])
        if float(angle) > AGREEING_DEG or float(apart) < 1e-9:
            continue
        pair = torch.stack([candidates[i, a], candidates[j, b]])
        scale = float(torch.linalg.vector_norm(pair[0, :, 3] - pair[1, :, 3]) / apart)
        if scale <= 0.0:
            continue
        rotation = cast(Tensor, roma.special_procrustes(turns[i, a] + turns[j, b]))
        middle = relative[[i, j], :, 3].mean(dim=0)
        similarity = Similarity(rotation, scale, pair[..., 3].mean(dim=0) - scale * (rotation @ middle))
        agreeing, nearest = _agreeing(similarity, relative, candidates)
        if int(agreeing.sum()) > 2:
            similarity = fit_similarity(relative[agreeing], nearest[agreeing])
        found.append((int(agreeing.sum()), similarity))
    found.sort(key=lambda each: -each[0])
    return [similarity for _, similarity in found[:MAX_TRIED]]


def _agreeing(
    similarity: Similarity, relative: Float[Tensor, "k 3 4"], candidates: Float[Tensor, "k count 3 4"]
) -> Tuple[Tensor, Float[Tensor, "k 3 4"]]:
    """Which images have a candidate near where a similarity puts them, and the nearest one of each."""
    moved = similarity.apply(relative)
    angles = torch.rad2deg(roma.rotmat_geodesic_distance(candidates[..., :3], moved[:, None, :, :3]))
    reach = torch.linalg.vector_norm(moved[..., 3] - moved[..., 3].mean(dim=0), dim=-1).max().clamp_min(1e-9)
    distances = torch.linalg.vector_norm(candidates[..., 3] - moved[:, None, :, 3], dim=-1) / reach
    misses = torch.maximum(angles / AGREEING_DEG, distances / AGREEING_SHARE)
    least, which = misses.min(dim=1)
    return least < 1.0, candidates[torch.arange(len(candidates)), which]
