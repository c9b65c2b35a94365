"""What matched points say of poses, beside colors: they are to lie on each other's epipolar lines.

Colors alone let poses walk while a field is young, and in photographs for long: some forty rays of a photograph in a
step are a noisy judge. Matches are not many, but each of them holds two cameras to a fraction of a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Optional, Tuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gnerf_ns.cameras.rays import no_rays, sampson_errors
from gnerf_ns.matching.local_matches import PairMatches
from gnerf_ns.training.objective import ComparedImages, RenderRequest, TrainingScene
from gnerf_ns.training.pose_updates import LeaveOut
from gnerf_ns.training.schedule import StepPlan
from gnerf_ns.utils.annealing import geometric

CONTRADICTION_SIGMAS = 20.0
"""A pair of images is contradicted if most of its matches are off by more than so many `sigma`."""


@dataclass
class EpipolarObjectiveConfig:
    """Configuration of `EpipolarObjective`."""

    loss_mult: Tuple[float, float] = (0.01, 0.0003)
    """Weight of the loss at the beginning and at the end of phase B; geometric in between."""
    matches_per_step: int = 4096
    """Matches that are looked at in a step."""
    sigma: float = 1e-3
    """Angle, in radians, from which on a match is more and more taken to be wrong; about a pixel of a thousand."""


class EpipolarObjective(nn.Module):
    """Robust Sampson error of matches between training images; without matches it is never active."""

    def __init__(self, config: EpipolarObjectiveConfig, scene: TrainingScene, leave_out: LeaveOut) -> None:
        super().__init__()
        self.config = config
        self.compared: Optional[ComparedImages] = None
        self._scene, self._leave_out = scene, leave_out
        self._images: Int[Tensor, "matches 2"] = torch.zeros(0, 2, dtype=torch.long)
        self._coords: Float[Tensor, "matches 2 2"] = torch.zeros(0, 2, 2)
        self._believed: Int[Tensor, "believed"] = torch.zeros(0, dtype=torch.long)

    def use(self, matches: PairMatches) -> None:
        """Take matches; those of other than training images are left out.

        Args:
            matches: of training and held-out images, one after the other.
        """
        images, coords = torch.from_numpy(matches.images), torch.from_numpy(matches.coords)
        kept = (images < len(self._scene.image_set)).all(dim=1)
        nobody = torch.zeros(0, dtype=torch.long)
        self.set_extra_state({"images": images[kept], "coords": coords[kept], "believed": nobody})
        self._choose_believed()

    def get_extra_state(self) -> Dict[str, Any]:
        """For checkpoints: the matches, and which are believed."""
        return {"images": self._images, "coords": self._coords, "believed": self._believed}

    def set_extra_state(self, state: Dict[str, Any]) -> None:
        """From checkpoints."""
        device = self._scene.model.device
        self._images, self._coords = state["images"].to(device), state["coords"].to(device)
        self._believed = state["believed"].to(device)

    @torch.no_grad()
    def _choose_believed(self) -> None:
        """All matches but those of pairs that the poses contradict, by parts that look alike, or that have none yet."""
        if len(self._images) == 0:
            return
        agree = self._errors(self._images, self._coords).sqrt() < CONTRADICTION_SIGMAS * self.config.sigma
        _, of_pair = torch.unique(self._images, dim=0, return_inverse=True)
        shares = torch.zeros(int(of_pair.max()) + 1, device=agree.device)
        shares = shares.index_add(0, of_pair, agree.float()) / shares.index_add(
            0, of_pair, torch.ones_like(agree).float()
        )
        placed = ~self._leave_out.unplaced[self._images].any(dim=1)
        self._believed = ((shares[of_pair] > 0.5) & placed).nonzero()[:, 0]

    @property
    def believed_matches(self) -> Tuple[Int[Tensor, "believed 2"], Float[Tensor, "believed 2 2"]]:
        """The two images that each match is of which present poses do not contradict, and (x, y) in either."""
        return self._images[self._believed], self._coords[self._believed]

    def is_active(self, plan: StepPlan) -> bool:
        """In B steps, where there are matches."""
        return plan.phase == "B" and len(self._images) > 0

    def request(self, plan: StepPlan) -> RenderRequest:
        """No rays; the loss depends on cameras alone."""
        if plan.searches_misfit_poses:  # some images may stand elsewhere by now
            self._choose_believed()
        device, count = self._scene.model.device, len(self._believed)
        if count == 0:
            return RenderRequest(no_rays(device), lambda outputs: {})
        chosen = self._believed[torch.randint(count, (self.config.matches_per_step,), device=device)]
        images, coords = self._images[chosen], self._coords[chosen]

        def losses(outputs: Dict[str, Any]) -> Dict[str, Tensor]:
            robust = torch.log1p(self._errors(images, coords) / self.config.sigma**2)
            return {"epipolar_loss": geometric(self.config.loss_mult, plan.phase_b_progress) * robust.mean()}

        return RenderRequest(no_rays(device), losses)

    def _errors(
        self, images: Int[Tensor, "matches 2"], coords: Float[Tensor, "matches 2 2"]
    ) -> Float[Tensor, "matches"]:
        """`sampson_errors` of matches at the present poses."""
        cameras, poses = self._scene.cameras, self._scene.cameras()
        return sampson_errors(
            poses[images[:, 0]],
            poses[images[:, 1]],
            cameras.train_lenses.at(images[:, 0], coords[:, :1])[:, 0],
            cameras.train_lenses.at(images[:, 1], coords[:, 1:])[:, 0],
        )
