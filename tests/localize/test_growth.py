"""Training on with localized images: what is added, what goes on from where it was, and what is thrown away."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any, Dict, List

import pytest
import roma
import torch
import yaml
from nerfstudio.configs.method_configs import method_configs
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from tiny_run import build_trainer, trainer_config

from gnerf_ns.cameras.pose_codec import UpDirection
from gnerf_ns.demo.scene import ProceduralSceneConfig, render_procedural_scene
from gnerf_ns.localize.growth import (
    LOCALIZED_FILE,
    GrowthConfig,
    _full_size,
    _learn_poses_of_added,
    grow_run,
    train_further,
)
from gnerf_ns.localize.scene import load_run
from gnerf_ns.models.image_metrics import without_lpips
from gnerf_ns.utils.errors import InputError

FIGURES = {"converged": True, "photometric_error": 0.05, "num_agreeing": 3, "num_hypotheses": 4}


@pytest.fixture(scope="module")
def new_images(tmp_path_factory: pytest.TempPathFactory) -> List[Dict[str, Any]]:
    """Frames of three images of the scene that no run has seen, all well localized."""
    folder = tmp_path_factory.mktemp("new")
    render_procedural_scene(
        folder, ProceduralSceneConfig(num_train=3, num_test=1, image_side=16, samples_per_side=2, seed=5)
    )
    frames = json.loads((folder / "transforms_train.json").read_text())["frames"]
    return [
        {
            "file_path": str((folder / f"{frame['file_path']}.png").resolve()),
            "transform_matrix": frame["transform_matrix"],
            "w": 16,
            "h": 16,
            "fl_x": 22.0,
            "fl_y": 22.0,
            "cx": 8.0,
            "cy": 8.0,
            "localization": dict(FIGURES),
        }
        for frame in frames
    ]


@pytest.fixture(scope="module")
def our_run(tiny_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = trainer_config(tiny_scene, tmp_path_factory.mktemp("ours"), "transport")
    config.pipeline.learn_up_direction = False
    build_trainer(config).train()
    return config.get_base_dir() / "config.yml"


@pytest.fixture(scope="module")
def nerfacto_run(tiny_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config: Any = copy.deepcopy(method_configs["nerfacto"])
    config.data, config.output_dir, config.vis = tiny_scene, tmp_path_factory.mktemp("nerfacto"), "tensorboard"
    config.experiment_name, config.timestamp = "scene", "now"
    config.machine.device_type, config.mixed_precision, config.max_num_iterations = "cpu", False, 6
    config.steps_per_eval_batch = config.steps_per_eval_image = config.steps_per_eval_all_images = 10**9
    config.logging.local_writer.enable = False
    stock: Any = copy.deepcopy(method_configs["vanilla-nerf"])
    vanilla = config.pipeline.datamanager = stock.pipeline.datamanager
    vanilla.dataparser, vanilla.train_num_rays_per_batch = BlenderDataParserConfig(data=tiny_scene), 64
    model = config.pipeline.model
    model.implementation, model.camera_optimizer.mode = "torch", "off"
    model.num_levels, model.max_res, model.log2_hashmap_size = 2, 16, 8
    model.num_proposal_iterations, model.num_proposal_samples_per_ray, model.num_nerf_samples_per_ray = 1, (8,), 4
    model.proposal_net_args_list = [{"hidden_dim": 4, "log2_hashmap_size": 8, "num_levels": 2, "max_res": 16}]
    with without_lpips():
        build_trainer(config).train()
    return config.get_base_dir() / "config.yml"


def grown(run: Path, frames: List[Dict[str, Any]], folder: Path, steps: int = 3, **options: Any) -> Any:
    poses = folder / "poses.json"
    poses.write_text(json.dumps({"camera_model": "OPENCV", "frames": frames}))
    return grow_run(load_run(run)[0], poses, GrowthConfig(steps=steps, **options))


def quality_is(monkeypatch: pytest.MonkeyPatch, *values: float) -> None:
    """Have held-out images come out as said: few steps on few pixels may go either way."""
    given = iter(values)
    for path in (
        "gnerf_ns.training.pipeline.GNeRFPipeline",
        "nerfstudio.pipelines.base_pipeline.VanillaPipeline",
    ):
        monkeypatch.setattr(f"{path}.get_average_eval_image_metrics", lambda self, step: {"psnr": next(given)})


def state_of(run: Path) -> Dict[str, torch.Tensor]:
    (checkpoint,) = (run.parent / "nerfstudio_models").glob("*.ckpt")
    return torch.load(checkpoint, weights_only=True)["pipeline"]


def files_of(folder: Path) -> Dict[Path, bytes]:
    return {
        path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and ".tfevents" not in path.name
    }


def test_our_run_goes_on_with_more_images(our_run: Path, new_images: Any, tmp_path: Path, monkeypatch: Any):
    quality_is(monkeypatch, 10.0, 11.0)
    before = files_of(our_run.parent)
    growth = grown(our_run, new_images, tmp_path)
    assert (growth.num_added, growth.psnr_before, growth.psnr_after) == (3, 10.0, 11.0)
    assert files_of(our_run.parent) == before

    old, new = state_of(our_run), state_of(growth.folder / "config.yml")
    assert len(old["cameras.codes"]) == 7 and len(new["cameras.codes"]) == 10
    assert not torch.equal(old["cameras.codes"], new["cameras.codes"][:7]), "they are learned on"
    _, pipeline = load_run(growth.folder / "config.yml")
    given = torch.tensor([frame["transform_matrix"][:3] for frame in new_images])
    found = pipeline.cameras.poses("train")[-3:]
    assert not torch.equal(found, given)
    turns = (found[..., :3].mT @ given[..., :3]).diagonal(dim1=-2, dim2=-1).sum(-1)
    assert bool((turns > 2.9).all()), "they began where they had been found"
    assert len(pipeline.evaluation.pose_errors().rotation_deg) == 7, "the truth of added ones is not known"
    frames = json.loads((growth.folder / LOCALIZED_FILE).read_text())["frames"]
    assert [frame["localized"] for frame in frames] == [True] * 3


def test_images_that_are_named_from_their_folder_are_found_from_the_run(
    our_run: Path, new_images: Any, tmp_path: Path, monkeypatch: Any
):
    """As those are that lie beside the transforms.json of `gnerf-localize`, or below."""
    quality_is(monkeypatch, 10.0, 11.0)
    shutil.copy(new_images[0]["file_path"], tmp_path / "new.png")
    growth = grown(our_run, [{**new_images[0], "file_path": "new.png"}, *new_images[1:]], tmp_path)
    assert growth.num_added == 3
    frames = json.loads((growth.folder / LOCALIZED_FILE).read_text())["frames"]
    assert str(tmp_path / "new.png") in [frame["file_path"] for frame in frames]


def test_both_figures_are_of_the_whole_field(our_run: Path, new_images: Any, tmp_path: Path, monkeypatch: Any):
    """And not of one with its finer levels switched off, as it was where the steps begin that are made again."""
    seen = []

    def metrics(self: Any, step: Any) -> Dict[str, float]:
        seen.append((self.model.radiance.field.view_dependence, int(self.cameras.eval_step), int(self.restarts.begin)))
        return {"psnr": 1.0}

    monkeypatch.setattr("gnerf_ns.training.pipeline.GNeRFPipeline.get_average_eval_image_metrics", metrics)
    growth = grown(our_run, new_images, tmp_path, steps=6)
    assert growth.num_steps == 6 and seen == [(1.0, 11, 0), (1.0, 11, 0)]


def test_nothing_before_phase_b_is_made_again(our_run: Path, new_images: Any, tmp_path: Path, monkeypatch: Any):
    quality_is(monkeypatch, 1.0, 1.0)
    growth = grown(our_run, new_images, tmp_path, steps=12)
    assert growth.num_steps == 7
    saved = yaml.load((growth.folder / "config.yml").read_text(), Loader=yaml.Loader)
    # However many images there are now.
    schedule = saved.pipeline.schedule
    assert schedule.leave_out_rounds == 0 and schedule.distortion_boost == (1.0, 1.0)
    assert schedule.pose_boost == 4.0, "seven are few, and poses learn as they did"


def test_a_focal_length_is_not_corrected_twice(tiny_scene: Path, new_images: Any, tmp_path: Path, monkeypatch: Any):
    quality_is(monkeypatch, 1.0, 1.0)
    config = trainer_config(tiny_scene, tmp_path / "run", "transport")
    config.pipeline.focal_length = "shared"
    config.pipeline.schedule.distortion_boost = (1.0, 1.0)
    config.pipeline.learn_up_direction = False  # or a dozen steps may lean it so far that it cannot hold level cameras
    trainer = build_trainer(config)
    trainer.train()
    factor = float(trainer.pipeline.cameras.focal_scales.typical)
    growth = grown(config.get_base_dir() / "config.yml", new_images, tmp_path)
    frames = json.loads((growth.folder / LOCALIZED_FILE).read_text())["frames"]
    assert factor != 1.0 and [frame["fl_x"] for frame in frames] == [pytest.approx(22.0 / factor)] * 3


def test_cameras_that_the_run_cannot_hold_are_not_added(our_run: Path, new_images: Any, tmp_path: Path, monkeypatch):
    """Its cameras look at the origin, and these do not: their poses would be others."""
    quality_is(monkeypatch, 1.0, 1.0)
    aside = roma.rotvec_to_rotmat(torch.tensor([0.0, 0.1, 0.0]))
    frames = copy.deepcopy(new_images)
    matrix = torch.tensor(frames[1]["transform_matrix"])
    matrix[:3, :3] = matrix[:3, :3] @ aside
    frames[1]["transform_matrix"] = matrix.tolist()
    assert grown(our_run, frames, tmp_path).num_added == 2


def test_cameras_have_to_be_level_where_the_run_leans(our_run: Path, new_images: Any, tmp_path: Path, monkeypatch):
    quality_is(monkeypatch, 1.0, 1.0)
    leaning = tmp_path.joinpath("leaning", *our_run.parent.parts[-3:])
    shutil.copytree(our_run.parent, leaning)
    (checkpoint,) = (leaning / "nerfstudio_models").glob("*.ckpt")
    state = torch.load(checkpoint, weights_only=True)
    state["pipeline"]["cameras.up_direction.tilt"] = torch.tensor([0.1, 0.05])
    torch.save(state, checkpoint)
    up = UpDirection()
    up.tilt.copy_(state["pipeline"]["cameras.up_direction.tilt"])
    frames = copy.deepcopy(new_images)
    for frame in frames[:2]:
        pose = torch.tensor(frame["transform_matrix"])
        pose[:3] = up.from_z_up(pose[:3])
        frame["transform_matrix"] = pose.tolist()
    assert grown(leaning / "config.yml", frames, tmp_path).num_added == 2


def test_a_copy_of_a_run_grows_beside_itself(our_run: Path, new_images: Any, tmp_path: Path, monkeypatch: Any):
    quality_is(monkeypatch, 1.0, 1.0, 1.0, 1.0)
    copied = tmp_path / "my run"
    shutil.copytree(our_run.parent, copied)
    growth = grown(copied / "config.yml", new_images[:2], tmp_path)
    assert growth.folder == tmp_path / "my run-grown"
    moved = tmp_path / "moved"
    growth.folder.rename(moved)
    assert grown(moved / "config.yml", new_images[2:], tmp_path).folder == tmp_path / "moved-grown"


def test_a_grown_run_knows_the_images_that_were_added(our_run: Path, new_images: Any, tmp_path: Path, monkeypatch: Any):
    quality_is(monkeypatch, 1.0, 1.0)
    added = tmp_path / "added.png"
    shutil.copy(new_images[0]["file_path"], added)
    growth = grown(our_run, [{**new_images[0], "file_path": str(added)}], tmp_path)
    load_run(growth.folder / "config.yml")
    shutil.copy(new_images[1]["file_path"], added)
    with pytest.raises(InputError, match=r"added\.png has other content"):
        load_run(growth.folder / "config.yml")


def test_what_is_interrupted_leaves_nothing_behind(our_run: Path, new_images: Any, tmp_path: Path, monkeypatch: Any):
    def interrupted(self: Any, step: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gnerf_ns.training.pipeline.GNeRFPipeline.get_average_eval_image_metrics", interrupted)
    beside = sorted(our_run.parent.parent.iterdir())
    with pytest.raises(KeyboardInterrupt):
        grown(our_run, new_images, tmp_path)
    assert sorted(our_run.parent.parent.iterdir()) == beside


def test_nerfacto_learns_the_added_poses_and_no_others(
    nerfacto_run: Path, new_images: Any, tmp_path: Path, monkeypatch
):
    quality_is(monkeypatch, 10.0, 10.0)
    growth = grown(nerfacto_run, new_images, tmp_path)
    old, new = state_of(nerfacto_run), state_of(growth.folder / "config.yml")
    adjustment = new["_model.camera_optimizer.pose_adjustment"]
    assert bool((adjustment[:7] == 0).all()) and bool((adjustment[7:] != 0).all())
    name = "_model.field.embedding_appearance.embedding.weight"
    assert len(old[name]) == 7 and len(new[name]) == 10
    assert float((new[name][7:] - old[name].mean(dim=0)).abs().max()) < 0.2
    _, pipeline = load_run(growth.folder / "config.yml")
    given = torch.tensor([frame["transform_matrix"][:3] for frame in new_images])
    torch.testing.assert_close(pipeline.datamanager.train_dataset.cameras.camera_to_worlds[-3:], given)

    # Once more: those that were added before are learned on, too.
    config = load_run(growth.folder / "config.yml")[0]
    assert config.pipeline.model.camera_optimizer.num_corrected == 3
    _learn_poses_of_added(config, 2)
    assert config.pipeline.model.camera_optimizer.num_corrected == 5


def test_the_same_image_in_two_sizes_is_one():
    """nerfstudio trains on images_2 where images are large, and a user localizes those in images."""
    assert _full_size(Path("/data/images_2/a.jpg")) == _full_size(Path("/data/images/a.jpg"))
    assert _full_size(Path("/data/images_2/a.jpg")) != _full_size(Path("/data/images/b.jpg"))


def test_worse_is_rolled_back(our_run: Path, new_images: Any, tmp_path: Path, monkeypatch: Any):
    quality_is(monkeypatch, 10.0, 9.9)
    beside = sorted(our_run.parent.parent.iterdir())
    growth = grown(our_run, new_images, tmp_path)
    assert growth.folder is None and (growth.psnr_before, growth.psnr_after) == (10.0, 9.9)
    assert sorted(our_run.parent.parent.iterdir()) == beside


def test_the_same_steps_without_more_images(our_run: Path, monkeypatch: Any):
    quality_is(monkeypatch, 10.0, 10.0)
    control = train_further(load_run(our_run)[0], {"frames": []}, GrowthConfig(steps=3))
    assert (control.num_added, control.num_steps) == (0, 3) and control.folder is not None
    old, new = state_of(our_run), state_of(control.folder / "config.yml")
    assert old["cameras.codes"].shape == new["cameras.codes"].shape
    assert not torch.equal(old["cameras.codes"], new["cameras.codes"])


def test_only_sure_images_are_added(our_run: Path, new_images: Any, tmp_path: Path):
    unsure = [{"converged": False}, {"photometric_error": 0.2}, {"num_agreeing": 1}]
    frames = [{**frame, "localization": {**FIGURES, **flaw}} for frame, flaw in zip(new_images, unsure, strict=True)]
    assert grown(our_run, frames, tmp_path) is None


def test_images_that_the_run_has_get_one_sentence(our_run: Path, tiny_scene: Path, new_images: Any, tmp_path: Path):
    beside = sorted(our_run.parent.parent.iterdir())
    for name, sentence in (
        ("held_out/0001.png", "is held out to judge the run by"),
        ("images/0003.png", "is a training image of this run already"),
    ):
        copied = tmp_path / "copied.png"
        shutil.copy(tiny_scene / name, copied)
        for path in ((tiny_scene / name).resolve(), copied):
            with pytest.raises(InputError, match=sentence):
                grown(our_run, [{**new_images[0], "file_path": str(path)}], tmp_path)
    assert sorted(our_run.parent.parent.iterdir()) == beside


def test_a_run_without_held_out_images_gets_one_sentence(tiny_scene: Path, new_images: Any, tmp_path: Path):
    images = tmp_path / "images"
    shutil.copytree(tiny_scene / "images", images)
    config = trainer_config(images, tmp_path / "run", "transport")
    config.pipeline.datamanager.dataparser.eval_interval = 0  # type: ignore[attr-defined]
    build_trainer(config).train()
    with pytest.raises(InputError, match="holds no images out"):
        grown(config.get_base_dir() / "config.yml", new_images, tmp_path)
