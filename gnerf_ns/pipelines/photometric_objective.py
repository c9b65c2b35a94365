"""Phase B: every photograph explained from its own pose (GNeRF's L_N)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

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
    """Squared colour error at random pixels; trains field and poses."""

    def __init__(self, config: PhotometricObjectiveConfig, scene: TrainingScene) -> None:
        self.config = config
        self.scene = scene
        self.compared: Optional[ComparedPictures] = None

    def is_active(self, plan: StepPlan) -> bool:
        """In B steps, those of AB included."""
        return plan.phase == "B"

    def request(self, plan: StepPlan) -> RenderRequest:
        """Rays at the pose table's poses."""
        scene = self.scene
        rays, colours = sample_pixel_rays(scene.photographs, scene.poses(), self.config.rays_per_step, plan.image_side)
        return RenderRequest(
            rays, lambda outputs: {"photometric_loss": scene.model.get_photometric_loss(outputs, colours)}
        )
