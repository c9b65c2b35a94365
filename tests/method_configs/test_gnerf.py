"""The installed methods as a user has them: through nerfstudio's entry points and its command line."""

import copy
import math
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Dict, Set

import pytest
import torch
import tyro
import yaml
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.plugins.types import MethodSpecification
from tiny_run import PhaseA, build_pipeline, build_trainer, pipeline_config, train_steps, trainer_config

from gnerf_ns.data.dataparser import UnposedDataParserConfig
from gnerf_ns.fields.mip360_radiance import Mip360RadianceConfig
from gnerf_ns.fields.mlp_radiance import MLPRadianceConfig
from gnerf_ns.training.left_out_in_turn import LeftOutInTurnConfig
from gnerf_ns.training.schedule import PhaseScheduleConfig, Schedule
from gnerf_ns.utils.errors import InputError

METHODS: Dict[str, MethodSpecification] = {
    point.name: point.load()
    for point in entry_points(group="nerfstudio.method_configs")
    if point.value.startswith(("gnerf_ns.method_configs.gnerf", "gnerf_ns.method_configs.mip360"))
}


def config_of(method: str) -> Any:
    return copy.deepcopy(METHODS[method].config)


def schedule_of(method: str) -> Schedule:
    """Of a hundred images."""
    return Schedule.of(config_of(method).pipeline.schedule, 100, 100)


def on_tiny_images(config: Any, folder: Path) -> Any:
    """The method's own networks and objectives on images of 16 pixels."""
    config.pipeline.datamanager.data = folder
    return config.pipeline


def test_there_are_seven_methods():
    variants = ("handheld", "adversarial", "paper", "tiny", "mip360", "mip360-small")
    assert METHODS.keys() == {"gnerf-ns", *(f"gnerf-ns-{variant}" for variant in variants)}


def groups_of(method: str, phase_a: PhaseA, folder: Path) -> Set[str]:
    """What has to be optimized; with small networks of the method's kind, since groups do not depend on sizes."""
    config = pipeline_config(folder, phase_a, focal_length="shared")
    radiance = config_of(method).pipeline.model.radiance
    if isinstance(radiance, MLPRadianceConfig):
        config.model.radiance = MLPRadianceConfig(num_layers=2, layer_width=8, layer_width_color=8)  # type: ignore
    elif isinstance(radiance, Mip360RadianceConfig):
        config.model.radiance = Mip360RadianceConfig(num_layers=2, layer_width=8)  # type: ignore
    return set(build_pipeline(config).get_param_groups())


@pytest.mark.parametrize("method", METHODS)
def test_every_parameter_group_has_an_optimizer_and_every_optimizer_has_one(method: str, tiny_scene: Path):
    config = config_of(method)
    assert groups_of(method, config.pipeline.phase_a, tiny_scene) == set(config.optimizers)


@pytest.mark.parametrize("phase_a", ["transport", "both"])
def test_the_adversarial_method_has_optimizers_for_other_objectives_too(phase_a: PhaseA, tiny_scene: Path):
    assert groups_of("gnerf-ns-adversarial", phase_a, tiny_scene) <= set(config_of("gnerf-ns-adversarial").optimizers)


def test_an_adversary_without_an_optimizer_is_refused_by_name(tiny_scene: Path, tmp_path: Path):
    config = trainer_config(tiny_scene, tmp_path)
    config.optimizers = config_of("gnerf-ns").optimizers
    with pytest.raises(InputError, match="no optimizer for discriminator, inversion_network; use gnerf-ns-adversarial"):
        build_trainer(config)


@pytest.mark.parametrize("method", METHODS)
def test_patches_are_of_one_size_for_schedule_and_discriminator(method: str):
    config = config_of(method)
    schedule = config.pipeline.schedule
    assert schedule.patch_side == config.pipeline.adversarial.discriminator.patch_side


def test_a_schedule_given_by_hand_reaches_length_and_learning_rates(tiny_scene: Path, tmp_path: Path):
    config = trainer_config(tiny_scene, tmp_path, "transport")
    config.optimizers = config_of("gnerf-ns").optimizers
    config.optimizers["fields"]["scheduler"].first_factor = 0.5
    config.max_num_iterations = None
    config.pipeline.schedule = PhaseScheduleConfig(
        phase_a_steps=30,
        phase_a_attempts=2,
        interleaved_steps=4,
        phase_b_steps=50,
    )
    trainer = build_trainer(config)
    assert trainer.config.max_num_iterations == 31 + 84
    schedule = trainer.pipeline.schedule
    assert schedule.phase_a_end == 34
    # Seven images are few, and left out in turn.
    for group, first, last in (("fields", 0.5, 0.2), ("proposal_networks", 1.0, 0.2), ("poses", 4.0, 4 / 30)):
        (factor,) = trainer.optimizers.schedulers[group].lr_lambdas
        assert [factor(step) for step in (0, 33, 34)] == [1.0, 1.0, first]
        assert factor(schedule.phase_a_end + 50) == pytest.approx(last)


@pytest.mark.parametrize(
    ("method", "boost"),
    [
        ("gnerf-ns", 4.0),
        ("gnerf-ns-tiny", 4.0),
        ("gnerf-ns-adversarial", 1.0),
        ("gnerf-ns-paper", 1.0),
        ("gnerf-ns-mip360", 1.0),
        ("gnerf-ns-mip360-small", 1.0),
    ],
)
def test_poses_of_few_images_learn_faster_where_that_was_measured(method: str, boost: float):
    assert Schedule.of(config_of(method).pipeline.schedule, 9, 200).config.pose_boost == boost


@pytest.mark.parametrize("method", METHODS)
def test_images_never_get_smaller(method: str):
    schedule = schedule_of(method)
    steps = range(0, schedule.total_steps, max(1, schedule.total_steps // 200))
    sides = [schedule.at(step).image_side for step in steps]
    assert sides == sorted(sides)


@pytest.mark.parametrize("method", METHODS)
def test_runs_where_there_is_no_gpu_and_ends_by_itself(method: str):
    config = config_of(method)
    assert config.machine.device_type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert config.mixed_precision == torch.cuda.is_available()
    assert config.viewer.quit_on_train_completion
    assert config.is_tensorboard_enabled(), "vis='viewer' alone runs no evaluation"


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_evaluated_in_the_middle_of_a_run(method: str):
    """Poses of all held-out images would be estimated for it, a tenth of a run's time."""
    config = config_of(method)
    intervals = (config.steps_per_eval_image, config.steps_per_eval_batch, config.steps_per_eval_all_images)
    assert intervals == (10**9,) * 3


@pytest.mark.parametrize("method", METHODS)
def test_yaml_round_trip(method: str, tmp_path: Path):
    config = config_of(method)
    config.pipeline.datamanager.data = tmp_path
    text = yaml.dump(config)
    loaded: Any = yaml.load(text, Loader=yaml.Loader)
    assert type(loaded).__name__ == "GNeRFTrainerConfig"
    assert yaml.dump(loaded) == text
    assert loaded.pipeline == config.pipeline
    assert loaded.optimizers == config.optimizers


def test_options_that_the_command_line_hides_survive_the_yaml_round_trip():
    config = config_of("gnerf-ns")
    pipeline = config.pipeline
    pipeline.pose_search.bank_size, pipeline.misfits.cost_ratio = 77, 2.5
    pipeline.eval_poses.localization.first.steps, pipeline.schedule.patch_side = 7, 12
    pipeline.left_out_in_turn.fresh_field.rays_per_step, pipeline.transport.sinkhorn_iterations = 99, 3
    loaded: Any = yaml.load(yaml.dump(config), Loader=yaml.Loader)
    assert loaded.pipeline == pipeline
    assert (loaded.pipeline.pose_search.bank_size, loaded.pipeline.eval_poses.localization.first.steps) == (77, 7)


def test_the_paper_s_published_values():
    pipeline = config_of("gnerf-ns-paper").pipeline
    assert pipeline.phase_a == "adversarial" and pipeline.datamanager.max_image_side == 400
    radiance, objective = pipeline.model.radiance, pipeline.adversarial
    schedule = schedule_of("gnerf-ns-paper")
    assert (radiance.num_layers, radiance.layer_width) == (8, 360)
    assert (radiance.num_coarse_samples, radiance.num_fine_samples) == (64, 64)
    assert (objective.num_patches, objective.r1_weight, objective.pose_regularization_mult) == (12, 10.0, 0.1)
    assert objective.discriminator.patch_side == 16
    inversion = objective.inversion_network
    assert (inversion.image_side, inversion.width, inversion.depth, inversion.heads) == (64, 256, 6, 16)
    assert pipeline.model.background_color == "white" and schedule.at(0).patch_scale == (0.8, 1.0)
    optimizers = config_of("gnerf-ns-paper").optimizers
    assert optimizers["fields"]["optimizer"]._target is torch.optim.RMSprop
    assert {name: entry["optimizer"].lr for name, entry in optimizers.items()} == {
        "fields": 5e-4,
        "discriminator": 1e-4,
        "inversion_network": 1e-4,
        "poses": 5e-3 / 4,  # released for cameras 4 units from the origin
        "focal_lengths": 5e-3 / 4,  # ours: GNeRF knows them
        "up_direction": 5e-3 / 4,  # likewise
    }
    for group in ("inversion_network", "poses"):
        optimizer = optimizers[group]["optimizer"].setup([torch.nn.Parameter(torch.zeros(1))])
        assert type(optimizer) is torch.optim.Adam
        assert (optimizer.defaults["betas"], optimizer.defaults["eps"]) == ((0.9, 0.99), 1e-8)


@pytest.mark.parametrize(
    ("group", "every"), [("fields", 8_000), ("discriminator", 8_000), ("inversion_network", 4_000), ("poses", 4_000)]
)
def test_the_paper_s_learning_rates_are_halved_every_so_many_released_iterations(group: str, every: int):
    schedule, entry = schedule_of("gnerf-ns-paper"), config_of("gnerf-ns-paper").optimizers[group]
    optimizer = entry["optimizer"].setup([torch.nn.Parameter(torch.zeros(1))])
    scheduler = entry["scheduler"].setup().get_scheduler(optimizer, entry["optimizer"].lr)
    (share,) = scheduler.lr_lambdas
    for step in range(0, schedule.total_steps, 50):
        assert share(step) == 0.5 ** (schedule.iterations_before(step) // every), f"step {step}"


def test_the_paper_s_released_schedule():
    schedule = schedule_of("gnerf-ns-paper")
    starts = (schedule.interleaved_start, schedule.phase_a_end, schedule.total_steps)
    assert starts == (12_000, 28_000, 48_000)
    assert [schedule.at(step).name for step in (0, 11_999, 12_000, 27_999, 28_000)] == ["A", "A", "AB", "AB", "B"]
    assert "".join(schedule.at(12_000 + step).phase for step in range(6)) == "ABABAB"
    assert schedule.iterations_before(schedule.phase_a_end) == 20_000
    plans = [schedule.at(step) for step in {*range(0, 48_000, 97), 12_000, 12_001, 28_000}]
    assert not any(plan.searches_all_poses or plan.searches_misfit_poses or plan.leave_out_rounds for plan in plans)
    sides = {step: schedule.at(step).image_side for step in (0, 6_000, 12_000, 20_000, 28_000)}
    assert sides == {0: 16, 6_000: 72, 12_000: 128, 20_000: 264, 28_000: 400}
    for step in (0, 1_000, 5_000, 12_000, 20_000, 30_000):
        released = max(16 / 400, min(0.8, math.exp(-2e-4 * schedule.iterations_before(step))))
        assert schedule.at(step).patch_scale == (pytest.approx(released, rel=1e-3), 1.0)


def test_the_paper_s_method_runs_an_a_and_a_b_step(tiny_scene: Path):
    """Its whole recipe, every size overridden."""
    config = on_tiny_images(config_of("gnerf-ns-paper"), tiny_scene)
    small = pipeline_config(tiny_scene, "adversarial")
    config.datamanager.max_image_side = 16
    radiance = config.model.radiance
    radiance.layer_width, radiance.layer_width_color = 16, 8
    radiance.num_coarse_samples = radiance.num_fine_samples = 4
    config.adversarial, config.photometric, config.schedule = small.adversarial, small.photometric, small.schedule
    config.pose_search, config.eval_poses = small.pose_search, small.eval_poses
    pipeline = build_pipeline(config)
    before = [parameter.detach().clone() for parameter in pipeline.model.parameters()]
    history = train_steps(pipeline, range(12))
    assert "generator_loss" in history[0] and history[-1].keys() == {"photometric_loss"}
    assert all(torch.isfinite(loss) for losses in history for loss in losses.values())
    changed = [not torch.equal(old, new) for old, new in zip(before, pipeline.model.parameters(), strict=True)]
    assert sum(changed) > 0.9 * len([value for value in before if value.numel()])


@pytest.mark.parametrize("method", ["gnerf-ns", "gnerf-ns-adversarial", "gnerf-ns-tiny"])
def test_fast_methods_take_a_step_at_their_own_sizes(method: str, tiny_scene: Path):
    config = on_tiny_images(config_of(method), tiny_scene)
    config.pose_search.bank_size = 20
    config.left_out_in_turn = LeftOutInTurnConfig(steps=1, steps_of_all=1)
    config.misfits = pipeline_config(tiny_scene).misfits
    pipeline = build_pipeline(config)
    losses = train_steps(pipeline, range(1)) + train_steps(
        pipeline, range(pipeline.schedule.phase_a_end, pipeline.schedule.phase_a_end + 2)
    )
    assert "photometric_loss" in losses[1] and "photometric_loss" not in losses[0]
    assert all(torch.isfinite(loss) for step in losses for loss in step.values())


@pytest.fixture(scope="module")
def command_line():
    """`ns-train`'s own."""
    from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion

    return lambda *arguments: tyro.cli(AnnotatedBaseConfigUnion, args=arguments)  # type: ignore[arg-type]


def test_a_bare_command_takes_our_dataparser(command_line):
    config = command_line("gnerf-ns", "--data", "images")
    assert config.method_name == "gnerf-ns" and config.data == Path("images")
    assert isinstance(config.pipeline.datamanager.dataparser, UnposedDataParserConfig)


def test_options_override(command_line):
    config = command_line(
        *("gnerf-ns", "--data", "images", "--pipeline.pose-mode", "free"),
        *("--pipeline.schedule.phase-b-image-side", "8", "16", "--pipeline.pose-prior.elevation-deg", "-30", "60"),
        *("--pipeline.model.radiance.num-levels", "5", "--optimizers.poses.optimizer.lr", "0.5"),
        *("unposed-data", "--fov-deg", "30"),
    )
    assert config.pipeline.pose_mode == "free" and config.pipeline.schedule.phase_b_image_side == (8, 16)
    assert config.pipeline.pose_prior.elevation_deg == (-30.0, 60.0)
    assert config.pipeline.model.radiance.num_levels == 5
    assert config.optimizers["poses"]["optimizer"].lr == 0.5
    assert config.pipeline.datamanager.dataparser.fov_deg == 30.0
    assert config_of("gnerf-ns").pipeline.pose_mode != "free", "the installed method stays as it was"


def test_a_stock_dataparser(command_line):
    config = command_line("gnerf-ns", "--data", "images", "blender-data")
    assert isinstance(config.pipeline.datamanager.dataparser, BlenderDataParserConfig)
    with pytest.raises(SystemExit):
        command_line("gnerf-ns", "--data", "images", "--pipeline.no-such-option", "1")
