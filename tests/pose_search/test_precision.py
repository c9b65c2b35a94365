"""How sharply colors tell a pose: against what noise really does to poses, and where there is nothing to see."""

import math
from typing import List

import pytest
import torch
from analytic_scene import RADIUS, Blobs, Nothing, cameras, image_set_of, model_of, random_poses
from torch import Tensor

from gnerf_ns.cameras.pose_codec import PoseCodec
from gnerf_ns.cameras.pose_covariance import PRIOR_RAD, free_motions
from gnerf_ns.cameras.rays import CameraDirections
from gnerf_ns.data.image_set import ImageSet, ImageStack
from gnerf_ns.models.gnerf import GNeRFModel
from gnerf_ns.pose_search import precision
from gnerf_ns.pose_search.hypotheses import learned_as
from gnerf_ns.pose_search.image_renderer import ImageRenderer
from gnerf_ns.pose_search.precision import color_sigmas
from gnerf_ns.pose_search.refinement import LocalizationConfig, RefinementConfig, localize_images

COUNT = 4
CODEC = PoseCodec("free", RADIUS)


def noisy(image_set: ImageSet, noise: float, seed: int = 0) -> ImageSet:
    """With white noise in the colors over white, in units of 255."""
    pixels = image_set.images.pixels.float()
    alpha = pixels[..., 3:] / 255
    colors = alpha * pixels[..., :3] + (1 - alpha) * 255
    colors = colors + noise * torch.randn(colors.shape, generator=torch.Generator().manual_seed(seed))
    return ImageSet(ImageStack(colors.clamp(0, 255).round().byte()), image_set.directions)


def sigmas_of(model: GNeRFModel, image_set: ImageSet, poses: Tensor, codec: PoseCodec = CODEC) -> Tensor:
    return color_sigmas(ImageRenderer(model), image_set, poses, free_motions(poses, codec)).rotation_deg


def test_sigmas_are_about_the_errors_that_noise_makes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(precision, "PIXELS_EACH", 48 * 48)  # as refinement sees them
    model, poses = model_of(Blobs()), random_poses(COUNT)
    clear = image_set_of(model, poses, 48, 48)
    refinement = RefinementConfig(
        steps=60, rays_per_hypothesis=600, learning_rate=3e-3, final_learning_rate=1e-4, first_image_side=48
    )
    none = RefinementConfig(steps=0)
    config = LocalizationConfig(survivors=1, first=none, second=none, last=refinement, ray_selection="random")
    errors, sigmas = [], []
    torch.manual_seed(0)
    for seed in range(4):
        images = noisy(clear, 40.0, seed)
        found = localize_images(config, ImageRenderer(model), images, poses[:, None], learned_as(CODEC))
        there = torch.stack([each.camera_to_world for each in found])
        turned = (there[..., :3] @ poses[..., :3].mT).diagonal(dim1=-2, dim2=-1).sum(dim=-1)
        errors.append(torch.rad2deg(torch.acos((0.5 * (turned - 1.0)).clamp(-1.0, 1.0))))
        sigmas.append(sigmas_of(model, images, there))
    ratio = torch.stack(errors).square().mean().sqrt() / torch.stack(sigmas).square().mean().sqrt()
    assert 0.5 < float(ratio) < 1.6


def test_twice_the_noise_makes_twice_the_sigma():
    model, poses = model_of(Blobs()), random_poses(COUNT)
    clear = image_set_of(model, poses, 48, 48)
    less, more = (sigmas_of(model, noisy(clear, noise), poses).median() for noise in (15.0, 30.0))
    assert float(more / less) == pytest.approx(2.0, rel=0.25)


def test_the_viewer_may_render_between_images(monkeypatch: pytest.MonkeyPatch):
    given: List[None] = []
    monkeypatch.setattr(precision, "give_way", lambda: given.append(None))
    model, poses = model_of(Blobs()), random_poses(COUNT)
    sigmas_of(model, image_set_of(model, poses, 24, 24), poses)
    assert len(given) == COUNT


def test_positions_of_cameras_that_look_at_the_origin_are_surer():
    """Turning on the spot cannot stand for moving aside. Samples so close that they alone make no difference."""
    model, poses = model_of(Blobs(num_samples=256)), random_poses(COUNT)
    images = noisy(image_set_of(model, poses), 20.0)
    level, free = (
        color_sigmas(ImageRenderer(model), images, poses, free_motions(poses, PoseCodec(mode, RADIUS))).translation
        for mode in ("look_at", "free")
    )
    assert float(level.mean()) < float(free.mean())


@pytest.mark.parametrize("shown", [255, 90])
def test_an_image_of_one_color_tells_nothing(shown: int):
    """Whether the field shows it as it is or not."""
    poses = random_poses(COUNT)
    pixels = torch.full((COUNT, 32, 32, 3), shown, dtype=torch.uint8)
    images = ImageSet(ImageStack(pixels), CameraDirections(cameras(COUNT)))
    sigmas = sigmas_of(model_of(Nothing()), images, poses)
    torch.testing.assert_close(
        sigmas, torch.full((COUNT,), math.degrees(PRIOR_RAD) * math.sqrt(3.0)), rtol=1e-3, atol=0.0
    )


def test_of_an_image_without_a_pixel_that_counts_the_prior_is_left():
    """Its mask is empty, and what is behind is the field's own affair."""
    model, poses = model_of(Blobs(), background_color="last_sample"), random_poses(2)
    images = image_set_of(model_of(Blobs()), poses)
    images.images.pixels[1, ..., 3] = 0
    sigmas = sigmas_of(model, images, poses)
    assert float(sigmas[0]) < 5.0 and float(sigmas[1]) == pytest.approx(math.degrees(PRIOR_RAD) * math.sqrt(3.0))
