"""What the commands say to bad input. That nothing is lost is tested with the trainer."""

import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import List

import pytest
from nerfstudio.scripts import train

from gnerf_ns.utils.errors import InputError

SCRIPTS = Path(sysconfig.get_path("scripts"))


def refusal(monkeypatch, folder: Path, *arguments: str) -> str:
    """The sentence that `ns-train` ends with."""
    monkeypatch.setattr(
        sys, "argv", ["ns-train", "gnerf-ns-tiny", "--vis", "tensorboard", "--output-dir", str(folder), *arguments]
    )
    with pytest.raises(InputError) as end:
        train.entrypoint()
    assert "\n" not in str(end.value)
    return str(end.value)


def stderr_of_a_failure(*command: object) -> List[str]:
    """Lines on stderr of a command that ends with exit status 1, without a traceback anywhere."""
    ended = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert ended.returncode == 1 and "Traceback" not in ended.stdout + ended.stderr, ended.stderr
    return ended.stderr.splitlines()


def test_ns_train_ends_with_the_sentence_alone(tmp_path: Path):
    data = tmp_path / "no such [v2] folder"
    words = ["gnerf-ns-tiny", "--data", data, "--output-dir", tmp_path / "runs"]
    (line,) = stderr_of_a_failure(sys.executable, "-W", "ignore", SCRIPTS / "ns-train", *words)
    assert line.startswith(f"There is no folder {data};")


def test_our_own_command_ends_with_the_sentence_alone_and_without_warnings(tmp_path: Path):
    (line,) = stderr_of_a_failure(SCRIPTS / "gnerf-demo", "--method", "[v2]", "--output-dir", tmp_path)
    assert line.startswith("No method is called '[v2]'; installed are ")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--pipeline.pose-prior.elevation-deg", "60", "20"], "elevation_deg is (60, 20)"),
        (["--pipeline.pose-prior.radius", "-1", "1"], "radius"),
        (["unposed-data", "--fov-deg", "180"], "--fov-deg 180"),
        (["unposed-data", "--min-images", "10"], "has 9 images"),
        (["nerfstudio-data"], "transforms.json"),
        (["colmap"], "colmap"),
    ],
)
def test_contradictions(monkeypatch, tiny_scene: Path, tmp_path: Path, arguments, sentence: str):
    assert sentence in refusal(monkeypatch, tmp_path, "--data", str(tiny_scene), *arguments)


def test_checkpoint_of_another_field(monkeypatch, tiny_scene: Path, tmp_path: Path, finished_run):
    models = finished_run.config_path.parent / "nerfstudio_models"
    before = {path: path.read_bytes() for path in models.iterdir()}
    sentence = refusal(monkeypatch, tmp_path, "--data", str(tiny_scene), "--load-dir", str(models))
    assert "does not fit this configuration" in sentence
    assert {path: path.read_bytes() for path in models.iterdir()} == before


def test_checkpoint_of_other_images(monkeypatch, tiny_scene: Path, tmp_path: Path, finished_run):
    models = finished_run.config_path.parent / "nerfstudio_models"
    arguments = ["--data", str(tiny_scene / "images"), "--load-dir", str(models), "unposed-data", "--min-images", "3"]
    assert "not those that the run was trained on" in refusal(monkeypatch, tmp_path, *arguments)
