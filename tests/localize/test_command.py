"""`gnerf-localize`, on a run that has learned nothing: what it reads, writes and refuses."""

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, Optional

import numpy as np
import pytest
import torch
import tyro
import yaml
from nerfstudio.engine.trainer import TrainerConfig
from PIL import Image
from tiny_run import build_trainer, trainer_config
from torch import nn

from gnerf_ns.data.grown_dataparser import GrownDataParserConfig
from gnerf_ns.localize.command import NOT_ALL_LOCALIZED, Localize, entrypoint
from gnerf_ns.localize.localizer import LocalizerConfig, localize_in_scene
from gnerf_ns.localize.scene import _check_weights, _set_folder, load_run
from gnerf_ns.pose_search.refinement import LocalizationConfig, RefinementConfig
from gnerf_ns.training.pipeline import GNeRFPipeline, GNeRFPipelineConfig
from gnerf_ns.utils.errors import InputError

FEW = RefinementConfig(steps=2, rays_per_hypothesis=8, first_image_side=8)
QUICK = LocalizerConfig(
    num_hypotheses=3, num_candidates=6, bank_size=6, refinement=LocalizationConfig(first=FEW, second=FEW, last=FEW)
)


@pytest.fixture(scope="module")
def config_path(tiny_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """config.yml of a run with an inversion network."""
    config = trainer_config(tiny_scene, tmp_path_factory.mktemp("run"))
    build_trainer(config).train()
    return config.get_base_dir() / "config.yml"


def localized(config_path: Path, images: Path, output: Path, **options: Any) -> Dict[str, Any]:
    Localize(config_path, images, output, localizer=replace(QUICK, **options)).main()
    return json.loads(output.read_text())


@pytest.mark.parametrize("init", ["auto", "inversion", "retrieval", "prior", "given"])
def test_cameras_figures_and_images_are_written(config_path: Path, tiny_scene: Path, tmp_path: Path, init: Any, capsys):
    meta = localized(config_path, tiny_scene / "transforms_test.json", tmp_path / "poses.json", init=init)
    assert [Path(frame["file_path"]).stem for frame in meta["frames"]] == ["0000", "0001"]
    for frame in meta["frames"]:
        matrix, figures = np.array(frame["transform_matrix"]), frame["localization"]
        assert np.linalg.det(matrix[:3, :3]) == pytest.approx(1.0, abs=1e-4) and (frame["w"], frame["h"]) == (16, 16)
        assert figures["num_hypotheses"] == 3 and figures["num_rays"] >= 2 * 8 * (3 + 3 + 1)
        assert isinstance(figures["converged"], bool) and figures["photometric_error"] > 0 and figures["seconds"] >= 0
    images = sorted(path.name for path in (tmp_path / "poses").iterdir())
    assert images == ["0000_0000.png", "0001_0001.png", "cameras.png"]
    assert Image.open(tmp_path / "poses" / "0000_0000.png").size == (48, 16)
    assert "of 2 images localized" in capsys.readouterr().out


def test_a_single_image_and_one_of_another_shape(config_path: Path, tmp_path: Path):
    Image.fromarray(np.full((18, 28, 3), 90, np.uint8)).save(tmp_path / "photo.png")
    meta = localized(config_path, tmp_path / "photo.png", tmp_path / "out" / "poses.json")
    (frame,) = meta["frames"]
    assert (frame["w"], frame["h"]) == (28, 18)
    # Nothing tells its field of view, so it is that of the training images.
    _, pipeline = load_run(config_path)
    camera = pipeline.datamanager.train_dataset.cameras[0]
    assert frame["fl_x"] / 28 == pytest.approx(float(camera.fx / camera.width), rel=1e-4)
    assert frame["localization"]["lens_source"] == "default"


def test_the_same_seed_finds_the_same(config_path: Path, tiny_scene: Path, tmp_path: Path):
    image = tiny_scene / "held_out" / "0000.png"
    first, second = (localized(config_path, image, tmp_path / f"{name}.json") for name in "ab")
    assert first["frames"][0]["transform_matrix"] == second["frames"][0]["transform_matrix"]


def copied(config_path: Path, folder: Path) -> Path:
    """The run in another place; its config.yml."""
    moved = folder.joinpath("elsewhere", *config_path.parent.parts[-3:])
    shutil.copytree(config_path.parent, moved)
    return moved / "config.yml"


def test_a_run_may_have_any_name_and_place(config_path: Path, tmp_path: Path):
    """And what lies where it was trained is not looked at."""
    loose = shutil.copytree(config_path.parent, tmp_path / "best")
    (checkpoint,) = (loose / "nerfstudio_models").glob("*.ckpt")
    state = torch.load(checkpoint, weights_only=False)
    state["pipeline"]["cameras.codes"] += 0.125
    torch.save(state, checkpoint)
    config, pipeline = load_run(loose / "config.yml")
    _, original = load_run(config_path)
    assert config.get_base_dir() == loose and config.get_checkpoint_dir() == loose / "nerfstudio_models"
    torch.testing.assert_close(pipeline.cameras.codes, original.cameras.codes + 0.125)


def test_nerfstudios_own_configs_find_a_run_below_a_folder_of_their_method(tmp_path: Path):
    config: Any = TrainerConfig(method_name="nerfacto", experiment_name="first", timestamp="now")
    config.pipeline.datamanager = SimpleNamespace(dataparser=GrownDataParserConfig(localized=Path("gone/some.json")))
    run = tmp_path / "second" / "nerfacto" / "best"
    _set_folder(config, run)
    assert config.get_base_dir() == run and config.pipeline.datamanager.dataparser.localized == run / "some.json"
    loose = tmp_path / "loose"
    _set_folder(config, loose)
    command = Localize(loose / "config.yml", tmp_path, grow=True)
    with pytest.raises(InputError, match=r"beside .*loose, .*move the run to .*nerfacto/loose"):
        command._check_place(config)
    Localize(run / "config.yml", tmp_path, grow=True)._check_place(config)


def test_a_checkpoint_of_other_data_gets_one_sentence(config_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(self: Any, state: Any, step: int) -> None:
        raise RuntimeError("Error(s) in loading state_dict:\n\tsize mismatch for embedding")

    monkeypatch.setattr(GNeRFPipeline, "load_pipeline", refuse)
    with pytest.raises(InputError, match=r"does not fit .*config\.yml .*\(size mismatch for embedding\); restore"):
        load_run(config_path)


@pytest.mark.parametrize(
    "images, fov_deg, expected",
    [("transforms_test.json", None, 1.0), ("held_out/0000.png", 60.0, 1.0), ("held_out/0000.png", None, 1.25)],
)
def test_a_learned_focal_scale_is_for_images_without_a_lens_of_their_own(
    config_path: Path, tiny_scene: Path, tmp_path: Path, images: str, fov_deg: Optional[float], expected: float
):
    run = copied(config_path, tmp_path)
    (checkpoint,) = (run.parent / "nerfstudio_models").glob("*.ckpt")
    state = torch.load(checkpoint, weights_only=False)
    state["pipeline"]["cameras.focal_scales.logarithms"].fill_(math.log(1.25))
    torch.save(state, checkpoint)
    no_steps = RefinementConfig(steps=0)
    unrefined = replace(
        QUICK, init="prior", refinement=LocalizationConfig(first=no_steps, second=no_steps, last=no_steps)
    )
    Localize(run, tiny_scene / images, tmp_path / "poses.json", fov_deg=fov_deg, localizer=unrefined).main()
    given = json.loads((tiny_scene / "transforms_test.json").read_text())["camera_angle_x"]
    angle = given if fov_deg is None else math.radians(fov_deg)
    for frame in json.loads((tmp_path / "poses.json").read_text())["frames"]:
        assert frame["fl_x"] == pytest.approx(expected * 8 / math.tan(angle / 2), rel=1e-5)


@pytest.mark.parametrize("given_to", ["method", "dataparser"])
def test_data_that_moved_gets_one_sentence(config_path: Path, tmp_path: Path, given_to: str):
    moved = copied(config_path, tmp_path)
    config = yaml.load(config_path.read_text(), Loader=yaml.Loader)
    config.data = config.pipeline.datamanager.data = Path("/gone") if given_to == "method" else None
    config.pipeline.datamanager.dataparser.data = Path("/gone")
    moved.write_text(yaml.dump(config))
    with pytest.raises(InputError, match=r"/gone, on which .*config\.yml was trained, is not there any more; put"):
        load_run(moved)


def test_a_method_that_cannot_be_built_here_gets_one_sentence(
    config_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def wants_a_gpu(self: Any, **options: Any) -> None:
        raise AssertionError("Torch not compiled with CUDA enabled")

    monkeypatch.setattr(GNeRFPipelineConfig, "setup", wants_a_gpu)
    with pytest.raises(InputError, match=r"cannot be loaded on this machine \(Torch not compiled with CUDA enabled\)"):
        load_run(copied(config_path, tmp_path))


@pytest.mark.parametrize(
    "saved_as, words", [("field.tcnn_encoding.params", "trained with tiny-cuda-nn"), ("field.other", "holds no field.")]
)
def test_weights_that_would_stay_random_get_one_sentence(saved_as: str, words: str):
    pipeline = nn.Module()
    pipeline.field, pipeline.lpips = nn.Module(), nn.Linear(1, 1)
    pipeline.field.hash_table = nn.Parameter(torch.zeros(2))
    with pytest.raises(InputError, match=words):
        _check_weights(Path("step-000000001.ckpt"), {saved_as: torch.zeros(3)}, pipeline)
    _check_weights(Path("step-000000001.ckpt"), {"module.field.hash_table": torch.zeros(2)}, pipeline)


def spoil_nan(checkpoint: Path) -> None:
    state = torch.load(checkpoint, weights_only=False)
    next(value for name, value in state["pipeline"].items() if "hash_table" in name).fill_(float("nan"))
    torch.save(state, checkpoint)


@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda checkpoint: os.truncate(checkpoint, 1000), "is not a whole checkpoint"),
        (lambda checkpoint: os.truncate(checkpoint, 0), "is not a whole checkpoint"),
        (lambda checkpoint: torch.save({"weights": torch.zeros(1)}, checkpoint), "is not a checkpoint of nerfstudio's"),
        (spoil_nan, "numbers that are not finite"),
    ],
)
def test_a_damaged_checkpoint_gets_one_sentence(config_path: Path, tmp_path: Path, spoil: Any, words: str):
    run = copied(config_path, tmp_path)
    (run.parent / "nerfstudio_models" / ".DS_Store").write_text("no checkpoint")
    spoil(next((run.parent / "nerfstudio_models").glob("*.ckpt")))
    with pytest.raises(InputError, match=words):
        load_run(run)


@pytest.mark.parametrize(
    "content, words",
    [
        ("", "is not the config.yml of a nerfstudio run"),
        ("[1, 2", "cannot be read"),
        ("!!python/object:gone.module.Config {}", "cannot be read .*gone"),
    ],
)
def test_a_damaged_config_gets_one_sentence(tmp_path: Path, content: str, words: str):
    (tmp_path / "config.yml").write_text(content)
    with pytest.raises(InputError, match=words):
        load_run(tmp_path / "config.yml")


@pytest.mark.parametrize("converged, status", [([True, True], None), ([True, False], NOT_ALL_LOCALIZED)])
def test_the_exit_status_tells_whether_all_were_localized(
    config_path: Path, tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, converged: Any, status: Any
):
    def localized_as_said(scene: Any, image_set: Any, *rest: Any) -> Any:
        some = localize_in_scene(scene, image_set, QUICK)
        return [replace(each, converged=is_so) for each, is_so in zip(some, converged, strict=True)]

    monkeypatch.setattr("gnerf_ns.localize.command.localize_in_scene", localized_as_said)
    words = ["--load-config", str(config_path), "--images", str(tiny_scene / "transforms_test.json")]
    monkeypatch.setattr("sys.argv", ["gnerf-localize", *words, "--output", str(tmp_path / "poses.json")])
    if status is None:
        entrypoint()
        return
    with pytest.raises(SystemExit) as exit_:
        entrypoint()
    assert exit_.value.code == status


def test_an_image_that_cannot_be_read_is_not_localized_either(
    config_path: Path, tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    def localized_well(scene: Any, image_set: Any, *rest: Any) -> Any:
        return [replace(each, converged=True) for each in localize_in_scene(scene, image_set, QUICK)]

    monkeypatch.setattr("gnerf_ns.localize.command.localize_in_scene", localized_well)
    images = tmp_path / "images"
    shutil.copytree(tiny_scene / "held_out", images)
    (images / "0001.png").write_bytes((images / "0001.png").read_bytes()[:200])
    assert not Localize(config_path, images, tmp_path / "poses.json").main()
    (frame,) = json.loads((tmp_path / "poses.json").read_text())["frames"]
    assert Path(frame["file_path"]).name == "0000.png"
    assert "Images that could not be used: 0001.png" in capsys.readouterr().out


def test_nothing_is_overwritten(config_path: Path, tiny_scene: Path, tmp_path: Path):
    (tmp_path / "poses.json").write_text("precious")
    with pytest.raises(InputError, match=r"poses\.json exists already; give another --output"):
        localized(config_path, tiny_scene / "transforms_test.json", tmp_path / "poses.json")
    assert (tmp_path / "poses.json").read_text() == "precious"
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match="other exists already"):
        localized(config_path, tiny_scene / "transforms_test.json", tmp_path / "other.json")


@pytest.mark.parametrize("options", [{"fov_deg": 0.0}, {"max_image_side": 0}])
def test_what_leaves_nothing_to_see_gets_one_sentence(
    config_path: Path, tiny_scene: Path, tmp_path: Path, options: Any
):
    with pytest.raises(InputError, match=r"is not between|is too small to tell poses"):
        Localize(config_path, tiny_scene, tmp_path / "poses.json", localizer=QUICK, **options).main()


def test_the_output_says_by_its_ending_what_it_is(config_path: Path, tiny_scene: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"poses does not end in \.json"):
        localized(config_path, tiny_scene / "transforms_test.json", tmp_path / "poses")
    assert not list(tmp_path.iterdir())


def test_runs_that_are_not_there_get_one_sentence(config_path: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"no file .*config\.yml; give --load-config"):
        load_run(tmp_path / "config.yml")
    shutil.copy(config_path, tmp_path / "config.yml")
    with pytest.raises(InputError, match="There is no checkpoint"):
        load_run(tmp_path / "config.yml")


def test_images_that_are_not_there_get_one_sentence(config_path: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"There is no .*nowhere; give --images"):
        localized(config_path, tmp_path / "nowhere", tmp_path / "poses.json")


def test_the_command_starts_in_a_process_of_its_own():
    """Some of nerfstudio's modules cannot be the first that is imported."""
    code = "from gnerf_ns.localize.command import entrypoint"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=300).returncode == 0


def test_every_choice_is_a_flag():
    words = "--load-config c --images i --init prior --num-hypotheses 5 --refinement.ray-selection interest"
    words += " --refinement.last.learn-exposure --output o.json --seed 3"
    parsed = tyro.cli(Localize, args=words.split())
    assert parsed.localizer.init == "prior" and parsed.localizer.num_hypotheses == 5 and parsed.seed == 3
    assert parsed.localizer.refinement.ray_selection == "interest"
    assert parsed.localizer.refinement.last.learn_exposure and not parsed.localizer.refinement.first.learn_exposure
