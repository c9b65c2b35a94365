"""What a run's report shows, from a pipeline that has learned nothing."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_run import build_pipeline, pipeline_config

from gnerf_ns.cameras.rays import CameraDirections
from gnerf_ns.data.image_set import ImageSet, ImageStack
from gnerf_ns.pose_search.image_renderer import ImageRenderer
from gnerf_ns.report.page import RENDERING_SIDE, report_html
from gnerf_ns.runs.curves import Curves
from gnerf_ns.training.placement import PoseOrigin
from gnerf_ns.training.pose_status import PoseStatus
from gnerf_ns.training.run_report import (
    MIN_SIDE,
    input_of,
    last_parts,
    near,
    rendering_side,
    report_contents,
    shown_curves,
)
from gnerf_ns.training.trust import Verdict


def status(pose: torch.Tensor, sigma: float, is_flagged: bool) -> PoseStatus:
    return PoseStatus(PoseOrigin.MATCHES, 0.9, is_flagged, sigma, 0.01 * sigma, 0.2, pose)


@pytest.fixture(scope="module")
def pipeline(tiny_scene: Path) -> Any:
    """Whose images have been judged: the third training image and the first held-out one are flagged."""
    pipeline = build_pipeline(pipeline_config(tiny_scene, "transport"), test_mode="val")
    torch.manual_seed(0)
    poses = pipeline.scene.proposals.sample(9, torch.device("cpu"))
    pipeline.cameras.assign(torch.arange(7), poses[:7])
    pipeline.cameras.assign_eval(poses[7:], 0)
    train = [status(poses[0], 0.1 * (1 + index), is_flagged=index == 2) for index in range(7)]
    held_out = [status(poses[0], 2.0, True), status(poses[0], 1.0, False)]
    pipeline.trust.statuses, pipeline.trust.verdict = {"train": train, "eval": held_out}, Verdict("doubtful", "Look.")
    pipeline.trust.remarks = ["It is ambiguous."]
    return pipeline


@pytest.fixture(scope="module")
def contents(pipeline: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    run = tmp_path_factory.mktemp("run")
    Curves([0, 10], [1.0, 0.5], [math.nan, 20.0]).write(run)
    return report_contents(pipeline, run, "a run", max_rays=None)


def test_flagged_images_come_first_and_held_out_ones_among_them(contents: Any):
    flagged = [bool(image.figures.is_flagged) for image in contents.images]
    assert flagged == [True, True] + [False] * 7
    assert sum(image.is_held_out for image in contents.images) == 2
    assert len({image.name for image in contents.images}) == 9
    assert contents.headline.level == "doubtful" and contents.headline.sentence == "Look."
    assert "It is ambiguous." in contents.remarks
    assert any("true poses" in remark for remark in contents.remarks)


def test_each_image_has_its_own_photo_rendering_and_pose(contents: Any, pipeline: Any):
    datamanager, cameras = pipeline.datamanager, pipeline.cameras
    renderer = ImageRenderer(pipeline.model)
    for split, dataset, images, lenses in (
        ("train", datamanager.train_dataset, datamanager.train_images, cameras.train_lenses),
        ("eval", datamanager.eval_dataset, datamanager.eval_images, cameras.eval_lenses),
    ):
        poses = cameras.poses(split)
        whole = ImageSet(images, lenses).resized(16, 16, pipeline.model.evaluation_background)
        rendered = renderer.render_images(poses, lenses, torch.arange(len(dataset)), 16, 16)
        for index, file in enumerate(dataset.image_filenames):
            (image,) = [each for each in contents.images if each.name.endswith("/".join(file.parts[-2:]))]
            for picture, colors in ((image.photo, whole[index]), (image.rendering, rendered[index])):
                expected = (colors.clamp(0, 1) * 255).permute(1, 2, 0).numpy()
                assert np.abs(picture.astype(float) - expected).max() <= 0.51
            torch.testing.assert_close(image.camera_to_world, cameras.up_direction.to_z_up(poses[index][None])[0])


def test_only_flagged_images_show_their_alternative(contents: Any):
    for image in contents.images:
        assert (image.alternative is not None) == image.figures.is_flagged
    assert contents.images[0].figures.rotation_sigma_deg in (2.0, pytest.approx(0.3))
    assert contents.images[0].figures.pose_from == "matches"


def test_what_was_read_and_how_to_go_on(contents: Any):
    facts = " ".join(contents.facts)
    assert "7 images to train on, 2 held out" in facts and "Lens: intrinsics from" in facts
    assert [command.line.split()[0] for command in contents.commands][:2] == ["ns-viewer", "ns-render"]
    assert all(shlex.split(command.line).count("config.yml") == 1 for command in contents.commands)
    assert [curve.name for curve in contents.curves] == [
        "Loss",
        "PSNR of training images, in dB",
        "Share of the images that is explained, in %",
    ]


def test_nothing_is_said_of_where_on_this_machine_the_files_are(contents: Any, pipeline: Any, tmp_path: Path):
    run = tmp_path / "experiment" / "method" / "time"
    shown = report_contents(pipeline, run, "a run", max_rays=None)
    assert shown.commands_place == "the run’s folder, experiment/method/time"
    page = report_html(shown)
    data = Path(pipeline.config.datamanager.data)
    assert f"held out, from {data.name}" in page
    assert str(data.parent) not in page and str(tmp_path) not in page
    assert last_parts(Path(tmp_path.anchor), 3) == ()


def test_only_a_training_tells_what_it_runs_on(pipeline: Any, monkeypatch: pytest.MonkeyPatch):
    assert input_of(pipeline).has_gpu is (pipeline.device.type == "cuda")
    monkeypatch.setattr(pipeline, "test_mode", "inference")
    assert input_of(pipeline).has_gpu is None


def test_curves_are_as_they_were_kept():
    loss, psnr, explained = shown_curves(Curves([0, 10, 20], [1.0, 0.5, 0.2], [math.nan, 10.0, 30.0]), contrast=0.2)
    assert loss.values == [1.0, 0.5, 0.2] and loss.is_logarithmic
    assert list(psnr.values)[1:] == [10.0, 30.0]
    assert math.isnan(explained.values[0])
    assert list(explained.values)[1:] == pytest.approx([50.0, 99.5])
    assert shown_curves(Curves(), 0.2) == []
    (only,) = shown_curves(Curves([0], [-1.0], [math.nan]), None)
    assert only.name == "Loss" and not only.is_logarithmic


def test_padding_is_not_shown(pipeline: Any):
    from gnerf_ns.training.run_report import _picture

    pixels = torch.zeros(1, 20, 40, 3, dtype=torch.uint8)
    stack = ImageStack(pixels, torch.tensor([[0.5, 1.0]]))
    image_set = ImageSet(stack, CameraDirections(pipeline.datamanager.train_dataset.given_cameras[:1]))
    assert _picture(torch.zeros(1, 3, 10, 20), image_set, 0).shape == (10, 10, 3)


@pytest.mark.parametrize(
    ("count", "max_rays", "side"),
    [(100, None, RENDERING_SIDE), (100, 640_000, 80), (3, 640_000, RENDERING_SIDE), (10**6, 640_000, MIN_SIDE)],
)
def test_renderings_are_as_large_as_there_is_time_for(pipeline: Any, count: int, max_rays: Any, side: int):
    assert rendering_side(pipeline.scene.image_set, count, max_rays) == side


def test_far_points_are_left_out_and_cameras_are_not():
    generator = torch.Generator().manual_seed(0)
    points = torch.cat([torch.rand(95, 3, generator=generator) - 0.5, torch.full((5, 3), 90.0)])
    kept = near(points, torch.tensor([[0.0, 0.0, 3.0]]))
    assert kept[:95].all() and not kept[95:].any()
    assert near(points, torch.tensor([[0.0, 0.0, 200.0]])).all(), "between cameras, nothing is far"
    assert near(torch.zeros(0, 3), torch.zeros(1, 3)).shape == (0,)
