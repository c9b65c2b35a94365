"""Where poses are replaced and not moved by gradients: looked up for the first time, or once more, and misfits."""

from __future__ import annotations

from typing import Optional

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gnerf_ns.cameras.look_at import poses_between
from gnerf_ns.pose_search.pose_search import PoseRegressor, PoseSearch
from gnerf_ns.pose_search.rigid_groups import place_group
from gnerf_ns.training.beginning import KnownPoses
from gnerf_ns.training.left_out_in_turn import LeftOutInTurn, LeftOutInTurnConfig
from gnerf_ns.training.misfits import Misfits, MisfitsConfig
from gnerf_ns.training.objective import TrainingScene
from gnerf_ns.training.placement import PoseOrigin, are_sure
from gnerf_ns.training.relative_poses import FIRST_GROUP, NO_PART, RelativePoses
from gnerf_ns.training.schedule import StepPlan

NUM_PLACES = 24
"""Poses that an image without one is tried at,"""
SHARES_BETWEEN = (0.0, 0.25, 0.5, 0.75, 1.0)
"""and others at such shares of the way from the image before to the one after."""


class LeaveOut(nn.Module):
    """Images without a pose, which are excluded from training until they are looked up, and where poses are from.

    Attributes:
        origins: where each image's pose is from, a `PoseOrigin`.
        eval_origins: the same of held-out images, which are never trained on.
        relative_poses: which images are looked up together.
        unplaced: images that wait until they are looked up for the first time, one bool per image.
        are_all_placed: whether there are no such images.
        cost_in_vain: what each image cost, in units of the median, when it was last looked up without being found
            elsewhere; 0 where it never was.
    """

    origins: Tensor
    eval_origins: Tensor
    unplaced: Tensor
    cost_in_vain: Tensor

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
        self.register_buffer("origins", torch.full((len(scene.image_set),), PoseOrigin.APPEARANCE, dtype=torch.long))
        self.register_buffer("eval_origins", torch.full((num_held_out,), PoseOrigin.LOOKED_UP))
        self.register_buffer("unplaced", torch.zeros(len(scene.image_set), dtype=torch.bool))
        self.register_buffer("cost_in_vain", torch.zeros(len(scene.image_set)))
        self.are_all_placed = True
        self.register_load_state_dict_post_hook(lambda module, keys: self._count_placed())

    @property
    def training_indices(self) -> Int[Tensor, "kept"]:
        """Images to train on."""
        return (~self.unplaced).nonzero()[:, 0]

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


class PoseUpdates:
    """Looks up all images at the end of phase A, few once more in fields that have not seen them, and misfits in B.

    Attributes:
        explained_variance: `ImageCosts.explained_variance` of all poses, right after they were looked up; None before.
    """

    def __init__(
        self,
        scene: TrainingScene,
        search: PoseSearch,
        leave_out: LeaveOut,
        misfits: MisfitsConfig,
        left_out_in_turn: LeftOutInTurnConfig,
        regress: Optional[PoseRegressor],
    ) -> None:
        """
        Args:
            scene: its poses are replaced.
            search: finds poses.
            leave_out: which images have no pose yet.
            misfits: which images are looked up in phase B.
            left_out_in_turn: how few images are looked up once more.
            regress: the inversion network, which is asked first where there is one.
        """
        self._scene, self._search, self._leave_out = scene, search, leave_out
        self._misfits = Misfits(misfits, search)
        self._left_out_in_turn = LeftOutInTurn(left_out_in_turn, scene, search, misfits)
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
        scene = self._scene
        if plan.searches_all_poses:
            self._look_all_up()
            self.explained_variance = self._search.costs.explained_variance(
                scene.image_set, scene.cameras(), self._search.config.image_side
            )
        replaced = plan.leave_out_rounds > 0 and self._left_out_in_turn.run(plan.leave_out_rounds)
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
