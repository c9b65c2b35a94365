"""Everything that an attempt at phase A trains: drawn anew, copied, and put back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Dict

import torch
from torch import Tensor

from gnerf_ns.pipelines.adversarial_objective import AdversarialObjective

if TYPE_CHECKING:
    from gnerf_ns.pipelines.gnerf_pipeline import GNeRFPipeline

OTHERS = ("restarts.", "eval_poses")
"""Beginnings of the names of what attempts do not train."""


class AttemptState:
    """Of a pipeline."""

    def __init__(self, pipeline: GNeRFPipeline) -> None:
        self._pipeline = pipeline

    def initialise(self, seed: int) -> None:
        """Give networks the state of a new run; poses are looked up at the end of phase A."""
        torch.manual_seed(seed)
        pipeline, config = self._pipeline, self._pipeline.config
        model = config.model.setup(
            scene_box=pipeline.model.scene_box, num_train_data=pipeline.model.num_train_data, device=pipeline.device
        )
        pipeline.model.load_state_dict(model.state_dict())
        pipeline.focal_factors.forget()
        pipeline.up_direction.forget()
        if pipeline.transport is not None:
            pipeline.transport.population.forget()
        if pipeline.adversarial is not None:
            pipeline.adversarial.load_state_dict(AdversarialObjective(config.adversarial, pipeline.scene).state_dict())

    def copied(self) -> Dict[str, Tensor]:
        """A copy of networks and poses."""
        state = self._pipeline.state_dict()
        return {name: value.clone() for name, value in state.items() if not name.startswith(OTHERS)}

    def put_back(self, state: Dict[str, Tensor]) -> None:
        """Go on from such a copy."""
        self._pipeline.load_state_dict(state, strict=False)
