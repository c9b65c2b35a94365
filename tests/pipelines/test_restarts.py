from pathlib import Path
from typing import Any, List
from unittest.mock import Mock

import pytest
import torch
from tiny_run import build_pipeline, build_trainer, trainer_config

from gnerf_ns.model_components.phase_schedule import PhaseScheduleConfig
from gnerf_ns.pipelines.restarts import Restarts, RestartsConfig


@pytest.fixture
def schedule() -> PhaseScheduleConfig:
    return PhaseScheduleConfig(phase_a_steps=10, phase_b_steps=100)


def test_only_a_failed_phase_a_begins_anew(schedule: PhaseScheduleConfig):
    initialise = Mock()
    restarts = Restarts(RestartsConfig(min_explained_share=0.2, max_restarts=1), schedule, initialise)
    assert not restarts.after(9, None) and not restarts.after(10, 0.2)
    initialise.assert_not_called()
    assert restarts.after(10, 0.19)
    initialise.assert_called_once_with(11)
    assert schedule.begins_at == 11 and schedule.at(11).phase == "A" and schedule.at(11).phase_a_progress == 0
    assert schedule.at(21).searches_all_poses and schedule.total_steps == 110


def test_it_is_tried_so_often_and_then_said(schedule: PhaseScheduleConfig, capsys):
    restarts = Restarts(RestartsConfig(max_restarts=1), schedule, Mock())
    assert restarts.after(10, -0.5)
    assert "begins anew" in capsys.readouterr().out
    assert not restarts.after(21, -0.5)
    assert schedule.begins_at == 11
    assert "--machine.seed" in capsys.readouterr().out


def trained(data: Path, output: Path, steps: int, **options: Any) -> Any:
    config = trainer_config(data, output, max_num_iterations=steps, **options)
    config.pipeline.restarts = RestartsConfig(min_explained_share=2.0, max_restarts=1)  # nothing is good enough
    config.pipeline.schedule.leave_out_rounds = 0
    trainer = build_trainer(config)
    trainer.train()
    return trainer


def test_networks_optimizers_and_phases_begin_anew_and_a_resumed_run_knows(tiny_scene: Path, tmp_path: Path):
    """Poses are looked up at step 3, so step 4 is the first again."""
    trainer = trained(tiny_scene, tmp_path / "first", 4)
    pipeline = trainer.pipeline
    assert pipeline.schedule.begins_at == 4 and int(pipeline.restarts.count) == 1
    assert not any(optimizer.state for optimizer in trainer.optimizers.optimizers.values())
    assert not pipeline.transport.population.weights.any()
    untrained = build_pipeline(trainer.config.pipeline)
    for name, parameter in pipeline.model.named_parameters():
        if "hash_table" in name:  # freshly drawn, between -1e-4 and 1e-4; another draw than any other
            other = dict(untrained.model.named_parameters())[name]
            assert parameter.abs().max() <= 1e-3 and not torch.equal(parameter, other)

    resumed = trained(tiny_scene, tmp_path / "second", 12, load_dir=trainer.config.get_checkpoint_dir())
    assert resumed.pipeline.schedule.begins_at == 4 and int(resumed.pipeline.restarts.count) == 1
    names: List[str] = [resumed.pipeline.schedule.at(step).name for step in range(4, 12)]
    assert names == ["A"] * 3 + ["AB"] * 2 + ["B"] * 3
