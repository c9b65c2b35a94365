"""A field that begins anew with every question: how well do photographs at these poses make up one scene?

A field that has been trained for long shows every photograph from wherever it is believed to have been taken. One that
has had a second to learn in, with its coarse levels alone, shows best what many photographs agree on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Optional

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gnerf_ns.cameras.pose_table import PoseTable
from gnerf_ns.localization.photographs import Photographs
from gnerf_ns.localization.pixel_rays import sample_pixel_rays
from gnerf_ns.localization.pose_search import PoseSearch
from gnerf_ns.models.gnerf import GNeRFModel

GRADIENT_SCALE = 1024.0
"""Adam does not mind how large gradients are; tiny-cuda-nn's have half precision, in which small ones vanish."""


@dataclass
class YoungFieldConfig:
    """Configuration of `YoungField`."""

    image_side: int = 24
    """Longer side of the photographs that it learns and that are compared with it, in pixels."""
    rays_per_step: int = 1024
    """Random pixels of a step."""
    learning_rate: float = 1e-2
    """Adam's learning rate on the field."""
    pose_learning_rate: float = 2e-3
    """Adam's learning rate on poses, in radians and camera distances."""


@dataclass(frozen=True)
class Fit:
    """What a young field makes of photographs and poses."""

    camera_to_worlds: Float[Tensor, "n 3 4"]
    """Poses, trained together with the field."""
    explained_share: float
    """`PoseSearch.explained_share` of all photographs there."""


class YoungField:
    """A field of its own beside that of a run, of the same kind.

    Attributes:
        search: looks poses up in it.
    """

    def __init__(
        self, config: YoungFieldConfig, model: GNeRFModel, photographs: Photographs, pose_search: PoseSearch
    ) -> None:
        """
        Args:
            config: how it learns.
            model: what it is to be like; left alone.
            photographs: what it learns from.
            pose_search: how poses are looked up in `model`.
        """
        self.config = config
        self._photographs = photographs
        self._model = model.another()
        self._model.radiance.follow(phase_a=False, phase_b_progress=0.0, active_levels=0.0, density_noise=0.0)
        self.search = PoseSearch(pose_search.config, self._model, pose_search.matcher, pose_search.codec)

    def begin_anew(self) -> None:
        """Forget everything."""
        self._model.forget()

    def put_back(self, weights: Dict[str, Tensor]) -> None:
        """Go on from what it was."""
        self._model.load_state_dict(weights)

    def weights(self) -> Dict[str, Tensor]:
        """What it is, to be put back or to go on from in the run."""
        return {name: value.clone() for name, value in self._model.state_dict().items()}

    def learn(
        self, camera_to_worlds: Float[Tensor, "n 3 4"], steps: int, chosen: Optional[Int[Tensor, "chosen"]] = None
    ) -> Float[Tensor, "n 3 4"]:
        """Train the field, and with it the poses.

        Args:
            camera_to_worlds: where the poses begin.
            steps: of Adam, which begins anew.
            chosen: photographs to learn from; None for all.

        Returns:
            The poses. On average they are as far away as they were: while there is little to see, descent moves all
            cameras outwards.
        """
        table = PoseTable(len(self._photographs), self.search.codec).to(camera_to_worlds.device)
        table.assign(torch.arange(len(camera_to_worlds), device=camera_to_worlds.device), camera_to_worlds)
        field, poses = list(self._model.parameters()), list(table.parameters())
        adam = torch.optim.Adam(field, lr=self.config.learning_rate, eps=1e-15, betas=(0.9, 0.99), fused=True)
        adam.add_param_group({"params": poses, "lr": self.config.pose_learning_rate, "eps": 1e-8})
        side, num_rays = self.config.image_side, self.config.rays_per_step
        with torch.enable_grad(), torch.autocast(camera_to_worlds.device.type, enabled=False):
            for _ in range(steps):
                rays, colours = sample_pixel_rays(self._photographs, table(), num_rays, side, chosen)
                outputs = self._model.render(rays)
                loss = self._model.get_photometric_loss(outputs, colours)
                loss = loss + sum(self._model.get_regularization_losses(outputs).values())
                adam.zero_grad()
                # Focal lengths, which the rays depend on as well, are not learned here.
                (GRADIENT_SCALE * loss).backward(inputs=field + poses)
                adam.step()
        learned = table().detach()
        far, was_far = (poses[:, :, 3].norm(dim=1).mean() for poses in (learned, camera_to_worlds))
        return torch.cat([learned[:, :, :3], learned[:, :, 3:] * (was_far / far)], dim=-1)

    def fit(self, camera_to_worlds: Float[Tensor, "n 3 4"], steps: int) -> Fit:
        """Learn from all photographs for a while, and see what that has come to."""
        learned = self.learn(camera_to_worlds, steps)
        return Fit(learned, self.search.explained_share(self._photographs, learned, self.config.image_side))

    def worst_first(self, camera_to_worlds: Float[Tensor, "n 3 4"]) -> List[int]:
        """Photographs by their cost at poses, in units of their own contrast."""
        cost = self.search.relative_cost(self._photographs, camera_to_worlds, self.config.image_side)
        return cost.argsort(descending=True).tolist()
