"""Phase B: every image explained from its own pose (GNeRF's L_N)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Optional

import torch
from torch import Tensor

from gnerf_ns.cameras.rays import SHOWS_NOTHING
from gnerf_ns.pose_search.pixel_sampling import sample_pixel_rays
from gnerf_ns.training.objective import ComparedImages, RenderRequest, TrainingScene
from gnerf_ns.training.pose_updates import LeaveOut
from gnerf_ns.training.schedule import StepPlan


@dataclass
class PhotometricObjectiveConfig:
    """Configuration of `PhotometricObjective`."""

    rays_per_step: int = 3584
    """Random pixels of all images in one step."""


class PhotometricObjective:
    """Color error at random pixels; trains field and poses.

    Attributes:
        psnr: of the last step's pixels, in dB.
    """

    def __init__(self, config: PhotometricObjectiveConfig, scene: TrainingScene, leave_out: LeaveOut) -> None:
        self.config = config
        self.scene = scene
        self._leave_out = leave_out
        self.compared: Optional[ComparedImages] = None
        self.psnr: Optional[Tensor] = None

    def is_active(self, plan: StepPlan) -> bool:
        """In B steps, those of AB included."""
        return plan.phase == "B"

    def request(self, plan: StepPlan) -> RenderRequest:
        """Rays at the images' present poses."""
        scene = self.scene
        chosen = None if self._leave_out.are_all_placed else self._leave_out.training_indices
        rays, colors = sample_pixel_rays(
            scene.image_set, scene.cameras(), self.config.rays_per_step, plan.image_side, chosen
        )
        rays.metadata[SHOWS_NOTHING] = scene.model.shows_nothing(colors)

        def losses(outputs: Dict[str, Any]) -> Dict[str, Tensor]:
            loss = scene.model.get_photometric_loss(outputs, colors)
            with torch.no_grad():
                self.psnr = scene.model.get_metrics_dict(outputs, {"image": colors})["psnr"]
            return {"photometric_loss": loss, **scene.model.get_opacity_losses(outputs, colors)}

        return RenderRequest(rays, losses)
