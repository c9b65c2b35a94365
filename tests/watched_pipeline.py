"""What nerfstudio's viewer asks of a pipeline, with estimates that a test can change."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, List

import torch
from nerfstudio.cameras.cameras import Cameras
from torch import nn

from gnerf_ns.cameras.learned_cameras import LearnedCameras, Split
from gnerf_ns.data.datamanager import UnposedDataManager
from gnerf_ns.data.image_set import ImageStack
from gnerf_ns.training.live_view import LiveView, TrainingStatus
from gnerf_ns.training.pose_status import PoseStatus
from gnerf_ns.training.schedule import PhaseScheduleConfig, Schedule

SCHEDULE = Schedule.of(PhaseScheduleConfig(phase_a_steps=10, interleaved_steps=6, phase_b_steps=20), 100, 100)


class GivenDataManager(UnposedDataManager):
    """Cameras and images that need no files."""

    def __init__(self, given: Cameras, held_out: Cameras, images: ImageStack, others: ImageStack) -> None:
        nn.Module.__init__(self)
        self.includes_time = False
        self.train_dataset, self.eval_dataset = _dataset(given, "photo"), _dataset(held_out, "other")
        self.train_images, self.eval_images = images, others
        self.train_dataparser_outputs: Any = SimpleNamespace(alpha_color=torch.ones(3))


def _dataset(given: Cameras, name: str) -> Any:
    return SimpleNamespace(given_cameras=given, image_filenames=[Path(f"{name}_{i}.png") for i in range(len(given))])


class WatchedPipeline(nn.Module):
    """A pipeline that is looked at.

    Attributes:
        statuses: what is known of the poses; nothing at first.
    """

    def __init__(self, model: nn.Module, datamanager: GivenDataManager, cameras: LearnedCameras, on_cpu: bool) -> None:
        super().__init__()
        self.model, self.datamanager, self.cameras = model, datamanager, cameras
        self.statuses: Dict[Split, List[PoseStatus]] = {}
        self.live_view = LiveView(cameras, datamanager, lambda: self.statuses, on_cpu)
        self.training_status = TrainingStatus(lambda: SCHEDULE)

    @property
    def poses(self) -> torch.Tensor:
        """Estimated poses of the training images."""
        return self.cameras.poses("train")
