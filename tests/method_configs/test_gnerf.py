"""The installed methods as a user has them: through nerfstudio's entry points and its command line."""

import copy
import math
from collections import Counter
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Dict

import pytest
import torch
import tyro
import yaml
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.plugins.types import MethodSpecification
from tiny_run import PhaseA, build_pipeline, build_trainer, pipeline_config, train_steps, trainer_config

from gnerf_ns.data.dataparser import UnposedDataParserConfig
from gnerf_ns.fields.mlp_radiance import MLPRadianceConfig
from gnerf_ns.training.pose_trials import PoseTrialsConfig
from gnerf_ns.training.schedule import PhaseScheduleConfig

METHODS: Dict[str, MethodSpecification] = {
    point.name: point.load()
    for point in entry_points(group="nerfstudio.method_configs")
    if point.value.startswith("gnerf_ns.")
}


def config_of(method: str) -> Any:
    return copy.deepcopy(METHODS[method].config)


def on_tiny_images(config: Any, folder: Path) -> Any:
    """The method's own networks and objectives on images of 16 pixels."""
    config.pipeline.datamanager.data = folder
    return config.pipeline


def test_there_are_five_methods():
    names = {"gnerf-ns", "gnerf-ns-handheld", "gnerf-ns-adversarial", "gnerf-ns-paper", "gnerf-ns-tiny"}
    assert METHODS.keys() == names


@pytest.mark.parametrize("method", METHODS)
def test_each_parameter_group_has_an_optimizer_whatever_phase_a_is(method: str, tiny_scene: Path):
    config = config_of(method)
    every_group = set()
    phases: Dict[PhaseA, Any] = {"transport": None, "adversarial": None, "both": None}
    for phase_a in phases:
        # Small networks, but of the method's kind: groups do not depend on sizes.
        radiance = config.pipeline.model.radiance
        pipeline = pipeline_config(tiny_scene, phase_a, focal_length="shared")
        if isinstance(radiance, MLPRadianceConfig):
            pipeline.model.radiance = MLPRadianceConfig(num_layers=2, layer_width=8, layer_width_color=8)  # type: ignore
        groups = build_pipeline(pipeline).get_param_groups()
        assert groups.keys() <= config.optimizers.keys()
        every_group |= groups.keys()
    assert every_group == config.optimizers.keys(), "an optimizer of nothing"


@pytest.mark.parametrize("method", METHODS)
def test_schedules_agree(method: str):
    """Learning rates, length of the run and patch sizes follow the phases that the pipeline has."""
    config = config_of(method)
    schedule = config.pipeline.schedule
    assert schedule.patch_side == config.pipeline.adversarial.discriminator.patch_side


def test_a_schedule_given_by_hand_reaches_length_and_learning_rates(tiny_scene: Path, tmp_path: Path):
    config = trainer_config(tiny_scene, tmp_path)
    config.optimizers = config_of("gnerf-ns").optimizers
    config.max_num_iterations = None
    config.pipeline.schedule = PhaseScheduleConfig(
        phase_a_steps=30,
        phase_a_attempts=2,
        interleaved_steps=4,
        leave_out_rounds=2,
        leave_out_steps=3,
        phase_b_steps=50,
    )
    trainer = build_trainer(config)
    assert trainer.config.max_num_iterations == 31 + 90
    for group in ("fields", "proposal_networks", "poses"):
        assert trainer.config.optimizers[group]["scheduler"].schedule is trainer.pipeline.schedule
    assert (trainer.pipeline.schedule.phase_a_end, trainer.pipeline.schedule.phase_b_start) == (34, 40)


@pytest.mark.parametrize("method", METHODS)
def test_images_never_get_smaller(method: str):
    schedule = config_of(method).pipeline.schedule
    sides = [schedule.at(step).image_side for step in range(0, schedule.total_steps, 10)]
    assert sides == sorted(sides)


@pytest.mark.parametrize("method", METHODS)
def test_runs_where_there_is_no_gpu_and_ends_by_itself(method: str):
    config = config_of(method)
    assert config.machine.device_type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert config.mixed_precision == torch.cuda.is_available()
    assert config.viewer.quit_on_train_completion
    assert config.is_tensorboard_enabled(), "vis='viewer' alone runs no evaluation"


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


def test_the_paper_s_published_values():
    pipeline = config_of("gnerf-ns-paper").pipeline
    assert pipeline.phase_a == "adversarial" and pipeline.datamanager.max_image_side == 400
    radiance, objective, schedule = pipeline.model.radiance, pipeline.adversarial, pipeline.schedule
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
    config = config_of("gnerf-ns-paper")
    schedule, entry = config.pipeline.schedule, config.optimizers[group]
    optimizer = entry["optimizer"].setup([torch.nn.Parameter(torch.zeros(1))])
    scheduler = entry["scheduler"].setup().get_scheduler(optimizer, entry["optimizer"].lr)
    (share,) = scheduler.lr_lambdas
    for step in range(0, schedule.total_steps, 50):
        assert share(step) == 0.5 ** (schedule.iterations_before(step) // every), f"step {step}"


def test_the_paper_s_released_schedule():
    schedule = config_of("gnerf-ns-paper").pipeline.schedule
    plans = [schedule.at(step) for step in range(schedule.total_steps)]
    lengths = Counter((plan.name, plan.phase) for plan in plans)
    assert lengths == {("A", "A"): 12_000, ("AB", "A"): 8_000, ("AB", "B"): 8_000, ("B", "B"): 20_000}
    assert schedule.iterations_before(schedule.phase_b_start) == 20_000
    assert not any(plan.searches_all_poses or plan.searches_misfit_poses for plan in plans)
    sides = {step: plans[step].image_side for step in (0, 6_000, 12_000, 20_000, 28_000)}
    assert sides == {0: 16, 6_000: 72, 12_000: 128, 20_000: 264, 28_000: 400}
    for step in (0, 1_000, 5_000, 12_000, 20_000, 30_000):
        released = max(16 / 400, min(0.8, math.exp(-2e-4 * schedule.iterations_before(step))))
        assert plans[step].patch_scale == (pytest.approx(released, rel=1e-3), 1.0)


def test_the_paper_s_method_runs_an_a_and_a_b_step(tiny_scene: Path):
    """Its whole recipe, every size overridden."""
    config = on_tiny_images(config_of("gnerf-ns-paper"), tiny_scene)
    small = pipeline_config(tiny_scene, "adversarial")
    config.datamanager.max_image_side = 16
    radiance = config.model.radiance
    radiance.layer_width, radiance.layer_width_color = 16, 8
    radiance.num_coarse_samples = radiance.num_fine_samples = 4
    config.adversarial, config.photometric, config.schedule = small.adversarial, small.photometric, small.schedule
    config.pose_search, config.held_out = small.pose_search, small.held_out
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
    config.pose_trials = PoseTrialsConfig(num_places=1, steps_without=1, steps_with=1, steps_of_fit=1)
    pipeline = build_pipeline(config)
    losses = train_steps(pipeline, range(1)) + train_steps(
        pipeline, range(config.schedule.phase_b_start, config.schedule.phase_b_start + 1)
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
        *("gnerf-ns", "--data", "images", "--pipeline.phase-a", "both"),
        *("--pipeline.schedule.phase-a-image-side", "8", "16", "--pipeline.pose-prior.elevation-deg", "-30", "60"),
        *("--pipeline.model.radiance.num-levels", "5", "--optimizers.poses.optimizer.lr", "0.5"),
        *("unposed-data", "--fov-deg", "30"),
    )
    assert config.pipeline.phase_a == "both" and config.pipeline.schedule.phase_a_image_side == (8, 16)
    assert config.pipeline.pose_prior.elevation_deg == (-30.0, 60.0)
    assert config.pipeline.model.radiance.num_levels == 5
    assert config.optimizers["poses"]["optimizer"].lr == 0.5
    assert config.pipeline.datamanager.dataparser.fov_deg == 30.0
    assert config_of("gnerf-ns").pipeline.phase_a != "both", "the installed method stays as it was"


def test_a_stock_dataparser(command_line):
    config = command_line("gnerf-ns", "--data", "images", "blender-data")
    assert isinstance(config.pipeline.datamanager.dataparser, BlenderDataParserConfig)
    with pytest.raises(SystemExit):
        command_line("gnerf-ns", "--data", "images", "--pipeline.no-such-option", "1")
