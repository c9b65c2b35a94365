"""Phase A without an adversary: renderings at random poses, matched to photographs by annealed optimal transport."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Optional

import torch
from torch import Tensor

from gnerf_ns.cameras.rays import rays_from_poses
from gnerf_ns.model_components.phase_schedule import StepPlan
from gnerf_ns.model_components.transport import transport_loss
from gnerf_ns.pipelines.compared_pictures import COLUMNS, ComparedPictures
from gnerf_ns.pipelines.objective import RenderRequest, TrainingScene


@dataclass
class TransportObjectiveConfig:
    """Configuration of `TransportObjective`."""

    num_poses: int = 80
    """Poses drawn from the prior in one step, each rendered whole."""
    max_photographs: int = 256
    """Photographs matched in one step; of larger sets a random part."""
    sinkhorn_iterations: int = 50
    """Iterations for one transport plan."""
    pose_marginal_damping: float = 0.9
    """1 takes the prior as the truth; less allows that no photograph was taken from part of it."""
    loss_mult: float = 1.0
    """Weight of the loss."""


class TransportObjective:
    """Sinkhorn divergence between photographs and renderings; trains the field.

    The plan also gives every photograph the best matching pose of the step, so that there is something to look at.
    """

    def __init__(self, config: TransportObjectiveConfig, scene: TrainingScene) -> None:
        self.config = config
        self.scene = scene
        self.compared: Optional[ComparedPictures] = None

    def is_active(self, plan: StepPlan) -> bool:
        """In A steps, those of AB included."""
        return plan.phase == "A"

    def request(self, plan: StepPlan) -> RenderRequest:
        """Rays of whole small images at poses from the prior."""
        scene, config = self.scene, self.config
        device = scene.model.device
        height, width = scene.photographs.size_at(plan.image_side, multiple_of=4)
        camera_to_worlds = scene.matcher.sample(config.num_poses, device)
        camera_indices = torch.randint(len(scene.photographs), (config.num_poses,), device=device)
        directions = scene.photographs.pixel_directions(camera_indices, height, width)
        chosen = torch.randperm(len(scene.photographs), device=device)[: config.max_photographs]

        def losses(outputs: Dict[str, Any]) -> Dict[str, Tensor]:
            background = scene.model.draw_background()
            colours = scene.model.colours_over(outputs, background)
            renderings = colours.view(config.num_poses, height, width, 3).permute(0, 3, 1, 2)
            photographs = scene.photographs.resized(height, width, background, chosen)
            described = scene.matcher.describe(renderings, background)
            matches = scene.matcher.compare(
                scene.matcher.describe(photographs, background), described, (height, width), plan.epsilon
            )
            loss, transport_plan = transport_loss(
                matches.cost,
                scene.matcher.compare(described, described, (height, width), plan.epsilon).cost,
                plan.epsilon,
                config.sinkhorn_iterations,
                config.pose_marginal_damping,
            )
            best = transport_plan.argmax(dim=1)
            if not plan.interleaved:  # in AB the photometric steps have better poses
                scene.poses.assign(chosen, scene.matcher.matched_poses(camera_to_worlds, matches, best))
            self.compared = ComparedPictures(
                "photographs above the best matching renderings",
                photographs[:COLUMNS],
                renderings.detach()[best[:COLUMNS]],
            )
            return {"transport_loss": config.loss_mult * loss}

        return RenderRequest(rays_from_poses(camera_to_worlds, directions, camera_indices), losses)
