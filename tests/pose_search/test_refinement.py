"""Poses refined by gradient descent with the field frozen: they arrive, and the field is left as it was."""

from dataclasses import replace
from typing import List

import pytest
import roma
import torch
from analytic_scene import RADIUS, Blobs, cameras, image_set_of, model_of, random_poses
from torch import Tensor

from gnerf_ns.cameras.pose_codec import PoseCodec
from gnerf_ns.cameras.rays import CameraDirections
from gnerf_ns.data.dataset import scale_focal
from gnerf_ns.data.image_set import ImageSet, ImageStack
from gnerf_ns.models.gnerf import GNeRFModel
from gnerf_ns.pose_search import refinement
from gnerf_ns.pose_search.hypotheses import Hypotheses, increments_about, learned_as
from gnerf_ns.pose_search.image_renderer import ImageRenderer
from gnerf_ns.pose_search.pixel_sampling import PixelChoice
from gnerf_ns.pose_search.refinement import RefinementConfig, refine_poses, squared_errors

COUNT = 6


def errors_deg(poses: Tensor) -> Tensor:
    truth = random_poses(COUNT, seed=5)
    return torch.rad2deg(roma.rotmat_geodesic_distance(poses[:, :, :3], truth[:, :, :3])).detach()


@pytest.fixture(scope="module")
def model() -> GNeRFModel:
    return model_of(Blobs(num_samples=16))


@pytest.fixture(scope="module")
def image_set(model: GNeRFModel) -> ImageSet:
    return image_set_of(model, random_poses(COUNT, seed=5))


def perturb_poses(image_set: ImageSet, mode) -> Hypotheses:
    """Poses about 6 degrees off."""
    generator = torch.Generator().manual_seed(0)
    turns = roma.rotvec_to_rotmat(0.06 * torch.randn(COUNT, 3, generator=generator))
    poses = turns @ random_poses(COUNT, seed=5)
    make_poses = increments_about(torch.zeros(3)) if mode == "increments" else learned_as(PoseCodec(mode, RADIUS))
    return Hypotheses(image_set, torch.arange(COUNT), poses, make_poses)


def refine(config: RefinementConfig, model: GNeRFModel, hypotheses: Hypotheses, image_set: ImageSet, **options):
    field = ImageRenderer(model)
    refine_poses(config, field, PixelChoice(image_set, "random", field.background), hypotheses, **options)


CONFIG = RefinementConfig(steps=150, rays_per_hypothesis=80, learning_rate=1e-2, first_image_side=16)


@pytest.mark.parametrize("mode", ["look_at", "free", "increments"])
def test_poses_near_the_truth_reach_it(model: GNeRFModel, image_set: ImageSet, mode: str):
    torch.manual_seed(0)
    hypotheses = perturb_poses(image_set, mode)
    assert errors_deg(hypotheses.poses()).mean() > 3
    steps: List[int] = []
    refine(CONFIG, model, hypotheses, image_set, after_step=steps.append)
    after = errors_deg(hypotheses.poses())
    assert after.max() < 1.0 and after.median() < 0.25
    positions = hypotheses.poses()[:, :, 3].detach()
    assert (positions - random_poses(COUNT, seed=5)[:, :, 3]).norm(dim=-1).max() < 0.03 * RADIUS
    assert steps == list(range(CONFIG.steps))


def test_exposure_is_learned_where_that_is_asked_for(model: GNeRFModel, image_set: ImageSet):
    torch.manual_seed(0)
    pixels = image_set.images.pixels.clone()
    # Over white, a gain would make the background brighter than can be: the images are opaque here.
    model_over_black = model_of(Blobs(num_samples=16), background_color="black")
    pixels[..., :3] = (0.7 * pixels[..., :3].float() * pixels[..., 3:].float() / 255).round().byte()
    darker = ImageSet(ImageStack(pixels[..., :3].contiguous()), image_set.directions)
    hypotheses = perturb_poses(darker, "increments")
    refine(replace(CONFIG, steps=250, learn_exposure=True), model_over_black, hypotheses, darker)
    assert errors_deg(hypotheses.poses()).median() < 0.5
    assert hypotheses.log_gains.exp().detach().numpy() == pytest.approx(0.7, abs=0.02)


def test_focal_lengths_are_learned_where_that_is_asked_for(model: GNeRFModel, image_set: ImageSet):
    torch.manual_seed(0)
    longer = scale_focal(cameras(COUNT), torch.full((COUNT,), 1.1))
    wrong = ImageSet(image_set.images, CameraDirections(longer))
    hypotheses = Hypotheses(wrong, torch.arange(COUNT), random_poses(COUNT, seed=5), increments_about(torch.zeros(3)))
    refine(replace(CONFIG, steps=200, learn_focal_length=True), model, hypotheses, wrong)
    assert float(hypotheses.log_focal_scales.detach().exp().median()) == pytest.approx(1 / 1.1, abs=0.06)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(model: GNeRFModel, image_set: ImageSet, training: bool):
    model.train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    refine(RefinementConfig(steps=2), model, perturb_poses(image_set, "look_at"), image_set)
    assert model.training is training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.radiance.parameters())


def test_the_model_is_left_as_it_was_even_when_interrupted(model: GNeRFModel, image_set: ImageSet):
    model.train()

    def interrupt(step: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        refine(RefinementConfig(steps=2), model, perturb_poses(image_set, "look_at"), image_set, after_step=interrupt)
    assert model.training and all(parameter.requires_grad for parameter in model.radiance.parameters())


def test_the_viewer_may_render_while_hypotheses_are_compared(
    model: GNeRFModel, image_set: ImageSet, monkeypatch: pytest.MonkeyPatch
):
    given: List[None] = []
    monkeypatch.setattr(refinement, "give_way", lambda: given.append(None))
    monkeypatch.setattr(refinement, "RAYS_PER_CHUNK", 2 * 16 * 16)  # two images
    field = ImageRenderer(model)
    pixels = PixelChoice(image_set, "random", field.background)
    squared_errors(field, pixels, perturb_poses(image_set, "free"), 16)
    assert len(given) == COUNT // 2


def test_no_steps_change_nothing(model: GNeRFModel, image_set: ImageSet):
    hypotheses = perturb_poses(image_set, "look_at")
    before = hypotheses.poses().detach().clone()
    refine(RefinementConfig(steps=0), model, hypotheses, image_set)
    assert torch.equal(hypotheses.poses(), before)
