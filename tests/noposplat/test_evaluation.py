"""Figures by class of overlap; poses by whatever finds them."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from tiny_noposplat import example_of, true_gaussians

from gnerf_ns.models.image_metrics import ImageMetrics
from gnerf_ns.noposplat import evaluation
from gnerf_ns.noposplat.evaluation import (
    SceneFigures,
    aligned,
    poses_from_points,
    refined_poses,
    scene_figures,
    summary,
)
from gnerf_ns.noposplat.view_cameras import rendered
from gnerf_ns.scenes.view_sampling import stacked
from gnerf_ns.splats.gaussians import Gaussians
from gnerf_ns.splats.rendering import PinholeView


def batched(gaussians: Gaussians) -> Gaussians:
    return Gaussians(*(value[None] for value in vars(gaussians).values()))


def test_true_gaussians_give_the_true_poses():
    example = example_of(5)
    gaussians = batched(true_gaussians(example))
    figures = scene_figures(lambda *_: gaussians, stacked([example]), "large", ImageMetrics(), poses_from_points)
    assert figures.pose_error_deg is not None and figures.pose_error_deg < 0.5
    assert figures.overlap == "large" and figures.images["psnr"] > 15.0


def test_poses_are_refined_from_where_points_have_them(monkeypatch):
    example = example_of(5)
    gaussians, context = true_gaussians(example), example.context
    shift, images = torch.tensor([[0.0], [0.0], [0.5]]), []

    def backward(gaussians: Gaussians, image: torch.Tensor, view: PinholeView, steps: int) -> torch.Tensor:
        images.append(image)
        return torch.cat([view.world_to_camera[:, :3], view.world_to_camera[:, 3:] + shift], dim=1)

    monkeypatch.setattr(evaluation, "refined_pose", backward)
    before, after = poses_from_points(gaussians, context), refined_poses(gaussians, context)
    assert torch.equal(before[0], torch.eye(4)[:3]) and torch.equal(after[0], torch.eye(4)[:3])
    torch.testing.assert_close(after[1, :, 3:], before[1, :, 3:] - before[1, :, :3] @ shift)
    assert len(images) == 1 and torch.equal(images[0], context.images[1])
    nowhere = replace(gaussians, means=torch.ones_like(gaussians.means))  # all in one place
    assert bool(refined_poses(nowhere, context)[1].isnan().all())


def test_a_pose_that_is_not_found_counts_as_wrong():
    example = example_of(5)
    gaussians = batched(true_gaussians(example))
    none = torch.full((2, 3, 4), math.nan)
    figures = scene_figures(lambda *_: gaussians, stacked([example]), None, ImageMetrics(), lambda *_: none)
    assert figures.pose_error_deg == 180.0


def test_no_poses_are_sought_unless_asked_for():
    example = example_of(5)
    gaussians = batched(true_gaussians(example))
    figures = scene_figures(lambda *_: gaussians, stacked([example]), None, ImageMetrics())
    assert figures.pose_error_deg is None
    assert "pose_error_deg_median" not in summary([figures])


def test_the_summary_by_hand():
    found = summary(
        [
            SceneFigures("small", {"psnr": 10.0, "ssim": 0.2}, 4.0),
            SceneFigures("large", {"psnr": 20.0, "ssim": 0.4}, 30.0),
            SceneFigures(None, {"psnr": 30.0, "ssim": 0.6}, 8.0),
        ]
    )
    assert found["num_scenes"] == 3 and found["psnr"] == 20.0 and found["ssim"] == pytest.approx(0.4)
    assert found["psnr_small"] == 10.0 and found["ssim_large"] == 0.4 and "psnr_medium" not in found
    assert found["pose_error_deg_median"] == 8.0 and found["pose_error_deg_median_large"] == 30.0
    # Recall rises to 1/3 at 4 degrees and to 2/3 at 8, and is level from there.
    assert found["pose_auc_10deg"] == pytest.approx((4 / 6 + 4 * 0.5 + 2 * 2 / 3) / 10)
    assert found["pose_auc_20deg_large"] == 0.0


def test_targets_are_shown_from_where_they_look_most_alike():
    example = stacked([example_of(5)])
    gaussians = batched(true_gaussians(example_of(5)))
    off = replace(example, target=replace(example.target, camera_to_worlds=example.target.camera_to_worlds.clone()))
    off.target.camera_to_worlds[..., 0, 3] += 0.2
    figures = [
        scene_figures(lambda *_: gaussians, each, None, ImageMetrics(), show=show).images["psnr"]
        for each, show in ((example, rendered), (off, rendered), (off, partial(aligned, steps=60)))
    ]
    assert figures[1] < figures[0] - 0.5 and figures[2] > figures[0] - 0.3
