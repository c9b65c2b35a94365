import math
from typing import Any, Tuple

import analytic_scene
import pytest
import torch
from analytic_scene import Blobs, ConstantFog, image_set_of, model_of
from nerfstudio.cameras.rays import RayBundle
from torch import Tensor, nn

from gnerf_ns.cameras.pose_codec import PoseCodec, UpDirection
from gnerf_ns.cameras.pose_prior import PosePriorConfig, object_filling_radius
from gnerf_ns.fields.radiance import RadianceAlongRays
from gnerf_ns.pose_search.pose_search import PoseProposals, PoseSearch, PoseSearchConfig
from gnerf_ns.training.ambiguity import Ambiguity, find_ambiguity


class SameFromBehind(Blobs):
    """Half a turn leaves it as it is."""

    def _balls(self, positions: Tensor) -> Tensor:
        side = torch.where(positions[..., 1:2] < 0, -1.0, 1.0)
        return super()._balls(positions * torch.cat([side, side, torch.ones_like(side)], dim=-1))

    def forward(self, ray_bundle: RayBundle) -> RadianceAlongRays:
        samples = self.sampler(ray_bundle)
        positions = samples.frustums.get_positions()
        balls = self._balls(positions) + 1e-6
        rgb = (balls @ self.colors) / balls.sum(-1, keepdim=True)
        return RadianceAlongRays(samples, rgb, samples.get_weights(self.density(positions)))


class Outlines(Blobs):
    """Its outline is all that is seen of it."""

    def __init__(self) -> None:
        super().__init__(num_samples=64)
        self.colors = torch.zeros(3, 3)


def ambiguity_of(
    radiance: nn.Module,
    elevation_deg=(-60.0, 60.0),
    shown: nn.Module | None = None,
    tilt: Tuple[float, float] = (0.0, 0.0),
    **taken: Any,
) -> Ambiguity:
    """Of images of one radiance, and renderings of the same or of another one."""
    torch.manual_seed(0)
    prior = PosePriorConfig(elevation_deg=elevation_deg, azimuth_deg=taken.get("azimuth_deg", (0.0, 360.0))).resolve()
    radius = object_filling_radius(math.radians(analytic_scene.FOV_DEG))
    up = UpDirection()
    up.tilt.copy_(torch.tensor(tilt))
    level = PosePriorConfig(**{"elevation_deg": (20.0, 60.0), **taken}).resolve().sample(16, radius, "cpu")
    poses = up.from_z_up(level)
    image_set = image_set_of(model_of(radiance), poses, 48, 48)
    codec = PoseCodec("look_at", radius, up)
    search = PoseSearch(PoseSearchConfig(), model_of(shown or radiance), PoseProposals(prior, lambda: radius), codec)
    return find_ambiguity(search, image_set, poses, prior)


def test_a_scene_that_looks_different_from_everywhere_is_not_ambiguous():
    ambiguity = ambiguity_of(Blobs())
    assert ambiguity.examined == 16
    assert ambiguity.sentences == []


def test_an_object_that_is_the_same_from_behind():
    ambiguity = ambiguity_of(SameFromBehind())
    assert (ambiguity.twins, ambiguity.turn_deg) == (16, 180)
    (sentence,) = ambiguity.sentences
    assert "16 of 16" in sentence and "180°" in sentence


def test_the_turn_is_about_what_is_up():
    """The object stands upright where the cameras lean: turned about their up, it is not the same."""
    assert ambiguity_of(SameFromBehind(), tilt=(0.35, 0.0)).sentences == []


def test_places_outside_the_prior_are_ruled_out():
    assert ambiguity_of(SameFromBehind(), azimuth_deg=(0.0, 150.0)).sentences == []


def test_a_field_that_shows_nothing_says_nothing():
    ambiguity = ambiguity_of(Blobs(), shown=ConstantFog())
    assert ambiguity.examined < 4 and ambiguity.sentences == []


@pytest.fixture
def weak_perspective(monkeypatch):
    monkeypatch.setattr(analytic_scene, "FOV_DEG", 4.0)


def test_outlines_without_perspective_do_not_tell_the_mirror_image(weak_perspective):
    ambiguity = ambiguity_of(Outlines())
    assert ambiguity.mirror_twins == 16 and ambiguity.twins == 0
    (sentence,) = ambiguity.sentences
    assert "mirror image" in sentence


def test_neither_do_they_where_cameras_are_rolled_and_aimed_elsewhere(weak_perspective):
    ambiguity = ambiguity_of(Outlines(), roll_deg=(-15.0, 15.0), look_at_jitter=0.05)
    assert ambiguity.mirror_twins >= 14


def test_the_prior_rules_the_mirror_image_out(weak_perspective):
    assert ambiguity_of(Outlines(), elevation_deg=(0.0, 90.0)).sentences == []


def test_colors_tell_the_mirror_image(weak_perspective):
    assert ambiguity_of(Blobs(num_samples=64)).mirror_twins < 8
