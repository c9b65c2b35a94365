import math

import analytic_scene
import pytest
import torch
from analytic_scene import Blobs, model_of, photographs_of
from nerfstudio.cameras.rays import RayBundle
from torch import Tensor, nn

from gnerf_ns.cameras.pose_codec import PoseCodec
from gnerf_ns.cameras.pose_prior import PosePriorConfig, object_filling_radius
from gnerf_ns.localization.ambiguity import Ambiguity, find_ambiguity
from gnerf_ns.localization.pose_matcher import PoseMatcher
from gnerf_ns.localization.pose_search import PoseSearch, PoseSearchConfig
from gnerf_ns.model_components.radiance import RadianceAlongRays


class SameFromBehind(Blobs):
    """Half a turn leaves it as it is."""

    def _balls(self, positions: Tensor) -> Tensor:
        side = torch.where(positions[..., 1:2] < 0, -1.0, 1.0)
        return super()._balls(positions * torch.cat([side, side, torch.ones_like(side)], dim=-1))

    def forward(self, ray_bundle: RayBundle) -> RadianceAlongRays:
        samples = self.sampler(ray_bundle)
        positions = samples.frustums.get_positions()
        balls = self._balls(positions) + 1e-6
        rgb = (balls @ self.colours) / balls.sum(-1, keepdim=True)
        return RadianceAlongRays(samples, rgb, samples.get_weights(self.density(positions)))


class Outlines(Blobs):
    """Its outline is all that is seen of it."""

    def __init__(self) -> None:
        super().__init__(num_samples=64)
        self.colours = torch.zeros(3, 3)


def ambiguity_of(radiance: nn.Module, elevation_deg=(-60.0, 60.0), taken_from=(20.0, 60.0)) -> Ambiguity:
    torch.manual_seed(0)
    model = model_of(radiance)
    prior = PosePriorConfig(elevation_deg=elevation_deg).resolve()
    radius = object_filling_radius(math.radians(analytic_scene.FOV_DEG))
    poses = PosePriorConfig(elevation_deg=taken_from).resolve().sample(16, radius, "cpu")
    search = PoseSearch(PoseSearchConfig(), model, PoseMatcher(prior, radius), PoseCodec("look_at", radius))
    return find_ambiguity(search, photographs_of(model, poses), poses, prior)


def test_a_scene_that_looks_different_from_everywhere_is_not_ambiguous():
    ambiguity = ambiguity_of(Blobs())
    assert ambiguity.examined == 16
    assert ambiguity.sentences == []


def test_an_object_that_is_the_same_from_behind():
    ambiguity = ambiguity_of(SameFromBehind())
    assert (ambiguity.twins, ambiguity.turn_deg) == (16, 180)
    (sentence,) = ambiguity.sentences
    assert "16 of 16" in sentence and "180°" in sentence


@pytest.fixture
def weak_perspective(monkeypatch):
    monkeypatch.setattr(analytic_scene, "FOV_DEG", 4.0)


def test_outlines_without_perspective_do_not_tell_the_mirror_image(weak_perspective):
    ambiguity = ambiguity_of(Outlines())
    assert ambiguity.mirror_twins == 16 and ambiguity.twins == 0
    (sentence,) = ambiguity.sentences
    assert "mirror image" in sentence


def test_the_prior_rules_the_mirror_image_out(weak_perspective):
    assert ambiguity_of(Outlines(), elevation_deg=(0.0, 90.0)).sentences == []


def test_colours_tell_the_mirror_image(weak_perspective):
    assert ambiguity_of(Blobs(num_samples=64)).mirror_twins < 8
