from pathlib import Path
from typing import Any, List
from unittest.mock import Mock

import pytest
import torch
from tiny_run import build_pipeline, build_trainer, pipeline_config, train_steps, trainer_config

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


def test_enough_of_phase_b_must_be_left():
    """gnerf-ns-adversarial's lengths, for which a second restart would end the run within phase A."""
    schedule = PhaseScheduleConfig(phase_a_steps=500, interleaved_steps=100, phase_b_steps=900)
    restarts = Restarts(RestartsConfig(max_restarts=9), schedule, Mock())
    assert restarts.after(500, 0.0)
    assert (schedule.begins_at, schedule.phase_b_steps, schedule.total_steps) == (501, 399, 1500)
    assert not restarts.after(1001, 0.0)


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
    untrained = dict(build_pipeline(trainer.config.pipeline).model.named_parameters())
    tables = {name: parameter for name, parameter in pipeline.model.named_parameters() if "hash_table" in name}
    assert tables
    for name, table in tables.items():  # freshly drawn, between -1e-3 and 1e-3, and another draw
        assert table.abs().max() <= 1.01e-3 and not torch.equal(table, untrained[name])

    resumed = trained(tiny_scene, tmp_path / "second", 12, load_dir=trainer.config.get_checkpoint_dir())
    assert resumed.pipeline.schedule.begins_at == 4 and int(resumed.pipeline.restarts.count) == 1
    names: List[str] = [resumed.pipeline.schedule.at(step).name for step in range(4, 12)]
    assert names == ["A"] * 3 + ["AB"] * 2 + ["B"] * 3


@pytest.mark.parametrize("phase_a", ["transport", "adversarial"])
def test_every_network_of_phase_a_forgets(tiny_scene: Path, phase_a: Any):
    pipeline = build_pipeline(pipeline_config(tiny_scene, phase_a, focal_length="shared"))
    first_draw = {name: value.clone() for name, value in pipeline.named_parameters()}
    train_steps(pipeline, range(9))
    pipeline._initialise_networks(9)
    for name, parameter in pipeline.named_parameters():
        if parameter.ndim > 1 and not name.startswith(("train_poses", "eval_poses")):
            assert not torch.equal(parameter, first_draw[name]), f"{name} is the draw of the first attempt"
    (logarithms,) = pipeline.get_param_groups()["focal_lengths"]
    assert not logarithms.any()
