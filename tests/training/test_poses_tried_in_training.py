"""Few images are tried at other poses between phases A and B."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import SCHEDULE, build_pipeline, build_trainer, pipeline_config, trainer_config

from gnerf_ns.training.pose_trials import PoseTrialsConfig
from gnerf_ns.training.schedule import PhaseScheduleConfig


@pytest.mark.parametrize("are_replaced", [True, False])
def test_optimizers_forget_where_trials_replaced_the_field(
    tiny_scene: Path, tmp_path: Path, monkeypatch: Any, are_replaced: bool
):
    config = trainer_config(tiny_scene, tmp_path, max_num_iterations=7)
    config.pipeline.schedule = PhaseScheduleConfig(**{**SCHEDULE, "pose_trial_rounds": 2})
    trainer = build_trainer(config)
    pipeline = trainer.pipeline
    trials, render, asked, momenta = pipeline.pose_updates._trials, pipeline.model.render, [], []

    def replaced(rounds: int) -> bool:
        asked.append(rounds)
        return are_replaced

    def rendering(rays: Any) -> Any:
        if len(momenta) < len(asked):
            momenta.append(sum(len(optimizer.state) for optimizer in trainer.optimizers.optimizers.values()))
        return render(rays)

    monkeypatch.setattr(trials, "run", replaced)
    monkeypatch.setattr(pipeline.model, "render", rendering)
    trainer.train()
    assert asked == [2], "once, where phase B begins"
    assert len(momenta) == 1 and (momenta[0] == 0) == are_replaced


def test_trials_leave_no_gradients(tiny_scene: Path):
    """Their rays depend on the run's focal lengths, which the step after them would move."""
    pipeline = build_pipeline(pipeline_config(tiny_scene, focal_length="shared"))
    pipeline.pose_updates._trials.run(1)
    assert all(parameter.grad is None for parameter in pipeline.parameters())
    assert torch.isfinite(pipeline.train_poses()).all()


def test_a_run_from_before_there_were_trials_can_be_loaded(tiny_scene: Path):
    config = pipeline_config(tiny_scene)
    del config.__dict__["pose_trials"]  # as it comes from such a run's config.yml
    assert build_pipeline(config).pose_updates._trials.config == PoseTrialsConfig()
