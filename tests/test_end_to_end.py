"""A real training on images without poses, short but whole: everything that is built upon it shares one run."""

import copy
import json
import shutil
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.configs.method_configs import method_configs
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.utils.eval_utils import eval_setup
from tiny_run import build_trainer

from gnerf_ns.cameras.alignment import PoseErrors, pose_errors
from gnerf_ns.cameras.plots import plot_cameras, plot_pose_distribution
from gnerf_ns.data.transforms_json import SPLIT_KEYS
from gnerf_ns.demo.scene import ProceduralSceneConfig, render_procedural_scene
from gnerf_ns.fields.hash_encoding import use_compiled_hash_grids
from gnerf_ns.models.image_metrics import without_lpips
from gnerf_ns.training import evaluation
from gnerf_ns.training import pipeline as gnerf_pipeline
from gnerf_ns.training.pipeline import GNeRFPipeline


class Run(NamedTuple):
    """What training left behind."""

    config_path: Path
    images: Path
    pipeline: GNeRFPipeline
    errors_at_random: PoseErrors


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """`gnerf-ns-tiny`, shorter, on images of the procedural scene."""
    folder = tmp_path_factory.mktemp("end_to_end")
    images = folder / "images"
    render_procedural_scene(images, ProceduralSceneConfig(num_train=32, num_test=4, image_side=48, samples_per_side=2))
    (method,) = [point for point in entry_points(group="nerfstudio.method_configs") if point.name == "gnerf-ns-tiny"]
    config = copy.deepcopy(method.load().config)
    config.data = config.pipeline.datamanager.data = images
    config.output_dir, config.experiment_name, config.timestamp = folder / "runs", "tiny", "now"
    config.vis, config.logging.local_writer.enable = "tensorboard", False
    pipeline = config.pipeline
    pipeline.model.radiance.num_uniform_samples = 16
    pipeline.schedule.phase_a_steps, pipeline.schedule.phase_b_steps = 120, 450
    pipeline.schedule.leave_out_rounds = 1
    in_turn = pipeline.left_out_in_turn
    in_turn.steps, in_turn.steps_of_all, in_turn.num_hypotheses = 60, 80, 4
    pipeline.schedule.phase_a_image_side, pipeline.schedule.phase_b_image_side = (12, 12), (20, 48)
    pipeline.schedule.misfit_search_steps = (20, 50)
    pipeline.transport.num_poses = 40
    pipeline.photometric.rays_per_step = 1024
    pipeline.pose_search.bank_size, pipeline.pose_search.image_side = 300, 12
    pipeline.pose_search.num_hypotheses = 3
    pipeline.eval_poses.num_hypotheses = 2
    first, last = pipeline.eval_poses.localization.first, pipeline.eval_poses.localization.last
    first.steps, first.rays_per_hypothesis = 30, 64
    last.steps, last.rays_per_hypothesis = 40, 128
    trainer = build_trainer(config)
    truth = trainer.pipeline.datamanager.train_ground_truth
    random_poses = trainer.pipeline.scene.prior.sample(len(truth), trainer.pipeline.cameras.radius, "cpu")
    with pytest.MonkeyPatch.context() as patch:  # plots as they are
        patch.setattr(evaluation, "plot_cameras", plot_cameras)
        patch.setattr(gnerf_pipeline, "plot_pose_distribution", plot_pose_distribution)
        trainer.train()
    trainer.pipeline.eval()
    return Run(config.get_base_dir() / "config.yml", images, trainer.pipeline, pose_errors(random_poses, truth))


def estimated_cameras(pipeline: GNeRFPipeline, split: Literal["train", "eval"]) -> Cameras:
    """Of the size that images are trained at."""
    dataset = getattr(pipeline.datamanager, f"{split}_dataset")
    return pipeline.cameras.estimated(split, dataset.given_cameras)


def test_poses_are_found(run: Run):
    random = run.errors_at_random.summary()
    found = run.pipeline.evaluation.pose_metrics()
    assert random["rotation_error_deg_median"] > 40
    # 0.5 and 2.5 degrees when this was written.
    assert found["rotation_error_deg_median"] < 1.3
    assert found["rotation_error_deg_max"] < 7
    assert found["rotation_under_5deg"] > 0.9
    assert found["mirrored"] == 0


def test_held_out_images_are_shown(run: Run):
    metrics = run.pipeline.get_average_eval_image_metrics(run.pipeline.schedule.total_steps - 1)
    # 21 dB both when this was written; the mean image alone gives about 13.
    assert metrics["psnr"] > 20
    assert metrics["psnr_aligned"] > 18


def test_the_checkpoint_renders_what_training_ended_with(run: Run):
    """Through nerfstudio's own loading, as `ns-render`, `ns-viewer` and `ns-eval` do it."""
    config, loaded, checkpoint, step = eval_setup(run.config_path)
    assert isinstance(loaded, GNeRFPipeline) and step == run.pipeline.schedule.total_steps - 1
    assert checkpoint.parent == config.get_checkpoint_dir()
    run.pipeline.publish_cameras()
    for split in ("train", "eval"):
        cameras, own = estimated_cameras(loaded, split), estimated_cameras(run.pipeline, split)
        torch.testing.assert_close(cameras.camera_to_worlds, own.camera_to_worlds, rtol=0, atol=0)
        camera, own_camera = cameras[1:2], own[1:2]
        with torch.no_grad():
            image = loaded.model.eval().get_outputs_for_camera(camera)
            expected = run.pipeline.model.eval().get_outputs_for_camera(own_camera)
        for name in ("rgb", "accumulation", "depth", "normals"):
            torch.testing.assert_close(image[name], expected[name], rtol=0, atol=0)
    # What the commands read is what was estimated.
    dataset = loaded.datamanager.train_dataset
    assert dataset is not None
    torch.testing.assert_close(dataset.cameras.camera_to_worlds, loaded.cameras.poses("train"), rtol=0, atol=0)


def test_other_held_out_images_are_looked_up_on_loading(run: Run, tmp_path: Path):
    """A checkpoint is good for other images of the same scene, as long as those to train on are the same."""
    images = shutil.copytree(run.images, tmp_path / "images")
    for split in ("test", "val"):
        path = images / f"transforms_{split}.json"
        meta = json.loads(path.read_text())
        meta["frames"] = meta["frames"][:2]
        path.write_text(json.dumps(meta))

    def elsewhere(config: Any) -> Any:
        config.pipeline.datamanager.data = images
        return config

    _, loaded, _, step = eval_setup(run.config_path, update_config_callback=elsewhere)
    assert isinstance(loaded, GNeRFPipeline)
    assert len(loaded.cameras.eval_codes) == 2 and int(loaded.cameras.eval_step) == step
    here = run.pipeline.cameras.poses("eval")[:2, :, 3]
    assert (loaded.cameras.poses("eval")[:, :, 3] - here).norm(dim=-1).median() < 0.5


def test_the_file_beside_the_checkpoint_holds_the_estimated_poses(run: Run):
    """It is read by nerfstudio's own dataparser, poses in the learned frame."""
    path = run.config_path.parent / "estimated_poses" / "transforms.json"
    parser = NerfstudioDataParserConfig(
        data=path, orientation_method="none", center_method="none", auto_scale_poses=False, eval_mode="all"
    ).setup()
    outputs = parser.get_dataparser_outputs("train")
    assert len(outputs.image_filenames) == 32
    dataset = run.pipeline.datamanager.train_dataset
    assert dataset is not None
    estimated = dict(zip(dataset.image_filenames, run.pipeline.cameras.poses("train"), strict=True))
    for name, pose in zip(outputs.image_filenames, outputs.cameras.camera_to_worlds, strict=True):
        (expected,) = [each for file, each in estimated.items() if file.samefile(name)]
        torch.testing.assert_close(pose, expected, atol=1e-5, rtol=0)
    assert int(outputs.cameras.width[0]) == 48
    torch.testing.assert_close(outputs.cameras.fx[0], dataset.cameras.fx[0], rtol=1e-5, atol=0)


def nerfacto_psnr(transforms: Path, output: Path, seed: int = 42) -> float:
    """PSNR (dB) on every fourth image, held out, of a short training of its own method on a CPU."""
    config: Any = copy.deepcopy(method_configs["nerfacto"])
    config.machine.seed = seed
    config.data, config.output_dir, config.vis, config.timestamp = transforms, output, "tensorboard", "now"
    config.machine.device_type, config.mixed_precision, config.max_num_iterations = "cpu", False, 250
    config.steps_per_eval_batch = config.steps_per_eval_image = config.steps_per_eval_all_images = 10**9
    config.logging.local_writer.enable = False
    config.pipeline.datamanager = VanillaDataManagerConfig(
        dataparser=NerfstudioDataParserConfig(data=transforms, eval_mode="interval", eval_interval=4),
        train_num_rays_per_batch=1024,
        eval_num_rays_per_batch=64,
    )
    model = config.pipeline.model
    model.implementation, model.camera_optimizer.mode, model.eval_num_rays_per_chunk = "torch", "off", 4096
    # Nothing of a training image's own look carries over to one held out: without it, trainings differ less by luck.
    model.use_appearance_embedding = False
    model.num_levels, model.max_res, model.log2_hashmap_size, model.hidden_dim, model.hidden_dim_color = (
        6,
        64,
        14,
        32,
        32,
    )
    model.num_proposal_iterations, model.num_proposal_samples_per_ray, model.num_nerf_samples_per_ray = 1, (32,), 16
    model.near_plane, model.far_plane = 0.1, 4.0
    with without_lpips():
        trainer = build_trainer(config)
    use_compiled_hash_grids(trainer.pipeline.model)  # the same values, in a third of the time
    trainer.train()
    return trainer.pipeline.get_average_eval_image_metrics()["psnr"]


def test_a_stock_method_trains_on_the_estimated_poses(run: Run, tmp_path: Path):
    """nerfacto sees the scene with them, and nothing with the same poses dealt to other images."""
    path = run.config_path.parent / "estimated_poses" / "transforms.json"
    meta = json.loads(path.read_text())
    for frame in meta["frames"]:
        frame["file_path"] = str((path.parent / frame["file_path"]).resolve())
    for key in SPLIT_KEYS:
        meta[key] = [str((path.parent / name).resolve()) for name in meta.get(key, [])]
    pose_of = [frame["transform_matrix"] for frame in meta["frames"]]
    for index, frame in enumerate(meta["frames"]):
        frame["transform_matrix"] = pose_of[(index + 7) % len(pose_of)]
    dealt = tmp_path / "dealt" / "transforms.json"
    dealt.parent.mkdir()
    dealt.write_text(json.dumps(meta))
    found, control = nerfacto_psnr(path, tmp_path / "found"), nerfacto_psnr(dealt, tmp_path / "control")
    if found <= control + 1.5:  # seen once: 15.05 dB with either; then the better of two seeds counts, for both
        found = max(found, nerfacto_psnr(path, tmp_path / "found again", seed=43))
        control = max(control, nerfacto_psnr(dealt, tmp_path / "control again", seed=43))
    assert found > control + 1.5, f"{found:.1f} dB with the estimated poses, {control:.1f} dB with wrong ones"
