"""Poses of images that the field was not trained on: looked up, then refined with the field frozen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable, Optional

import torch
from jaxtyping import Float
from torch import Tensor

from gnerf_ns.cameras.pose_table import PoseTable
from gnerf_ns.localization.photographs import Photographs
from gnerf_ns.localization.photometric_refinement import RefinementConfig, refine_poses
from gnerf_ns.localization.pose_search import PoseSearch
from gnerf_ns.models.gnerf import GNeRFModel

PoseRegressor = Callable[[Photographs], Float[Tensor, "n 3 4"]]
"""An inversion network: photographs to poses in one pass."""


@dataclass
class HeldOutConfig:
    """How poses of evaluation images are estimated."""

    refinement: RefinementConfig = field(default_factory=RefinementConfig)
    """Photometric refinement of the looked-up poses."""


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
        regress: the run's inversion network, if it has one. Where the search finds a clearly better pose than the
            network's, it is taken instead.
    """
    everyone = torch.arange(len(photographs), device=poses.codes.device)
    if regress is None:
        poses.assign(everyone, pose_search.best_poses(photographs)[0])
    else:
        poses.assign(everyone, regress(photographs))
        poses.assign(*pose_search.better_poses(photographs, poses()))
    refine_poses(config.refinement, model, photographs, poses)
