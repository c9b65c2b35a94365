"""Every kind of step under mixed precision, on the CPU: bfloat16 autocast and a gradient scaler, as on a GPU."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nerfstudio.engine.callbacks import TrainingCallbackAttributes
from tiny_run import SCHEDULE, build_pipeline, pipeline_config

from gnerf_ns.training.schedule import PhaseScheduleConfig

EVERYTHING = {**SCHEDULE, "leave_out_rounds": 2, "phase_b_steps": 4}


def new_scaler() -> Any:
    return torch.amp.GradScaler("cpu", enabled=True)  # pyright: ignore[reportPrivateImportUsage]


@pytest.mark.parametrize("phase_a", ["transport", "adversarial"])
def test_every_kind_of_step_trains(tiny_scene: Path, phase_a: Any):
    config = pipeline_config(tiny_scene, phase_a, schedule=PhaseScheduleConfig(**EVERYTHING), focal_length="shared")
    config.misfits.cost_ratio = 0.0
    pipeline = build_pipeline(config)
    kinds = set()
    scaler = new_scaler()
    groups = pipeline.get_param_groups()
    optimizers = {name: torch.optim.Adam(parameters, lr=1e-3) for name, parameters in groups.items()}
    start = {name: value.detach().clone() for name, value in pipeline.named_parameters()}
    for step in range(pipeline.schedule.total_steps):
        plan = pipeline.schedule.at(step)
        kinds |= {plan.name, plan.searches_all_poses and "look-up", bool(plan.leave_out_rounds) and "leave-out"}
        kinds |= {plan.searches_misfit_poses and "misfits"}
        pipeline.train()
        pipeline.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            _, losses, _ = pipeline.get_train_loss_dict(step)
            loss = torch.stack([value.float() for value in losses.values()]).sum()
        assert bool(loss.isfinite()), f"step {step}: {losses}"
        scaler.scale(loss).backward()
        for optimizer in optimizers.values():
            if any(parameter.grad is not None for group in optimizer.param_groups for parameter in group["params"]):
                scaler.step(optimizer)
        scaler.update()
        poses = pipeline.cameras.poses("train")
        assert poses.dtype == torch.float32
        turned = poses[..., :3] @ poses[..., :3].mT
        torch.testing.assert_close(turned, torch.eye(3).expand_as(turned), atol=1e-5, rtol=0.0)
    assert kinds - {False} == {"A", "AB", "B", "look-up", "leave-out", "misfits"}
    assert scaler.get_scale() == new_scaler().get_scale(), "no step was skipped"
    for name, value in pipeline.named_parameters():
        assert bool(value.isfinite().all()), name
        assert value.numel() == 0 or not torch.equal(value, start[name]), f"{name} was never trained"


def test_held_out_poses_are_estimated_in_full_precision(tiny_scene: Path):
    pipeline = build_pipeline(pipeline_config(tiny_scene, "transport"))
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        pipeline.estimate_eval_poses(5)
    rotations = pipeline.cameras.poses("eval")[..., :3]
    torch.testing.assert_close(rotations @ rotations.mT, torch.eye(3).expand_as(rotations), atol=1e-5, rtol=0.0)


def test_what_replaced_a_diverged_attempt_learns_again(tiny_scene: Path):
    """The scale halves at every step that is not finite; at 0, every later gradient would be lost."""
    pipeline = build_pipeline(pipeline_config(tiny_scene, "transport"))
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer, scaler = torch.optim.Adam([parameter]), new_scaler()
    pipeline.get_training_callbacks(
        TrainingCallbackAttributes(
            optimizers=SimpleNamespace(optimizers={"fields": optimizer}),  # type: ignore[arg-type]
            grad_scaler=scaler,
            pipeline=pipeline,
            trainer=None,
        )
    )
    parameter.grad = torch.ones(1)
    optimizer.step()
    for _ in range(220):
        scaler.scale(parameter.new_tensor(1.0))
        parameter.grad = torch.full((1,), math.nan)
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 0.0
    pipeline._reset_optimizers()
    assert scaler.get_scale() == new_scaler().get_scale()
    assert not optimizer.state

    before = parameter.detach().clone()
    optimizer.zero_grad()
    scaler.scale((parameter - 1.0).square().sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert parameter.detach() > before
