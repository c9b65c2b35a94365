import pytest
import roma
import torch
from analytic_scene import RADIUS, Blobs, model_of, photographs_of, random_poses
from torch import Tensor

from gnerf_ns.cameras.look_at import aim_beside
from gnerf_ns.cameras.pose_codec import PoseCodec
from gnerf_ns.cameras.pose_prior import PosePrior, PosePriorConfig
from gnerf_ns.localization.photographs import Photographs
from gnerf_ns.localization.pose_matcher import PoseMatcher
from gnerf_ns.localization.pose_search import PoseSearch, PoseSearchConfig
from gnerf_ns.models.gnerf import GNeRFModel


class Nothing(Blobs):
    """Empty space."""

    def density(self, positions: Tensor) -> Tensor:
        return 0.0 * super().density(positions)


def angles_deg(first: Tensor, second: Tensor) -> Tensor:
    return torch.rad2deg(roma.rotmat_geodesic_distance(first[:, :, :3], second[:, :, :3]))


def search_of(model: GNeRFModel, prior: PosePrior) -> PoseSearch:
    codec = PoseCodec("look_at" if prior.looks_at_origin else "free", RADIUS)
    return PoseSearch(PoseSearchConfig(bank_size=600), model, PoseMatcher(prior, RADIUS), codec)


@pytest.fixture(scope="module")
def model() -> GNeRFModel:
    return model_of(Blobs(num_samples=16))


@pytest.fixture(scope="module")
def photographs(model: GNeRFModel) -> Photographs:
    return photographs_of(model, random_poses(12, seed=3))


@pytest.fixture
def search(model: GNeRFModel) -> PoseSearch:
    torch.manual_seed(0)
    prior = PosePriorConfig(elevation_deg=(-60.0, 60.0)).resolve()
    return search_of(model, prior)


def test_best_poses_are_near_the_true_ones(search: PoseSearch, photographs: Photographs):
    poses, cost = search.best_poses(photographs)
    assert poses.shape == (12, 3, 4) and cost.shape == (12,)
    errors = angles_deg(poses, random_poses(12, seed=3))
    assert errors.max() < 20 and errors.median() < 8  # the spacing of the bank
    torch.testing.assert_close(poses[:, :, 3].norm(dim=-1), torch.full((12,), RADIUS))


def test_a_larger_bank_finds_lower_costs(search: PoseSearch, photographs: Photographs):
    search.config.bank_size = 20
    few = search.best_poses(photographs)[1]
    search.config.bank_size = 600
    assert search.best_poses(photographs)[1].mean() < 0.5 * few.mean()


def test_explained_share(search: PoseSearch, photographs: Photographs):
    truth = random_poses(12, seed=3)
    assert search.explained_share(photographs, truth) > 0.99
    assert search.explained_share(photographs, random_poses(12, seed=5)) < 0.5
    shown = search.model.radiance
    search.model.radiance = Nothing()
    share = search.explained_share(photographs, truth)
    search.model.radiance = shown
    assert share < 0


def test_only_misfits_are_moved(search: PoseSearch, photographs: Photographs):
    truth = random_poses(12, seed=3)
    current = truth.clone()
    current[[2, 7]] = random_poses(2, seed=4)
    moved, poses = search.better_poses(photographs, current, 32)
    assert sorted(moved.tolist()) == [2, 7]
    assert angles_deg(poses, truth[moved]).max() < 20


def test_what_shows_little_in_a_corner_is_a_misfit_too(model: GNeRFModel):
    """It costs less than the others where it is wrong, and few of the bank's poses come near."""
    torch.manual_seed(0)
    truth = random_poses(12, seed=3)
    aside = torch.tensor([[0.33, 0.33]])
    truth[:1] = aim_beside(truth[:1], aside)
    photographs = photographs_of(model, truth)
    search = search_of(model, PosePriorConfig(elevation_deg=(-60.0, 60.0), look_at_jitter=0.15).resolve())
    current = truth.clone()
    current[:1] = aim_beside(random_poses(1, seed=8), aside)
    assert angles_deg(current, truth)[0] > 40
    cost = search.cost_at(photographs, torch.arange(12), random_poses(12, seed=9))
    assert search.cost_at(photographs, torch.tensor([0]), current[:1]) < cost.median()
    moved, poses = search.better_poses(photographs, current, 32)
    # Random search alone leaves it eight degrees off.
    assert moved.tolist() == [0] and angles_deg(poses, truth[:1]).max() < 3


def test_a_strict_ratio_moves_nothing(search: PoseSearch, photographs: Photographs):
    search.config.required_cost_ratio = 0.0
    moved, poses = search.better_poses(photographs, random_poses(12, seed=4), 32)
    assert moved.shape == (0,) and poses.shape == (0, 3, 4)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_in_its_mode_and_gets_no_gradient(search: PoseSearch, photographs: Photographs, training):
    search.model.train(training)
    poses, cost = search.best_poses(photographs)
    assert search.model.training is training and not poses.requires_grad and not cost.requires_grad
    assert search.model.radiance.scale.grad is None


def test_random_backgrounds_do_not_mislead(model: GNeRFModel, photographs: Photographs):
    torch.manual_seed(0)
    plain = model_of(Blobs(num_samples=16), background_color="random")
    prior = PosePriorConfig(elevation_deg=(-60.0, 60.0)).resolve()
    poses, _ = PoseSearch(
        PoseSearchConfig(bank_size=600), plain, PoseMatcher(prior, RADIUS), PoseCodec("look_at", RADIUS)
    ).best_poses(photographs)
    assert angles_deg(poses, random_poses(12, seed=3)).median() < 10


def test_chunks_make_no_difference(search: PoseSearch, photographs: Photographs, monkeypatch):
    from gnerf_ns.localization import trained_field

    def costs() -> Tensor:
        torch.manual_seed(1)
        return search.best_poses(photographs)[1]

    search.config.bank_size = 50
    whole = costs()
    monkeypatch.setattr(trained_field, "RAYS_PER_CHUNK", 1000)
    torch.testing.assert_close(costs(), whole, atol=1e-6, rtol=1e-4)


def test_what_the_bank_offers_is_improved(search: PoseSearch, photographs: Photographs):
    truth = random_poses(12, seed=3)
    everyone = torch.arange(12)
    hypotheses = search.top_poses(photographs, 4)[0]
    poses = search.improve(photographs, everyone, hypotheses)[:, 0]
    before, after = angles_deg(hypotheses[:, 0], truth), angles_deg(poses, truth)
    assert after.median() < 0.6 * before.median()
    cost = search.cost_at(photographs, everyone, poses)
    assert bool((cost <= search.cost_at(photographs, everyone, hypotheses[:, 0])).all())


def test_photographs_aimed_beside_the_object_are_found(model: GNeRFModel):
    """Jitter, roll and distance are open as well: the shift is read off the picture, not met by chance."""
    torch.manual_seed(2)
    prior = PosePriorConfig(
        elevation_deg=(-60.0, 60.0), look_at_jitter=0.08, roll_deg=(-10.0, 10.0), radius=(0.95, 1.1)
    ).resolve()
    truth = prior.sample(12, RADIUS, "cpu")
    photographs = photographs_of(model, truth)
    search = search_of(model, prior)
    assert angles_deg(search.best_poses(photographs)[0], truth).median() < 15
    poses = search.improve(photographs, torch.arange(12), search.top_poses(photographs, 8)[0])[:, 0]
    assert angles_deg(poses, truth).median() < 8
    assert torch.linalg.vector_norm(poses[..., 3] - truth[..., 3], dim=-1).median() < 0.15 * RADIUS
