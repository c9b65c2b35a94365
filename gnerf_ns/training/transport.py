"""Phase A without an adversary: renderings at random poses, matched to images by annealed optimal transport.

Like GNeRF's discriminator it compares the distribution of renderings with that of the images, but needs no adversary,
and its plan tells which rendering looks like which image. Annealing the entropic regularization from large to small
breaks the symmetry gently: first every image explains every view, then the views specialize together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Dict, Optional, Tuple

import torch
import tyro
from jaxtyping import Float
from torch import Tensor, nn

from gnerf_ns.cameras.pose_prior import PosePopulation
from gnerf_ns.cameras.rays import rays_from_poses
from gnerf_ns.training.objective import COLUMNS, ComparedImages, RenderRequest, TrainingScene
from gnerf_ns.training.schedule import StepPlan
from gnerf_ns.utils.annealing import geometric
from gnerf_ns.utils.ranks import Ranks


@torch.no_grad()
def sinkhorn_plan(
    cost: Float[Tensor, "n m"], epsilon: float, iterations: int = 50, column_damping: float = 1.0
) -> Float[Tensor, "n m"]:
    """Entropic transport plan between uniform marginals, by log-domain Sinkhorn iterations.

    Args:
        cost: cost of moving mass from row to column.
        epsilon: entropic regularization, in units of the cost.
        iterations: number of row/column updates.
        column_damping: exponent in (0, 1] on the columns' potential. 1 keeps the columns' marginal uniform; less lets
            it relax (unbalanced transport), for priors that hold poses from which no image was taken.

    Returns:
        Plan of total mass 1. Its rows sum to 1/n exactly (the last update is the rows').
    """
    n, m = cost.shape
    kernel = -cost / epsilon
    log_row, log_column = -math.log(n), -math.log(m)
    column_potential = cost.new_zeros(m)
    for _ in range(iterations):
        row_potential = log_row - torch.logsumexp(kernel + column_potential, dim=1)
        column_potential = column_damping * (log_column - torch.logsumexp(kernel + row_potential[:, None], dim=0))
    row_potential = log_row - torch.logsumexp(kernel + column_potential, dim=1)
    return (kernel + row_potential[:, None] + column_potential).exp()


@torch.no_grad()
def symmetric_sinkhorn_plan(
    cost: Float[Tensor, "m m"], marginal: Float[Tensor, "m"], epsilon: float, iterations: int = 50
) -> Float[Tensor, "m m"]:
    """Entropic plan of a distribution with itself (averaged updates of one potential, which converge quickly).

    Args:
        cost: symmetric cost.
        marginal: the distribution, summing to 1.
        epsilon: entropic regularization.
        iterations: number of updates.
    """
    kernel = -cost / epsilon
    log_marginal = marginal.clamp_min(1e-12).log()
    potential = torch.zeros_like(log_marginal)
    for _ in range(iterations):
        potential = 0.5 * (potential + log_marginal - torch.logsumexp(kernel + potential, dim=1))
    return (kernel + potential[:, None] + potential).exp()


def transport_loss(
    cost: Float[Tensor, "n m"],
    self_cost: Float[Tensor, "m m"],
    epsilon: float,
    iterations: int = 50,
    column_damping: float = 1.0,
) -> Tuple[Float[Tensor, ""], Float[Tensor, "n m"]]:
    """Sinkhorn divergence of renderings from images, up to terms that do not depend on the renderings.

    The plans carry no gradient (envelope theorem), so the loss is ⟨P, C⟩ − ½⟨Q, C_renderings⟩. Without the second term
    renderings collapse to the mean image.

    Args:
        cost: of images (rows) against renderings at poses drawn from the prior (columns).
        self_cost: of those renderings against each other.
        epsilon: entropic regularization, in units of the cost.
        iterations: Sinkhorn iterations.
        column_damping: see `sinkhorn_plan`.

    Returns:
        The loss and the plan P.
    """
    plan = sinkhorn_plan(cost.detach(), epsilon, iterations, column_damping)
    self_plan = symmetric_sinkhorn_plan(self_cost.detach(), plan.sum(0), epsilon, iterations)
    return (plan * cost).sum() - 0.5 * (self_plan * self_cost).sum(), plan


@dataclass
class TransportObjectiveConfig:
    """Configuration of `TransportObjective`."""

    num_poses: int = 40
    """Poses drawn from the prior in one step, each rendered whole. Few poses in many steps find more than the reverse
    does in the same time."""
    max_images: int = 256
    """Images matched in one step; of larger sets a random part."""
    sinkhorn_iterations: tyro.conf.Suppress[int] = 50
    """Iterations for one transport plan."""
    pose_marginal_damping: float = 0.9
    """1 takes the prior as the truth; less allows that no image was taken from part of it."""
    learned_share: tyro.conf.Suppress[float] = 0.5
    """Share of the poses, at the end of phase A, that are drawn near those which images were matched with; the
    others come from the prior. 0 learns no distribution of poses."""
    learning_start: tyro.conf.Suppress[float] = 0.3
    """Share of phase A after which the first poses are drawn so; from there on they become more."""
    learned_spread: tyro.conf.Suppress[Tuple[float, float]] = (0.15, 0.05)
    """How far from such poses they are drawn, at that moment and at the end of phase A: standard deviation of the
    direction in radians, and of distance and roll as a share of the prior's range."""
    remembered_steps: tyro.conf.Suppress[int] = 10
    """Steps whose poses are remembered."""
    loss_mult: tyro.conf.Suppress[float] = 1.0
    """Weight of the loss."""


class TransportObjective(nn.Module):
    """Sinkhorn divergence between images and renderings; trains the field.

    The plan also gives every image the best matching pose of the step, so that there is something to look at.

    Attributes:
        population: what has been learned of where images were taken; saved with the networks.
    """

    def __init__(self, config: TransportObjectiveConfig, scene: TrainingScene, ranks: Optional[Ranks] = None) -> None:
        """
        Args:
            config: how much is rendered, and what is learned of poses.
            scene: its field is trained.
            ranks: processes that each render poses of their own; None for this one alone.
        """
        super().__init__()
        self.config = config
        self.scene = scene
        self._ranks = ranks or Ranks()
        self.population = PosePopulation(config.num_poses * config.remembered_steps)
        self.compared: Optional[ComparedImages] = None

    def reset_parameters(self) -> None:
        """Forget where images were taken."""
        self.population.reset_parameters()

    def is_active(self, plan: StepPlan) -> bool:
        """In A steps, those of AB included."""
        return plan.phase == "A"

    def request(self, plan: StepPlan) -> RenderRequest:
        """Rays of whole small images at poses from the prior."""
        scene, config = self.scene, self.config
        device = scene.model.device
        height, width = scene.image_set.size_at(plan.image_side, multiple_of=4)
        level = self._sample_poses(plan, device)
        camera_to_worlds = scene.cameras.up_direction.from_z_up(level)
        camera_indices = torch.randint(len(scene.image_set), (config.num_poses,), device=device)
        directions = scene.image_set.pixel_directions(camera_indices, height, width)
        chosen = torch.randperm(len(scene.image_set), device=device)[: config.max_images]

        def losses(outputs: Dict[str, Any]) -> Dict[str, Tensor]:
            background = scene.model.draw_background()
            colors = scene.model.colors_over(outputs, background)
            renderings = colors.view(config.num_poses, height, width, 3).permute(0, 3, 1, 2)
            images = scene.image_set.resized(height, width, background, chosen)
            validity = scene.image_set.validity(height, width, chosen)
            matching = scene.proposals.matching
            described = matching.describe(renderings, background)
            matches = matching.compare(
                matching.describe(images, background), described, (height, width), plan.epsilon, validity
            )
            loss, transport_plan = transport_loss(
                matches.cost,
                matching.compare(described, described, (height, width), plan.epsilon).cost,
                plan.epsilon,
                config.sinkhorn_iterations,
                config.pose_marginal_damping,
            )
            # Each image has one vote, whatever the plan makes of its neighbors.
            votes = torch.softmax(-matches.cost.detach() / plan.epsilon, dim=1).sum(dim=0)
            self.population.remember(self._ranks.gathered(level), self._ranks.gathered(votes))
            best = transport_plan.argmax(dim=1)
            if not plan.interleaved:  # in AB the photometric steps have better poses
                scene.cameras.assign(chosen, scene.proposals.matched_poses(camera_to_worlds, matches, best))
                self._ranks.make_equal(scene.cameras)
            self.compared = ComparedImages(
                "images above the best matching renderings",
                images[:COLUMNS],
                renderings.detach()[best[:COLUMNS]],
            )
            return {"transport_loss": config.loss_mult * loss}

        areas = scene.image_set.directions.pixel_areas(camera_indices, directions, height, width)
        return RenderRequest(rays_from_poses(camera_to_worlds, directions, camera_indices, areas), losses)

    def _sample_poses(self, plan: StepPlan, device: torch.device) -> Float[Tensor, "poses 3 4"]:
        """Poses of the step, with +z up: of the prior, and more and more of them near what images matched."""
        config, proposals = self.config, self.scene.proposals
        learned = max(0.0, (plan.phase_a_progress - config.learning_start) / (1.0 - config.learning_start))
        count = round(config.learned_share * learned * config.num_poses)
        if count == 0 or self.population.is_empty:
            return proposals.sample(config.num_poses, device)
        drawn = proposals.sample(config.num_poses - count, device)
        spread = geometric(config.learned_spread, learned)
        return torch.cat([drawn, self.population.sample(count, proposals.prior, proposals.radius, spread)])
