"""Global search: the prior pose from which a rendering looks most like a photograph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Tuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gnerf_ns.cameras.pose_prior import PosePrior
from gnerf_ns.cameras.rays import rays_from_poses
from gnerf_ns.localization.photographs import Photographs
from gnerf_ns.model_components.transport import pairwise_cost, pyramid_features
from gnerf_ns.models.gnerf import GNeRFModel

RAYS_PER_CHUNK = 32768
"""Rays rendered at a time; bounds memory."""


@dataclass
class PoseSearchConfig:
    """How poses are looked up."""

    bank_size: int = 1000
    """Poses drawn from the prior, each rendered and compared with every photograph."""
    image_side: int = 16
    """Longer side of those renderings, in pixels."""
    required_cost_ratio: float = 0.85
    """A photograph that has a pose already moves only if the best of the bank lowers its cost to this share."""


class PoseSearch:
    """Looks photographs up in a bank of renderings at poses drawn from the prior."""

    def __init__(self, config: PoseSearchConfig, model: GNeRFModel, prior: PosePrior, radius: float) -> None:
        self.config = config
        self.model = model
        self.prior = prior
        self.radius = radius

    def best_poses(self, photographs: Photographs) -> Tuple[Float[Tensor, "n 3 4"], Float[Tensor, "n"]]:
        """The bank's best pose for each photograph, and its cost (`pyramid_features`' squared distance)."""
        poses, cost = self.top_poses(photographs, 1)
        return poses[:, 0], cost[:, 0]

    @torch.no_grad()
    def top_poses(
        self, photographs: Photographs, count: int
    ) -> Tuple[Float[Tensor, "n {count} 3 4"], Float[Tensor, "n {count}"]]:
        """The bank's `count` best poses for each photograph, best first, and their costs."""
        background = self.model.draw_background()
        bank = self.prior.sample(self.config.bank_size, self.radius, self.model.device)
        cost = pairwise_cost(
            self._photograph_features(photographs, background),
            pyramid_features(self._render(photographs, bank, background, torch.zeros(len(bank), dtype=torch.long))),
        )
        lowest, best = cost.topk(count, dim=1, largest=False)
        return bank[best], lowest

    @torch.no_grad()
    def cost_at(self, photographs: Photographs, camera_to_worlds: Float[Tensor, "n 3 4"]) -> Float[Tensor, "n"]:
        """Cost of each photograph at a pose of its own."""
        background = self.model.draw_background()
        renderings = self._render(photographs, camera_to_worlds, background, torch.arange(len(photographs)))
        difference = self._photograph_features(photographs, background) - pyramid_features(renderings)
        return difference.square().sum(1)

    @torch.no_grad()
    def better_poses(
        self, photographs: Photographs, current: Float[Tensor, "n 3 4"]
    ) -> Tuple[Int[Tensor, "moved"], Float[Tensor, "moved 3 4"]]:
        """Photographs that fit clearly better somewhere else in the bank, and their poses there.

        Args:
            photographs: all of them.
            current: their present poses.

        Returns:
            Indices of the photographs to move, and where to.
        """
        poses, cost = self.best_poses(photographs)
        current_cost = self.cost_at(photographs, current)
        moved = torch.nonzero(cost < self.config.required_cost_ratio * current_cost).squeeze(-1)
        return moved, poses[moved]

    def _size(self, photographs: Photographs) -> Tuple[int, int]:
        return photographs.size_at(self.config.image_side, multiple_of=4)

    def _photograph_features(
        self, photographs: Photographs, background: Float[Tensor, "3"]
    ) -> Float[Tensor, "n features"]:
        return pyramid_features(photographs.resized(*self._size(photographs), background))

    def _render(
        self,
        photographs: Photographs,
        camera_to_worlds: Float[Tensor, "batch 3 4"],
        background: Float[Tensor, "3"],
        camera_indices: Tensor,
    ) -> Float[Tensor, "batch 3 height width"]:
        """Small renderings, with the intrinsics of the given photographs."""
        height, width = self._size(photographs)
        camera_indices = camera_indices.to(camera_to_worlds.device)
        was_training = self.model.training
        self.model.eval()
        colours = []
        for start in range(0, len(camera_to_worlds), max(1, RAYS_PER_CHUNK // (height * width))):
            chunk = slice(start, start + max(1, RAYS_PER_CHUNK // (height * width)))
            directions = photographs.pixel_directions(camera_indices[chunk], height, width)
            rays = rays_from_poses(camera_to_worlds[chunk], directions, camera_indices[chunk])
            colours.append(self.model.colours_over(self.model.render(rays), background))
        self.model.train(was_training)
        return torch.cat(colours).view(len(camera_to_worlds), height, width, 3).permute(0, 3, 1, 2)
