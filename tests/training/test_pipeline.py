from collections import Counter
from pathlib import Path
from typing import Any, List
from unittest.mock import Mock

import pytest
import torch
from nerfstudio.model_components.renderers import background_color_override_context
from tiny_run import SCHEDULE, build_pipeline, pipeline_config, state_of, train_steps

from gnerf_ns.fields.mlp_radiance import MLPRadianceConfig
from gnerf_ns.models.gnerf import GNeRFModelConfig
from gnerf_ns.training.pipeline import GNeRFPipeline
from gnerf_ns.training.schedule import PhaseScheduleConfig
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
PHOTOMETRIC = {"photometric_loss", "interlevel_loss", "distortion_loss"}

TRAINED_BY = {
    "transport_loss": {"fields"},
    "generator_loss": {"fields"},
    "discriminator_loss": {"discriminator"},
    "gradient_penalty": {"discriminator"},
    "inversion_loss": {"inversion_network"},
    "pose_regularization": {"poses"},
    "photometric_loss": {"fields", "poses", "up_direction"},
    "interlevel_loss": {"proposal_networks"},
    "distortion_loss": {"fields", "poses", "up_direction"},
}


def kind_of(step: int) -> str:
    plan = PhaseScheduleConfig(**SCHEDULE).at(step)
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
    before = pipeline.train_poses.codes.detach().clone()
    pipeline.get_train_loss_dict(0)[1]["transport_loss"].backward()
    assert pipeline.train_poses.codes.grad is None
    assert not torch.equal(pipeline.train_poses.codes, before)
    # Step 3 looks every pose up, then 4 (B) and so on refine; an A step in between must not overwrite.
    schedule = PhaseScheduleConfig(**{**SCHEDULE, "interleaved_steps": 4})
    pipeline = build_pipeline(pipeline_config(tiny_scene, "transport", schedule=schedule))
    train_steps(pipeline, range(5))
    before = pipeline.train_poses.codes.detach().clone()
    train_steps(pipeline, range(5, 6))  # A of AB
    assert torch.equal(pipeline.train_poses.codes, before)


def test_images_that_are_left_out_train_nothing(tiny_scene: Path):
    schedule = PhaseScheduleConfig(**{**SCHEDULE, "leave_out_rounds": 3, "leave_out_steps": 2})
    pipeline = build_pipeline(pipeline_config(tiny_scene, "transport", schedule=schedule))
    train_steps(pipeline, range(schedule.phase_a_end + 2))
    for step in range(schedule.phase_a_end + 2, schedule.phase_b_start):
        pipeline.zero_grad(set_to_none=True)
        pipeline.get_train_loss_dict(step)[1]["photometric_loss"].backward()
        gradient = pipeline.train_poses.codes.grad
        assert gradient is not None
        left_out = pipeline.leave_out.left_out
        assert 0 < left_out.sum() < len(left_out)
        assert (gradient[left_out] == 0).all() and (gradient[~left_out] != 0).any(dim=1).all()
    pipeline.get_train_loss_dict(schedule.phase_b_start)
    assert not pipeline.leave_out.left_out.any()


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


@pytest.mark.parametrize(
    ("phase_a", "expected"),
    [
        ("transport", {3: "all by search", 7: "misfits"}),
        ("adversarial", {3: "all by network", 7: "misfits"}),
    ],
)
def test_poses_are_looked_up_and_mended_where_the_schedule_says_so(tiny_scene: Path, monkeypatch, phase_a, expected):
    pipeline = build_pipeline(pipeline_config(tiny_scene, phase_a))
    calls: List[str] = []

    def record(owner: Any, name: str, meaning: str) -> None:
        original = getattr(owner, name)

        def recorded(*arguments):
            calls.append(meaning)
            return original(*arguments)

        monkeypatch.setattr(owner, name, recorded)

    record(pipeline.pose_search, "best_poses", "all by search")
    record(pipeline.pose_search, "better_poses", "misfits")
    if pipeline.adversarial is not None:
        record(pipeline.adversarial, "regress_poses", "all by network")
    found = {}
    for step in range(LAST):
        train_steps(pipeline, range(step, step + 1))
        if calls:
            found[step] = calls[0]  # one search may use the other
            calls.clear()
    assert found == expected


def test_whoever_the_inversion_network_gets_wrong_is_looked_up(tiny_scene: Path, monkeypatch: pytest.MonkeyPatch):
    """All of them if need be: it may have learned nothing."""
    pipeline = build_pipeline(pipeline_config(tiny_scene, "adversarial"))
    adversarial, search, image_set = pipeline.adversarial, pipeline.pose_search, pipeline.scene.image_set
    assert adversarial is not None
    good, _ = search.top_poses(image_set, 1)
    nonsense = good[:1, 0].expand(len(image_set), -1, -1)
    cost = search.cost_at(image_set, torch.arange(len(image_set)), nonsense)
    monkeypatch.setattr(adversarial, "regress_poses", lambda image_set: nonsense)
    pipeline.pose_updates.apply(pipeline.schedule.at(3))
    found = pipeline.train_poses().detach()
    moved = (found - nonsense).abs().amax(dim=(1, 2)) > 1e-3
    assert int(moved.sum()) > len(image_set) // 2
    better = search.cost_at(image_set, torch.arange(len(image_set)), found)
    assert bool((better[moved] < cost[moved]).all())


@pytest.mark.parametrize(
    "rounds, trials, resumed_at",
    [(0, 0, 6), (3, 0, 8), (3, 0, 9), (0, 2, 5)],
    ids=["B", "within a round", "between rounds", "before trials"],
)
def test_a_step_is_a_function_of_parameters_and_step(tiny_scene: Path, rounds: int, trials: int, resumed_at: int):
    """What a resumed run needs: no random state or counter from earlier steps takes part."""
    lengths = {"leave_out_rounds": rounds, "leave_out_steps": 2, "pose_trial_rounds": trials}
    config = pipeline_config(tiny_scene, schedule=PhaseScheduleConfig(**{**SCHEDULE, **lengths}))
    pipeline = build_pipeline(config)
    train_steps(pipeline, range(resumed_at))
    state = state_of(pipeline)
    pipeline.pose_updates._trials.run = Mock(side_effect=pipeline.pose_updates._trials.run)
    expected = train_steps(pipeline, range(resumed_at, LAST))
    assert pipeline.pose_updates._trials.run.called == (trials > 0)
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


def test_a_checkpoint_fits_other_held_out_images(tiny_scene: Path):
    saved = build_pipeline(pipeline_config(tiny_scene))
    train_steps(saved, range(2))
    saved.estimate_held_out_poses(1)
    state = state_of(saved)
    state["eval_poses.codes"] = torch.zeros(9, 3)
    loaded = build_pipeline(pipeline_config(tiny_scene), test_mode="test")
    loaded.load_pipeline(state, 1)
    torch.testing.assert_close(loaded.train_poses.codes, saved.train_poses.codes)
    assert int(loaded.eval_poses_step) == 1 and len(loaded.eval_poses.codes) == 2
    torch.testing.assert_close(loaded.datamanager.train_dataset.cameras.camera_to_worlds, saved.train_poses().detach())


def test_a_checkpoint_of_other_images_or_networks_is_refused(tiny_scene: Path):
    state = state_of(build_pipeline(pipeline_config(tiny_scene)))
    pipeline = build_pipeline(pipeline_config(tiny_scene, "transport"))
    before = state_of(pipeline)
    with pytest.raises(InputError, match="is unknown"):
        pipeline.load_pipeline(dict(state), 0)
    pipeline = build_pipeline(pipeline_config(tiny_scene))
    state["train_poses.codes"] = torch.zeros(8, 3)
    with pytest.raises(InputError, match="other images"):
        pipeline.load_pipeline(state, 0)
    assert all(torch.equal(value, before[name]) for name, value in state_of(pipeline).items() if name in before)


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
    pipeline = build_pipeline(pipeline_config(tiny_scene, "adversarial", model=GNeRFModelConfig(radiance=radiance)))
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
    start = pipeline.train_poses.codes.detach().clone()
    train_steps(pipeline, range(schedule.phase_a_steps))
    after_phase_a = pipeline.train_poses.codes.detach().clone()
    assert not torch.equal(after_phase_a, start)
    pipeline.get_train_loss_dict(schedule.phase_a_steps)
    assert torch.equal(pipeline.train_poses.codes, after_phase_a)
