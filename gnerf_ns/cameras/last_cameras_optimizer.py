"""nerfstudio's camera optimizer, where only some poses are to be learned."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Type

import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizer, CameraOptimizerConfig


@dataclass
class LastCamerasOptimizerConfig(CameraOptimizerConfig):
    """Corrects the poses of the last training cameras; those before them are known."""

    _target: Type = field(default_factory=lambda: LastCamerasOptimizer)
    """Target class to instantiate."""
    num_corrected: int = 0
    """How many cameras that is."""


class LastCamerasOptimizer(CameraOptimizer):
    """See `LastCamerasOptimizerConfig`."""

    config: LastCamerasOptimizerConfig

    def __init__(self, config: LastCamerasOptimizerConfig, num_cameras: int, **kwargs: Any) -> None:
        """As `CameraOptimizer`; any mode but off."""
        super().__init__(config, num_cameras, **kwargs)
        # Not by nerfstudio's non_trainable_camera_indices: 1.1.5 takes them for rows of a batch.
        moves = (torch.arange(num_cameras) >= num_cameras - config.num_corrected)[:, None]
        self.pose_adjustment.register_hook(lambda gradient: gradient * moves.to(gradient))
