"""A run from its folder to its last checkpoint: saved whole, resumed where it was, and refused in one sentence."""

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, Dict, List

import pytest
import torch
import yaml
from nerfstudio.utils import writer
from nerfstudio.utils.eval_utils import eval_setup
from nerfstudio.utils.rich_utils import CONSOLE
from tiny_run import build_trainer, trainer_config

from gnerf_ns.report.page import is_report
from gnerf_ns.runs import run_folder
from gnerf_ns.runs.curves import Curves
from gnerf_ns.runs.progress_display import ProgressWriter, ProgressWriterConfig, Watched
from gnerf_ns.runs.run_folder import NO_TIMESTAMP
from gnerf_ns.training import pipeline as pipeline_module
from gnerf_ns.training import trainer as gnerf_trainer
from gnerf_ns.training import trust
from gnerf_ns.training.pipeline import GNeRFPipeline
from gnerf_ns.training.placement import PoseOrigin
from gnerf_ns.training.pose_status import PoseStatus
from gnerf_ns.training.pose_trials import PoseTrialsConfig
from gnerf_ns.training.trainer import GNeRFTrainerConfig
from gnerf_ns.utils import disk
from gnerf_ns.utils.checkpoints import TRUST_KEY
from gnerf_ns.utils.errors import InputError

TESTS = Path(__file__).resolve().parent.parent

KILLED_WHILE_SAVING = """
import os, signal, sys
from pathlib import Path
import torch
from tiny_run import build_trainer, trainer_config

save = torch.save

def save_half_of_the_second_one(state, path):
    save(state, path)
    if state["step"] == 8:
        os.truncate(path, path.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)

torch.save = save_half_of_the_second_one
build_trainer(trainer_config(Path(sys.argv[1]), Path(sys.argv[2]), steps_per_eval_image=10**9)).train()
"""


def checkpoints(config: GNeRFTrainerConfig) -> Dict[str, Path]:
    return {path.name: path for path in config.get_checkpoint_dir().iterdir()}


def assert_same_state(first: Any, second: Any, where: str = "checkpoint") -> None:
    assert type(first) is type(second), where
    if isinstance(first, torch.Tensor):
        if where.endswith("attn.qkv.bias"):
            # What is added to all keys changes no attention: its gradient is rounding alone, which Adam makes steps of.
            first, second = (torch.cat([value.chunk(3)[part] for part in (0, 2)]) for value in (first, second))
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5, msg=lambda message: f"{where}: {message}")
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_same_state(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), where
        for index, (a, b) in enumerate(zip(first, second, strict=True)):
            assert_same_state(a, b, f"{where}[{index}]")
    elif isinstance(first, float):
        # How unsure a pose is comes from the inverse of a curvature, which a hardly trained field barely has: eight
        # equal runs, on one thread and on two, differed by 3e-4 in that alone.
        assert first == pytest.approx(second, rel=1e-2 if "_sigma_" in where else 1e-6), where
    else:
        assert first == second, where


@pytest.fixture(scope="module")
def undisturbed(tiny_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> GNeRFTrainerConfig:
    """A whole run of twelve steps."""
    config = trainer_config(tiny_scene, tmp_path_factory.mktemp("undisturbed"))
    build_trainer(config).train()
    config.max_num_iterations = 12
    return config


def last_state(config: GNeRFTrainerConfig) -> Dict[str, Any]:
    return torch.load(config.get_checkpoint_dir() / "step-000000011.ckpt")


def test_poses_of_a_field_that_knows_its_images_by_heart_are_doubtful(
    tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Other programs read the file, and not what was said on the screen."""

    def statuses(costs: Any, image_set: Any, poses: Any, origins: torch.Tensor, *others: Any) -> List[PoseStatus]:
        return [PoseStatus(PoseOrigin.APPEARANCE, 0.95 if len(origins) == 7 else 0.3, False) for _ in origins]

    monkeypatch.setattr(trust, "pose_statuses", statuses)
    config = trainer_config(tiny_scene, tmp_path, max_num_iterations=1)
    build_trainer(config).train()
    meta = json.loads((config.get_base_dir() / "estimated_poses" / "transforms.json").read_text())
    assert [frame["flagged"] for frame in meta["frames"]] == [True] * 9


def test_a_run_leaves_its_last_checkpoint_its_poses_and_plots_of_them(undisturbed: GNeRFTrainerConfig):
    base = undisturbed.get_base_dir()
    assert checkpoints(undisturbed).keys() == {"step-000000011.ckpt"}
    meta = json.loads((base / "estimated_poses" / "transforms.json").read_text())
    assert len(meta["frames"]) == 9, "held-out images, too"
    assert (len(meta["train_filenames"]), len(meta["test_filenames"])) == (7, 2)
    for image in ("cameras.png", "distribution.png"):
        assert (base / "estimated_poses" / image).read_bytes().startswith(b"\x89PNG")
    report = (base / "estimated_poses" / "report.html").read_text("utf8")
    assert is_report(base / "estimated_poses" / "report.html")
    assert report.count("<article") == 9 and report.count('class="curve"') >= 2
    assert Curves.read(base).steps == [0, 10]
    assert not (base / "unfinished_checkpoint").exists()
    assert int(last_state(undisturbed)["pipeline"]["cameras.eval_step"]) == 11


def test_poses_beside_the_checkpoint_are_those_in_it(undisturbed: GNeRFTrainerConfig):
    _, pipeline, _, step = eval_setup(undisturbed.get_base_dir() / "config.yml")
    assert step == 11
    folder = undisturbed.get_base_dir() / "estimated_poses"
    meta = json.loads((folder / "transforms.json").read_text())
    assert isinstance(pipeline, GNeRFPipeline)
    written = {frame["file_path"]: torch.tensor(frame["transform_matrix"])[:3] for frame in meta["frames"]}
    manager = pipeline.datamanager
    for split, dataset, estimated in (
        ("train", manager.train_dataset, pipeline.cameras.poses("train")),
        ("test", manager.eval_dataset, pipeline.cameras.poses("eval")),
    ):
        names = meta[f"{split}_filenames"]
        for name, original in zip(names, dataset.image_filenames, strict=True):
            assert not Path(name).is_absolute() and (folder / name).samefile(original)
        torch.testing.assert_close(torch.stack([written[name] for name in names]), estimated, atol=1e-5, rtol=0)


def test_held_out_quality_at_the_end_is_that_of_ns_eval(undisturbed: GNeRFTrainerConfig):
    _, pipeline, _, step = eval_setup(undisturbed.get_base_dir() / "config.yml")
    assert isinstance(pipeline, GNeRFPipeline)
    expected = pipeline.get_average_eval_image_metrics(step)["psnr"]
    assert pipeline.evaluation.held_out_psnr() == pytest.approx(expected, abs=1e-4)


def test_a_run_killed_while_saving_resumes_and_ends_where_an_undisturbed_one_ends(
    tiny_scene: Path, tmp_path: Path, undisturbed: GNeRFTrainerConfig, monkeypatch: pytest.MonkeyPatch
):
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "PYTHONWARNINGS": "ignore"}
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_SAVING, str(tiny_scene), str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    config = trainer_config(tiny_scene, tmp_path)
    assert checkpoints(config).keys() == {"step-000000004.ckpt"}, "the half checkpoint is not among the whole ones"
    assert zipfile.is_zipfile(config.get_checkpoint_dir() / "step-000000004.ckpt")

    config.load_dir = config.get_checkpoint_dir()
    trainer = build_trainer(config)
    assert trainer._start_step == 5
    watched: List[Watched] = []
    trainer._display = ProgressWriter(ProgressWriterConfig())
    monkeypatch.setattr(trainer._display, "begin", watched.append)
    trainer.train()
    assert (watched[0].first_step, watched[0].num_steps) == (5, 12)
    assert trainer.step == 11
    assert checkpoints(config).keys() == {"step-000000011.ckpt"}
    assert not (config.get_base_dir() / "unfinished_checkpoint").exists()
    assert_same_state(last_state(config), last_state(undisturbed))


def test_a_finished_run_has_nothing_left_to_train(undisturbed: GNeRFTrainerConfig, tmp_path: Path, monkeypatch):
    said = []
    monkeypatch.setattr(CONSOLE, "print", lambda *lines, **_: said.extend(lines))
    config = trainer_config(undisturbed.data, tmp_path, load_dir=undisturbed.get_checkpoint_dir())  # type: ignore[arg-type]
    trainer = build_trainer(config)
    monkeypatch.setattr(trainer, "train_iteration", None)
    trainer.train()
    assert any("Nothing to train" in str(line) and "12 of 12" in str(line) for line in said)
    assert_same_state(last_state(config)["pipeline"], last_state(undisturbed)["pipeline"])


def test_a_longer_plan_goes_on_to_its_own_end(undisturbed: GNeRFTrainerConfig, tmp_path: Path):
    config = trainer_config(
        undisturbed.data,  # type: ignore[arg-type]
        tmp_path,
        load_dir=undisturbed.get_checkpoint_dir(),
        max_num_iterations=14,
        save_only_latest_checkpoint=False,
    )
    trainer = build_trainer(config)
    trainer.train()
    assert trainer.step == 13 and checkpoints(config).keys() == {"step-000000012.ckpt", "step-000000013.ckpt"}


def refusal(config: GNeRFTrainerConfig) -> str:
    with pytest.raises(InputError) as error:
        build_trainer(config)
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("existing", [True, False])
def test_no_checkpoint_where_one_was_said_to_be(tiny_scene: Path, tmp_path: Path, existing: bool):
    folder = tmp_path / "nothing"
    if existing:
        folder.mkdir()
    text = refusal(trainer_config(tiny_scene, tmp_path / "out", load_dir=folder))
    assert str(folder) in text and "nerfstudio_models" in text


def test_no_such_checkpoint_file_or_step(tiny_scene: Path, tmp_path: Path, undisturbed: GNeRFTrainerConfig):
    missing = tmp_path / "step-000000001.ckpt"
    assert str(missing) in refusal(trainer_config(tiny_scene, tmp_path / "out", load_checkpoint=missing))
    folder = undisturbed.get_checkpoint_dir()
    text = refusal(trainer_config(tiny_scene, tmp_path / "out", load_dir=folder, load_step=3))
    assert "step-000000003.ckpt" in text


def test_half_a_checkpoint(tiny_scene: Path, tmp_path: Path, undisturbed: GNeRFTrainerConfig):
    whole = undisturbed.get_checkpoint_dir() / "step-000000011.ckpt"
    half = tmp_path / "step-000000011.ckpt"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert "not a whole checkpoint" in refusal(trainer_config(tiny_scene, tmp_path / "out", load_checkpoint=half))


def test_a_checkpoint_of_another_method(tiny_scene: Path, tmp_path: Path, undisturbed: GNeRFTrainerConfig):
    other = trainer_config(tiny_scene, tmp_path, phase_a="transport", load_dir=undisturbed.get_checkpoint_dir())
    assert "does not fit this configuration" in refusal(other)


@pytest.mark.parametrize("rounds", [0, 1])
def test_a_run_with_steps_that_there_are_no_more(undisturbed: GNeRFTrainerConfig, tmp_path: Path, rounds: int):
    """Few images were left out in steps of their own; runs of many images were the same."""
    run = tmp_path / "older"
    shutil.copytree(undisturbed.get_base_dir(), run)
    older = yaml.load((run / "config.yml").read_text(), Loader=yaml.Loader)
    older.pipeline.pose_trials = PoseTrialsConfig()
    (run / "config.yml").write_text(yaml.dump(older))
    config = trainer_config(undisturbed.data, tmp_path / "out", load_dir=run / "nerfstudio_models")  # type: ignore[arg-type]
    config.pipeline.schedule.leave_out_rounds = rounds
    if rounds == 0:
        assert build_trainer(config)._start_step == 12
    else:
        assert "older gnerf_ns" in refusal(config)


def test_a_second_run_does_not_bury_the_first(undisturbed: GNeRFTrainerConfig):
    again = trainer_config(undisturbed.data, undisturbed.output_dir)  # type: ignore[arg-type]
    again.set_timestamp()
    with pytest.raises(InputError, match="already holds a run"):
        again.save_config()


def test_runs_that_start_in_the_same_second_get_folders_of_their_own(tiny_scene: Path, tmp_path: Path):
    configs = [trainer_config(tiny_scene, tmp_path) for _ in range(3)]
    for config in configs:
        config.timestamp = NO_TIMESTAMP
        config.set_timestamp()
    assert len({config.get_base_dir() for config in configs}) == 3


@pytest.mark.parametrize("timestamp", [NO_TIMESTAMP, "mine"])
def test_an_output_folder_that_cannot_be_made(tiny_scene: Path, tmp_path: Path, timestamp: str):
    (tmp_path / "file").touch()
    config = trainer_config(tiny_scene, tmp_path / "file")
    config.timestamp = timestamp
    with pytest.raises(InputError, match="output-dir"):
        config.set_timestamp()


def test_a_name_that_another_training_has(tiny_scene: Path, tmp_path: Path):
    config = trainer_config(tiny_scene, tmp_path)
    code = f"""
import sys
from pathlib import Path
from gnerf_ns.runs.claimed_folders import claim
claim(Path({str(config.get_base_dir())!r}))
print("claimed", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"claimed\n"
        with pytest.raises(InputError, match=r"Another training writes to .*--timestamp"):
            config.set_timestamp()
        other.kill()
    config.set_timestamp()  # one that was killed has nothing any more
    config.save_config()


def test_no_room_for_the_configuration(tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = trainer_config(tiny_scene, tmp_path / "runs")
    config.set_timestamp()
    monkeypatch.setattr(run_folder, "write_whole", no_room)
    with pytest.raises(InputError, match=r"cannot be written to \(No space left on device\); make room"):
        config.save_config()
    assert not (tmp_path / "runs").exists()


def no_room(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_named_and_the_last_whole_checkpoint_stays(
    tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As torch tells it: half a file is written, then something is wrong that it does not name."""
    config = trainer_config(tiny_scene, tmp_path, "transport", steps_per_eval_image=10**9)
    config.set_timestamp()
    trainer = build_trainer(config)
    save = torch.save

    def until_it_is_full(state: Any, path: Path) -> None:
        save(state, path)
        if state["step"] == 8:
            os.truncate(path, path.stat().st_size // 2)
            monkeypatch.setattr(disk.tempfile, "TemporaryFile", no_room)
            raise RuntimeError("unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", until_it_is_full)
    with pytest.raises(InputError) as error:
        trainer.train()
    sentence = str(error.value)
    assert sentence.startswith(f"No space left on device: not all of step 8 could be saved in {trainer.base_dir}; ")
    assert "the last whole checkpoint, of step 4, is saved; make room, then go on with: ns-train" in sentence
    assert checkpoints(config).keys() == {"step-000000004.ckpt"}
    assert not list(trainer.base_dir.glob("unfinished*"))


def failing(*_: Any, **__: Any) -> None:
    raise ZeroDivisionError("by a width")


def test_where_judging_fails_poses_are_left_without_it(
    tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    config = trainer_config(tiny_scene, tmp_path, "transport", steps_per_eval_image=10**9)
    trainer = build_trainer(config)
    monkeypatch.setattr(trust, "verdict_of", failing)  # when statuses are there already
    trainer.train()
    said = " ".join(capsys.readouterr().out.split())
    assert "could not be found out (ZeroDivisionError: by a width); try again with: gnerf-report --load-config" in said
    assert "Done, but nobody has judged the poses: look at them." in said and "at step 11" not in said
    assert not trainer.has_failed
    assert checkpoints(config).keys() == {"step-000000011.ckpt"}
    meta = json.loads((config.get_base_dir() / "estimated_poses" / "transforms.json").read_text())
    assert len(meta["frames"]) == 9 and not any("flagged" in frame for frame in meta["frames"])
    assert not (config.get_base_dir() / "estimated_poses" / "report.html").exists()


def test_a_report_that_fails_does_not_keep_the_verdict_back(
    tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    config = trainer_config(tiny_scene, tmp_path, "transport", steps_per_eval_image=10**9)
    trainer = build_trainer(config)
    monkeypatch.setattr(gnerf_trainer, "report_contents", failing)
    trainer.train()
    said = " ".join(capsys.readouterr().out.split())
    verdict = trainer.pipeline.trust.verdict
    assert verdict is not None and said.index("The report could not be made") < said.index(verdict.sentence)
    assert "(ZeroDivisionError: by a width); try again with: gnerf-report --load-config" in said
    assert last_state(config)["pipeline"][TRUST_KEY]["verdict"] == list(verdict)


def test_a_run_killed_while_its_judgement_is_saved_is_whole_without_it(
    tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = trainer_config(tiny_scene, tmp_path, "transport", steps_per_eval_image=10**9)
    trainer = build_trainer(config)
    save, saved = torch.save, []

    def half_of_the_last_one(state: Any, path: Path) -> None:
        save(state, path)
        saved.append(state["step"])
        if saved[-2:] == [11, 11]:
            os.truncate(path, path.stat().st_size // 2)
            raise InterruptedError

    monkeypatch.setattr(torch, "save", half_of_the_last_one)
    with pytest.raises(InterruptedError):
        trainer.train()
    assert checkpoints(config).keys() == {"step-000000011.ckpt"}
    assert last_state(config)["pipeline"][TRUST_KEY]["verdict"] is None
    _, pipeline, _, step = eval_setup(config.get_base_dir() / "config.yml")
    assert step == 11 and isinstance(pipeline, GNeRFPipeline) and pipeline.cameras.has_eval_poses


def test_no_room_for_poses_leaves_those_of_before(tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trainer = build_trainer(trainer_config(tiny_scene, tmp_path, "transport"))
    trainer.save_checkpoint(0)
    poses = trainer.base_dir / "estimated_poses"
    before = {path: path.read_bytes() for path in poses.rglob("*") if path.is_file()}
    assert poses / "sparse" / "0" / "images.bin" in before
    monkeypatch.setattr(gnerf_trainer, "save_image", no_room)  # after transforms.json, points and model
    with pytest.raises(OSError, match="No space left"):
        trainer.save_checkpoint(1)
    assert {path: path.read_bytes() for path in poses.rglob("*") if path.is_file()} == before
    assert not list(trainer.base_dir.glob("unfinished*"))


@pytest.mark.parametrize(
    ("data", "name"),
    [("images", "images"), (".", "here"), ("..", "above"), ("transforms.json", "here"), ("walk.mp4", "walk")],
)
def test_experiments_are_named_after_the_folder_or_the_video(tmp_path: Path, monkeypatch, data: str, name: str):
    here = tmp_path / "above" / "here"
    (here / "images").mkdir(parents=True)
    (here / "transforms.json").touch()
    (here / "walk.mp4").touch()
    monkeypatch.chdir(here)
    config = trainer_config(Path(data), tmp_path)
    config.experiment_name = None
    config.pipeline.datamanager.data = Path(data)
    config.set_experiment_name()
    assert config.experiment_name == name


def test_saved_paths_hold_from_anywhere(tiny_scene: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tiny_scene.parent)
    config = trainer_config(Path(tiny_scene.name), Path(os.path.relpath(tmp_path)))
    config.save_config()
    loaded = yaml.load(Path(config.get_base_dir() / "config.yml").read_text(), Loader=yaml.Loader)
    assert loaded.output_dir.is_absolute()
    assert loaded.pipeline.datamanager.data == tiny_scene


def test_more_devices_than_there_are_are_refused_before_a_folder_is_claimed(tiny_scene: Path, tmp_path: Path):
    config = trainer_config(tiny_scene, tmp_path / "runs")
    config.timestamp = NO_TIMESTAMP
    config.machine.num_devices = torch.cuda.device_count() + 2
    with pytest.raises(InputError, match=r"--machine\.num-devices \d+: each process needs a CUDA GPU of its own"):
        config.set_timestamp()
    assert not (tmp_path / "runs").exists()


def test_unusable_data_leaves_no_empty_folder(tmp_path: Path):
    config = trainer_config(tmp_path / "nowhere", tmp_path / "runs")
    config.timestamp = NO_TIMESTAMP
    config.set_timestamp()
    assert config.get_base_dir().is_dir()
    with pytest.raises(InputError, match="nowhere"):
        build_trainer(config)
    assert not (tmp_path / "runs").exists()


def test_ctrl_c_before_training_leaves_nothing(
    tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """While images are matched, for example."""
    config = trainer_config(tiny_scene, tmp_path / "runs")
    config.set_timestamp()

    def pressed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline_module, "find_beginning", pressed)
    with pytest.raises(KeyboardInterrupt):
        build_trainer(config)
    assert not (tmp_path / "runs").exists()
    assert capsys.readouterr().out.strip().splitlines()[-1] == "Stopped before training began; nothing was saved."


def test_a_phase_a_that_has_diverged_is_not_saved(tiny_scene: Path, tmp_path: Path, capsys):
    config = trainer_config(tiny_scene, tmp_path, "transport")
    trainer = build_trainer(config)
    trainer._last_step = 11
    trainer.save_checkpoint(0)
    before = checkpoints(config).keys()
    poses = (config.get_base_dir() / "estimated_poses" / "transforms.json").read_bytes()
    with torch.no_grad():
        next(iter(trainer.pipeline.model.radiance.parameters())).view(-1)[0] = math.nan
    trainer.save_checkpoint(1)
    assert checkpoints(config).keys() == before == {"step-000000000.ckpt"}
    assert (config.get_base_dir() / "estimated_poses" / "transforms.json").read_bytes() == poses
    assert "Step 1 is not saved" in capsys.readouterr().out


def test_the_viewer_waits_while_a_checkpoint_is_saved(tiny_scene: Path, tmp_path: Path, monkeypatch):
    """Its thread switches the model to evaluation and back: not in the middle of a refinement."""
    trainer = build_trainer(trainer_config(tiny_scene, tmp_path, "transport"))
    trainer._last_step = 5
    locked: Dict[str, bool] = {}

    def watch(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def watched(*arguments: Any) -> Any:
            locked[name] = bool(trainer.train_lock._queue)
            return original(*arguments)

        monkeypatch.setattr(owner, name, watched)

    watch(trainer.pipeline, "estimate_eval_poses")
    watch(trainer, "write_poses")
    watch(trust, "find_ambiguity")
    trainer.save_checkpoint(5)
    trainer._say_how_it_ended()
    assert locked == {"estimate_eval_poses": True, "write_poses": True, "find_ambiguity": True}
    assert not bool(trainer.train_lock._queue)


def test_ctrl_c_ends_a_training_after_a_whole_step(
    tiny_scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """In a program that is not `ns-train`, it goes on being a KeyboardInterrupt, once that step is saved."""
    trainer = build_trainer(trainer_config(tiny_scene, tmp_path, steps_per_save=10**9, steps_per_eval_image=10**9))
    iteration, before = trainer.train_iteration, signal.getsignal(signal.SIGINT)

    def pressed_in_the_sixth(step: int) -> Any:
        if step == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return iteration(step)

    trainer.train_iteration = pressed_in_the_sixth
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert checkpoints(trainer.config).keys() == {"step-000000005.ckpt"}
    assert signal.getsignal(signal.SIGINT) is before
    said = " ".join(capsys.readouterr().out.split())
    assert "Stopped; step 5 is saved; go on with: ns-train gnerf-ns-tiny" in said


def test_ctrl_c_pressed_twice_ends_it_at_once(tiny_scene: Path, tmp_path: Path):
    config = trainer_config(tiny_scene, tmp_path / "runs", steps_per_save=10**9, steps_per_eval_image=10**9)
    config.set_timestamp()
    trainer = build_trainer(config)

    def pressed_twice(step: int) -> Any:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("it went on")

    trainer.train_iteration = pressed_twice
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    writer.EVENT_WRITERS.clear()  # later tests would write into the folder that is gone
    assert not (tmp_path / "runs").exists()
