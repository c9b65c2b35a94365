"""What is up, learned together with the poses: when, by which losses, and what follows it."""

from pathlib import Path

import pytest
import roma
import torch
from tiny_run import build_pipeline, build_trainer, pipeline_config, state_of, train_steps, trainer_config

from gnerf_ns.cameras.pose_codec import UP_DIRECTION_KEY
from gnerf_ns.cameras.pose_prior import PosePriorConfig


@pytest.mark.parametrize(
    ("options", "is_learned"),
    [
        ({}, True),
        ({"learn_up_direction": False}, False),
        ({"pose_mode": "free"}, False),
        ({"pose_prior": PosePriorConfig(roll_deg=(-10.0, 10.0))}, False),
    ],
)
def test_it_is_learned_where_cameras_are_level(tiny_scene: Path, options, is_learned: bool):
    pipeline = build_pipeline(pipeline_config(tiny_scene, "transport", **options))
    assert pipeline.up_direction.is_learned is is_learned
    assert ("up_direction" in pipeline.get_param_groups()) is is_learned


def test_steps_of_b_alone_move_it(tiny_scene: Path):
    pipeline = build_pipeline(pipeline_config(tiny_scene, "transport"))
    train_steps(pipeline, range(4))
    assert not pipeline.up_direction.tilt.any()
    train_steps(pipeline, range(4, 5))  # the B step of AB
    assert pipeline.up_direction.tilt.any()
    before = pipeline.up_direction.tilt.detach().clone()
    train_steps(pipeline, range(5, 8))
    assert not torch.equal(pipeline.up_direction.tilt, before)


@pytest.mark.parametrize("phase_a", ["transport", "adversarial"])
def test_what_phase_a_renders_leans_with_it(tiny_scene: Path, phase_a):
    pipeline = build_pipeline(pipeline_config(tiny_scene, phase_a))
    with torch.no_grad():
        pipeline.up_direction.tilt.copy_(torch.tensor([0.3, 0.1]))
    plan = pipeline.schedule.at(1)
    objective = pipeline.transport or pipeline.adversarial
    assert objective is not None
    torch.manual_seed(0)
    leaning = objective.request(plan).ray_bundle
    pipeline.up_direction.reset_parameters()
    torch.manual_seed(0)
    level = objective.request(plan).ray_bundle
    turn = roma.rotvec_to_rotmat(torch.tensor([0.3, 0.1, 0.0]))
    torch.testing.assert_close(leaning.origins, level.origins @ turn.mT, atol=1e-5, rtol=0.0)
    torch.testing.assert_close(leaning.directions, level.directions @ turn.mT, atol=1e-5, rtol=0.0)


def test_searching_for_poses_does_not_move_it(tiny_scene: Path):
    pipeline = build_pipeline(pipeline_config(tiny_scene, "transport"))
    pipeline.pose_search.config.outlier_cost_ratio = 0.0
    pipeline.pose_search.config.misfit_cost_ratio = 0.0
    pipeline.pose_search.better_poses(pipeline.scene.image_set, pipeline.train_poses().detach(), 16)
    pipeline.estimate_held_out_poses(5)
    assert pipeline.up_direction.tilt.grad is None


def test_everybody_is_level_with_it(tiny_scene: Path):
    pipeline = build_pipeline(pipeline_config(tiny_scene, "transport"))
    with torch.no_grad():
        pipeline.up_direction.tilt.copy_(torch.tensor([0.2, -0.1]))
    pipeline.estimate_held_out_poses(5)
    bank = pipeline.pose_search.top_poses(pipeline.scene.image_set, 3)[0].flatten(0, 1)
    up = pipeline.up_direction()[:, 2].detach()
    for poses in (pipeline.train_poses().detach(), pipeline.eval_poses().detach(), bank):
        assert float((poses[:, :, 0] @ up).abs().max()) < 1e-5


def test_a_copied_attempt_has_it(tiny_scene: Path):
    pipeline = build_pipeline(pipeline_config(tiny_scene, "transport"))
    attempt, tilt = pipeline.restarts._attempt, torch.tensor([0.3, 0.1])
    with torch.no_grad():
        pipeline.up_direction.tilt.copy_(tilt)
    copied = attempt.copied()
    attempt.initialize(0)
    attempt.put_back(copied)
    assert torch.equal(pipeline.up_direction.tilt, tilt)


def test_an_attempt_begins_upright(tiny_scene: Path):
    pipeline = build_pipeline(pipeline_config(tiny_scene, "transport"))
    with torch.no_grad():
        pipeline.up_direction.tilt.fill_(0.3)
    pipeline.restarts._attempt.initialize(0)
    assert not pipeline.up_direction.tilt.any()


def test_checkpoints_from_before_it_was_learned(tiny_scene: Path, tmp_path: Path):
    """Their configuration has no optimizer for it either."""
    config = trainer_config(tiny_scene, tmp_path / "runs", "transport")
    del config.optimizers["up_direction"]
    build_trainer(config).train()
    path = sorted(config.get_checkpoint_dir().glob("*.ckpt"))[-1]
    checkpoint = torch.load(path, weights_only=False)
    assert checkpoint["pipeline"].pop(UP_DIRECTION_KEY).any()
    for name in ("optimizers", "schedulers"):
        del checkpoint[name]["up_direction"]
    torch.save(checkpoint, path)

    pipeline = build_pipeline(config.pipeline)  # type: ignore[arg-type]
    pipeline.load_pipeline(checkpoint["pipeline"], 11)
    assert not pipeline.up_direction.tilt.any()
    torch.testing.assert_close(state_of(pipeline)["train_poses.codes"], checkpoint["pipeline"]["train_poses.codes"])

    resumed = trainer_config(tiny_scene, tmp_path / "resumed", "transport", load_dir=config.get_checkpoint_dir())
    resumed.pipeline.schedule.phase_b_steps += 2
    trainer = build_trainer(resumed)
    last = {name: scheduler.last_epoch for name, scheduler in trainer.optimizers.schedulers.items()}
    assert last["up_direction"] == last["poses"] == 12
    trainer.train()
