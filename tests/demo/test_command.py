"""What surrounds the demo's training, which is tested end to end."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from gnerf_ns.cameras.pose_prior import PosePriorConfig
from gnerf_ns.demo import command as demo
from gnerf_ns.demo.scene import ProceduralSceneConfig
from gnerf_ns.utils.errors import InputError

FIGURES = {
    "rotation_error_deg_median": 0.314,
    "rotation_error_deg_max": 1.5,
    "rotation_under_5deg": 1.0,
    "mirrored": 0.0,
    "psnr": 27.44,
    "psnr_aligned": 26.0,
}


def report(folder: Path, **changed: float) -> str:
    config = SimpleNamespace(get_base_dir=lambda: folder / "runs" / "demo")
    return "\n".join(demo.report(config, {**FIGURES, **changed}, folder, 90.0))  # type: ignore[arg-type]


def test_unknown_method_is_one_sentence():
    with pytest.raises(InputError, match=r"No method is called 'nonesuch'; installed are .*gnerf-ns"):
        demo.trainer_config("nonesuch")


def test_configuration_is_a_copy_that_ends_by_itself():
    first, second = demo.trainer_config("gnerf-ns-tiny"), demo.trainer_config("gnerf-ns-tiny")
    first.optimizers.clear()
    assert second.optimizers and first.pipeline is not second.pipeline
    # A viewer would wait for ever at the end of training.
    assert not second.is_viewer_enabled() and second.is_tensorboard_enabled()


def test_report_says_what_came_out(tmp_path):
    (tmp_path / "cameras.png").touch()
    text = report(tmp_path)
    assert "1.5 minutes" in text and "0.31 degrees median" in text and "27.4 dB" in text and "mirrored" not in text
    assert "mirrored" in report(tmp_path, mirrored=1.0)
    assert str(tmp_path / "cameras.png") in text and "orbit.mp4" not in text  # only what is there


def test_report_ends_with_commands_that_can_be_pasted(tmp_path):
    folder = tmp_path / "my demo"
    commands = [line.strip() for line in report(folder).splitlines() if re.match(r"\s+ns-", line)]
    assert [command.split()[0] for command in commands] == ["ns-viewer", "ns-render", "ns-export"]
    for command in commands:
        assert f"--load-config '{folder}/runs/demo/config.yml'" in command


def test_report_names_libraries_that_export_lacks(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "export_advice", lambda: "ns-export needs libGL.so.1 from the system")
    assert "needs libGL.so.1" in report(tmp_path).splitlines()[-1]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_test": 0}, "num_test is 0; give at least 1"),
        ({"image_side": -1}, "image_side is -1"),
        ({"fov_deg": 180.0}, "field of view is 180 degrees"),
        ({"cameras": PosePriorConfig(radius=(2.0, 1.0))}, "radius"),
    ],
)
def test_an_impossible_scene_is_refused_before_anything_is_written(tmp_path, changes, sentence):
    with pytest.raises(InputError, match=sentence):
        demo.Demo(output_dir=tmp_path / "out", scene=ProceduralSceneConfig(**changes)).main()
    assert not (tmp_path / "out").exists()
