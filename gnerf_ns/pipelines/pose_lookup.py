"""Poses that are replaced wholesale, where the schedule says so; between those steps they follow gradients."""

from __future__ import annotations

from typing import Optional

import torch

from gnerf_ns.localization.pose_search import PoseSearch
from gnerf_ns.localization.pose_trials import PoseTrials, PoseTrialsConfig
from gnerf_ns.model_components.phase_schedule import StepPlan
from gnerf_ns.pipelines.adversarial_objective import AdversarialObjective
from gnerf_ns.pipelines.objective import TrainingScene


class PoseLookup:
    """Looks up everybody at the end of phase A, tries few elsewhere, and looks up those left out and misfits in B.

    Attributes:
        explained_share: `PoseSearch.explained_share` of everybody's poses, right after they were looked up; None
            before.
    """

    def __init__(
        self,
        pose_trials: PoseTrialsConfig,
        scene: TrainingScene,
        pose_search: PoseSearch,
        adversarial: Optional[AdversarialObjective],
    ) -> None:
        """
        Args:
            pose_trials: how few photographs are tried at other poses.
            scene: its poses are replaced.
            pose_search: finds poses.
            adversarial: whose inversion network is asked first, where there is one.
        """
        self._scene = scene
        self._search = pose_search
        self._trials = PoseTrials(pose_trials, scene.model, scene.photographs, scene.poses, pose_search)
        self._adversarial = adversarial
        self.explained_share: Optional[float] = None

    def follow(self, plan: StepPlan) -> bool:
        """Replace whatever is due before a step.

        Returns:
            Whether that was the field, too. Optimizers have to forget then.
        """
        photographs, poses, leave_out = self._scene.photographs, self._scene.poses, self._scene.leave_out
        if plan.searches_all_poses:
            self._look_everybody_up()
            self.explained_share = self._search.explained_share(photographs, poses())
        replaced = plan.pose_trial_rounds > 0 and self._trials.run(plan.pose_trial_rounds)
        if plan.ends_leave_out_round:
            leave_out.look_up()
            leave_out.take_turns(plan.leave_out_round)
        if plan.searches_misfit_poses:
            poses.assign(*self._search.better_poses(photographs, poses(), plan.image_side))
        return replaced

    def _look_everybody_up(self) -> None:
        photographs, poses = self._scene.photographs, self._scene.poses
        everyone = torch.arange(len(photographs), device=self._scene.model.device)
        if self._adversarial is None:
            poses.assign(everyone, self._search.best_poses(photographs)[0])
        else:
            # The inversion network has the first word, and no more: it may have learned little by now.
            poses.assign(everyone, self._adversarial.regress_poses(photographs))
            better, found = self._search.fitting_better(photographs, everyone, poses())
            poses.assign(everyone[better], found)
