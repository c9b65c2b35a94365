"""What TensorBoard (or another of nerfstudio's writers) gets besides losses and evaluation images."""

from __future__ import annotations

from typing import TYPE_CHECKING, List, Optional

from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from nerfstudio.utils import writer

from gnerf_ns.pipelines import evaluation

if TYPE_CHECKING:
    from nerfstudio.engine.trainer import Trainer, TrainerConfig

    from gnerf_ns.pipelines.gnerf_pipeline import GNeRFPipeline

STEPS_PER_POSE_ERRORS = 50
PICTURES_IN_PHASE_A = 4
"""Pictures are taken at least this often in phase A, however short it is."""


class TrainingLog:
    """Pose errors where the truth is known, pictures of what phase A compares, and plots of the cameras."""

    def __init__(self, pipeline: GNeRFPipeline, steps_per_plot: int) -> None:
        """
        Args:
            pipeline: whose training is logged.
            steps_per_plot: between two plots of the cameras; patches are shown at least as often.
        """
        self._pipeline = pipeline
        self._steps_per_plot = steps_per_plot
        schedule = pipeline.config.schedule
        self._steps_per_picture = max(1, min(steps_per_plot, schedule.phase_a_steps // PICTURES_IN_PHASE_A))

    def write(self, step: int) -> None:
        """Hand to nerfstudio's writers whatever is due after a step."""
        schedule = self._pipeline.config.schedule
        if step % STEPS_PER_POSE_ERRORS == 0:
            for name, value in self._pipeline.pose_metrics().items():
                writer.put_scalar(f"Train Poses/{name}", value, step)
        if step % self._steps_per_picture == 0 and schedule.at(step).name != "B":
            for objective in self._pipeline.objectives:
                if objective.compared is not None:
                    writer.put_image(f"Phase A/{objective.compared.title}", objective.compared.grid(), step)
        if (step % self._steps_per_plot == 0 and step > 0) or step == schedule.phase_b_start:
            writer.put_image("Train Poses/cameras", evaluation.plot_poses(self._pipeline), step)


def training_log_callbacks(pipeline: GNeRFPipeline, trainer: Optional[Trainer]) -> List[TrainingCallback]:
    """Callbacks that write the log; none where no writer would take it."""
    if trainer is None or not _has_event_writer(trainer.config):
        return []
    log = TrainingLog(pipeline, trainer.config.steps_per_eval_image)
    return [TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], log.write)]


def _has_event_writer(config: TrainerConfig) -> bool:
    return config.is_tensorboard_enabled() or config.is_wandb_enabled() or config.is_comet_enabled()
