"""Images that fit clearly better somewhere else than where they are believed to have been taken."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Optional, Tuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gnerf_ns.data.image_set import ImageSet
from gnerf_ns.pose_search.hypotheses import Hypotheses, learned_as
from gnerf_ns.pose_search.pixel_sampling import PixelChoice
from gnerf_ns.pose_search.pose_search import PoseSearch
from gnerf_ns.pose_search.refinement import RefinementConfig, refine_poses
from gnerf_ns.training.objective import TrainingScene


@dataclass
class MisfitsConfig:
    """Which images fit so badly that their poses are searched again, and how."""

    max_share: float = 0.2
    """Largest share of the images, those that fit worst, whose poses are searched again."""
    min_count: int = 8
    """So many of them may be, however few images there are,"""
    max_count: int = 100
    """and no more than so many, however many: the worst are among them, and are found by the next search."""
    cost_ratio: float = 1.5
    """An image is a misfit if its cost, relative to its own contrast, is more than this many times the median's."""
    outlier_cost_ratio: float = 3.0
    """The worst misfit is an outlier if its relative cost is more than this many times the median's."""
    num_outlier_hypotheses: int = 80
    """An outlier has this many hypotheses: it may show little that tells poses apart."""
    num_outlier_finalists: int = 8
    """So many of the bank's best, and those that improvement leaves, are refined before one is chosen."""
    outlier_refinement: RefinementConfig = field(
        default_factory=lambda: RefinementConfig(
            steps=60, rays_per_hypothesis=80, learning_rate=1e-2, final_learning_rate=2e-3, last_image_side=48
        )
    )
    """Refinement of an outlier's finalists by gradient descent, all together."""
    max_sharp: int = 400
    """Of so many images misfits are told by renderings as large as below; of more, by smaller ones."""
    max_confirmation_side: int = 48
    """Longer side of the renderings by which misfits are told, and the best hypothesis is compared with the present
    pose: that of the images as they are trained on by then, but at most this many pixels."""
    required_cost_ratio: float = 0.85
    """An image moves only if the best hypothesis lowers its cost to this share."""
    matched_cost_ratio: float = 8.0
    """In place of `cost_ratio`, of an image that matches placed: these know better than colors, unless colors are
    glaring. Of 125 images of Lego, one that was put 63 degrees off had 22 times the median's cost,"""
    matched_required_cost_ratio: float = 0.3
    """and in place of `required_cost_ratio`."""


class Misfits:
    """Finds images that fit clearly better somewhere else."""

    def __init__(self, config: MisfitsConfig, search: PoseSearch) -> None:
        self.config = config
        self._search = search

    @torch.no_grad()
    def better_poses(
        self,
        scene: TrainingScene,
        image_side: int,
        among: Optional[Int[Tensor, "m"]] = None,
        placed: Optional[Bool[Tensor, "n"]] = None,
        cost_in_vain: Optional[Float[Tensor, "n"]] = None,
        matched: Optional[Int[Tensor, "k"]] = None,
    ) -> Tuple[Int[Tensor, "moved"], Float[Tensor, "moved 3 4"]]:
        """Images that fit clearly better somewhere else, and their poses there.

        Args:
            scene: images, and their present poses.
            image_side: longer side, in pixels, up to which the field has detail.
            among: images that may be moved; None for all. Others count for what is usual,
            placed: if they have a pose; None for all.
            cost_in_vain: as `LeaveOut` has it, and brought up to date; None looks all up. Others becoming sharper is
                what tells that an image is wrong: one that costs no more than when it was looked up has no new reason.
            matched: further images that may be moved, which matches placed; None for none.
        """
        config, search, image_set, current = self.config, self._search, scene.image_set, scene.cameras()
        side = max(search.config.image_side, min(image_side, config.max_confirmation_side))
        # Of more images, all together are looked at in as many pixels.
        first_look = round(side * min(1.0, math.sqrt(config.max_sharp / len(image_set))))
        first_look = max(search.config.image_side, first_look)
        cost = search.costs.relative(image_set, current, first_look)
        relative = cost / (cost if placed is None else cost[placed]).median()
        required, waits = torch.full_like(cost, config.required_cost_ratio), torch.zeros_like(cost, dtype=torch.bool)
        if among is not None:
            waits = torch.ones_like(waits).index_fill(0, among, False)
        if matched is not None:
            required[matched] = config.matched_required_cost_ratio
            waits[matched] = relative[matched] <= config.matched_cost_ratio
        if cost_in_vain is not None:
            waits |= relative <= cost_in_vain
        limit = min(config.max_count, max(config.min_count, math.ceil(config.max_share * len(image_set))))
        candidates = torch.where(waits, -torch.inf, relative)
        worst = candidates.topk(min(limit, len(image_set))).indices
        misfits = worst[candidates[worst] > config.cost_ratio]
        if len(misfits) == 0:
            return misfits, current[misfits]
        count = min(config.num_outlier_hypotheses, search.config.bank_size)
        hypotheses, _ = search.top_poses(image_set, count, misfits)
        poses = search.improve(image_set, misfits, hypotheses[:, : search.config.num_hypotheses])[:, 0]
        if search.codec.mode == "free":
            # Local search does not get as near in six dimensions as in two.
            poses = self.refined(image_set, misfits, poses)
        if relative[misfits[0]] > config.outlier_cost_ratio:
            poses[0] = self._best_refined(scene, misfits[:1], hypotheses[:1], side)
        if first_look < side:
            cost_here = search.costs.at(image_set, misfits, current[misfits], side)
        else:
            cost_here = cost[misfits] * search.costs.contrast(image_set, side)[misfits]
        moved = search.costs.at(image_set, misfits, poses, side) < required[misfits] * cost_here
        if cost_in_vain is not None:
            cost_in_vain[misfits] = torch.where(moved, 0.0, relative[misfits])
        return misfits[moved], poses[moved]

    def _best_refined(
        self, scene: TrainingScene, outlier: Int[Tensor, "1"], hypotheses: Float[Tensor, "1 count 3 4"], side: int
    ) -> Float[Tensor, "3 4"]:
        """Where gradient descent gets to from the best of what the bank and local search offer."""
        search, image_set = self._search, scene.image_set
        improved = search.improve(image_set, outlier, hypotheses)
        finalists = torch.cat([improved[0], hypotheses[0, : self.config.num_outlier_finalists]])
        each = outlier.expand(len(finalists))
        poses = self.refined(image_set, each, finalists)
        return poses[search.costs.at(image_set, each, poses, side).argmin()]

    def refined(
        self, image_set: ImageSet, indices: Int[Tensor, "n"], camera_to_worlds: Float[Tensor, "n 3 4"]
    ) -> Float[Tensor, "n 3 4"]:
        """Where gradient descent brings poses of some images, the field being frozen."""
        different, rows = indices.unique(return_inverse=True)
        image_set = image_set[different]
        pixels = PixelChoice(image_set, "random", self._search.renderer.background)

        def of_some(some: slice) -> Float[Tensor, "some 3 4"]:
            refined = Hypotheses(image_set, rows[some], camera_to_worlds[some], learned_as(self._search.codec))
            refine_poses(self.config.outlier_refinement, self._search.renderer, pixels, refined)
            return refined.poses().detach()

        return self._search.ranks.rows(len(indices), of_some)
