"""The best other pose of an image."""

import math

import pytest
import roma
import torch
from analytic_scene import RADIUS, Blobs, image_set_of, model_of, random_poses
from nerfstudio.cameras.rays import RayBundle
from torch import Tensor

from gnerf_ns.cameras.pose_codec import PoseCodec, rotate_poses
from gnerf_ns.cameras.pose_covariance import MIN_TURN_DEG
from gnerf_ns.cameras.pose_prior import PosePriorConfig
from gnerf_ns.fields.radiance import RadianceAlongRays
from gnerf_ns.pose_search import alternatives
from gnerf_ns.pose_search.alternatives import find_alternatives
from gnerf_ns.pose_search.doubt import are_elsewhere
from gnerf_ns.pose_search.pose_search import PoseProposals, PoseSearch, PoseSearchConfig

TRUTH = random_poses(6, seed=3)


class SixFold(Blobs):
    """Looks the same after a sixth of a turn about the upright axis, but for its height."""

    def __init__(self) -> None:
        super().__init__(num_samples=24)
        angles = torch.arange(6) * math.pi / 3
        self.centers = torch.stack([0.5 * angles.cos(), 0.5 * angles.sin(), torch.zeros(6)], dim=1)
        self.radii = torch.full((6,), 0.2)

    def forward(self, ray_bundle: RayBundle) -> RadianceAlongRays:
        samples = self.sampler(ray_bundle)
        density = self.density(samples.frustums.get_positions())
        color = torch.tensor([0.8, 0.3, 0.2]).expand(*density.shape[:-1], 3)
        return RadianceAlongRays(samples, color, samples.get_weights(density))


def search_in(blobs: Blobs) -> PoseSearch:
    prior = PosePriorConfig(elevation_deg=(-60.0, 60.0)).resolve()
    proposals = PoseProposals(prior, lambda: RADIUS)
    return PoseSearch(PoseSearchConfig(bank_size=400), model_of(blobs), proposals, PoseCodec("look_at", RADIUS))


def errors_deg(poses: Tensor, truth: Tensor) -> Tensor:
    return torch.rad2deg(roma.rotmat_geodesic_distance(poses[:, :, :3], truth[:, :, :3]))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_it_is_the_true_pose_where_an_image_is_believed_to_be_elsewhere():
    search = search_in(Blobs(num_samples=24))
    images = image_set_of(search.model, TRUTH)
    believed = TRUTH.clone()
    quarter = roma.rotvec_to_rotmat(torch.tensor([0.0, 0.0, math.pi / 2]))
    believed[[1, 4]] = rotate_poses(quarter, TRUTH[[1, 4]])
    found, exists = find_alternatives(search, images, believed)
    assert bool(exists[[1, 4]].all())
    assert float(errors_deg(found, TRUTH)[[1, 4]].max()) < 8.0
    assert float(errors_deg(found, believed).min()) >= MIN_TURN_DEG
    here, there = (search.costs.relative(images, poses, 32) for poses in (believed, found))
    assert bool(((there < here) == torch.tensor([False, True, False, False, True, False])).all())


def test_where_a_scene_looks_the_same_after_a_turn_the_other_pose_fits_as_well():
    search = search_in(SixFold())
    images = image_set_of(search.model, TRUTH)
    found, exists = find_alternatives(search, images, TRUTH)
    here, there = (search.costs.relative(images, poses, 32) for poses in (TRUTH, found))
    others = search_in(Blobs(num_samples=24))
    clear = image_set_of(others.model, TRUTH)
    elsewhere = others.costs.relative(clear, find_alternatives(others, clear, TRUTH)[0], 32)
    assert bool(exists.all()) and bool(are_elsewhere(found, TRUTH).all())
    assert float((there - here).median()) < 0.25 * float(elsewhere.median())


def test_there_may_be_none(monkeypatch: pytest.MonkeyPatch):
    search = search_in(Blobs(num_samples=24))
    images = image_set_of(search.model, TRUTH)
    monkeypatch.setattr(
        search, "top_poses", lambda images, count: (TRUTH[:, None].expand(-1, 3, 3, 4), torch.ones(6, 3))
    )
    found, exists = find_alternatives(search, images, TRUTH)
    assert not bool(exists.any()) and found.shape == TRUTH.shape


def test_those_that_are_far_worse_are_no_alternatives(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(alternatives, "CLEAR_RATIO", 1.0)
    search = search_in(Blobs(num_samples=24))
    images = image_set_of(search.model, TRUTH)
    believed = TRUTH.clone()
    believed[2] = rotate_poses(roma.rotvec_to_rotmat(torch.tensor([0.0, 0.0, math.pi / 2])), TRUTH[2])
    assert find_alternatives(search, images, believed)[1].tolist() == [index == 2 for index in range(6)]
