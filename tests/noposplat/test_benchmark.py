"""`benchmarks/noposplat.py` on scenes of files."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from gnerf_ns.data.images import ImageSize
from gnerf_ns.noposplat.checkpoints import save_network
from gnerf_ns.noposplat.network import NoPoSplatNetwork, tiny_network
from gnerf_ns.scenes.made_scenes import MadeScene
from gnerf_ns.splats.axes import camera_to_worlds, inverse_poses
from gnerf_ns.utils.errors import InputError

FILE = Path(__file__).parents[2] / "benchmarks" / "noposplat.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("noposplat_benchmark", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def write_scene(folder: Path, seed: int, count: int) -> None:
    """Frames of a made scene as a run of gnerf-ns leaves them: files and estimated poses."""
    scene = MadeScene(seed, "balls-and-boxes", ImageSize(64, 64))
    frames = np.linspace(0, 40, count).round().astype(int).tolist()
    folder.mkdir(parents=True)
    poses = camera_to_worlds(inverse_poses(scene.cameras.camera_to_worlds))
    listed = []
    for frame in frames:
        Image.fromarray(scene.image(frame)).save(folder / f"{frame:02d}.png")
        matrix = [*poses[frame].tolist(), [0.0, 0.0, 0.0, 1.0]]
        listed.append({"file_path": f"{frame:02d}.png", "transform_matrix": matrix, "pose_from": "matches"})
    focal = 64 * float(scene.cameras.intrinsics[0, 0, 0])
    (folder / "transforms.json").write_text(json.dumps({"fl_x": focal, "w": 64, "h": 64, "frames": listed}))


def test_scenes_of_files_are_compared_with_their_own_poses(benchmark: ModuleType, tmp_path: Path, capsys):
    for seed in (2, 3):
        write_scene(tmp_path / "scenes" / str(seed), seed, 8)
    torch.manual_seed(0)
    save_network(NoPoSplatNetwork(replace(tiny_network(), intrinsics="linear")), tmp_path / "network.ckpt")
    benchmark.main((tmp_path / "network.ckpt",), data=tmp_path / "scenes")
    said = capsys.readouterr().out
    assert f"2 scenes of {tmp_path / 'scenes'} at 64 pixels, against the poses of its files, which may be" in said
    assert "| images: PSNR, SSIM | all | better than copied |" in said
    assert said.count("| SIFT + essential matrix |") == 1 and "inf" not in said and "nan" not in said


def test_a_single_scene_is_enough_and_no_target_is_a_context_view(benchmark: ModuleType, tmp_path: Path):
    write_scene(tmp_path / "estimated_poses", 4, 8)
    (scene,) = benchmark.of_files(tmp_path / "estimated_poses", 10, ImageSize(32, 32))
    context, target = scene.example.context, scene.example.target
    assert context.images.shape == (1, 2, 3, 32, 32) and 1 <= target.images.shape[1] <= 3
    apart = torch.cdist(target.camera_to_worlds[0, :, :, 3], context.camera_to_worlds[0, :, :, 3])
    assert apart.min() > 1e-3 and scene.overlap is None


def test_scenes_without_an_image_between_two_are_refused(benchmark: ModuleType, tmp_path: Path):
    write_scene(tmp_path / "scene", 4, 2)
    with pytest.raises(InputError, match="has no scene with two images that overlap"):
        benchmark.of_files(tmp_path / "scene", 10, ImageSize(32, 32))
