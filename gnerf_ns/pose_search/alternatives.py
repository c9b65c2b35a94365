"""The best pose of an image that is quite another one than the one it has: half a turn away, or on the far side."""

from __future__ import annotations

from dataclasses import replace
from typing import Tuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gnerf_ns.data.image_set import ImageSet
from gnerf_ns.pose_search.doubt import are_elsewhere
from gnerf_ns.pose_search.pose_search import PoseSearch

BANK_SIZE, NUM_CANDIDATES = 400, 40
"""Poses that images are compared with, and the best of them of each image, among which alternatives are looked for: a
quarter of these are near its own."""
CLEAR_RATIO = 5.0
"""Where a bank's best other pose leaves so many times as much of an image unexplained, a better one nearby is no
alternative either: improving them gains a factor of 2."""
NUM_CHANGES = 4
"""Random changes of an alternative that are tried in each round,"""
ROUNDS: Tuple[float, ...] = (0.06, 0.03)
"""which have these standard deviations, in radians and camera distances."""


@torch.no_grad()
def find_alternatives(
    search: PoseSearch, image_set: ImageSet, camera_to_worlds: Float[Tensor, "n 3 4"]
) -> Tuple[Float[Tensor, "n 3 4"], Bool[Tensor, "n"]]:
    """The best other pose of each image that a search of the trained field meets, and whether there is one that is not
    far worse.

    Args:
        search: in the trained field.
        image_set: the images.
        camera_to_worlds: their poses.
    """
    config = replace(search.config, bank_size=min(BANK_SIZE, search.config.bank_size))
    small = PoseSearch(config, search.model, search.proposals, search.codec)
    candidates, costs = small.top_poses(image_set, min(NUM_CANDIDATES, config.bank_size))
    is_other = are_elsewhere(candidates, camera_to_worlds[:, None].expand_as(candidates))
    lowest, best = torch.where(is_other, costs, torch.inf).min(dim=1)
    everyone = torch.arange(len(camera_to_worlds), device=camera_to_worlds.device)
    here = search.costs.at(image_set, everyone, camera_to_worlds, config.image_side)
    found, exists = candidates[everyone, best], lowest < CLEAR_RATIO * here
    rivals = exists.nonzero()[:, 0]
    found[rivals] = _improved(search, image_set, rivals, found[rivals], camera_to_worlds[rivals])
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
    rows, side = torch.arange(len(indices), device=indices.device), search.config.image_side
    for std in ROUNDS:
        around = alternatives[:, None].expand(-1, NUM_CHANGES, -1, -1)
        tried = torch.cat([alternatives[:, None], search.codec.perturb(around, std)], dim=1)
        costs = search.costs.at(image_set, indices.repeat_interleave(tried.shape[1]), tried.flatten(0, 1), side)
        are_others = are_elsewhere(tried, camera_to_worlds[:, None].expand_as(tried))
        costs = torch.where(are_others, costs.view(len(indices), -1), torch.inf)
        alternatives = tried[rows, costs.argmin(dim=1)]
    return alternatives
