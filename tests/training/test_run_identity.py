"""Which images and which folder a run belongs to: when it is opened, resumed, copied and moved."""

import copy
import os
import shutil
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Tuple

import pytest
import torch
import yaml
from nerfstudio.scripts import train
from nerfstudio.utils.eval_utils import eval_setup
from PIL import Image
from tiny_run import build_pipeline, build_trainer, pipeline_config, trainer_config

from gnerf_ns.training.pipeline import GNeRFPipeline
from gnerf_ns.training.trainer import GNeRFTrainerConfig
from gnerf_ns.utils.checkpoints import IMAGES_KEY, latest_checkpoint
from gnerf_ns.utils.errors import InputError


@pytest.fixture(scope="module")
def trained(tiny_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on p00.png to p08.png, of which the first and the last are held out; its images lie beside it."""
    folder = tmp_path_factory.mktemp("trained")
    images = folder / "data"
    images.mkdir()
    files = sorted((tiny_scene / "images").glob("*.png")) + sorted((tiny_scene / "held_out").glob("*.png"))
    for index, path in enumerate(files):
        shutil.copy(path, images / f"p{index:02d}.png")
    config = trainer_config(images, folder / "outputs", "transport")
    build_trainer(config).train()
    return config.get_base_dir()


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be spoiled, in a folder of another name and depth; it is trained on the same images."""
    folder = tmp_path / "my run"
    shutil.copytree(trained, folder)
    return folder


@pytest.fixture
def images(trained: Path, tmp_path: Path) -> Path:
    """A copy of its images, to be changed."""
    folder = tmp_path / "moved" / "images"
    shutil.copytree(trained.parents[3] / "data", folder)
    return folder


def open_run(run: Path, **options: Any) -> Tuple[GNeRFTrainerConfig, GNeRFPipeline, Path, int]:
    return eval_setup(run / "config.yml", test_mode="inference", **options)  # type: ignore[return-value]


def on(images: Path) -> Dict[str, Any]:
    def set_data(config: Any) -> Any:
        config.pipeline.datamanager.data = images
        return config

    return {"update_config_callback": set_data}


def checkpoint_of(run: Path) -> Path:
    checkpoint = latest_checkpoint(run / "nerfstudio_models")
    assert checkpoint is not None
    return checkpoint


def files_of(folder: Path) -> Dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# Which images


def test_a_checkpoint_lists_its_images(trained: Path):
    listed = torch.load(checkpoint_of(trained), weights_only=True)["pipeline"][IMAGES_KEY]
    assert [name for name, *_ in listed["train"]] == [f"p{index:02d}.png" for index in range(1, 8)]
    assert [name for name, *_ in listed["held_out"]] == ["p00.png", "p08.png"]


def replace_one(images: Path) -> None:
    (images / "p03.png").unlink()
    shutil.copy(images / "p04.png", images / "p09.png")
    Image.open(images / "p09.png").rotate(90).save(images / "p09.png")


def edit(images: Path) -> None:
    Image.open(images / "p05.png").rotate(90).save(images / "p05.png")


def add_one_in_front(images: Path) -> None:
    Image.open(images / "p05.png").rotate(90).save(images / "a.png")


CHANGES = [
    (replace_one, "p03.png is missing, p09.png is new"),
    (edit, "p05.png has other content"),
    (add_one_in_front, "a.png is new"),
    (lambda images: (images / "p00.png").unlink(), "p00.png is missing"),
    (lambda images: (images / "p03.png").rename(images / "q.png"), r"p03.png \(now q.png\) has another name"),
]


@pytest.mark.parametrize(("change", "words"), CHANGES)
def test_other_images_are_refused(run: Path, images: Path, change: Callable[[Path], None], words: str):
    change(images)
    before = files_of(run)
    with pytest.raises(InputError, match=f"{images} are not those that the run was trained on: {words}; restore"):
        open_run(run, **on(images))
    resumed = trainer_config(images, run.parent / "resumed", "transport", load_dir=run / "nerfstudio_models")
    with pytest.raises(InputError, match=words):
        build_trainer(resumed)
    assert files_of(run) == before


def test_another_folder_is_refused(run: Path, tmp_path: Path):
    other = tmp_path / "other"
    other.mkdir()
    for index in range(9):
        Image.effect_noise((16, 16), 100).convert("RGB").save(other / f"p{index:02d}.png")
    with pytest.raises(InputError, match=r"p00\.png, p01\.png, p02\.png and 6 more have other content"):
        open_run(run, **on(other))


def test_the_same_images_elsewhere_are_accepted(run: Path, images: Path):
    poses = open_run(run)[1].cameras.poses("train")
    pipeline = open_run(run, **on(images))[1]
    torch.testing.assert_close(pipeline.cameras.poses("train"), poses)
    assert pipeline.datamanager.train_dataset.image_filenames[0] == images / "p01.png"


def test_poses_of_other_held_out_images_are_estimated_again(run: Path, images: Path, monkeypatch: pytest.MonkeyPatch):
    estimated = []
    monkeypatch.setattr(
        GNeRFPipeline, "estimate_eval_poses", lambda self, step: estimated.append(int(self.cameras.eval_step))
    )
    open_run(run, **on(images))
    Image.open(images / "p00.png").rotate(90).save(images / "p00.png")
    pipeline = open_run(run, **on(images))[1]
    assert estimated == [11, -1]
    assert len(pipeline.cameras.poses("eval")) == 2


def test_another_lens_is_refused(run: Path, images: Path):
    def with_another_field_of_view(config: Any) -> Any:
        config.pipeline.datamanager.dataparser.fov_deg = 30.0
        return config

    with pytest.raises(InputError, match=r"The lens is not the one .* which was 1\.072; give the --fov-deg"):
        open_run(run, update_config_callback=with_another_field_of_view)


def test_images_are_known_while_attempts_are_compared(trained: Path):
    """The best attempt is a copy of the state, of which the list of images is part."""
    pipeline = build_pipeline(pipeline_config(trained.parents[3] / "data", "transport"))
    pipeline.restarts._attempt.put_back(pipeline.restarts._attempt.copied())
    assert pipeline.state_dict()[IMAGES_KEY]["train"][0][0] == "p01.png"


# Which folder


def distinguish(run: Path) -> None:
    """Give a copy other poses than the original has."""
    path = checkpoint_of(run)
    state = torch.load(path, weights_only=True)
    state["pipeline"]["cameras.codes"] *= 2
    torch.save(state, path)


@pytest.mark.parametrize("is_original_left", [True, False])
def test_a_copy_is_opened_where_it_is(run: Path, trained: Path, tmp_path: Path, is_original_left: bool):
    distinguish(run)
    aside = trained.with_name("aside")
    before = files_of(trained)
    if not is_original_left:
        trained.rename(aside)
    try:
        config, pipeline, checkpoint, step = open_run(run)
    finally:
        if not is_original_left:
            aside.rename(trained)
    assert checkpoint == run / "nerfstudio_models" / "step-000000011.ckpt" and step == 11
    assert config.get_base_dir() == run
    torch.testing.assert_close(
        pipeline.cameras.codes, 2 * torch.load(checkpoint_of(trained))["pipeline"]["cameras.codes"]
    )
    assert files_of(trained) == before


def test_a_project_that_was_moved_with_its_data(trained: Path, tmp_path: Path):
    project, aside = trained.parents[3], trained.parents[3].with_name("aside")
    moved = tmp_path / "projects" / "mine"
    shutil.copytree(project, moved)
    run = moved / trained.relative_to(project)
    project.rename(aside)
    try:
        pipeline = open_run(run)[1]
        assert pipeline.datamanager.train_dataset.image_filenames[0] == moved / "data" / "p01.png"
        (moved / "data" / "p01.png").unlink()
        with pytest.raises(InputError, match=r"p01\.png is missing"):
            open_run(run)
        shutil.rmtree(moved / "data")
        with pytest.raises(InputError, match=f"There is no folder {project / 'data'};.*move them beside the run's"):
            open_run(run)
        shutil.copytree(aside / "data", tmp_path / "projects" / "data")  # beside a folder that the run is in
        found = open_run(run)[1].datamanager.train_dataset.image_filenames[0]
        assert found == tmp_path / "projects" / "data" / "p01.png"
    finally:
        aside.rename(project)


def test_a_relative_path(run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(run)
    config, *_ = eval_setup(Path("config.yml"), test_mode="inference")
    assert config.get_base_dir() == run


def test_a_config_that_was_copied_alone_is_that_of_the_original(trained: Path, tmp_path: Path):
    shutil.copy(trained / "config.yml", tmp_path / "config.yml")
    config, _, checkpoint, _ = eval_setup(tmp_path / "config.yml", test_mode="inference")
    assert config.get_base_dir() == trained and checkpoint == checkpoint_of(trained)


def test_a_copy_of_a_config_stays_where_it_is_and_a_new_run_goes_beside_it(run: Path):
    config, *_ = open_run(run)
    again = copy.deepcopy(config)
    assert again.get_base_dir() == run
    again.timestamp = "my run-grown"
    assert again.get_base_dir() == run.with_name("my run-grown")
    saved = yaml.load(yaml.dump(again), Loader=yaml.Loader)
    assert saved.get_base_dir() == again.get_base_dir()


def test_a_config_that_is_read_without_a_file_is_left_alone(trained: Path):
    text = (trained / "config.yml").read_text()
    config = yaml.load(text, Loader=yaml.Loader)
    assert config.get_base_dir() == trained and config.load_step is None and yaml.dump(config) == text


def start(load_config: Path, monkeypatch: pytest.MonkeyPatch) -> GNeRFTrainerConfig:
    """`ns-train METHOD --load-config ...` up to where training starts."""
    launched = []
    monkeypatch.setattr(train, "launch", lambda **options: launched.append(options["config"]))
    train.main(trainer_config(Path("data"), Path("outputs"), load_config=load_config))
    return launched[0]


def test_training_with_the_config_of_a_copy_does_not_touch_the_original(
    run: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
):
    before = files_of(trained)
    with pytest.raises(InputError, match=f"^{run} already holds a run"):
        start(run / "config.yml", monkeypatch)
    config = yaml.load((run / "config.yml").read_text(), Loader=yaml.Loader)
    config.load_dir = run / "nerfstudio_models"
    (run / "config.yml").write_text(yaml.dump(config))
    assert start(run / "config.yml", monkeypatch).get_base_dir() == run
    assert files_of(trained) == before


def test_a_preset_that_belongs_to_no_run_is_trained_where_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    preset = tmp_path / "presets" / "mine.yml"
    preset.parent.mkdir()
    preset.write_text(yaml.dump(trainer_config(tmp_path, tmp_path / "outputs")))
    assert start(preset, monkeypatch).get_base_dir() == tmp_path / "outputs" / "run" / "gnerf-ns-tiny" / "now"


# Which checkpoint


@pytest.fixture(params=["open", "resume"])
def load(request: pytest.FixtureRequest, trained: Path) -> Iterator[Callable[[Path], Any]]:
    """ns-eval and its like, and ns-train --load-dir."""
    if request.param == "open":
        yield lambda run: open_run(run)[1]
    else:
        data = trained.parents[3] / "data"
        yield (
            lambda run: (
                build_trainer(
                    trainer_config(data, run.parent / "resumed", "transport", load_dir=run / "nerfstudio_models")
                ).pipeline
            )
        )


def test_other_files_among_the_checkpoints_are_ignored(run: Path, load: Callable[[Path], Any]):
    for name in (".DS_Store", "Thumbs.db", "._step-000000011.ckpt", "step-000000011 (1).ckpt", "step-best.ckpt"):
        (run / "nerfstudio_models" / name).touch()
    assert int(load(run).cameras.eval_step) == 11


class Harmful:
    def __reduce__(self) -> Any:
        return os.system, ("exit 1",)


def save_nan(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    state["pipeline"]["cameras.codes"][:] = float("nan")
    torch.save(state, path)


DAMAGES = {
    "cut off": (lambda path: os.truncate(path, path.stat().st_size // 2), "is not a whole checkpoint"),
    "empty": (lambda path: os.truncate(path, 0), "is not a whole checkpoint"),
    "a program": (lambda path: torch.save({"step": 11, "pipeline": Harmful()}, path), "may run any program"),
    "not finite": (save_nan, r"not finite \(cameras\.codes\)"),
    "foreign": (lambda path: torch.save({"weights": torch.zeros(3)}, path), "is not a checkpoint of nerfstudio's"),
    "gone": (lambda path: path.unlink(), "There is no checkpoint"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_checkpoint_that_cannot_be_used_gets_one_sentence(run: Path, load: Callable[[Path], Any], damage: str):
    spoil, sentence = DAMAGES[damage]
    spoil(checkpoint_of(run))
    with pytest.raises(InputError, match=sentence) as error:
        load(run)
    assert "\n" not in str(error.value) and "weights_only" not in str(error.value)


def test_the_latest_checkpoint_is_opened_whichever_the_run_was_resumed_from(run: Path):
    text = (run / "config.yml").read_text()
    (run / "config.yml").write_text(text.replace("load_step: null", "load_step: 4"))
    assert open_run(run)[3] == 11
