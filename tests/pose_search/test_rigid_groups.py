"""A group of images is placed as one, though most of them, looked up by themselves, are wrong."""

import pytest
import torch
from analytic_scene import Blobs, image_set_of, model_of, random_poses

from gnerf_ns.cameras.alignment import Similarity, pose_errors
from gnerf_ns.pose_search.costs import ImageCosts
from gnerf_ns.pose_search.image_renderer import ImageRenderer
from gnerf_ns.pose_search.rigid_groups import place_group

ELSEWHERE = Similarity(torch.eye(3, dtype=torch.float64)[[1, 2, 0]], 0.3, torch.tensor([4.0, 1.0, 2.0]).double())
COUNT = 8


@pytest.mark.parametrize("num_right", [2, 3, 8])
def test_two_right_ones_place_all(num_right: int):
    model, truth = model_of(Blobs()), random_poses(12, seed=1)
    images, indices = image_set_of(model, truth), torch.arange(4, 12)
    candidates = torch.stack([random_poses(COUNT, seed=seed) for seed in (7, 8)], dim=1)
    # Not exactly right either, and not always the first choice.
    right = torch.arange(num_right)
    candidates[right, right % 2] = truth[indices[right]]
    candidates[right, right % 2, :, 3] += 0.02 * torch.randn(num_right, 3, generator=torch.Generator().manual_seed(0))
    costs = ImageCosts(ImageRenderer(model), model.evaluation_background)
    relative = ELSEWHERE.apply(truth[indices].double()).float()
    placed = place_group(costs, images, indices, relative, candidates, image_side=24)
    assert placed is not None
    together = pose_errors(torch.cat([truth[:4], placed]), truth).summary()
    assert together["rotation_error_deg_max"] < 3.0 and together["translation_error_relative"] < 0.05


def test_a_group_that_nobody_agrees_on_is_not_placed():
    model, truth = model_of(Blobs()), random_poses(4, seed=1)
    costs = ImageCosts(ImageRenderer(model), model.evaluation_background)
    turned = truth.clone()
    turned[1, :, :3], turned[2, :, :3] = truth[1, :, [1, 2, 0]], truth[2, :, [2, 0, 1]]
    turned[3, :, :3] = truth[3, :, :3] * torch.tensor([-1.0, -1.0, 1.0])
    candidates = turned[:, None]
    assert place_group(costs, image_set_of(model, truth), torch.arange(4), truth, candidates, image_side=16) is None
