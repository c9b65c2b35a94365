"""Where poses are replaced and not moved by gradients: looked up, tried elsewhere, left out of training, misfits.

A field learns to show an image from wherever it is believed to have been taken, and then shows it best from there.
With few images, each being a large part of what the field knows, a wrong pose confirms itself. So images take turns in
being left out of training for a while, and are looked up in what the others have made of the field.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Optional, Tuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from gnerf_ns.cameras.look_at import poses_between
from gnerf_ns.data.image_set import ImageSet
from gnerf_ns.pose_search.hypotheses import Hypotheses, learned_as
from gnerf_ns.pose_search.pixel_sampling import PixelChoice
from gnerf_ns.pose_search.pose_search import PoseRegressor, PoseSearch
from gnerf_ns.pose_search.refinement import RefinementConfig, refine_poses
from gnerf_ns.pose_search.rigid_groups import place_group
from gnerf_ns.training.beginning import KnownPoses
from gnerf_ns.training.objective import TrainingScene
from gnerf_ns.training.placement import PoseOrigin, are_sure
from gnerf_ns.training.pose_trials import PoseTrials, PoseTrialsConfig
from gnerf_ns.training.relative_poses import FIRST_GROUP, NO_PART, RelativePoses
from gnerf_ns.training.schedule import StepPlan

SHARE_OF_BANK = 0.3
"""Those left out are looked up in such a share of a bank's poses: it is their turn fifteen times, with others each
time."""
NUM_PLACES = 24
"""Poses that an image without one is tried at,"""
SHARES_BETWEEN = (0.0, 0.25, 0.5, 0.75, 1.0)
"""and others at such shares of the way from the image before to the one after."""


class LeaveOut(nn.Module):
    """Which images are excluded from training, and what becomes of their poses.

    Attributes:
        left_out: one bool per image.
        origins: where each image's pose is from, a `PoseOrigin`.
        eval_origins: the same of held-out images, which are never trained on.
        relative_poses: which images are looked up together.
        unplaced: images that wait until they are looked up for the first time, one bool per image.
        are_all_placed: whether there are no such images.
        cost_in_vain: what each image cost, in units of the median, when it was last looked up without being found
            elsewhere; 0 where it never was.
        poses_then: camera_to_worlds [n, 3, 4] of when the present round began; an optimizer's momentum moves poses of
            those left out, too.
    """

    left_out: Tensor
    origins: Tensor
    eval_origins: Tensor
    unplaced: Tensor
    cost_in_vain: Tensor
    poses_then: Tensor

    def __init__(self, scene: TrainingScene, search: PoseSearch, num_held_out: int) -> None:
        """Starts with no image left out.

        Args:
            scene: whose images and cameras.
            search: by which they are looked up.
            num_held_out: how many further images there are that are never trained on.
        """
        super().__init__()
        self._scene, self._search = scene, search
        self.relative_poses = RelativePoses(len(scene.image_set), num_held_out)
        self.register_buffer("left_out", torch.zeros(len(scene.image_set), dtype=torch.bool))
        self.register_buffer("origins", torch.full((len(scene.image_set),), PoseOrigin.APPEARANCE, dtype=torch.long))
        self.register_buffer("eval_origins", torch.full((num_held_out,), PoseOrigin.LOOKED_UP))
        self.register_buffer("unplaced", torch.zeros(len(scene.image_set), dtype=torch.bool))
        self.register_buffer("cost_in_vain", torch.zeros(len(scene.image_set)))
        self.are_all_placed = True
        self.register_load_state_dict_post_hook(lambda module, keys: self._count_placed())
        self.register_buffer("poses_then", scene.cameras().detach().clone())

    @property
    def training_indices(self) -> Int[Tensor, "kept"]:
        """Images to train on."""
        return (~(self.left_out | self.unplaced)).nonzero()[:, 0]

    @property
    def movable(self) -> Int[Tensor, "movable"]:
        """Images that may fit better elsewhere; not those that matches placed or confirmed, alone or relative to others
        that found their place. Those that still wait for a pose fit nowhere."""
        are_fixed = are_sure(self.origins) | (self.origins == PoseOrigin.GROUP) | self._scene.cameras.held
        are_fixed |= self.unplaced
        return (~are_fixed).nonzero()[:, 0]

    @property
    def matched(self) -> Int[Tensor, "matched"]:
        """Images that matches placed, alone or relative to others, so that colors have to be glaring to move them."""
        are_matched = (self.origins == PoseOrigin.MATCHES) | (self.origins == PoseOrigin.GROUP)
        return (are_matched & ~self._scene.cameras.held).nonzero()[:, 0]

    def eval_guess(self) -> Float[Tensor, "m 3 4"]:
        """`RelativePoses.eval_guess` at the present poses."""
        return self.relative_poses.eval_guess(self._scene.cameras().detach(), ~self.unplaced)

    def begin_with(self, known: KnownPoses) -> None:
        """Leave all other images out of training until they are looked up in what these make of the field."""
        device = self.origins.device
        self.origins[known.train_indices.to(device)] = known.train_origins.to(device)
        self.eval_origins[known.eval_indices.to(device)] = known.eval_origins.to(device)
        self.relative_poses.begin_with(known)
        self.unplaced.copy_(self.origins == PoseOrigin.APPEARANCE)
        self._count_placed()

    def _count_placed(self) -> None:
        """Not read from the buffer in every step, which would stall a GPU."""
        self.are_all_placed = not bool(self.unplaced.any())

    @torch.no_grad()
    def place_alone(self) -> Int[Tensor, "alone"]:
        """Look up those that have no pose yet and are of no group, in what the others have made of the field.

        Returns:
            Which.
        """
        cameras, search, image_set = self._scene.cameras, self._search, self._scene.image_set
        alone = (self.unplaced & (self.relative_poses.parts < FIRST_GROUP)).nonzero()[:, 0]
        if len(alone) > 0:
            hypotheses, _ = search.top_poses(image_set, min(NUM_PLACES, search.config.bank_size), alone)
            hypotheses = torch.cat([hypotheses, self._between_neighbors(alone)], dim=1)
            cameras.assign(alone, search.improve(image_set, alone, hypotheses)[:, 0])
            self.origins[alone] = PoseOrigin.LOOKED_UP
            self.unplaced[alone] = False
            self._count_placed()
        return alone

    @torch.no_grad()
    def place_groups(self) -> bool:
        """Look up groups that have no pose yet, each as one; returns whether there was any."""
        parts = torch.where(self.unplaced, self.relative_poses.parts, NO_PART)
        groups = parts[parts >= FIRST_GROUP].unique().tolist()
        for part in groups:
            group = (parts == part).nonzero()[:, 0]
            placed = place_group(self._search, self._scene.image_set, group, self.relative_poses.poses[group])
            self._scene.cameras.assign(group, placed.camera_to_worlds)
            origin = PoseOrigin.GROUP if placed.is_clear else PoseOrigin.DOUBTFUL_GROUP
            self.origins[group] = origin
            self.eval_origins[self.relative_poses.eval_parts == part] = origin
            self.unplaced[group] = False
        self._count_placed()
        return len(groups) > 0

    def _between_neighbors(self, indices: Int[Tensor, "k"]) -> Float[Tensor, "k count 3 4"]:
        """Poses on the way from the image before to the one after, of those that have one: photos have an order, too.

        Args:
            indices: images without a pose.
        """
        placed = (~self.unplaced).nonzero()[:, 0]
        after = torch.searchsorted(placed, indices)
        before, after = placed[(after - 1).clamp_min(0)], placed[after.clamp_max(len(placed) - 1)]
        poses, codec = self._scene.cameras().detach(), self._scene.cameras.codec
        between = [poses_between(poses[before], poses[after], share) for share in SHARES_BETWEEN]
        # Between two level cameras, the shortest turn is not level.
        return codec.decode(codec.encode(torch.stack(between, dim=1)))

    @torch.no_grad()
    def look_up(self) -> None:
        """Move those left out to wherever they fit better than where they were."""
        cameras, chosen = self._scene.cameras, self.left_out.nonzero()[:, 0]
        if len(chosen) > 0:
            cameras.assign(chosen, self.poses_then[chosen])
            search = self._search.with_bank(SHARE_OF_BANK)
            better, found = search.fitting_better(self._scene.image_set, chosen, cameras(chosen))
            cameras.assign(chosen[better], found)

    @torch.no_grad()
    def take_turns(self, leave_out_round: Optional[int]) -> None:
        """Leave out others: random halves and the other halves in turn.

        None is left out in the first round, 0, so that the field learns the present poses.

        Args:
            leave_out_round: which it is, from 0; None when it is over.
        """
        self.poses_then.copy_(self._scene.cameras())
        if not leave_out_round:
            self.left_out.zero_()
        elif leave_out_round % 2 == 1:
            count = len(self.left_out)
            self.left_out.zero_()[torch.randperm(count, device=self.left_out.device)[: count // 2]] = True
        else:
            self.left_out.logical_not_()


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


class PoseUpdates:
    """Looks up all images at the end of phase A, tries few elsewhere, and looks up those left out and misfits in B.

    Attributes:
        explained_variance: `ImageCosts.explained_variance` of all poses, right after they were looked up; None before.
    """

    def __init__(
        self,
        scene: TrainingScene,
        search: PoseSearch,
        leave_out: LeaveOut,
        misfits: Misfits,
        trials: PoseTrialsConfig,
        regress: Optional[PoseRegressor],
    ) -> None:
        """
        Args:
            scene: its poses are replaced.
            search: finds poses.
            leave_out: which images are left out of training.
            misfits: finds images that fit better elsewhere.
            trials: how few images are tried at other poses.
            regress: the inversion network, which is asked first where there is one.
        """
        self._scene, self._search, self._leave_out, self._misfits = scene, search, leave_out, misfits
        self._trials = PoseTrials(trials, scene, search)
        self._regress = regress
        self.explained_variance: Optional[float] = None

    def apply(self, plan: StepPlan) -> bool:
        """Replace whatever is due before a step; processes that train together share the work.

        Returns:
            Whether the field was replaced, too: optimizers have to be reset then.
        """
        with self._search.ranks.working_together():
            replaced = self._apply(plan)
        if plan.replaces_poses:
            self._search.ranks.make_equal(self._scene.cameras, self._leave_out)
        if replaced:
            self._search.ranks.make_equal(self._scene.model)
        return replaced

    def _apply(self, plan: StepPlan) -> bool:
        scene, leave_out = self._scene, self._leave_out
        if plan.searches_all_poses:
            self._look_all_up()
            self.explained_variance = self._search.costs.explained_variance(
                scene.image_set, scene.cameras(), self._search.config.image_side
            )
        replaced = plan.pose_trial_rounds > 0 and self._trials.run(plan.pose_trial_rounds)
        if plan.ends_leave_out_round:
            leave_out.look_up()
            leave_out.take_turns(plan.leave_out_round)
        if plan.searches_misfit_poses:
            self._search_some(plan)
        return replaced

    def _search_some(self, plan: StepPlan) -> None:
        """Poses of images that have none yet, or else of misfits."""
        scene, leave_out = self._scene, self._leave_out
        alone = leave_out.place_alone()
        if len(alone) > 0:
            # Those of matches are exact by now, and poses move slowly from here on.
            poses = scene.cameras(alone).detach()
            scene.cameras.assign(alone, self._misfits.refined(scene.image_set, alone, poses))
        has_placed_groups = plan.places_groups and leave_out.place_groups()
        if len(alone) == 0 and not has_placed_groups:
            moved, poses = self._misfits.better_poses(
                scene,
                plan.image_side,
                leave_out.movable,
                ~leave_out.unplaced,
                leave_out.cost_in_vain,
                leave_out.matched,
            )
            scene.cameras.assign(moved, poses)
            leave_out.origins[moved] = PoseOrigin.LOOKED_UP

    def _look_all_up(self) -> None:
        self._leave_out.cost_in_vain.zero_()
        image_set, cameras = self._scene.image_set, self._scene.cameras
        everyone = torch.arange(len(image_set), device=self._scene.model.device)
        if self._regress is None:
            cameras.assign(everyone, self._search.top_poses(image_set, 1)[0][:, 0])
        else:
            # The inversion network comes first, and no more: it may have learned little by now.
            cameras.assign(everyone, self._regress(image_set))
            better, found = self._search.fitting_better(image_set, everyone, cameras().detach())
            cameras.assign(everyone[better], found)
