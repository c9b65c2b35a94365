"""Where estimated cameras go, and what evaluation measures."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import build_pipeline, pipeline_config, state_of, train_steps

from gnerf_ns.cameras.alignment import pose_errors
from gnerf_ns.cameras.pose_prior import PosePriorConfig
from gnerf_ns.data.datamanager import UnposedDataManagerConfig
from gnerf_ns.data.dataparser import UnposedDataParserConfig
from gnerf_ns.utils.errors import InputError


def test_estimated_cameras_have_the_tables_poses_and_the_images_intrinsics(tiny_scene: Path):
    pipeline = build_pipeline(pipeline_config(tiny_scene, "transport"))
    train_steps(pipeline, range(1))
    before = pipeline.datamanager.train_dataset.cameras.camera_to_worlds.clone()
    cameras = pipeline.cameras.estimated("train", pipeline.datamanager.train_dataset.given_cameras)
    torch.testing.assert_close(cameras.camera_to_worlds, pipeline.cameras.poses("train"))
    assert not cameras.camera_to_worlds.requires_grad
    torch.testing.assert_close(cameras.fx, pipeline.datamanager.train_dataset.cameras.fx)
    assert torch.equal(pipeline.datamanager.train_dataset.cameras.camera_to_worlds, before), "a copy was asked for"
    assert len(pipeline.cameras.estimated("eval", pipeline.datamanager.eval_dataset.given_cameras)) == 2


def test_published_poses_reach_every_place_that_commands_read(tiny_scene: Path):
    pipeline = build_pipeline(pipeline_config(tiny_scene))
    train_steps(pipeline, range(6))
    pipeline.estimate_eval_poses(5)
    pipeline.publish_cameras()
    train, held_out = pipeline.cameras.poses("train"), pipeline.cameras.poses("eval")
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
    pipeline.publish_cameras()
    assert torch.equal(pipeline.datamanager.eval_dataset.cameras.camera_to_worlds, before)


def test_held_out_poses_are_estimated_once_per_step_with_everything_else_left_alone(tiny_scene: Path):
    pipeline = build_pipeline(pipeline_config(tiny_scene))
    train_steps(pipeline, range(6))
    before, random_state = state_of(pipeline), torch.get_rng_state()
    with torch.no_grad():  # nerfstudio evaluates like this
        pipeline.estimate_eval_poses(5)
    assert torch.equal(torch.get_rng_state(), random_state)
    after = state_of(pipeline)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"cameras.eval_codes", "cameras.eval_step"}
    assert int(pipeline.cameras.eval_step) == 5
    pipeline.cameras.eval_codes.add_(1.0)
    kept = pipeline.cameras.eval_codes.clone()
    pipeline.estimate_eval_poses(5)
    assert torch.equal(pipeline.cameras.eval_codes, kept)
    pipeline.estimate_eval_poses(6)
    assert not torch.equal(pipeline.cameras.eval_codes, kept)


def test_held_out_poses_meet_no_optimizer(tiny_scene: Path):
    pipeline = build_pipeline(pipeline_config(tiny_scene))
    trained = {id(parameter) for group in pipeline.get_param_groups().values() for parameter in group}
    everything = {id(parameter) for parameter in pipeline.parameters() if parameter.numel()}
    assert everything == trained and not pipeline.cameras.eval_codes.requires_grad


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
    assert pipeline.cameras.codec.dim == expected
    train_steps(pipeline, range(6))
    assert torch.isfinite(pipeline.cameras()).all()


def test_contradictory_priors_are_refused_at_once(tiny_scene: Path):
    with pytest.raises(InputError, match="elevation_deg"):
        build_pipeline(pipeline_config(tiny_scene, pose_prior=PosePriorConfig(elevation_deg=(80.0, 20.0))))


def test_true_poses_are_measured_as_such(tiny_scene: Path):
    pipeline = build_pipeline(pipeline_config(tiny_scene, "transport"))
    truth = pipeline.datamanager.train_ground_truth
    assert truth is not None
    pipeline.cameras.assign(torch.arange(7), truth)
    errors = pipeline.evaluation.pose_metrics()
    assert errors["rotation_error_deg_max"] < 0.1 and errors["mirrored"] == 0
    mirrored = truth * torch.tensor([-1.0, 1.0, 1.0])[:, None]
    pipeline.cameras.assign(torch.arange(7), mirrored)
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
    torch.testing.assert_close(held_out, pipeline.cameras.poses("eval"))


@pytest.mark.parametrize("truth", [None, float("nan")])
def test_without_truth_there_are_no_pose_errors(tiny_scene: Path, truth):
    pipeline = build_pipeline(pipeline_config(tiny_scene, "transport"))
    manager = pipeline.datamanager
    manager.train_ground_truth = None if truth is None else torch.full((7, 3, 4), truth)
    assert pipeline.evaluation.pose_metrics() == {}
    metrics = pipeline.get_average_eval_image_metrics(0)
    assert "psnr" in metrics and not any("rotation" in name or "aligned" in name for name in metrics)


@pytest.mark.parametrize("background", ["white", "black", "random", "last_sample"])
def test_evaluation_lays_images_over_the_background_of_the_renderings(tiny_scene: Path, background: Any):
    """An empty scene compared with a clear image is a perfect match, whatever lies behind both."""
    config = pipeline_config(tiny_scene)
    config.model.background_color = background  # type: ignore[attr-defined]
    pipeline = build_pipeline(config)
    for dataset in (pipeline.datamanager.train_dataset, pipeline.datamanager.eval_dataset):
        image, alpha = dataset.get_image_float32(0), dataset.get_numpy_image(0)[..., 3]
        clear = image[torch.from_numpy(alpha == 0)]
        assert len(clear) and torch.equal(clear, pipeline.model.evaluation_background.expand_as(clear))


def test_images_of_which_the_truth_is_not_known_do_not_count(tiny_scene: Path):
    pipeline = build_pipeline(pipeline_config(tiny_scene, "transport"))
    manager = pipeline.datamanager
    assert manager.train_ground_truth is not None
    torch.manual_seed(0)
    pipeline.cameras.codes.data += 0.3 * torch.randn_like(pipeline.cameras.codes)
    some = slice(0, len(manager.train_ground_truth) - 2)
    expected = pose_errors(pipeline.cameras.poses("train")[some], manager.train_ground_truth[some]).summary()
    manager.train_ground_truth[some.stop :] = float("nan")
    assert pipeline.evaluation.pose_metrics() == expected
    assert bool(torch.isfinite(pipeline.evaluation.plot_poses()).all())


def test_evaluation_without_held_out_images_ends_on_one_sentence(tiny_scene: Path, tmp_path: Path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number, path in enumerate(sorted(tiny_scene.rglob("*.png"))):
        shutil.copy(path, folder / f"{number}.png")
    data = UnposedDataManagerConfig(data=folder, max_image_side=16, dataparser=UnposedDataParserConfig(eval_interval=0))
    pipeline = build_pipeline(pipeline_config(folder, "transport", datamanager=data))
    with pytest.raises(InputError, match=r"no held-out images to evaluate on; .*--eval-interval") as error:
        pipeline.get_average_eval_image_metrics(output_path=tmp_path, get_std=True)
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("drawn_plots")
def test_plots_are_images_of_the_estimated_cameras(tiny_scene: Path):
    pipeline = build_pipeline(pipeline_config(tiny_scene, "transport"))
    cameras, distribution = pipeline.evaluation.plot_poses(), pipeline.plot_pose_distribution()
    assert min(cameras.shape[:2]) > 200 and 0 <= cameras.min() < cameras.max() <= 1
    assert min(distribution.shape[:2]) > 100 and distribution.std() > 1
    truth = pipeline.datamanager.train_ground_truth
    assert truth is not None
    pipeline.cameras.assign(torch.arange(7), truth)
    assert not torch.equal(pipeline.evaluation.plot_poses(), cameras)
