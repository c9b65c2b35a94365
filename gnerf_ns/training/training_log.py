"""What TensorBoard (or another of nerfstudio's writers) gets besides losses and evaluation images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional

import numpy as np
import torch
from jaxtyping import UInt8
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from nerfstudio.utils import writer

from gnerf_ns.cameras.learned_cameras import LearnedCameras
from gnerf_ns.training.evaluation import Evaluation
from gnerf_ns.training.objective import Objective
from gnerf_ns.training.photometric import PhotometricObjective
from gnerf_ns.training.schedule import Schedule, StepPlan

if TYPE_CHECKING:
    from nerfstudio.engine.trainer import Trainer, TrainerConfig

PosePlot = Callable[[], UInt8[np.ndarray, "height width 3"]]

STEPS_PER_POSE_ERRORS = 50
STEPS_PER_PLOT = 1000
"""Between two plots of the cameras."""

IMAGES_IN_PHASE_A = 4
"""Images are taken at least this often in phase A, however short it is."""


class TrainingLog:
    """Pose errors where the truth is known, images of what phase A compares, and plots of the cameras."""

    def __init__(
        self,
        schedule: Callable[[], Schedule],
        objectives: List[Objective],
        evaluation: Evaluation,
        plot_distribution: PosePlot,
    ) -> None:
        """
        Args:
            schedule: gives the run's present schedule.
            objectives: what they compared last is shown.
            evaluation: pose errors and plots.
            plot_distribution: an image of the distribution of poses.
        """
        self._schedule = schedule
        self._objectives = objectives
        self._evaluation = evaluation
        self._plot_distribution = plot_distribution
        self._steps_per_image = max(1, min(STEPS_PER_PLOT, schedule().config.phase_a_steps // IMAGES_IN_PHASE_A))

    def write(self, step: int) -> None:
        """Hand to nerfstudio's writers whatever is due after a step."""
        if step % STEPS_PER_POSE_ERRORS == 0:
            for name, value in self._evaluation.pose_metrics().items():
                writer.put_scalar(f"Train Poses/{name}", value, step)
        if step % self._steps_per_image == 0 and self._schedule().at(step).name != "B":
            for objective in self._objectives:
                if objective.compared is not None:
                    writer.put_image(f"Phase A/{objective.compared.title}", objective.compared.grid(), step)
        if (step % STEPS_PER_PLOT == 0 and step > 0) or step == self._schedule().phase_a_end:
            writer.put_image("Train Poses/cameras", self._evaluation.plot_poses(), step)
            writer.put_image(
                "Train Poses/distribution", torch.from_numpy(self._plot_distribution()).float() / 255, step
            )


def training_metrics(plan: StepPlan, photometric: PhotometricObjective, cameras: LearnedCameras) -> Dict[str, Any]:
    """What is told of every training step besides its losses."""
    metrics: Dict[str, Any] = {"phase_b": float(plan.phase == "B"), "image_side": float(plan.image_side)}
    if plan.phase == "B":
        metrics["psnr"] = photometric.psnr
    if cameras.focal_scales.is_learned:
        metrics["focal_scale"] = cameras.focal_scales.typical
    return metrics


def training_log_callbacks(
    schedule: Callable[[], Schedule],
    objectives: List[Objective],
    evaluation: Evaluation,
    plot_distribution: PosePlot,
    trainer: Optional[Trainer],
) -> List[TrainingCallback]:
    """Callbacks that write the log; none where no writer would take it."""
    if trainer is None or not _has_event_writer(trainer.config):
        return []
    log = TrainingLog(schedule, objectives, evaluation, plot_distribution)
    return [TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], log.write)]


def _has_event_writer(config: TrainerConfig) -> bool:
    return config.is_tensorboard_enabled() or config.is_wandb_enabled() or config.is_comet_enabled()
