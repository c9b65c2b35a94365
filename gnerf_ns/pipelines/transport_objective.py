"""Phase A without an adversary: renderings at random poses, matched to photographs by annealed optimal transport."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Optional, Tuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gnerf_ns.cameras.pose_population import PosePopulation
from gnerf_ns.cameras.rays import rays_from_poses
from gnerf_ns.model_components.phase_schedule import StepPlan, geometric
from gnerf_ns.model_components.transport import transport_loss
from gnerf_ns.pipelines.compared_pictures import COLUMNS, ComparedPictures
from gnerf_ns.pipelines.objective import RenderRequest, TrainingScene


@dataclass
class TransportObjectiveConfig:
    """Configuration of `TransportObjective`."""

    num_poses: int = 40
    """Poses drawn from the prior in one step, each rendered whole. Few poses in many steps find more than the reverse
    does in the same time."""
    max_photographs: int = 256
    """Photographs matched in one step; of larger sets a random part."""
    sinkhorn_iterations: int = 50
    """Iterations for one transport plan."""
    pose_marginal_damping: float = 0.9
    """1 takes the prior as the truth; less allows that no photograph was taken from part of it."""
    learned_share: float = 0.5
    """Share of the poses, at the end of phase A, that are drawn near those which photographs were matched with; the
    others come from the prior. 0 learns no distribution of poses."""
    learning_start: float = 0.3
    """Share of phase A after which the first poses are drawn so; from there on they become more."""
    learned_spread: Tuple[float, float] = (0.15, 0.05)
    """How far from such poses they are drawn, at that moment and at the end of phase A: standard deviation of the
    direction in radians, and of distance and roll as a share of the prior's range."""
    remembered_steps: int = 10
    """Steps whose poses are remembered."""
    loss_mult: float = 1.0
    """Weight of the loss."""


class TransportObjective(nn.Module):
    """Sinkhorn divergence between photographs and renderings; trains the field.

    The plan also gives every photograph the best matching pose of the step, so that there is something to look at.

    Attributes:
        population: what has been learned of where photographs were taken; saved with the networks.
    """

    def __init__(self, config: TransportObjectiveConfig, scene: TrainingScene) -> None:
        super().__init__()
        self.config = config
        self._scene = (scene,)  # in a tuple: the scene's modules are not this one's
        self.population = PosePopulation(config.num_poses * config.remembered_steps)
        self.compared: Optional[ComparedPictures] = None

    @property
    def scene(self) -> TrainingScene:
        """What it works on."""
        return self._scene[0]

    def forget(self) -> None:
        """Forget where photographs were taken."""
        self.population.forget()

    def is_active(self, plan: StepPlan) -> bool:
        """In A steps, those of AB included."""
        return plan.phase == "A"

    def request(self, plan: StepPlan) -> RenderRequest:
        """Rays of whole small images at poses from the prior."""
        scene, config = self.scene, self.config
        device = scene.model.device
        height, width = scene.photographs.size_at(plan.image_side, multiple_of=4)
        level = self._sample_poses(plan, device)
        camera_to_worlds = scene.poses.codec.up.lean(level)
        camera_indices = torch.randint(len(scene.photographs), (config.num_poses,), device=device)
        directions = scene.photographs.pixel_directions(camera_indices, height, width)
        chosen = torch.randperm(len(scene.photographs), device=device)[: config.max_photographs]

        def losses(outputs: Dict[str, Any]) -> Dict[str, Tensor]:
            background = scene.model.draw_background()
            colours = scene.model.colours_over(outputs, background)
            renderings = colours.view(config.num_poses, height, width, 3).permute(0, 3, 1, 2)
            photographs = scene.photographs.resized(height, width, background, chosen)
            described = scene.matcher.matching.describe(renderings, background)
            matches = scene.matcher.matching.compare(
                scene.matcher.matching.describe(photographs, background), described, (height, width), plan.epsilon
            )
            loss, transport_plan = transport_loss(
                matches.cost,
                scene.matcher.matching.compare(described, described, (height, width), plan.epsilon).cost,
                plan.epsilon,
                config.sinkhorn_iterations,
                config.pose_marginal_damping,
            )
            # Each photograph has one vote, whatever the plan makes of its neighbours.
            votes = torch.softmax(-matches.cost.detach() / plan.epsilon, dim=1).sum(dim=0)
            self.population.remember(level, votes)
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

    def _sample_poses(self, plan: StepPlan, device: torch.device) -> Float[Tensor, "poses 3 4"]:
        """Poses of the step, with +z up: of the prior, and more and more of them near what photographs matched."""
        config, matcher = self.config, self.scene.matcher
        learned = max(0.0, (plan.phase_a_progress - config.learning_start) / (1.0 - config.learning_start))
        count = round(config.learned_share * learned * config.num_poses)
        if count == 0 or self.population.is_empty:
            return matcher.sample(config.num_poses, device)
        drawn = matcher.sample(config.num_poses - count, device)
        spread = geometric(config.learned_spread, learned)
        return torch.cat([drawn, self.population.sample(count, matcher.prior, matcher.radius, spread)])
