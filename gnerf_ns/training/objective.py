"""What a training objective is: the rays it wants rendered, the losses it takes from them, and what it compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, Optional, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from nerfstudio.cameras.rays import RayBundle
from torch import Tensor

from gnerf_ns.cameras.learned_cameras import LearnedCameras
from gnerf_ns.cameras.pose_prior import PosePrior
from gnerf_ns.data.image_set import ImageSet
from gnerf_ns.models.gnerf import GNeRFModel
from gnerf_ns.pose_search.pose_search import PoseProposals
from gnerf_ns.training.schedule import StepPlan

COLUMNS = 12
"""Images that are kept and shown side by side."""

SMALLEST_SHOWN_SIDE = 64
"""Smaller images are enlarged by a whole factor to at least this many pixels."""


@dataclass(frozen=True)
class ComparedImages:
    """Images, or patches of them, and renderings of the same size. They carry no gradients."""

    title: str
    """What is seen."""
    images: Float[Tensor, "columns 3 height width"]
    """Colors in [0, 1]."""
    rendered: Float[Tensor, "columns 3 height width"]
    """Colors, of about that range."""

    def grid(self) -> Float[Tensor, "grid_height grid_width 3"]:
        """The images in one row above the renderings in another; values in [0, 1]."""
        from torchvision.utils import make_grid

        images = torch.cat([self.images, self.rendered]).detach().float().cpu().clamp(0.0, 1.0)
        factor = -(-SMALLEST_SHOWN_SIDE // max(images.shape[-2:]))
        enlarged = images.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)
        return make_grid(enlarged, nrow=len(self.images), padding=2, pad_value=0.5).permute(1, 2, 0)


@dataclass(frozen=True)
class TrainingScene:
    """What objectives work on. It holds no true pose."""

    model: GNeRFModel
    """The radiance field."""
    image_set: ImageSet
    """The training images."""
    cameras: LearnedCameras
    """Their cameras, as estimated so far."""
    prior: PosePrior
    """Where cameras may stand."""
    proposals: PoseProposals
    """Poses to try for images, and their comparison with renderings there."""


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

    compared: Optional[ComparedImages]
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
