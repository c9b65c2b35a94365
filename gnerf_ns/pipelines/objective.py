"""What a training objective is: the rays it wants rendered, and the losses it takes from the rendering."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, Optional, Protocol, runtime_checkable

from nerfstudio.cameras.rays import RayBundle
from torch import Tensor

from gnerf_ns.cameras.pose_prior import PosePrior
from gnerf_ns.cameras.pose_table import PoseTable
from gnerf_ns.localization.leave_out import LeaveOut
from gnerf_ns.localization.photographs import Photographs
from gnerf_ns.localization.pose_matcher import PoseMatcher
from gnerf_ns.model_components.phase_schedule import StepPlan
from gnerf_ns.models.gnerf import GNeRFModel
from gnerf_ns.pipelines.compared_pictures import ComparedPictures


@dataclass(frozen=True)
class TrainingScene:
    """What objectives work on. It holds no true pose."""

    model: GNeRFModel
    """The radiance field."""
    photographs: Photographs
    """The training images."""
    poses: PoseTable
    """Their estimated poses."""
    leave_out: LeaveOut
    """Which photographs are left out of training."""
    prior: PosePrior
    """Where cameras may stand."""
    matcher: PoseMatcher
    """Poses to try for photographs, and their comparison with renderings there."""
    radius: float
    """The camera distance that counts as 1 in the prior and in the pose table, in scene units."""


@dataclass(frozen=True)
class RenderRequest:
    """Rays of one objective at one step, and what becomes of them."""

    ray_bundle: RayBundle
    """A flat bundle of rays."""
    losses: Callable[[Dict[str, Any]], Dict[str, Tensor]]
    """Maps the model's outputs at those rays to weighted losses by name."""


@runtime_checkable
class Objective(Protocol):
    """A part of the training loss. All objectives of a step share one differentiated render."""

    compared: Optional[ComparedPictures]
    """What it last compared; None before that, or if single pixels are all it compares."""

    def is_active(self, plan: StepPlan) -> bool:
        """Whether the step has this objective."""
        ...

    def request(self, plan: StepPlan) -> RenderRequest:
        """The rays that it needs at this step."""
        ...


def rows_of(outputs: Dict[str, Any], first: int, last: int) -> Dict[str, Any]:
    """The outputs of some rays of a bundle."""
    rows: Dict[str, Any] = {}
    for name, value in outputs.items():
        if isinstance(value, Tensor):
            rows[name] = value[first:last]
        elif isinstance(value, list):
            rows[name] = [item[first:last] for item in value]
    return rows
