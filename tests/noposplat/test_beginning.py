"""How an untrained network begins."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_noposplat import build_pipeline, network_config, pipeline_config

from gnerf_ns.noposplat.beginning import FIRST_DEPTH, begin_before_the_camera, point_loss, squashed
from gnerf_ns.noposplat.gaussian_parameters import centers
from gnerf_ns.noposplat.network import NoPoSplatNetwork


@given(st.lists(st.floats(-50.0, 50.0), min_size=3, max_size=3))
def test_squashing_is_what_the_heads_undo(point):
    points = torch.tensor([point], dtype=torch.float64)
    torch.testing.assert_close(centers(squashed(points)), points, atol=1e-7, rtol=1e-7)


def test_the_point_loss_by_hand():
    points = torch.tensor([[[[[0.0, 0.0, math.e - 1.0]]], [[[math.e**2 - 1.0, 0.0, 0.0]]]]])
    means = torch.tensor([[[0.0, 0.0, math.e**3 - 1.0], [0.0, math.e**2 - 1.0, 0.0]]])
    # 3 against 1 along the same ray, and 2 against 2 at a right angle.
    assert float(point_loss(means, points)) == pytest.approx((2.0 + math.sqrt(8.0)) / 2.0)


def test_the_point_loss_has_gradients_where_it_is_least():
    points = torch.zeros(1, 2, 1, 2, 3)
    points[..., 2] = 2.0
    points[0, 0, 0, 0] = 0.0
    means = points.flatten(1, 3).clone().requires_grad_()
    point_loss(means, points).backward()
    assert means.grad is not None and bool(means.grad.isfinite().all())


def test_gaussians_begin_where_and_as_wide_as_they_are_to():
    torch.manual_seed(0)
    network = NoPoSplatNetwork(network_config())
    begin_before_the_camera(network)
    with torch.no_grad():
        for head in ("downstream_head1", "downstream_head2", "gaussian_param_head", "gaussian_param_head2"):
            network.get_submodule(f"{head}.dpt.head.4").get_parameter("weight").zero_()
        gaussians = network.eval()(torch.rand(1, 2, 3, 32, 32), torch.eye(3).expand(1, 2, 3, 3))
    means = torch.tensor([0.0, 0.0, FIRST_DEPTH]).expand_as(gaussians.means)
    torch.testing.assert_close(gaussians.means, means)
    torch.testing.assert_close(gaussians.scales, torch.full_like(gaussians.scales, FIRST_DEPTH / 32))
    quaternions = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand_as(gaussians.quaternions)
    torch.testing.assert_close(gaussians.quaternions, quaternions)
    assert gaussians.opacities.eq(0.5).all() and gaussians.harmonics.eq(0.0).all()


@pytest.mark.parametrize("begin", [False, True])
def test_only_then_do_images_have_gradients(begin: bool):
    """With random weights nearly all Gaussians are at the first camera, too near for any to be drawn."""
    pipeline = build_pipeline(pipeline_config(seed=1), begin)
    _, losses, _ = pipeline.get_train_loss_dict(0)
    (losses["rgb_loss"] + losses["perceptual_loss"]).backward()
    for name, group in pipeline.get_param_groups().items():
        moved = [parameter.grad is not None and bool(parameter.grad.any()) for parameter in group]
        assert sum(moved) / len(moved) > 0.8 if begin else not any(moved), name
