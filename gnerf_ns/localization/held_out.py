"""Poses of images that the field was not trained on: looked up, then refined with the field frozen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable, Optional

import torch
from jaxtyping import Float
from torch import Tensor

from gnerf_ns.cameras.pose_table import PoseTable
from gnerf_ns.localization.photographs import Photographs
from gnerf_ns.localization.photometric_refinement import RefinementConfig, refine_poses, refined_poses
from gnerf_ns.localization.pose_search import PoseSearch
from gnerf_ns.models.gnerf import GNeRFModel

PoseRegressor = Callable[[Photographs], Float[Tensor, "n 3 4"]]
"""An inversion network: photographs to poses in one pass."""


@dataclass
class HeldOutConfig:
    """How poses of evaluation images are estimated."""

    num_hypotheses: int = 4
    """Poses per photograph that are tried side by side, the best of the search."""
    trial: RefinementConfig = field(
        default_factory=lambda: RefinementConfig(
            steps=100, rays_per_step=4096, final_learning_rate=1e-3, last_image_side=48
        )
    )
    """Refinement of all hypotheses; the one that then fits best is kept."""
    refinement: RefinementConfig = field(default_factory=RefinementConfig)
    """Refinement of the poses that were kept."""


def estimate_held_out_poses(
    config: HeldOutConfig,
    model: GNeRFModel,
    photographs: Photographs,
    poses: PoseTable,
    pose_search: PoseSearch,
    regress: Optional[PoseRegressor] = None,
) -> None:
    """Write the poses of photographs into a table, from nothing (GNeRF section 3.4, evaluation images).

    Args:
        config: how.
        model: the trained field; left as it was.
        photographs: the images.
        poses: where the poses go.
        pose_search: global search over the prior.
        regress: the run's inversion network, if it has one; its pose is one more hypothesis.
    """
    hypotheses = pose_search.top_poses(photographs, config.num_hypotheses)[0]
    if regress is not None:
        hypotheses = torch.cat([regress(photographs)[:, None], hypotheses], dim=1)
    count, per_photograph = hypotheses.shape[:2]
    everyone = torch.arange(count, device=hypotheses.device)

    which = everyone.repeat_interleave(per_photograph)
    trials = refined_poses(config.trial, model, photographs[which], hypotheses.flatten(0, 1), poses.codec)
    cost = pose_search.cost_at(photographs, which, trials).view(count, per_photograph)
    kept = trials.view(count, per_photograph, 3, 4)[everyone, cost.argmin(dim=1)]

    poses.assign(everyone, kept)
    refine_poses(config.refinement, model, photographs, poses)
