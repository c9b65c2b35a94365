"""What ns-train says to bad input. That nothing is lost is tested with the trainer."""

import subprocess
import sys
from pathlib import Path

import pytest
from nerfstudio.scripts import train


def refusal(monkeypatch, folder: Path, *arguments: str) -> str:
    """The sentence with which the command ends; an integer would have been printed as an exit code only."""
    monkeypatch.setattr(
        sys, "argv", ["ns-train", "gnerf-ns-tiny", "--vis", "tensorboard", "--output-dir", str(folder), *arguments]
    )
    with pytest.raises(SystemExit) as end:
        train.entrypoint()
    assert isinstance(end.value.code, str) and "\n" not in end.value.code
    return end.value.code


def test_exit_code_and_last_line_of_the_real_command(tmp_path: Path):
    command = [sys.executable, "-m", "nerfstudio.scripts.train", "gnerf-ns-tiny", "--data", str(tmp_path / "nosuch")]
    ended = subprocess.run([*command, "--output-dir", str(tmp_path / "runs")], capture_output=True, text=True)
    assert ended.returncode == 1 and "Traceback" not in ended.stdout + ended.stderr
    assert ended.stderr.splitlines()[-1].startswith(f"There is no folder {tmp_path / 'nosuch'};")


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
    assert "it is of other images" in refusal(monkeypatch, tmp_path, *arguments)
