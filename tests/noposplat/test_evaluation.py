"""Figures by class of overlap; poses by whatever finds them."""

import math

import pytest
import torch
from tiny_noposplat import example_of, poses_by_pnp, true_gaussians

from gnerf_ns.models.image_metrics import ImageMetrics
from gnerf_ns.noposplat.evaluation import SceneFigures, scene_figures, summary
from gnerf_ns.noposplat.view_sampling import stacked
from gnerf_ns.splats.gaussians import Gaussians


def batched(gaussians: Gaussians) -> Gaussians:
    return Gaussians(*(value[None] for value in vars(gaussians).values()))


def test_true_gaussians_give_the_true_poses():
    example = example_of(5)
    gaussians = batched(true_gaussians(example))
    figures = scene_figures(lambda *_: gaussians, stacked([example]), "large", ImageMetrics(), poses_by_pnp)
    assert figures.pose_error_deg is not None and figures.pose_error_deg < 0.5
    assert figures.overlap == "large" and figures.images["psnr"] > 15.0


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
