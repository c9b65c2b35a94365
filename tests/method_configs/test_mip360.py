"""Mip-NeRF 360's methods: what is published, and that a small one trains, is saved and found again."""

import copy
import math
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import torch
from nerfstudio.utils.eval_utils import eval_setup
from tiny_run import build_pipeline, build_trainer, pipeline_config, train_steps, trainer_config

from gnerf_ns.fields.mip360_radiance import Mip360RadianceConfig
from gnerf_ns.models.gnerf import GNeRFModelConfig
from gnerf_ns.training.learning_rates import PlainAdamOptimizerConfig
from gnerf_ns.training.schedule import Schedule


def config_of(method: str) -> Any:
    (point,) = entry_points(group="nerfstudio.method_configs", name=method)
    return copy.deepcopy(point.load().config)


def tiny_model(**options: Any) -> GNeRFModelConfig:
    radiance = Mip360RadianceConfig(
        num_layers=2,
        layer_width=16,
        num_layers_proposal=1,
        layer_width_proposal=8,
        bottleneck_width=8,
        layer_width_color=8,
        num_frequencies=5,
        subdivisions=1,
        num_proposal_samples=(6,),
        num_nerf_samples=5,
        num_uniform_samples=6,
        phase_a_frequencies=3.0,
    )
    return GNeRFModelConfig(radiance=radiance, photometric_loss="charbonnier", **options)


def test_the_published_values():
    config = config_of("gnerf-ns-mip360")
    pipeline = config.pipeline
    assert (pipeline.schedule.phase_b_steps, pipeline.photometric.rays_per_step) == (250_000, 16_384)
    model = pipeline.model
    assert (model.photometric_loss, model.distortion_loss_mult, model.interlevel_loss_mult) == ("charbonnier", 0.01, 1)
    assert model.unbounded_planes == (0.2, 1e6) and not config.mixed_precision
    assert model.radiance == Mip360RadianceConfig()
    for group in ("fields", "proposal_networks"):
        adam = config.optimizers[group]["optimizer"]
        assert type(adam) is PlainAdamOptimizerConfig
        assert (adam.lr, adam.eps, adam.max_norm) == (2e-3, 1e-6, 1e-3)


def test_distortion_counts_as_published_with_few_images_too():
    for method in ("gnerf-ns-mip360", "gnerf-ns-mip360-small"):
        schedule = Schedule.of(config_of(method).pipeline.schedule, 9, 200)
        assert schedule.at(0).distortion_boost == schedule.at(schedule.total_steps - 1).distortion_boost == 1.0


def test_images_have_their_full_size_from_the_beginning():
    schedule = Schedule.of(config_of("gnerf-ns-mip360").pipeline.schedule.with_known_poses("matched"), 100, 800)
    assert schedule.at(0).image_side == 800 and schedule.total_steps == 250_000


@pytest.mark.parametrize("step", [0, 100, 512, 20_000, 125_000, 250_000])
def test_the_published_learning_rates(step: int):
    config = config_of("gnerf-ns-mip360")
    schedule = Schedule.of(config.pipeline.schedule.with_known_poses("matched"), 100, 800)
    between = math.exp(math.log(2e-3) + (math.log(2e-5) - math.log(2e-3)) * step / 250_000)
    warm = 0.01 + 0.99 * math.sin(0.5 * math.pi * min(1.0, step / 512))
    for group in ("fields", "proposal_networks"):
        factor = config.optimizers[group]["scheduler"].factor(schedule, step)
        assert 2e-3 * factor == pytest.approx(warm * between)


def test_a_run_ends_is_saved_and_looks_the_same_when_it_is_opened(tiny_scene: Path, tmp_path: Path):
    """All phases, with every kind of search between them."""
    config = trainer_config(tiny_scene, tmp_path, "transport")
    config.pipeline.model = tiny_model()
    trainer = build_trainer(config)
    trainer.train()
    camera = trainer.pipeline.datamanager.train_dataset.cameras[:1]
    trainer.pipeline.eval()
    _, opened, _, step = eval_setup(trainer.base_dir / "config.yml")
    assert step == 11
    renderings = [each.model.get_outputs_for_camera(camera)["rgb"] for each in (trainer.pipeline, opened)]
    torch.testing.assert_close(*renderings)


@pytest.mark.parametrize("extent", ["ball", "unbounded"])
def test_fixed_poses_let_it_learn(tiny_scene: Path, extent: Any):
    config = pipeline_config(tiny_scene, "transport", poses="fixed")
    config.model = tiny_model(extent=extent, background_color="white" if extent == "ball" else "last_sample")
    config.schedule.phase_b_steps = 60
    pipeline = build_pipeline(config, test_mode="val")
    poses = pipeline.cameras.poses("train").clone()
    adam, losses = torch.optim.Adam(pipeline.model.parameters(), lr=1e-2), []
    pipeline.train()
    for step in range(60):
        adam.zero_grad()
        _, loss_dict, _ = pipeline.get_train_loss_dict(step)
        sum(loss_dict.values(), torch.zeros(())).backward()
        adam.step()
        losses.append(float(loss_dict["photometric_loss"]))
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    assert torch.equal(pipeline.cameras.poses("train"), poses)


def test_found_poses_get_gradients_through_cones(tiny_scene: Path):
    config = pipeline_config(tiny_scene, "transport", poses="given")
    config.model = tiny_model()
    pipeline = build_pipeline(config, test_mode="val")
    before = pipeline.cameras.poses("train").clone()
    train_steps(pipeline, range(5))
    assert bool((pipeline.cameras.poses("train") != before).any())
