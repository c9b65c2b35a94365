"""The adversarial objective: what it renders for which network, and that it takes no padded images."""

from pathlib import Path

import pytest
import torch
from analytic_scene import TINY_RADIANCE
from tiny_run import build_pipeline, pipeline_config

from gnerf_ns.fields.hash_radiance import HashRadianceConfig
from gnerf_ns.models.gnerf import GNeRFModelConfig
from gnerf_ns.training.adversarial import AdversarialObjective, AdversarialObjectiveConfig
from gnerf_ns.utils.errors import InputError


def test_the_field_is_differentiated_at_patches_alone(tiny_scene: Path):
    """Images for the inversion network are most of the rays, and teach the field nothing."""
    pipeline = build_pipeline(pipeline_config(tiny_scene, "adversarial"))
    objective = pipeline.adversarial
    assert objective is not None
    plan = pipeline.schedule.at(0)
    request = objective.request(plan)
    config = objective.config
    assert len(request.ray_bundle) == config.num_patches * config.discriminator.patch_side**2
    losses = request.losses(pipeline.model.render(request.ray_bundle))
    field = list(pipeline.model.radiance.parameters())
    of_inversion = torch.autograd.grad(losses["inversion_loss"], field, allow_unused=True, retain_graph=True)
    assert all(gradient is None for gradient in of_inversion)
    of_generator = torch.autograd.grad(losses["generator_loss"], field, allow_unused=True)
    assert any(gradient is not None and gradient.any() for gradient in of_generator)


@pytest.mark.parametrize("background", ["white", "black", "random", "last_sample"])
def test_the_inversion_network_sees_images_and_renderings_over_the_same_color(tiny_scene: Path, background):
    model = GNeRFModelConfig(radiance=HashRadianceConfig(**TINY_RADIANCE), background_color=background)
    pipeline = build_pipeline(pipeline_config(tiny_scene, "adversarial", model=model))
    objective = pipeline.adversarial
    assert objective is not None
    pipeline.train()
    image_set = objective._images_for_inversion(pipeline.scene.image_set, torch.arange(2))
    renderings = objective._render_for_inversion(pipeline.cameras.poses("train")[:2])
    assert pipeline.model.training, "rendering them leaves the model as it was"
    assert image_set.shape == renderings.shape == (2, 3, 16, 16)
    corner = image_set[:, :, 0, 0]  # the object is in the middle
    torch.testing.assert_close(corner, pipeline.model.evaluation_background.expand(2, 3))
    if background != "last_sample":
        torch.testing.assert_close(renderings[:, :, 0, 0], corner)


def test_padded_images_are_refused(tiny_scene: Path):
    """A discriminator would learn to see the padding."""
    pipeline = build_pipeline(pipeline_config(tiny_scene, "transport"))
    stack = pipeline.scene.image_set.images
    stack.extents = torch.tensor([[1.0, 0.75]]).expand(len(stack), 2)
    with pytest.raises(InputError, match="were padded"):
        AdversarialObjective(AdversarialObjectiveConfig(), pipeline.scene)
