from collections import Counter
from pathlib import Path
from typing import Any, Dict, List

import pytest
import torch
from nerfstudio.model_components.renderers import background_color_override_context
from tiny_run import SCHEDULE, build_pipeline, pipeline_config, train_steps
from torch import Tensor

from gnerf_ns.cameras.pose_prior import PosePriorConfig
from gnerf_ns.errors import InputError
from gnerf_ns.model_components.mlp_radiance import MLPRadianceConfig
from gnerf_ns.model_components.phase_schedule import PhaseScheduleConfig
from gnerf_ns.models.gnerf import GNeRFModelConfig
from gnerf_ns.pipelines.gnerf_pipeline import GNeRFPipeline

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
    "photometric_loss": {"fields", "poses"},
    "interlevel_loss": {"proposal_networks"},
    "distortion_loss": {"fields", "poses"},
}


def kind_of(step: int) -> str:
    plan = PhaseScheduleConfig(**SCHEDULE).at(step)
    return "B in AB" if plan.name == "AB" and plan.phase == "B" else plan.phase


def state_of(pipeline: GNeRFPipeline) -> Dict[str, Tensor]:
    return {name: value.clone() for name, value in pipeline.state_dict().items()}


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


def test_a_step_is_a_function_of_parameters_and_step(tiny_scene: Path):
    """What a resumed run needs: no random state or counter from earlier steps takes part."""
    pipeline = build_pipeline(pipeline_config(tiny_scene))
    train_steps(pipeline, range(6))
    state = state_of(pipeline)
    expected = train_steps(pipeline, range(6, LAST))
    other = build_pipeline(pipeline_config(tiny_scene))
    torch.rand(17)
    other.load_pipeline(state, 5)
    for losses, wanted in zip(train_steps(other, range(6, LAST)), expected, strict=True):
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


# Estimated poses


def test_estimated_cameras_have_the_tables_poses_and_the_images_intrinsics(tiny_scene: Path):
    pipeline = build_pipeline(pipeline_config(tiny_scene, "transport"))
    train_steps(pipeline, range(1))
    before = pipeline.datamanager.train_dataset.cameras.camera_to_worlds.clone()
    cameras = pipeline.estimated_cameras()
    torch.testing.assert_close(cameras.camera_to_worlds, pipeline.train_poses().detach())
    assert not cameras.camera_to_worlds.requires_grad
    torch.testing.assert_close(cameras.fx, pipeline.datamanager.train_dataset.cameras.fx)
    assert torch.equal(pipeline.datamanager.train_dataset.cameras.camera_to_worlds, before), "a copy was asked for"
    assert len(pipeline.estimated_cameras("eval")) == 2


def test_published_poses_reach_every_place_that_commands_read(tiny_scene: Path):
    pipeline = build_pipeline(pipeline_config(tiny_scene))
    train_steps(pipeline, range(6))
    pipeline.estimate_held_out_poses(5)
    pipeline.publish_poses()
    train, held_out = pipeline.train_poses().detach(), pipeline.eval_poses().detach()
    manager = pipeline.datamanager
    torch.testing.assert_close(manager.train_dataset.cameras.camera_to_worlds, train)
    torch.testing.assert_close(manager.train_dataparser_outputs.cameras.camera_to_worlds, train)
    torch.testing.assert_close(manager.train_ray_generator.cameras.camera_to_worlds, train)
    torch.testing.assert_close(manager.eval_dataset.cameras.camera_to_worlds, held_out)
    torch.testing.assert_close(manager.fixed_indices_eval_dataloader.cameras.camera_to_worlds, held_out)
    # As `ns-render dataset` does:
    another = pipeline.config.datamanager.setup(test_mode="test")
    torch.testing.assert_close(another.train_dataset.cameras.camera_to_worlds, train)
    torch.testing.assert_close(another.eval_dataset.cameras.camera_to_worlds, held_out)


def test_before_held_out_poses_are_estimated_only_training_poses_are_published(tiny_scene: Path):
    pipeline = build_pipeline(pipeline_config(tiny_scene))
    before = pipeline.datamanager.eval_dataset.cameras.camera_to_worlds.clone()
    pipeline.publish_poses()
    assert torch.equal(pipeline.datamanager.eval_dataset.cameras.camera_to_worlds, before)


def test_held_out_poses_are_estimated_once_per_step_with_everything_else_left_alone(tiny_scene: Path):
    pipeline = build_pipeline(pipeline_config(tiny_scene))
    train_steps(pipeline, range(6))
    before, random_state = state_of(pipeline), torch.get_rng_state()
    with torch.no_grad():  # nerfstudio evaluates like this
        pipeline.estimate_held_out_poses(5)
    assert torch.equal(torch.get_rng_state(), random_state)
    after = state_of(pipeline)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"eval_poses.codes", "eval_poses_step"}
    assert int(pipeline.eval_poses_step) == 5
    pipeline.eval_poses.codes.data.add_(1.0)
    kept = pipeline.eval_poses.codes.detach().clone()
    pipeline.estimate_held_out_poses(5)
    assert torch.equal(pipeline.eval_poses.codes, kept)
    pipeline.estimate_held_out_poses(6)
    assert not torch.equal(pipeline.eval_poses.codes, kept)


def test_held_out_poses_meet_no_optimizer(tiny_scene: Path):
    pipeline = build_pipeline(pipeline_config(tiny_scene))
    trained = {id(parameter) for group in pipeline.get_param_groups().values() for parameter in group}
    everything = {id(parameter) for parameter in pipeline.parameters() if parameter.numel()}
    assert everything - trained == {id(pipeline.eval_poses.codes)}


@pytest.mark.parametrize(
    ("prior", "mode", "expected"),
    [
        (PosePriorConfig(), "auto", 3),
        (PosePriorConfig(look_at_jitter=0.01), "auto", 9),
        (PosePriorConfig(roll_deg=(-5.0, 5.0)), "auto", 9),
        (PosePriorConfig(), "free", 9),
        (PosePriorConfig(preset="dtu"), "look_at", 3),
    ],
)
def test_pose_mode_follows_the_prior(tiny_scene: Path, prior: PosePriorConfig, mode: Any, expected: int):
    pipeline = build_pipeline(pipeline_config(tiny_scene, "both", pose_prior=prior, pose_mode=mode))
    assert pipeline.train_poses.code_dim == pipeline.eval_poses.code_dim == expected
    train_steps(pipeline, range(6))
    assert torch.isfinite(pipeline.train_poses()).all()


def test_contradictory_priors_are_refused_at_once(tiny_scene: Path):
    with pytest.raises(InputError, match="elevation_deg"):
        build_pipeline(pipeline_config(tiny_scene, pose_prior=PosePriorConfig(elevation_deg=(80.0, 20.0))))


# Evaluation


def test_true_poses_are_measured_as_such(tiny_scene: Path):
    pipeline = build_pipeline(pipeline_config(tiny_scene, "transport"))
    truth = pipeline.datamanager.train_ground_truth
    assert truth is not None
    pipeline.train_poses.assign(torch.arange(7), truth)
    errors = pipeline.evaluation.pose_metrics()
    assert errors["rotation_error_deg_max"] < 0.1 and errors["mirrored"] == 0
    mirrored = truth * torch.tensor([-1.0, 1.0, 1.0])[:, None]
    pipeline.train_poses.assign(torch.arange(7), mirrored)
    assert pipeline.evaluation.pose_metrics()["mirrored"] == 1


def test_average_metrics(tiny_scene: Path):
    pipeline = build_pipeline(pipeline_config(tiny_scene))
    train_steps(pipeline, range(6))
    metrics = pipeline.get_average_eval_image_metrics(5)
    assert {
        "psnr",
        "ssim",
        "psnr_aligned",
        "rotation_error_deg_median",
        "rotation_error_deg_mean",
        "rotation_error_deg_max",
        "rotation_under_5deg",
        "rotation_under_20deg",
        "translation_error_mean",
        "translation_error_relative",
        "mirrored",
    } <= metrics.keys()
    assert all(isinstance(value, float) for value in metrics.values())
    assert pipeline.training, "training goes on afterwards"
    held_out = pipeline.datamanager.fixed_indices_eval_dataloader.cameras.camera_to_worlds
    # psnr_aligned moves cameras for itself only.
    torch.testing.assert_close(held_out, pipeline.eval_poses().detach())


@pytest.mark.parametrize("truth", [None, float("nan")])
def test_without_truth_there_are_no_pose_errors(tiny_scene: Path, truth):
    pipeline = build_pipeline(pipeline_config(tiny_scene, "transport"))
    manager = pipeline.datamanager
    manager.train_ground_truth = None if truth is None else torch.full((7, 3, 4), truth)
    assert pipeline.evaluation.pose_metrics() == {}
    metrics = pipeline.get_average_eval_image_metrics(0)
    assert "psnr" in metrics and not any("rotation" in name or "aligned" in name for name in metrics)


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


@pytest.mark.parametrize("background", ["white", "black", "random", "last_sample"])
def test_evaluation_lays_photographs_over_the_background_of_the_renderings(tiny_scene: Path, background: Any):
    """An empty scene compared with a clear photograph is a perfect match, whatever lies behind both."""
    config = pipeline_config(tiny_scene)
    config.model.background_color = background  # type: ignore[attr-defined]
    pipeline = build_pipeline(config)
    for dataset in (pipeline.datamanager.train_dataset, pipeline.datamanager.eval_dataset):
        image, alpha = dataset.get_image_float32(0), dataset.get_numpy_image(0)[..., 3]
        clear = image[torch.from_numpy(alpha == 0)]
        assert len(clear) and torch.equal(clear, pipeline.model.evaluation_background.expand_as(clear))


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
    assert pipeline.get_param_groups().keys() == {"fields", "poses", "discriminator", "inversion_network"}
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
