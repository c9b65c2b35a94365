"""What comes with the package to try `gnerf-splat` on: photos, and weights that know such scenes."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import List

import pytest
import torch
from PIL import Image
from torch import Tensor

from gnerf_ns.data.images import ImageSize
from gnerf_ns.method_configs.noposplat import noposplat_tiny  # pyright: ignore[reportMissingImports]
from gnerf_ns.models.image_metrics import ImageMetrics
from gnerf_ns.noposplat import command, reconstruction
from gnerf_ns.noposplat.checkpoints import load_network
from gnerf_ns.noposplat.command import Splat
from gnerf_ns.noposplat.demo import WEIGHTS, errors_in_words, write_demo_photos
from gnerf_ns.noposplat.evaluation import image_figures
from gnerf_ns.noposplat.reconstruction import Reconstruction
from gnerf_ns.noposplat.view_cameras import rendered
from gnerf_ns.scenes.evaluation_sets import made_evaluation_set
from gnerf_ns.scenes.made_scenes import MadeScenes
from gnerf_ns.scenes.view_sampling import Example, make_example, stacked
from gnerf_ns.splats.axes import world_to_cameras
from gnerf_ns.splats.gaussians import Gaussians
from gnerf_ns.utils.errors import InputError

NOTHING = Gaussians(torch.zeros(2, 3), torch.ones(2, 3), torch.eye(4)[:2], torch.ones(2), torch.zeros(2, 3, 1))


def test_photos_have_their_lens_and_poses_beside_them(tmp_path: Path):
    files = write_demo_photos(tmp_path / "new" / "photos")
    meta = json.loads((tmp_path / "new" / "photos" / "transforms.json").read_text())
    assert [frame["file_path"] for frame in meta["frames"]] == [file.name for file in files] == ["0.png", "1.png"]
    for file, frame in zip(files, meta["frames"], strict=True):
        assert Image.open(file).size == (frame["w"], frame["h"]) == (256, 256)
    poses = torch.tensor([frame["transform_matrix"] for frame in meta["frames"]])[:, :3]
    found = Reconstruction((0, 1), NOTHING, world_to_cameras(poses))
    [words] = errors_in_words(found)
    assert re.findall(r"[\d.]+ degrees", words) == ["0.0 degrees", "0.0 degrees"]
    sideways = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    turned = poses.clone()
    turned[1, :, :3] = turned[1, :, :3] @ sideways
    [words] = errors_in_words(replace(found, world_to_cameras=world_to_cameras(turned)))
    assert re.findall(r"[\d.]+ degrees", words) == ["90.0 degrees", "0.0 degrees"]


def test_weights_are_of_the_method_for_cpus():
    assert WEIGHTS.stat().st_size < 8 * 2**20
    expected = noposplat_tiny.config.pipeline.model.network
    assert load_network(WEIGHTS).config == replace(expected, image_side=64)


def test_weights_show_held_out_scenes_and_need_both_views():
    """Better than nothing known, and better than without the second image; `benchmarks/noposplat.py` has figures."""
    network, size = load_network(WEIGHTS), ImageSize(64, 64)
    scenes = MadeScenes(range(12), "balls-and-boxes", size)
    examples = [
        stacked([make_example(scenes.scene(key), chosen.views, size)])
        for key, chosen in made_evaluation_set(scenes).items()
    ]
    metrics = ImageMetrics()

    def psnr(example: Example, images: Tensor, intrinsics: Tensor) -> float:
        with torch.no_grad():
            shown = rendered(network(images, intrinsics), example.target)[0].clamp(0.0, 1.0)
        return image_figures(shown, example.target.images[0], metrics)["psnr"]

    both, first, gray = [], [], []
    for example in examples:
        context = example.context
        both.append(psnr(example, context.images, context.intrinsics))
        first.append(psnr(example, context.images[:, [0, 0]], context.intrinsics[:, [0, 0]]))
        color = context.images[0].mean(dim=(0, 2, 3))[:, None, None].expand_as(example.target.images[0])
        gray.append(image_figures(color, example.target.images[0], metrics)["psnr"])
    assert sum(both) > sum(gray) + len(examples)
    assert sum(both) > sum(first) + len(examples)


def test_the_demo_runs_from_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    said: List[str] = []
    for owner, name in ((reconstruction, "COMPARISON_STEPS"), (reconstruction, "REFINEMENT_STEPS")):
        monkeypatch.setattr(owner, name, 2)
    monkeypatch.setattr(command, "FILM_FRAMES", 8)
    monkeypatch.setattr("gnerf_ns.noposplat.splat_pictures.FILM_FRAMES", 8)
    monkeypatch.setattr(command, "_say", said.extend)
    Splat(output=tmp_path / "splat", demo=True).main()
    assert {"splat.ply", "transforms.json", "photos.png", "film.mp4", "config.yml"} <= {
        file.name for file in (tmp_path / "splat").iterdir()
    }
    assert sorted(file.name for file in (tmp_path / "splat-photos").iterdir()) == ["0.png", "1.png", "transforms.json"]
    assert any("The true cameras are known here" in line for line in said)


def test_the_demo_takes_no_photos(tmp_path: Path):
    with pytest.raises(InputError, match="--demo draws its own photos"):
        Splat((tmp_path,), output=tmp_path / "splat", demo=True).main()
