"""One training step: its losses and whom they train, its independence of earlier steps, checkpoints, divergence."""

import copy
import json
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from nerfstudio.model_components.renderers import background_color_override_context
from tiny_run import SCHEDULE, build_pipeline, pipeline_config, state_of, train_steps

from gnerf_ns.data.image_set import ImageStack
from gnerf_ns.fields.mlp_radiance import MLPRadianceConfig
from gnerf_ns.models.gnerf import GNeRFModelConfig
from gnerf_ns.training.pipeline import GNeRFPipeline
from gnerf_ns.training.schedule import PhaseScheduleConfig, Schedule
from gnerf_ns.utils.errors import InputError

LAST = 12

LOSSES = {
    "A": {
        "transport": {"transport_loss"},
        "adversarial": {
            "generator_loss",
            "discriminator_loss",
            "gradient_penalty",
            "inversion_loss",
            "pose_regularization",
        },
    },
    "B": {"transport": set(), "adversarial": set()},
    "B in AB": {"transport": set(), "adversarial": {"pose_regularization"}},
}
PHOTOMETRIC = {"photometric_loss", "opacity_loss", "interlevel_loss", "distortion_loss"}

TRAINED_BY = {
    "transport_loss": {"fields"},
    "generator_loss": {"fields"},
    "discriminator_loss": {"discriminator"},
    "gradient_penalty": {"discriminator"},
    "inversion_loss": {"inversion_network"},
    "pose_regularization": {"poses"},
    "photometric_loss": {"fields", "poses", "up_direction"},
    "opacity_loss": {"fields", "poses", "up_direction"},
    "interlevel_loss": {"proposal_networks"},
    "distortion_loss": {"fields", "poses", "up_direction"},
}


def kind_of(step: int) -> str:
    plan = Schedule.of(PhaseScheduleConfig(**SCHEDULE), 7, 100).at(step)
    return "B in AB" if plan.name == "AB" and plan.phase == "B" else plan.phase


def groups_with_gradients(pipeline: GNeRFPipeline) -> set:
    return {
        name
        for name, parameters in pipeline.get_param_groups().items()
        if any(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in parameters)
    }


@pytest.mark.parametrize("phase_a", ["transport", "adversarial", "both"])
def test_losses_of_every_phase(tiny_scene: Path, phase_a):
    pipeline = build_pipeline(pipeline_config(tiny_scene, phase_a))
    choices = ("transport", "adversarial") if phase_a == "both" else (phase_a,)
    for step, losses in enumerate(train_steps(pipeline, range(LAST))):
        kind = kind_of(step)
        expected = set().union(*(LOSSES[kind][choice] for choice in choices))
        assert losses.keys() == (expected | PHOTOMETRIC if kind != "A" else expected), f"step {step}"
        assert all(torch.isfinite(loss) for loss in losses.values())


@pytest.mark.parametrize("step", [0, 4, 8])
def test_each_loss_trains_its_own_networks_only(tiny_scene: Path, step: int):
    """Separate backward passes; the sum's gradient is the sum of theirs."""
    pipeline = build_pipeline(pipeline_config(tiny_scene))
    train_steps(pipeline, range(step))
    pipeline.train()
    names = pipeline.get_train_loss_dict(step)[1].keys()
    for name in names:
        pipeline.zero_grad(set_to_none=True)
        pipeline.get_train_loss_dict(step)[1][name].backward()
        trained = groups_with_gradients(pipeline)
        # The interlevel loss is zero wherever the proposal bounds the final weights already.
        assert trained == TRAINED_BY[name] or (name == "interlevel_loss" and not trained), name
        allowed = TRAINED_BY[name]
        for group, parameters in pipeline.get_param_groups().items():
            if group not in allowed:
                assert all(parameter.grad is None for parameter in parameters), f"{name} reaches {group}"


def test_phase_a_by_transport_leaves_the_pose_table_to_the_plan(tiny_scene: Path):
    """No gradient reaches the poses; the plan writes into them until the phases take turns."""
    pipeline = build_pipeline(pipeline_config(tiny_scene, "transport"))
    pipeline.train()
    before = pipeline.cameras.codes.detach().clone()
    pipeline.get_train_loss_dict(0)[1]["transport_loss"].backward()
    assert pipeline.cameras.codes.grad is None
    assert not torch.equal(pipeline.cameras.codes, before)
    # Step 3 looks every pose up, then 4 (B) and so on refine; an A step in between must not overwrite.
    schedule = PhaseScheduleConfig(**{**SCHEDULE, "interleaved_steps": 4})
    pipeline = build_pipeline(pipeline_config(tiny_scene, "transport", schedule=schedule))
    train_steps(pipeline, range(5))
    before = pipeline.cameras.codes.detach().clone()
    train_steps(pipeline, range(5, 6))  # A of AB
    assert torch.equal(pipeline.cameras.codes, before)


def test_nerfstudio_is_told_how_many_rays_a_step_trains_on(tiny_scene: Path):
    pipeline = build_pipeline(pipeline_config(tiny_scene))
    request = pipeline.photometric.request(pipeline.schedule.at(LAST))
    assert pipeline.datamanager.get_train_rays_per_batch() == len(request.ray_bundle) == 64


def test_one_render_per_step(tiny_scene: Path, monkeypatch):
    # The proposal sampler gives gradients to its networks in the first call of a step only.
    pipeline = build_pipeline(pipeline_config(tiny_scene))
    renders: Counter = Counter()
    render = pipeline.model.render
    step_now = [0]

    def count(rays):
        renders[step_now[0]] += pipeline.model.training
        return render(rays)

    monkeypatch.setattr(pipeline.model, "render", count)
    for step in range(LAST):
        step_now[0] = step
        train_steps(pipeline, range(step, step + 1))
    assert dict(renders) == dict.fromkeys(range(LAST), 1)


@pytest.mark.parametrize("rounds, resumed_at", [(0, 6), (2, 5), (2, 6)], ids=["B", "before rounds", "after rounds"])
def test_a_step_is_a_function_of_parameters_and_step(tiny_scene: Path, rounds: int, resumed_at: int):
    """What a resumed run needs: no random state or counter from earlier steps takes part."""
    lengths = {**SCHEDULE, "leave_out_rounds": rounds}
    config = pipeline_config(tiny_scene, schedule=PhaseScheduleConfig(**lengths))
    pipeline = build_pipeline(config)
    train_steps(pipeline, range(resumed_at))
    state = copy.deepcopy(pipeline.state_dict())
    in_turn = pipeline.pose_updates._left_out_in_turn
    in_turn.run = Mock(side_effect=in_turn.run)
    expected = train_steps(pipeline, range(resumed_at, LAST))
    assert in_turn.run.called == (rounds > 0 and resumed_at == 5)
    other = build_pipeline(config)
    torch.rand(17)
    other.load_pipeline(state, resumed_at - 1)
    for losses, wanted in zip(train_steps(other, range(resumed_at, LAST)), expected, strict=True):
        assert losses == wanted
    final, wanted_state = state_of(other), state_of(pipeline)
    for name, value in wanted_state.items():
        assert torch.equal(final[name], value), name


def test_evaluation_between_steps_does_not_disturb_training(tiny_scene: Path):
    undisturbed = train_steps(build_pipeline(pipeline_config(tiny_scene)), range(LAST))
    pipeline = build_pipeline(pipeline_config(tiny_scene))

    def evaluate(step: int) -> None:
        pipeline.eval()
        if step in (1, 5, 9):
            pipeline.get_average_eval_image_metrics(step)
            pipeline.get_eval_loss_dict(step)
            pipeline.get_eval_image_metrics_and_images(step)

    assert train_steps(pipeline, range(LAST), evaluate) == undisturbed


def test_other_seeds_train_otherwise(tiny_scene: Path):
    first = build_pipeline(pipeline_config(tiny_scene))
    torch.manual_seed(43)
    second = pipeline_config(tiny_scene).setup(device="cpu")
    assert train_steps(first, range(1)) != train_steps(second, range(1))


# Checkpoints


def test_a_checkpoint_fits_other_held_out_images(tiny_scene: Path, tmp_path: Path):
    saved = build_pipeline(pipeline_config(tiny_scene))
    train_steps(saved, range(2))
    saved.estimate_eval_poses(1)
    fewer = shutil.copytree(tiny_scene, tmp_path / "fewer")
    for path in (fewer / "transforms_test.json", fewer / "transforms_val.json"):
        if path.exists():
            meta = json.loads(path.read_text())
            path.write_text(json.dumps({**meta, "frames": meta["frames"][:1]}))
    loaded = build_pipeline(pipeline_config(fewer), test_mode="test")
    loaded.load_pipeline(copy.deepcopy(saved.state_dict()), 1)
    torch.testing.assert_close(loaded.cameras.codes, saved.cameras.codes)
    assert int(loaded.cameras.eval_step) == 1 and len(loaded.cameras.eval_codes) == 1
    torch.testing.assert_close(loaded.datamanager.train_dataset.cameras.camera_to_worlds, saved.cameras.poses("train"))


def test_a_checkpoint_of_other_networks_is_refused_and_nothing_of_it_loaded(tiny_scene: Path):
    state = build_pipeline(pipeline_config(tiny_scene)).state_dict()
    for config, words in (
        (pipeline_config(tiny_scene, "transport"), "is unknown"),
        (pipeline_config(tiny_scene, pose_mode="free"), r"cameras\.codes is \(7, 3\), not \(7, 9\)"),
    ):
        pipeline = build_pipeline(config)
        before = state_of(pipeline)
        train_steps(pipeline, range(1))
        trained = state_of(pipeline)
        with pytest.raises(InputError, match=words):
            pipeline.load_pipeline(dict(state), 0)
        assert all(torch.equal(value, trained[name]) for name, value in state_of(pipeline).items())
        assert any(not torch.equal(value, trained[name]) for name, value in before.items())


@pytest.mark.parametrize("background", ["white", "black", "random", "last_sample"])
def test_every_background_trains(tiny_scene: Path, background: Any):
    config = pipeline_config(tiny_scene)
    config.model.background_color = background  # type: ignore[attr-defined]
    pipeline = build_pipeline(config)
    history = train_steps(pipeline, range(LAST))
    assert all(torch.isfinite(loss) for losses in history for loss in losses.values())
    with background_color_override_context(torch.zeros(3)):  # as the viewer may
        assert pipeline.get_average_eval_image_metrics(LAST - 1)["psnr"] > 0


def test_training_psnr_is_that_of_the_pixels_whatever_the_loss_weighs(tiny_scene: Path):
    config = pipeline_config(tiny_scene)
    config.model.photometric_loss_mult = 50.0  # type: ignore[attr-defined]
    pipeline = build_pipeline(config)
    train_steps(pipeline, range(5))
    _, losses, metrics = pipeline.get_train_loss_dict(5)
    expected = -10.0 * torch.log10(losses["photometric_loss"].detach() / 50.0)
    torch.testing.assert_close(metrics["psnr"], expected)


def test_the_paper_s_networks_run_through_all_phases(tiny_scene: Path):
    radiance = MLPRadianceConfig(
        num_layers=2, layer_width=8, layer_width_color=8, num_coarse_samples=4, num_fine_samples=4
    )
    model = GNeRFModelConfig(radiance=radiance, opacity_loss_mult=0.0)
    pipeline = build_pipeline(pipeline_config(tiny_scene, "adversarial", model=model))
    assert pipeline.get_param_groups().keys() == {
        "fields",
        "poses",
        "up_direction",
        "discriminator",
        "inversion_network",
    }
    history = train_steps(pipeline, range(LAST))
    assert history[0].keys() == LOSSES["A"]["adversarial"] and history[-1].keys() == {"photometric_loss"}


def test_an_adversarial_step_trains_all_of_the_paper_s_radiance(tiny_scene: Path):
    """The pass that places the fine samples, too, though the losses see the fine pass only."""
    radiance = MLPRadianceConfig(
        num_layers=2, layer_width=8, layer_width_color=8, num_coarse_samples=4, num_fine_samples=4
    )
    pipeline = build_pipeline(pipeline_config(tiny_scene, "adversarial", model=GNeRFModelConfig(radiance=radiance)))
    pipeline.train()
    losses = pipeline.get_train_loss_dict(0)[1]
    sum(losses.values(), torch.tensor(0.0)).backward()
    without = [name for name, value in pipeline.model.radiance.named_parameters() if value.grad is None]
    assert not without


def test_without_look_up_the_pose_table_goes_on_with_what_the_inversion_network_pulled_it_to(tiny_scene: Path):
    schedule = PhaseScheduleConfig(**SCHEDULE, looks_up_poses=False)
    pipeline = build_pipeline(pipeline_config(tiny_scene, "adversarial", schedule=schedule))
    start = pipeline.cameras.codes.detach().clone()
    train_steps(pipeline, range(schedule.phase_a_steps))
    after_phase_a = pipeline.cameras.codes.detach().clone()
    assert not torch.equal(after_phase_a, start)
    pipeline.get_train_loss_dict(schedule.phase_a_steps)
    assert torch.equal(pipeline.cameras.codes, after_phase_a)


# What cannot go on


@pytest.mark.parametrize("step", [5, 9])
def test_a_loss_that_is_not_finite_ends_phase_b_at_that_very_step(tiny_scene: Path, step: int):
    pipeline = build_pipeline(pipeline_config(tiny_scene))
    train_steps(pipeline, range(step))
    with torch.no_grad():
        for parameter in pipeline.model.parameters():
            parameter.fill_(math.nan)
    with pytest.raises(InputError, match=f"diverged: at step {step} .*photometric_loss.* not a finite number") as error:
        pipeline.get_train_loss_dict(step)
    assert "--machine.seed" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("step", [1, 4])
def test_a_loss_that_is_not_finite_before_phase_b_is_left_to_the_restarts(tiny_scene: Path, step: int):
    pipeline = build_pipeline(pipeline_config(tiny_scene))
    with torch.no_grad():
        for parameter in pipeline.model.parameters():
            parameter.fill_(math.nan)
    _, losses, _ = pipeline.get_train_loss_dict(step)
    assert any(not bool(loss.isfinite()) for loss in losses.values())


@pytest.mark.parametrize("pale", [True, False])
def test_pale_objects_are_laid_over_black(tiny_scene: Path, monkeypatch: pytest.MonkeyPatch, pale: bool):
    monkeypatch.setattr(ImageStack, "are_pale", pale)
    pipeline = build_pipeline(pipeline_config(tiny_scene, "transport"), test_mode="val")
    expected = "black" if pale else "white"
    assert pipeline.model.config.background_color == expected
    assert pipeline.model.renderer_rgb.background_color == expected
    assert float(pipeline.pose_search.renderer.background_or_black.mean()) == (0.0 if pale else 1.0)
