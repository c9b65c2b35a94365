"""A group of images is placed as one, though most of them, looked up by themselves, are wrong."""

from dataclasses import replace
from typing import Type

import pytest
import roma
import torch
from analytic_scene import RADIUS, Blobs, ConstantFog, image_set_of, model_of, random_poses
from nerfstudio.cameras.rays import RayBundle

from gnerf_ns.cameras.alignment import Similarity, pose_errors
from gnerf_ns.cameras.pose_codec import PoseCodec
from gnerf_ns.cameras.pose_prior import PRESETS
from gnerf_ns.fields.radiance import RadianceAlongRays
from gnerf_ns.pose_search import rigid_groups
from gnerf_ns.pose_search.pose_search import PoseProposals, PoseSearch, PoseSearchConfig
from gnerf_ns.pose_search.rigid_groups import RigidMotions, place_group

ELSEWHERE = Similarity(torch.eye(3, dtype=torch.float64)[[1, 2, 0]], 0.3, torch.tensor([4.0, 1.0, 2.0]).double())


def search_in(radiance: Blobs) -> PoseSearch:
    prior = replace(PRESETS["blender"], elevation_deg=(-10.0, 10.0))
    model, codec = model_of(radiance), PoseCodec("free", RADIUS)
    return PoseSearch(PoseSearchConfig(bank_size=300), model, PoseProposals(prior, lambda: RADIUS), codec)


@pytest.fixture(autouse=True)
def small_bank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rigid_groups, "BANK_SIZE", 500)


@pytest.mark.parametrize("num_unseen", [0, 2])
def test_a_group_is_placed_by_those_that_the_field_explains(num_unseen: int):
    torch.manual_seed(0)
    truth, indices = random_poses(9, seed=1), torch.arange(4, 9)
    search = search_in(Blobs(num_samples=16))
    images = image_set_of(search.model, truth)
    # As what the field was never trained on: nothing that it shows explains these.
    images.images.pixels[4 : 4 + num_unseen, ..., :3] = 255 - images.images.pixels[4 : 4 + num_unseen, ..., :3]
    placed = place_group(search, images, indices, ELSEWHERE.apply(truth[indices].double()).float())
    together = pose_errors(torch.cat([truth[:4], placed.camera_to_worlds]), truth).summary()
    assert together["rotation_error_deg_max"] < 3.0 and together["translation_error_relative"] < 0.05
    assert placed.is_clear


class Twins(Blobs):
    """Two halves of the same, half a turn apart."""

    def forward(self, ray_bundle: RayBundle) -> RadianceAlongRays:
        samples = self.sampler(ray_bundle)
        positions = samples.frustums.get_positions()
        half = torch.where(positions[..., 1:2] < 0.0, -1.0, 1.0)
        positions = torch.cat([half * positions[..., :2], positions[..., 2:]], dim=-1)
        return RadianceAlongRays(
            samples, (0.5 + 0.5 * positions).clamp(0, 1), samples.get_weights(self.density(positions))
        )


@pytest.mark.parametrize("radiance", [ConstantFog, Twins])
def test_a_group_that_may_stand_elsewhere_is_not_clear(radiance: Type[Blobs]):
    torch.manual_seed(0)
    truth, search = random_poses(4, seed=1), search_in(radiance(num_samples=16))
    shown = Blobs(num_samples=16) if radiance is ConstantFog else radiance(num_samples=16)
    placed = place_group(search, image_set_of(model_of(shown), truth), torch.arange(4), truth)
    assert not placed.is_clear and placed.camera_to_worlds.isfinite().all()


def test_a_group_moves_as_one():
    poses = random_poses(5, seed=2)
    motions = RigidMotions(poses.expand(2, -1, -1, -1), torch.ones(2, 5, dtype=torch.bool))
    torch.testing.assert_close(motions(), poses.repeat(2, 1, 1))
    motions.tangents.data.copy_(0.3 * torch.randn(2, 7, generator=torch.Generator().manual_seed(0)))
    for moved in motions.moved().detach():
        errors = pose_errors(moved, poses)
        assert float(errors.rotation_deg.max()) < 1e-3 and float(errors.translation.max()) < 1e-4
        assert float(roma.rotmat_geodesic_distance(moved[0, :, :3], poses[0, :, :3])) > 0.1
