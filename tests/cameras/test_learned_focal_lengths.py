"""Focal lengths that are learned: when, by which losses, and where they end up."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny_run import build_pipeline, build_trainer, pipeline_config, train_steps, trainer_config


@pytest.fixture
def bare_folder(tiny_scene: Path, tmp_path: Path) -> Path:
    """The images without any file beside them."""
    folder = tmp_path / "bare"
    shutil.copytree(tiny_scene / "images", folder)
    return folder


def test_they_are_learned_unless_they_were_given(tiny_scene: Path, bare_folder: Path):
    calibrated = build_pipeline(pipeline_config(tiny_scene))
    assert calibrated.focal_scales.mode == "fixed" and "focal_lengths" not in calibrated.get_param_groups()
    guessed = build_pipeline(pipeline_config(bare_folder))
    assert guessed.focal_scales.mode == "shared" and len(guessed.get_param_groups()["focal_lengths"]) == 1
    insisted = build_pipeline(pipeline_config(tiny_scene, focal_length="per_image"))
    assert insisted.focal_scales.logarithms.shape == (7,)


def test_phase_b_alone_moves_them(tiny_scene: Path):
    pipeline = build_pipeline(pipeline_config(tiny_scene, "transport", focal_length="shared"))
    train_steps(pipeline, range(3))
    assert not pipeline.focal_scales.logarithms.any()
    train_steps(pipeline, range(5, 8))
    assert pipeline.focal_scales.logarithms.any()


def test_every_command_sees_them(tiny_scene: Path):
    pipeline = build_pipeline(pipeline_config(tiny_scene, focal_length="per_image"))
    given_train = pipeline.datamanager.train_dataset.cameras.fx.clone()
    given_eval = pipeline.datamanager.eval_dataset.cameras.fy.clone()
    factors = torch.linspace(0.8, 1.4, 7)
    with torch.no_grad():
        pipeline.focal_scales.logarithms.copy_(factors.log())
    for _ in range(2):  # publishing twice does not lengthen twice
        pipeline.estimate_held_out_poses(5)
        pipeline.publish_poses()
    manager = pipeline.datamanager
    torch.testing.assert_close(pipeline.estimated_cameras().fx, given_train * factors[:, None])
    torch.testing.assert_close(manager.train_dataset.cameras.fx, given_train * factors[:, None])
    torch.testing.assert_close(manager.train_ray_generator.cameras.fx, given_train * factors[:, None])
    torch.testing.assert_close(manager.fixed_indices_eval_dataloader.cameras.fy, 1.1 * given_eval)
    another = pipeline.config.datamanager.setup(test_mode="test")
    torch.testing.assert_close(another.eval_dataset.cameras.fy, 1.1 * given_eval)


def test_the_rays_that_are_trained_on_are_those_of_the_published_cameras(tiny_scene: Path):
    pipeline = build_pipeline(pipeline_config(tiny_scene, focal_length="shared"))
    with torch.no_grad():
        pipeline.focal_scales.logarithms.fill_(0.2)
    coords = torch.tensor([[[-0.6, 0.3], [0.9, -0.8]]])
    direction = pipeline.scene.image_set.directions.at(torch.tensor([3]), coords)[0]
    cameras = pipeline.estimated_cameras()
    pixels = (coords[0] + 1.0) / 2.0 * 16.0
    cameras.camera_to_worlds = torch.eye(4)[:3].expand(7, 3, 4)
    published = cameras.generate_rays(3, coords=pixels.flip(-1)).directions
    torch.testing.assert_close(direction.detach(), published)


def test_they_are_written_beside_the_poses_and_survive_a_checkpoint(bare_folder: Path, tmp_path: Path):
    config = trainer_config(bare_folder, tmp_path / "runs", "transport")
    trainer = build_trainer(config)
    trainer.train()
    factor = float(trainer.pipeline.focal_scales.typical)
    assert factor != 1.0
    written = json.loads((config.get_base_dir() / "estimated_poses" / "transforms.json").read_text())
    given = trainer.pipeline.datamanager.train_dataset.file_cameras.fx
    for frame in written["frames"]:
        assert frame["fl_x"] == pytest.approx(factor * float(given[0]), rel=1e-5)
    again = build_pipeline(config.pipeline)  # type: ignore[arg-type]
    checkpoint = sorted(config.get_checkpoint_dir().glob("*.ckpt"))[-1]
    again.load_pipeline(torch.load(checkpoint, weights_only=False)["pipeline"], 11)
    assert float(again.focal_scales.typical) == factor
