"""Phase B: every photograph explained from its own pose (GNeRF's L_N)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Optional

import torch
from torch import Tensor

from gnerf_ns.localization.pixel_rays import sample_pixel_rays
from gnerf_ns.model_components.phase_schedule import StepPlan
from gnerf_ns.pipelines.compared_pictures import ComparedPictures
from gnerf_ns.pipelines.objective import RenderRequest, TrainingScene


@dataclass
class PhotometricObjectiveConfig:
    """Configuration of `PhotometricObjective`."""

    rays_per_step: int = 3072
    """Random pixels of all photographs in one step."""


class PhotometricObjective:
    """Squared colour error at random pixels; trains field and poses.

    Attributes:
        psnr: of the last step's pixels, in dB.
    """

    def __init__(self, config: PhotometricObjectiveConfig, scene: TrainingScene) -> None:
        self.config = config
        self.scene = scene
        self.compared: Optional[ComparedPictures] = None
        self.psnr: Optional[Tensor] = None

    def is_active(self, plan: StepPlan) -> bool:
        """In B steps, those of AB included."""
        return plan.phase == "B"

    def request(self, plan: StepPlan) -> RenderRequest:
        """Rays at the pose table's poses."""
        scene = self.scene
        chosen = None if plan.leave_out_round is None else scene.leave_out.kept
        rays, colours = sample_pixel_rays(
            scene.photographs, scene.poses(), self.config.rays_per_step, plan.image_side, chosen
        )

        def losses(outputs: Dict[str, Any]) -> Dict[str, Tensor]:
            loss = scene.model.get_photometric_loss(outputs, colours)
            with torch.no_grad():
                self.psnr = scene.model.get_metrics_dict(outputs, {"image": colours})["psnr"]
            return {"photometric_loss": loss}

        return RenderRequest(rays, losses)
