"""Poses of images that the field was not trained on: looked up, then refined with the field frozen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

import torch

from gnerf_ns.cameras.pose_table import PoseTable
from gnerf_ns.localization.hypotheses import learned_as
from gnerf_ns.localization.photographs import Photographs
from gnerf_ns.localization.photometric_refinement import RefinementConfig
from gnerf_ns.localization.pose_search import PoseSearch
from gnerf_ns.localization.refinement_rounds import LocalizationConfig, localize_photographs
from gnerf_ns.localization.trained_field import TrainedField
from gnerf_ns.localization.trained_scene import PoseRegressor
from gnerf_ns.models.gnerf import GNeRFModel


@dataclass
class HeldOutConfig:
    """How poses of evaluation images are estimated."""

    num_hypotheses: int = 4
    """Poses per photograph that are tried side by side, the best of the search."""
    localization: LocalizationConfig = field(
        default_factory=lambda: LocalizationConfig(
            survivors=1,
            first=RefinementConfig(
                steps=100, rays_per_hypothesis=40, final_learning_rate=1e-3, first_image_side=24, last_image_side=48
            ),
            second=RefinementConfig(steps=0),
            last=RefinementConfig(),
            # The search begins near enough, and what runs are compared by was measured with all pixels alike.
            ray_selection="random",
            comparison_side=16,
        )
    )
    """Their refinement; with so many hypotheses from a search, one round of pruning is enough."""


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
    starts = pose_search.top_poses(photographs, config.num_hypotheses)[0]
    if regress is not None:
        starts = torch.cat([regress(photographs)[:, None], starts], dim=1)

    found = localize_photographs(config.localization, TrainedField(model), photographs, starts, learned_as(poses.codec))
    everyone = torch.arange(len(found), device=starts.device)
    poses.assign(everyone, torch.stack([localization.camera_to_world for localization in found]))
