"""The best pose of an image that is quite another one than the one it has: half a turn away, or on the far side."""

from __future__ import annotations

from typing import Tuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gnerf_ns.data.image_set import ImageSet
from gnerf_ns.pose_search.doubt import are_elsewhere
from gnerf_ns.pose_search.pose_search import PoseSearch

NUM_CANDIDATES = 60
"""The bank's best poses of an image, among which alternatives are looked for: of a bank of a thousand, where a fifth of
these are near its own."""
NUM_CHANGES = 4
"""Random changes of an alternative that are tried in each round,"""
ROUNDS: Tuple[Tuple[float, int], ...] = ((0.06, 16), (0.04, 16), (0.02, 24))
"""which are these: the standard deviation of changes, in radians and camera distances, and the longer side of the
renderings, in pixels."""
MAX_IMPROVED = 200
"""Alternatives are improved of so many images, those where they fit best; of others, they are far off."""


@torch.no_grad()
def find_alternatives(
    search: PoseSearch, image_set: ImageSet, camera_to_worlds: Float[Tensor, "n 3 4"]
) -> Tuple[Float[Tensor, "n 3 4"], Bool[Tensor, "n"]]:
    """The best other pose of each image that a search of the trained field meets, and whether there is one.

    Args:
        search: in the trained field.
        image_set: the images.
        camera_to_worlds: their poses.
    """
    count = min(NUM_CANDIDATES, search.config.bank_size)
    candidates, costs = search.top_poses(image_set, count)
    costs = torch.where(are_elsewhere(candidates, camera_to_worlds[:, None].expand_as(candidates)), costs, torch.inf)
    lowest, best = costs.min(dim=1)
    everyone = torch.arange(len(camera_to_worlds), device=camera_to_worlds.device)
    found, exists = candidates[everyone, best], lowest.isfinite()
    here = search.costs.at(image_set, everyone, camera_to_worlds, search.config.image_side)
    ratios = torch.where(exists, lowest / here.clamp_min(1e-12), torch.inf)
    near = ratios.topk(min(MAX_IMPROVED, len(ratios)), largest=False).indices
    near = near[exists[near]]
    found[near] = _improved(search, image_set, near, found[near], camera_to_worlds[near])
    return found, exists


def _improved(
    search: PoseSearch,
    image_set: ImageSet,
    indices: Int[Tensor, "k"],
    alternatives: Float[Tensor, "k 3 4"],
    camera_to_worlds: Float[Tensor, "k 3 4"],
) -> Float[Tensor, "k 3 4"]:
    """By random local search, not into the neighborhood of the poses that images have."""
    if len(indices) == 0:
        return alternatives
    rows = torch.arange(len(indices), device=indices.device)
    for std, side in ROUNDS:
        around = alternatives[:, None].expand(-1, NUM_CHANGES, -1, -1)
        tried = torch.cat([alternatives[:, None], search.codec.perturb(around, std)], dim=1)
        costs = search.costs.at(image_set, indices.repeat_interleave(tried.shape[1]), tried.flatten(0, 1), side)
        costs = torch.where(
            are_elsewhere(tried, camera_to_worlds[:, None].expand_as(tried)), costs.view(len(indices), -1), torch.inf
        )
        alternatives = tried[rows, costs.argmin(dim=1)]
    return alternatives
