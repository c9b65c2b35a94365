"""What is written to TensorBoard, and at which steps."""

from unittest.mock import Mock

import numpy as np
import pytest
import torch
from nerfstudio.engine.trainer import Trainer
from nerfstudio.utils import writer

from gnerf_ns.training import training_log
from gnerf_ns.training.evaluation import Evaluation
from gnerf_ns.training.objective import ComparedImages
from gnerf_ns.training.photometric import PhotometricObjective
from gnerf_ns.training.schedule import PhaseScheduleConfig, Schedule
from gnerf_ns.training.trainer import GNeRFTrainerConfig
from gnerf_ns.training.training_log import TrainingLog, training_log_callbacks

SCHEDULE = Schedule.of(PhaseScheduleConfig(phase_a_steps=100, phase_b_steps=400), 100, 100)


def fake_objectives() -> list:
    images = torch.rand(2, 3, 16, 16)
    return [
        Mock(spec=PhotometricObjective, compared=compared)
        for compared in (None, ComparedImages("pairs", images, images))
    ]


def blank() -> np.ndarray:
    return np.zeros((4, 4, 3), dtype=np.uint8)


def fake_evaluation() -> Mock:
    evaluation = Mock(spec=Evaluation)
    evaluation.pose_metrics.return_value = {"rotation_error_deg_median": 3.0}
    evaluation.plot_poses.return_value = torch.zeros(4, 4, 3)
    return evaluation


@pytest.fixture
def written(monkeypatch):
    """Steps at which anything was written, by its name."""
    steps = {}

    def note(name, value, step):
        steps.setdefault(name, []).append(step)

    monkeypatch.setattr(writer, "put_scalar", note)
    monkeypatch.setattr(writer, "put_image", note)
    monkeypatch.setattr(training_log, "STEPS_PER_PLOT", 200)
    return steps


def test_what_is_written_when(written):
    log = TrainingLog(lambda: SCHEDULE, fake_objectives(), fake_evaluation(), blank)
    for step in range(500):
        log.write(step)
    assert written == {
        "Train Poses/rotation_error_deg_median": list(range(0, 500, 50)),
        "Phase A/pairs": [0, 25, 50, 75],
        "Train Poses/cameras": [100, 200, 400],
        "Train Poses/distribution": [100, 200, 400],
    }


def test_no_truth_no_errors(written):
    evaluation = fake_evaluation()
    evaluation.pose_metrics.return_value = {}
    TrainingLog(lambda: SCHEDULE, fake_objectives(), evaluation, blank).write(50)
    assert list(written) == ["Phase A/pairs"]


def test_no_phase_a(written):
    schedule = Schedule.of(PhaseScheduleConfig(phase_a_steps=0, phase_b_steps=10), 100, 100)
    TrainingLog(lambda: schedule, fake_objectives(), fake_evaluation(), blank).write(0)
    assert set(written) == {
        "Train Poses/rotation_error_deg_median",
        "Train Poses/cameras",
        "Train Poses/distribution",
    }


@pytest.mark.parametrize("vis, count", [("viewer", 0), ("tensorboard", 1), ("viewer+tensorboard", 1), ("wandb", 1)])
def test_only_where_a_writer_takes_it(vis, count):
    trainer = Mock(spec=Trainer)
    trainer.config = GNeRFTrainerConfig(vis=vis)
    assert len(training_log_callbacks(lambda: SCHEDULE, fake_objectives(), fake_evaluation(), blank, trainer)) == count


def test_without_trainer():
    assert training_log_callbacks(lambda: SCHEDULE, fake_objectives(), fake_evaluation(), blank, None) == []
