import json
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.scripts.eval import ComputePSNR
from PIL import Image
from torchmetrics.image import StructuralSimilarityIndexMeasure

from gnerf_ns.cameras.alignment import pose_errors


def psnr(rendered: torch.Tensor, truth: torch.Tensor) -> float:
    return float(-10 * torch.log10((rendered - truth).square().mean()))


def over_white(path: Path) -> torch.Tensor:
    rgba = torch.from_numpy(np.array(Image.open(path))).float() / 255
    return rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]


@pytest.fixture(scope="module")
def evaluated(finished_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("eval")
    ComputePSNR(finished_run.config_path, folder / "new" / "eval.json", folder / "images").main()
    return json.loads((folder / "new" / "eval.json").read_text()), folder / "images"


def test_image_quality_is_that_of_the_files_at_the_estimated_held_out_poses(finished_run, evaluated, tiny_scene: Path):
    pipeline = finished_run.pipeline
    cameras = finished_run.cameras("eval")
    truth = [over_white(path) for path in sorted((tiny_scene / "held_out").glob("*.png"))]
    assert len(truth) == len(cameras) == 2
    with torch.no_grad():
        rendered = [pipeline.model.get_outputs_for_camera(cameras[i : i + 1])["rgb"].clamp(0, 1) for i in range(2)]
    results = evaluated[0]["results"]
    assert results["psnr"] == pytest.approx(
        np.mean([psnr(*pair) for pair in zip(rendered, truth, strict=True)]), abs=0.01
    )
    measure = StructuralSimilarityIndexMeasure(data_range=1.0)
    similarities = [
        float(measure(a.permute(2, 0, 1)[None], b.permute(2, 0, 1)[None]))  # type: ignore[arg-type]
        for a, b in zip(rendered, truth, strict=True)
    ]
    assert results["ssim"] == pytest.approx(np.mean(similarities), abs=1e-3)


def test_pose_errors_and_quality_at_the_true_poses(finished_run, evaluated, tiny_scene: Path):
    def poses(split: str) -> torch.Tensor:
        frames = json.loads((tiny_scene / f"transforms_{split}.json").read_text())["frames"]
        return torch.tensor([frame["transform_matrix"][:3] for frame in frames])

    pipeline, results = finished_run.pipeline, evaluated[0]["results"]
    errors = pose_errors(finished_run.cameras().camera_to_worlds, poses("train"))
    for name, value in errors.summary().items():
        assert results[name] == pytest.approx(value, rel=1e-3), name
    cameras = finished_run.cameras("eval")
    cameras.camera_to_worlds = errors.similarity.inverse().apply(poses("test"))
    truth = [over_white(path) for path in sorted((tiny_scene / "held_out").glob("*.png"))]
    with torch.no_grad():
        values = [
            psnr(pipeline.model.get_outputs_for_camera(cameras[i : i + 1])["rgb"].clamp(0, 1), truth[i])
            for i in range(2)
        ]
    assert results["psnr_aligned"] == pytest.approx(np.mean(values), abs=0.01)


def test_all_promised_figures_are_there(evaluated):
    assert evaluated[0]["results"].keys() >= {
        "psnr",
        "ssim",
        "psnr_aligned",
        "rotation_error_deg_median",
        "rotation_error_deg_mean",
        "rotation_error_deg_max",
        "rotation_under_5deg",
        "rotation_under_20deg",
        "translation_error_mean",
        "translation_error_relative",
        "mirrored",
    }


def test_images_show_truth_beside_rendering(evaluated, tiny_scene: Path):
    images = sorted(evaluated[1].glob("eval_img_*.png"))
    assert len(images) == 2
    shown = torch.from_numpy(np.array(Image.open(images[0])))[..., :3].float() / 255
    assert shown.shape == (16, 48, 3)
    truth = over_white(sorted((tiny_scene / "held_out").glob("*.png"))[0])
    assert (shown[:, :16] - truth).abs().max() < 2 / 255
