"""Global search: proposals from the prior, the bank's best poses, and local search around them."""

import math
from typing import Tuple

import pytest
import roma
import torch
from analytic_scene import RADIUS, Blobs, image_set_of, model_of, random_poses
from torch import Tensor

from gnerf_ns.cameras.pose_codec import PoseCodec
from gnerf_ns.cameras.pose_prior import PosePrior, PosePriorConfig
from gnerf_ns.data.image_set import ImageSet
from gnerf_ns.models.gnerf import GNeRFModel
from gnerf_ns.pose_search import image_renderer
from gnerf_ns.pose_search.image_matching import Matches, PlainMatching, ShiftTolerantMatching
from gnerf_ns.pose_search.pose_search import PoseProposals, PoseSearch, PoseSearchConfig

CPU = torch.device("cpu")
TRUTH = random_poses(12, seed=3)


# Proposals


def test_only_a_prior_with_jitter_needs_shifts() -> None:
    assert isinstance(PoseProposals(PosePriorConfig().resolve(), lambda: RADIUS).matching, PlainMatching)
    loose = PoseProposals(PosePriorConfig(look_at_jitter=0.1).resolve(), lambda: RADIUS)
    assert isinstance(loose.matching, ShiftTolerantMatching)
    # A tenth of the distance, where half the image's side sees 1 / RADIUS of it.
    assert math.isclose(loose.matching.shift_std, 0.1 * RADIUS)
    poses = loose.sample(50, CPU)
    straight_ahead = -(poses[..., :3].mT @ poses[..., 3:]).squeeze(-1)
    torch.testing.assert_close(straight_ahead[:, :2], torch.zeros(50, 2), atol=1e-5, rtol=0.0)


def test_images_show_the_origin_where_they_were_shifted_to() -> None:
    proposals = PoseProposals(PosePriorConfig(look_at_jitter=0.1).resolve(), lambda: RADIUS)
    bank = proposals.sample(6, CPU)
    shift = torch.rand(3, 6, 2) - 0.5
    columns = torch.tensor([[4, 0], [1, 1], [5, 2]])
    poses = proposals.matched_poses(bank, Matches(torch.zeros(3, 6), shift), columns)
    assert poses.shape == (3, 2, 3, 4)
    torch.testing.assert_close(poses[..., 3], bank[columns][..., 3])
    seen = -(poses[..., :3].mT @ poses[..., 3:]).squeeze(-1)
    in_half_sides = RADIUS * seen[..., :2] / -seen[..., 2:]
    expected = shift[torch.arange(3)[:, None], columns] * torch.tensor([1.0, -1.0])
    torch.testing.assert_close(in_half_sides, expected, atol=1e-5, rtol=1e-5)


def test_without_shifts_poses_are_the_renderings() -> None:
    proposals = PoseProposals(PosePriorConfig().resolve(), lambda: RADIUS)
    bank = proposals.sample(4, CPU)
    columns = torch.tensor([2, 2, 0])
    assert torch.equal(proposals.matched_poses(bank, Matches(torch.zeros(3, 4), None), columns), bank[columns])


# Search


def angles_deg(first: Tensor, second: Tensor) -> Tensor:
    return torch.rad2deg(roma.rotmat_geodesic_distance(first[:, :, :3], second[:, :, :3]))


def best_poses(search: PoseSearch, image_set: ImageSet) -> Tuple[Tensor, Tensor]:
    """The bank's best pose of each image, and its cost."""
    poses, costs = search.top_poses(image_set, 1)
    return poses[:, 0], costs[:, 0]


def search_of(model: GNeRFModel, prior: PosePrior) -> PoseSearch:
    codec = PoseCodec("look_at" if prior.looks_at_origin else "free", RADIUS)
    return PoseSearch(PoseSearchConfig(bank_size=600), model, PoseProposals(prior, lambda: RADIUS), codec)


@pytest.fixture(scope="module")
def model() -> GNeRFModel:
    return model_of(Blobs(num_samples=16))


@pytest.fixture(scope="module")
def image_set(model: GNeRFModel) -> ImageSet:
    return image_set_of(model, TRUTH)


@pytest.fixture
def search(model: GNeRFModel) -> PoseSearch:
    torch.manual_seed(0)
    prior = PosePriorConfig(elevation_deg=(-60.0, 60.0)).resolve()
    return search_of(model, prior)


def test_best_poses_are_near_the_true_ones(search: PoseSearch, image_set: ImageSet):
    poses, _ = best_poses(search, image_set)
    errors = angles_deg(poses, TRUTH)
    assert errors.max() < 20 and errors.median() < 8  # the spacing of the bank
    torch.testing.assert_close(poses[:, :, 3].norm(dim=-1), torch.full((12,), RADIUS))


def test_a_larger_bank_finds_lower_costs(search: PoseSearch, image_set: ImageSet):
    search.config.bank_size = 20
    few = best_poses(search, image_set)[1]
    search.config.bank_size = 600
    assert best_poses(search, image_set)[1].mean() < 0.5 * few.mean()


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_in_its_mode_and_gets_no_gradient(search: PoseSearch, image_set: ImageSet, training):
    search.model.train(training)
    poses, cost = best_poses(search, image_set)
    assert search.model.training is training and not poses.requires_grad and not cost.requires_grad
    assert search.model.radiance.scale.grad is None


def test_random_backgrounds_do_not_mislead(model: GNeRFModel, image_set: ImageSet):
    torch.manual_seed(0)
    plain = model_of(Blobs(num_samples=16), background_color="random")
    prior = PosePriorConfig(elevation_deg=(-60.0, 60.0)).resolve()
    poses, _ = best_poses(search_of(plain, prior), image_set)
    assert angles_deg(poses, TRUTH).median() < 10


def test_chunks_make_no_difference(search: PoseSearch, image_set: ImageSet, monkeypatch):
    def costs() -> Tensor:
        torch.manual_seed(1)
        return best_poses(search, image_set)[1]

    search.config.bank_size = 50
    whole = costs()
    monkeypatch.setattr(image_renderer, "RAYS_PER_CHUNK", 1000)
    torch.testing.assert_close(costs(), whole, atol=1e-6, rtol=1e-4)


def test_top_poses_are_the_best_of_the_whole_bank_in_order(search: PoseSearch, image_set: ImageSet):
    """The bank is rendered a hundred poses at a time."""
    torch.manual_seed(1)
    poses, costs = search.top_poses(image_set, 5, torch.tensor([7, 2]))
    assert poses.shape == (2, 5, 3, 4)
    assert torch.equal(costs, costs.sort(dim=1).values)
    rendered = search.costs.at(image_set, torch.tensor([7, 2]), poses[:, 0], search.config.image_side)
    torch.testing.assert_close(costs[:, 0], rendered, atol=1e-6, rtol=1e-3)
    torch.manual_seed(1)
    everyone, _ = search.top_poses(image_set, 5)
    assert torch.equal(everyone[[7, 2]], poses)


def test_a_smaller_bank_offers_fewer_poses(search: PoseSearch, image_set: ImageSet):
    size, smaller = search.config.bank_size, search.with_bank(0.1)
    count = math.ceil(0.1 * size)
    assert (smaller.config.bank_size, search.config.bank_size) == (count, size)
    torch.manual_seed(1)
    offered = smaller.top_poses(image_set, count)[0]
    assert offered.shape == (len(image_set), count, 3, 4)
    assert len(offered.flatten(0, 1).flatten(1).unique(dim=0)) == count


def test_images_stay_where_they_fit_best(search: PoseSearch, image_set: ImageSet):
    current = TRUTH.clone()
    current[[2, 7]] = random_poses(2, seed=4)
    chosen = torch.tensor([2, 5, 7, 9])
    better, poses = search.fitting_better(image_set, chosen, current[chosen])
    assert better.tolist() == [True, False, True, False]
    assert angles_deg(poses, TRUTH[[2, 7]]).max() < 8


def test_what_the_bank_offers_is_improved(search: PoseSearch, image_set: ImageSet):
    everyone = torch.arange(12)
    hypotheses = search.top_poses(image_set, 4)[0]
    poses = search.improve(image_set, everyone, hypotheses)[:, 0]
    before, after = angles_deg(hypotheses[:, 0], TRUTH), angles_deg(poses, TRUTH)
    assert after.median() < 0.6 * before.median()
    side = search.config.image_side
    cost = search.costs.at(image_set, everyone, poses, side)
    assert bool((cost <= search.costs.at(image_set, everyone, hypotheses[:, 0], side)).all())


def test_images_aimed_beside_the_object_are_found(model: GNeRFModel):
    """Jitter, roll and distance are open as well: the shift is read off the image, not met by chance."""
    torch.manual_seed(2)
    prior = PosePriorConfig(
        elevation_deg=(-60.0, 60.0), look_at_jitter=0.08, roll_deg=(-10.0, 10.0), radius=(0.95, 1.1)
    ).resolve()
    truth = prior.sample(36, RADIUS, "cpu")  # medians of twelve vary between 6 and 10 degrees
    image_set = image_set_of(model, truth)
    search = search_of(model, prior)
    assert angles_deg(best_poses(search, image_set)[0], truth).median() < 15
    poses = search.improve(image_set, torch.arange(36), search.top_poses(image_set, 8)[0])[:, 0]
    assert angles_deg(poses, truth).median() < 8
    assert torch.linalg.vector_norm(poses[..., 3] - truth[..., 3], dim=-1).median() < 0.15 * RADIUS
