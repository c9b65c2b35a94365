"""Poses that are replaced wholesale, where the schedule says so; between those steps they follow gradients.

Among them those of images that were left out of training: a field learns to show an image from wherever it is believed
to have been taken, and then shows it best from there. With few images, each being a large part of what the field knows,
a wrong pose confirms itself. So images take turns in being left out of training for a while, and are looked up in what
the others have made of the field.
"""

from __future__ import annotations

from typing import Optional

import torch
from jaxtyping import Int
from torch import Tensor, nn

from gnerf_ns.cameras.learned_cameras import PoseTable
from gnerf_ns.data.image_set import ImageSet
from gnerf_ns.pose_search.pose_search import PoseRegressor, PoseSearch
from gnerf_ns.training.objective import TrainingScene
from gnerf_ns.training.pose_trials import PoseTrials, PoseTrialsConfig
from gnerf_ns.training.schedule import StepPlan


class LeaveOut(nn.Module):
    """Whose turn it is.

    Attributes:
        left_out: one bool per image.
        poses_then: camera_to_worlds [n, 3, 4] of when the present round began; an optimizer's momentum moves poses of
            those left out, too.
    """

    left_out: Tensor
    poses_then: Tensor

    def __init__(self, image_set: ImageSet, poses: PoseTable, search: PoseSearch) -> None:
        """Starts with nobody left out.

        Args:
            image_set: all of them.
            poses: theirs.
            search: by which they are looked up.
        """
        super().__init__()
        self._image_set, self._search = image_set, search
        self._poses = (poses,)  # in a tuple: the table is not this module's
        self.register_buffer("left_out", torch.zeros(len(image_set), dtype=torch.bool))
        self.register_buffer("poses_then", poses().detach().clone())

    @property
    def training_indices(self) -> Int[Tensor, "kept"]:
        """Images to train on."""
        return (~self.left_out).nonzero()[:, 0]

    @torch.no_grad()
    def look_up(self) -> None:
        """Moves those left out to wherever they fit better than where they were."""
        (poses,) = self._poses
        chosen = self.left_out.nonzero()[:, 0]
        if len(chosen) > 0:
            poses.assign(chosen, self.poses_then[chosen])
            better, found = self._search.fitting_better(self._image_set, chosen, poses(chosen))
            poses.assign(chosen[better], found)

    @torch.no_grad()
    def take_turns(self, leave_out_round: Optional[int]) -> None:
        """Leaves out others: random halves and what remains of them in turn.

        Nobody is left out in the first round, 0, so that the field learns the present poses.

        Args:
            leave_out_round: which it is, from 0; None when it is over.
        """
        (poses,) = self._poses
        self.poses_then.copy_(poses())
        if not leave_out_round:
            self.left_out.zero_()
        elif leave_out_round % 2 == 1:
            count = len(self.left_out)
            self.left_out.zero_()[torch.randperm(count, device=self.left_out.device)[: count // 2]] = True
        else:
            self.left_out.logical_not_()


class PoseUpdates:
    """Looks up everybody at the end of phase A, tries few elsewhere, and looks up those left out and misfits in B.

    Attributes:
        explained_variance: `PoseSearch.explained_variance` of everybody's poses, right after they were looked up; None
            before.
    """

    def __init__(
        self,
        pose_trials: PoseTrialsConfig,
        scene: TrainingScene,
        pose_search: PoseSearch,
        leave_out: LeaveOut,
        regress: Optional[PoseRegressor],
    ) -> None:
        """
        Args:
            pose_trials: how few images are tried at other poses.
            scene: its poses are replaced.
            pose_search: finds poses.
            leave_out: which images are left out of training.
            regress: the inversion network, which is asked first where there is one.
        """
        self._scene = scene
        self._search = pose_search
        self._trials = PoseTrials(pose_trials, scene.model, scene.image_set, scene.poses, pose_search)
        self._leave_out = leave_out
        self._regress = regress
        self.explained_variance: Optional[float] = None

    def apply(self, plan: StepPlan) -> bool:
        """Replace whatever is due before a step.

        Returns:
            Whether that was the field, too. Optimizers have to forget then.
        """
        image_set, poses, leave_out = self._scene.image_set, self._scene.poses, self._leave_out
        if plan.searches_all_poses:
            self._look_everybody_up()
            self.explained_variance = self._search.explained_variance(image_set, poses())
        replaced = plan.pose_trial_rounds > 0 and self._trials.run(plan.pose_trial_rounds)
        if plan.ends_leave_out_round:
            leave_out.look_up()
            leave_out.take_turns(plan.leave_out_round)
        if plan.searches_misfit_poses:
            poses.assign(*self._search.better_poses(image_set, poses(), plan.image_side))
        return replaced

    def _look_everybody_up(self) -> None:
        image_set, poses = self._scene.image_set, self._scene.poses
        everyone = torch.arange(len(image_set), device=self._scene.model.device)
        if self._regress is None:
            poses.assign(everyone, self._search.best_poses(image_set)[0])
        else:
            # The inversion network has the first word, and no more: it may have learned little by now.
            poses.assign(everyone, self._regress(image_set))
            better, found = self._search.fitting_better(image_set, everyone, poses())
            poses.assign(everyone[better], found)
