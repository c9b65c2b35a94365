import json
from pathlib import Path
from typing import Any, Dict

import numpy as np
import pytest
import torch
from nerfstudio.scripts.render import DatasetRender, RenderCameraPath, RenderInterpolated, SpiralRender
from PIL import Image

from gnerf_ns.data.dataparser import PLACEHOLDER_CAMERA_TO_WORLD
from gnerf_ns.utils.system_libraries import provide_ffmpeg


def image(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).float() / 255


def rendered_at(finished_run, cameras, index: int) -> torch.Tensor:
    return finished_run.pipeline.model.get_outputs_for_camera(cameras[index : index + 1])["rgb"].clamp(0, 1)


@pytest.fixture(autouse=True)
def no_ffmpeg_but_the_package_s(monkeypatch):
    """What ns-render finds on a machine without ffmpeg."""
    monkeypatch.setenv("PATH", "/nowhere")
    provide_ffmpeg()


@pytest.mark.parametrize("split", ["train", "test"])
def test_dataset_is_rendered_at_the_estimated_poses(finished_run, tmp_path: Path, split):
    DatasetRender(
        load_config=finished_run.config_path,
        output_path=tmp_path,
        split=split,
        image_format="png",
        rendered_output_names=["rgb", "gt-rgb", "depth", "normals"],
    ).main()
    cameras = finished_run.cameras("train" if split == "train" else "eval")
    assert not torch.allclose(cameras.camera_to_worlds[0], torch.tensor(PLACEHOLDER_CAMERA_TO_WORLD), atol=0.1)
    found = sorted((tmp_path / split / "rgb").rglob("*.png"))
    assert len(found) == len(cameras)
    for index, path in enumerate(found):
        assert (image(path) - rendered_at(finished_run, cameras, index)).abs().max() < 2 / 255
    assert {folder.name for folder in (tmp_path / split).iterdir()} == {"rgb", "gt-rgb", "depth", "normals"}


def camera_path(camera_to_world: torch.Tensor, fov_deg: float, side: int) -> dict:
    """In the format that the viewer saves."""
    matrix = [*camera_to_world.tolist(), [0.0, 0.0, 0.0, 1.0]]
    frame = {"camera_to_world": torch.tensor(matrix).flatten().tolist(), "fov": fov_deg, "aspect": 1.0}
    return {
        "camera_type": "perspective",
        "render_height": side,
        "render_width": side,
        "camera_path": [frame, frame],
        "seconds": 1.0,
        "fps": 2,
        "is_cycle": False,
        "crop": None,
    }


def test_camera_path_goes_where_it_says(finished_run, tmp_path: Path):
    cameras = finished_run.cameras()
    path = camera_path(cameras.camera_to_worlds[3], 40.0, int(cameras.height[3]))
    (tmp_path / "path.json").write_text(json.dumps(path))
    RenderCameraPath(
        load_config=finished_run.config_path,
        output_path=tmp_path / "frames",
        camera_path_filename=tmp_path / "path.json",
        output_format="images",
        image_format="png",
    ).main()
    frames = sorted((tmp_path / "frames").glob("*.png"))
    assert len(frames) == 2
    assert (image(frames[0]) - rendered_at(finished_run, cameras, 3)).abs().max() < 3 / 255


@pytest.mark.parametrize("pose_source", ["eval", "train"])
def test_interpolation_passes_through_the_estimated_cameras(finished_run, tmp_path: Path, pose_source):
    RenderInterpolated(
        load_config=finished_run.config_path,
        output_path=tmp_path,
        pose_source=pose_source,
        interpolation_steps=2,
        output_format="images",
        image_format="png",
    ).main()
    cameras = finished_run.cameras(pose_source)
    frames = sorted(tmp_path.glob("*.png"))
    assert len(frames) == 2 * (len(cameras) - 1)
    assert (image(frames[0]) - rendered_at(finished_run, cameras, 0)).abs().max() < 3 / 255


@pytest.mark.parametrize("command", [SpiralRender, RenderInterpolated, DatasetRender])
def test_training_images_stand_in_where_none_is_held_out(run_of_training_images, tmp_path: Path, command):
    options: Dict[str, Any] = {
        SpiralRender: {"seconds": 0.05, "output_format": "images"},
        RenderInterpolated: {"interpolation_steps": 1, "output_format": "images"},
        DatasetRender: {},
    }[command]
    run = run_of_training_images
    command(load_config=run.config_path, output_path=tmp_path, image_format="png", **options).main()
    frames = sorted((tmp_path / "test" / "rgb" if command is DatasetRender else tmp_path).glob("*.png"))
    count = len(run.cameras())
    assert len(frames) == {SpiralRender: 1, RenderInterpolated: count - 1, DatasetRender: count}[command]
    # A spiral goes round its camera.
    if command is not SpiralRender:
        assert (image(frames[0]) - rendered_at(run, run.cameras(), 0)).abs().max() < 3 / 255


@pytest.mark.parametrize("command", [SpiralRender, RenderInterpolated, RenderCameraPath])
def test_films_are_written_without_a_system_ffmpeg(finished_run, tmp_path: Path, command):
    (tmp_path / "path.json").write_text(json.dumps(camera_path(torch.tensor(PLACEHOLDER_CAMERA_TO_WORLD), 40.0, 16)))
    options = {
        SpiralRender: {"seconds": 0.2},
        RenderInterpolated: {"interpolation_steps": 3},
        RenderCameraPath: {"camera_path_filename": tmp_path / "path.json"},
    }
    command(load_config=finished_run.config_path, output_path=tmp_path / "film.mp4", **options[command]).main()
    assert (tmp_path / "film.mp4").read_bytes()[4:8] == b"ftyp"
