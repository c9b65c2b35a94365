"""When phase A begins anew, which attempt is kept, and what is forgotten."""

import math
from pathlib import Path
from typing import Any, Dict, List
from unittest.mock import Mock

import pytest
import roma
import torch
from analytic_scene import random_poses
from jaxtyping import Float
from tiny_run import build_pipeline, build_trainer, pipeline_config, state_of, train_steps, trainer_config
from torch import Tensor

from gnerf_ns.cameras.alignment import Similarity
from gnerf_ns.training.restarts import AttemptState, Restarts, RestartsConfig, are_alike
from gnerf_ns.training.schedule import PhaseScheduleConfig, Schedule


def seed_at(step: int) -> int:
    return 100 * step


def planned(num_attempts: int = 1, **lengths: Any) -> Schedule:
    """Ten steps of phase A in each attempt, and a hundred of phase B."""
    config = PhaseScheduleConfig(**{"phase_a_steps": 10, "phase_b_steps": 100, **lengths})
    config.phase_a_attempts = num_attempts
    return Schedule.of(config, 100, 100)


def restarts_of(schedule: Schedule, **options: Any) -> Restarts:
    return Restarts(RestartsConfig(**options), schedule, Mock(spec=AttemptState), seed_at)


def after(restarts: Restarts, step: int, explained_variance: float) -> bool:
    """An attempt that comes to other poses than those before."""
    return restarts.after(step, explained_variance, random_poses(6, seed=step))


def moved(camera_to_worlds: Float[Tensor, "n 3 4"], turned_deg: float = 0.0) -> Float[Tensor, "n 3 4"]:
    """The same scene seen in another frame, half as large, and the first camera turned about its own axis."""
    turn = roma.rotvec_to_rotmat(torch.deg2rad(torch.tensor([0.0, 0.0, turned_deg])))
    other = camera_to_worlds.clone()
    other[0, :, :3] = other[0, :, :3] @ turn
    return Similarity(roma.random_rotmat(), 0.5, torch.tensor([1.0, 2.0, 3.0])).apply(other)


def test_only_a_failed_phase_a_begins_anew():
    restarts = restarts_of(planned(), min_explained_variance=0.2, max_restarts=1)
    attempt: Any = restarts._attempt
    assert not after(restarts, 10, 0.2)
    assert restarts.schedule == planned()
    attempt.initialize.assert_not_called()
    assert after(restarts, 10, 0.19)
    attempt.initialize.assert_called_once_with(seed_at(11))
    attempt.copied.assert_called_once_with()
    schedule = restarts.schedule
    assert schedule.begins_at == 11 and schedule.at(11).phase == "A" and schedule.at(11).phase_a_progress == 0
    assert schedule.at(21).searches_all_poses and schedule.total_steps == 110


def test_an_attempt_that_diverged_has_failed():
    restarts = restarts_of(planned())
    assert after(restarts, 10, math.nan) and restarts.schedule.begins_at == 11
    restarts = restarts_of(planned(2))
    assert after(restarts, 10, 0.5) and after(restarts, 21, math.nan)
    assert restarts.schedule.begins_at == 11, "training continues from the first attempt"


def test_after_the_last_restart_a_failure_is_said(capsys):
    restarts = restarts_of(planned(), max_restarts=1)
    assert after(restarts, 10, -0.5)
    assert "phase A is restarted" in capsys.readouterr().out
    assert not restarts.has_failed, "it is not over yet"
    assert not after(restarts, 21, -0.5)
    assert restarts.schedule.begins_at == 11
    assert "--machine.seed" in capsys.readouterr().out
    assert restarts.has_failed and restarts.kept_explained == -0.5


def test_what_the_kept_attempt_explained_survives_a_checkpoint():
    restarts = restarts_of(planned(2), min_explained_variance=0.2)
    assert after(restarts, 10, 0.5) and restarts.kept_explained is None
    assert after(restarts, 21, 0.3)
    resumed = restarts_of(planned(2))
    resumed.load_state_dict(restarts.state_dict())
    assert resumed.kept_explained == 0.5 and not resumed.has_failed
    older = {"best_explained": 0.5, "best": None}
    resumed.set_extra_state(older)
    assert resumed.kept_explained is None and not resumed.has_failed


def test_attempts_that_all_diverged_have_failed():
    restarts = restarts_of(planned(), max_restarts=0)
    after(restarts, 10, math.nan)
    assert restarts.has_failed


def test_enough_of_phase_b_must_be_left():
    """gnerf-ns-adversarial's lengths, for which a second restart would end the run within phase A."""
    restarts = restarts_of(planned(phase_a_steps=500, interleaved_steps=100, phase_b_steps=900), max_restarts=9)
    assert after(restarts, 500, 0.0)
    schedule = restarts.schedule
    assert (schedule.begins_at, schedule.phase_b_steps, schedule.total_steps) == (501, 399, 1500)
    assert not after(restarts, 1001, 0.0)


@pytest.mark.parametrize("shares, best", [((0.3, 0.7, 0.5), 1), ((0.7, 0.5, 0.3), 0), ((0.3, 0.5, 0.7), 2)])
@pytest.mark.parametrize("resumed_after", [None, 0, 1])
def test_training_continues_from_the_best_of_several_attempts(shares, best: int, resumed_after):
    """Steps 0 to 9, 11 to 20 and 22 to 31 are A; the states are just numbered."""
    trained: List[Dict[str, torch.Tensor]] = []
    attempt_state = Mock(spec=AttemptState)
    attempt_state.copied.side_effect = lambda: trained[-1]

    def build() -> Restarts:
        return Restarts(RestartsConfig(), planned(3), attempt_state, seed_at)

    restarts = build()
    for attempt, step in enumerate((10, 21, 32)):
        trained.append({"attempt": torch.tensor(attempt)})
        assert after(restarts, step, shares[attempt]) == (attempt < 2 or best < 2)
        if attempt == resumed_after:
            state, schedule = restarts.state_dict(), restarts.schedule
            restarts = build()
            restarts.load_state_dict(state)
            assert restarts.schedule == schedule
    if best == 2:
        attempt_state.put_back.assert_not_called()
    else:
        attempt_state.put_back.assert_called_once_with({"attempt": torch.tensor(best)})
    assert restarts.best is None
    assert restarts.schedule.begins_at == 22
    assert restarts.schedule.phase_b_steps == 100 and restarts.schedule.total_steps == 132


def test_attempts_that_all_failed_are_followed_by_another_one():
    restarts = restarts_of(planned(2), max_restarts=1)
    assert after(restarts, 10, 0.05) and after(restarts, 21, 0.01) and restarts.schedule.begins_at == 22
    assert not after(restarts, 32, 0.5)


def test_training_continues_from_the_best_of_attempts_that_all_failed():
    """Also if it was the last planned one."""
    restarts = restarts_of(planned(2), max_restarts=1)
    attempt: Any = restarts._attempt
    attempt.copied.side_effect = [{"attempt": torch.tensor(0)}, {"attempt": torch.tensor(1)}]
    assert after(restarts, 10, 0.01) and after(restarts, 21, 0.05)
    assert after(restarts, 32, 0.02)
    attempt.put_back.assert_called_once_with({"attempt": torch.tensor(1)})


def test_a_field_that_diverged_begins_anew(tiny_scene: Path):
    pipeline = build_pipeline(pipeline_config(tiny_scene, "transport", restarts=RestartsConfig()))
    assert pipeline.transport is not None
    pipeline.transport.config.learning_start = 0.0  # poses are drawn near those that were matched from step 1 on
    with torch.no_grad():
        for parameter in pipeline.model.parameters():
            parameter.fill_(math.nan)
    history = train_steps(pipeline, range(4), pipeline._begin_anew_or_go_back)
    assert math.isnan(history[2]["transport_loss"])
    assert pipeline.schedule.begins_at == 4
    assert all(value.isfinite().all() for value in state_of(pipeline).values() if value.is_floating_point())


def trained(data: Path, output: Path, steps: int, **options: Any) -> Any:
    config = trainer_config(data, output, max_num_iterations=steps, **options)
    config.pipeline.restarts = RestartsConfig(min_explained_variance=2.0, max_restarts=1)  # nothing is good enough
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


@pytest.mark.parametrize("turned_deg, needed", [(15.0, 2), (25.0, 3)])
@pytest.mark.parametrize("is_resumed", [False, True])
def test_attempts_that_agree_are_enough(capsys, turned_deg: float, needed: int, is_resumed: bool):
    """The third comes to what the first has; what is left of the four lengthens phase B, so that the run ends when it
    was to end."""
    restarts, poses = restarts_of(planned(4)), random_poses(6)
    assert restarts.after(10, 0.5, poses) and after(restarts, 21, 0.4)
    if is_resumed:
        state, restarts = restarts.state_dict(), restarts_of(planned(4))
        restarts.load_state_dict(state)
    begins_anew = restarts.schedule.at(32).searches_all_poses and restarts.after(32, 0.7, moved(poses, turned_deg))
    assert begins_anew == (needed == 3)
    schedule = restarts.schedule
    assert schedule.total_steps == planned(4).total_steps
    if needed == 2:
        assert "same poses" in capsys.readouterr().out
        assert (schedule.begins_at, schedule.phase_b_steps, restarts.kept_explained) == (22, 111, 0.7)
        resumed = restarts_of(planned(4))
        resumed.load_state_dict(restarts.state_dict())
        assert resumed.schedule == schedule and not resumed.found


def test_attempts_that_came_to_nothing_confirm_nobody():
    restarts, poses = restarts_of(planned(3)), random_poses(6)
    assert restarts.after(10, 0.05, poses) and restarts.after(21, 0.05, poses)
    assert restarts.schedule.begins_at == 22
    assert not are_alike(poses, torch.full_like(poses, torch.nan))


def test_mirrored_poses_are_not_alike():
    poses = random_poses(12)
    flip = torch.diag(torch.tensor([1.0, -1.0, 1.0]))
    mirrored = flip @ poses
    mirrored[:, :, 0] *= -1.0  # a camera's x axis, so that its rotation is one
    assert are_alike(poses, moved(poses)) and not are_alike(poses, mirrored)


@pytest.mark.parametrize("shares, best", [((0.9, 0.3), 0), ((0.3, 0.9), 1)])
def test_networks_and_poses_of_the_best_attempt_come_back(tiny_scene: Path, tmp_path: Path, monkeypatch, shares, best):
    """Two attempts of three steps each; poses are looked up at steps 3 and 7."""
    config = trainer_config(tiny_scene, tmp_path, max_num_iterations=8)
    config.pipeline.schedule.phase_a_attempts, config.pipeline.schedule.leave_out_rounds = 2, 0
    trainer = build_trainer(config)
    pipeline, scores, states = trainer.pipeline, iter(shares), []
    monkeypatch.setattr(pipeline.pose_search.costs, "explained_variance", lambda *arguments: next(scores))
    decide = pipeline.restarts.after

    def after(*arguments: Any) -> bool:
        states.append(AttemptState(pipeline, []).copied())
        return decide(*arguments)

    monkeypatch.setattr(pipeline.restarts, "after", after)
    trainer.train()
    assert len(states) == 2 and not torch.equal(states[0]["cameras.codes"], states[1]["cameras.codes"])
    for name, value in AttemptState(pipeline, []).copied().items():
        assert torch.equal(value, states[best][name]), name


@pytest.mark.parametrize("phase_a", ["transport", "adversarial"])
def test_every_network_of_phase_a_is_drawn_anew(tiny_scene: Path, phase_a: Any):
    pipeline = build_pipeline(pipeline_config(tiny_scene, phase_a, focal_length="shared"))
    first_draw = {name: value.clone() for name, value in pipeline.named_parameters()}
    train_steps(pipeline, range(9))
    pipeline.restarts._attempt.initialize(9)
    for name, parameter in pipeline.named_parameters():
        if parameter.ndim > 1 and not name.startswith("cameras."):
            assert not torch.equal(parameter, first_draw[name]), f"{name} is the draw of the first attempt"
    (logarithms,) = pipeline.get_param_groups()["focal_lengths"]
    assert not logarithms.any()
