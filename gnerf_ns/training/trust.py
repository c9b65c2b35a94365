"""Whether a run can be trusted, image by image and as a whole; kept in its checkpoints."""

from __future__ import annotations

import math
from typing import Any, Callable, Dict, List, Literal, Mapping, NamedTuple, Optional, Sequence

import numpy as np
import torch
from torch import nn

from gnerf_ns.cameras.learned_cameras import Split
from gnerf_ns.data.image_set import ImageSet
from gnerf_ns.pose_search.pose_search import PoseSearch
from gnerf_ns.training.ambiguity import find_ambiguity
from gnerf_ns.training.confidence import held_out_confidence, training_confidence
from gnerf_ns.training.epipolar import EpipolarObjective
from gnerf_ns.training.objective import TrainingScene
from gnerf_ns.training.placement import PoseOrigin, are_few_alone
from gnerf_ns.training.pose_status import (
    SHOWN_BADLY,
    SHOWN_ELSEWHERE,
    PoseStatus,
    knows_by_heart,
    pose_statuses,
    shows_many_elsewhere,
    shows_most_badly,
    sides_are_alike,
    without_the_field,
)
from gnerf_ns.training.pose_updates import LeaveOut
from gnerf_ns.training.restarts import PHASE_A_FAILED, Restarts

CUT_SHORT = (
    "Training ended within phase A, before poses were looked up, so they will be wrong. Leave "
    "--max-num-iterations out, or give more."
)
"""What is said of a run that was planned too short."""
FEW_FLAGGED = 0.1
"""A run is good if no more of its images than this are flagged: they are named, and others do not depend on them."""
MOST_FLAGGED = 0.5
"""With more of them than this, nothing is sure."""


class Verdict(NamedTuple):
    """Whether the result can be trusted, told without knowing the truth."""

    level: Literal["good", "doubtful", "failed"]
    """How far."""
    sentence: str
    """The same in words; for a failed run, why."""


class Evidence(NamedTuple):
    """What a verdict rests on beside single poses."""

    has_phase_a_failed: bool
    """Whether phase A ended without telling the images apart."""
    ambiguity: Sequence[str] = ()
    """What the images cannot tell, in sentences."""
    ends_in_phase_a: bool = False
    """Whether the run was over before phase A was."""
    progress: float = 1.0
    """How much of phase B was trained, of what its schedule has."""


def verdict_of(statuses: Sequence[PoseStatus], held_out: Sequence[PoseStatus], evidence: Evidence) -> Verdict:
    """What to make of a run.

    Args:
        statuses: of the images that were trained on.
        held_out: of the others.
        evidence: on the run as a whole.
    """
    if evidence.ends_in_phase_a:
        return Verdict("failed", CUT_SHORT)
    if evidence.has_phase_a_failed:
        return Verdict("failed", PHASE_A_FAILED)
    if shows_most_badly(statuses):
        return Verdict("failed", SHOWN_BADLY)
    flagged = sum(status.is_flagged for status in statuses)
    if knows_by_heart(statuses, held_out):
        return Verdict("doubtful", "The field shows held-out images much worse than others: look at the poses.")
    if shows_many_elsewhere(statuses):
        return Verdict("failed", SHOWN_ELSEWHERE)
    if flagged > MOST_FLAGGED * len(statuses):
        return Verdict("failed", f"{flagged} of {len(statuses)} poses may be wrong: do not trust them without a look.")
    if evidence.ambiguity:
        return Verdict("doubtful", "The field shows the images from their poses, but others may be as good.")
    if flagged > max(1.0, FEW_FLAGGED * len(statuses)):
        return Verdict(
            "doubtful", f"{flagged} of {len(statuses)} poses may be wrong: look at them, and at some others."
        )
    if evidence.progress < 1.0:
        return Verdict(
            "doubtful",
            f"Training was stopped after {math.floor(100 * evidence.progress)}% of phase B: poses are rough.",
        )
    if are_few_alone(torch.tensor([status.origin for status in statuses])):
        return Verdict(
            "doubtful",
            f"A field can show so few images to train on ({len(statuses)}) from wrong poses, too: look at the poses; "
            "more images help.",
        )
    if flagged:
        images = "one image" if flagged == 1 else f"{flagged} images"
        return Verdict("good", f"The field shows the images from their poses; look at {images}, named below.")
    return Verdict("good", "The field shows the images from their poses.")


class JudgedRun(NamedTuple):
    """The parts of a run that tell how far it can be trusted."""

    scene: TrainingScene
    """What was trained."""
    search: PoseSearch
    """In the trained field."""
    epipolar: EpipolarObjective
    """Has the matches."""
    leave_out: LeaveOut
    """Knows where poses are from."""
    restarts: Restarts
    """Knows what phase A has come to, and the schedule."""
    held_out_images: Callable[[], ImageSet]
    """Images that were not trained on."""


class Trust(nn.Module):
    """What has been said of a run, in its checkpoints; nothing as long as it is trained.

    Attributes:
        statuses: of all images, by split.
        verdict: on the run.
        remarks: further sentences on it.
        eval_step: `LearnedCameras.eval_step` of the held-out images' poses that this is about.
    """

    def __init__(self, run: JudgedRun) -> None:
        """Nothing is said yet."""
        super().__init__()
        self._run = run
        self.clear()

    def clear(self) -> None:
        """Nothing is known any more."""
        self.statuses: Mapping[Split, List[PoseStatus]] = {}
        self.verdict: Optional[Verdict] = None
        self.remarks: List[str] = []
        self.eval_step = -1

    @torch.no_grad()
    def judge(self, step: int) -> None:
        """Look at all images, and at the run as a whole; the field is left as it was.

        Args:
            step: the training step that is done.
        """
        scene, search, _, _, restarts, _ = self._run
        progress = restarts.schedule.at(step + 1).phase_b_progress
        ambiguity = find_ambiguity(search, scene.image_set, scene.cameras.poses("train"), scene.prior).sentences
        ends_in_phase_a = restarts.schedule.at(step).name == "A"
        self.statuses = self._judged_images(progress)
        evidence = Evidence(restarts.has_failed, ambiguity, ends_in_phase_a, progress)
        self.verdict = verdict_of(self.statuses["train"], self.statuses.get("eval", []), evidence)
        self.remarks, self.eval_step = ambiguity, int(scene.cameras.eval_step)

    def _judged_images(self, progress: float) -> Dict[Split, List[PoseStatus]]:
        scene, search, epipolar, leave_out, _, held_out_images = self._run
        cameras, origins = scene.cameras, leave_out.origins
        are_alike = sides_are_alike(origins)
        confidence = training_confidence(scene, search, epipolar, origins, progress)
        statuses: Dict[Split, List[PoseStatus]] = {
            "train": pose_statuses(
                search.costs, scene.image_set, cameras.poses("train"), origins, confidence, are_alike
            )
        }
        if cameras.has_eval_poses:
            held_out, poses = held_out_images(), cameras.poses("eval")
            confidence = held_out_confidence(held_out, poses, search, confidence)
            statuses["eval"] = pose_statuses(
                search.costs, held_out, poses, leave_out.eval_origins, confidence, are_alike
            )
        train, eval_statuses = statuses["train"], statuses.get("eval", [])
        if shows_most_badly(train) or shows_many_elsewhere(train) or knows_by_heart(train, eval_statuses):
            return {split: without_the_field(each) for split, each in statuses.items()}
        return statuses

    def entries(self, train_names: Sequence[str], eval_names: Sequence[str]) -> Dict[str, Any]:
        """What `ns-eval` says of it: the verdict, which images are flagged, and what is usual.

        Args:
            train_names: the training images' file names.
            eval_names: those of the held-out images.
        """
        train, held_out = self.statuses.get("train", []), self.statuses.get("eval", [])
        pairs = [*zip(train, train_names, strict=False), *zip(held_out, eval_names, strict=False)]
        entries: Dict[str, Any] = {
            "verdict": None if self.verdict is None else self.verdict.level,
            "verdict_sentence": None if self.verdict is None else self.verdict.sentence,
            "flagged": [name for status, name in pairs if status.is_flagged],
        }
        for name in ("rotation_sigma_deg", "translation_sigma_relative", "alternative_probability"):
            values = [getattr(status, name) for status in train]
            entries[f"{name}_median"] = float(np.median(values)) if values else None
        return entries

    def get_extra_state(self) -> Dict[str, Any]:
        """For checkpoints."""
        return {
            "statuses": {split: [_as_plain(status) for status in each] for split, each in self.statuses.items()},
            "verdict": None if self.verdict is None else list(self.verdict),
            "remarks": self.remarks,
            "eval_step": self.eval_step,
        }

    def set_extra_state(self, state: Dict[str, Any]) -> None:
        """From checkpoints; older ones have none."""
        self.clear()
        if state.get("verdict") is not None:
            statuses = {split: [_from_plain(each) for each in rows] for split, rows in state["statuses"].items()}
            self.statuses, self.verdict = statuses, Verdict(*state["verdict"])
            self.remarks, self.eval_step = state["remarks"], state["eval_step"]


def worst_first(statuses: Sequence[PoseStatus]) -> List[int]:
    """Which image is to be looked at first: flagged ones, then by how likely it is off by much, then by how far."""

    def doubt(index: int) -> tuple[bool, float, float]:
        status = statuses[index]
        return status.is_flagged, status.wrong_probability, status.rotation_sigma_deg

    return sorted(range(len(statuses)), key=doubt, reverse=True)


def _as_plain(status: PoseStatus) -> Dict[str, Any]:
    """Of numbers, so that a checkpoint holds nothing else."""
    alternative = None if status.alternative is None else status.alternative.cpu().clone()
    return {**status._asdict(), "origin": int(status.origin), "alternative": alternative}


def _from_plain(state: Dict[str, Any]) -> PoseStatus:
    return PoseStatus(**{**state, "origin": PoseOrigin(state["origin"])})
