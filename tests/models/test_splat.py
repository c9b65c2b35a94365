import math

import pytest
import torch
from made_surface import pixel_gaussians, view_from
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.scene_box import OrientedBox

from gnerf_ns.data.dataparser import unit_scene_box
from gnerf_ns.models.splat import SplatModel, SplatModelConfig
from gnerf_ns.pose_search.image_renderer import ImageRenderer
from gnerf_ns.splats.axes import camera_to_worlds
from gnerf_ns.splats.rendering import render

VIEWS = [view_from((0, 0, 0), (0, 0, 0), 48, 32, 45.0), view_from((0.4, 0.1, -0.1), (2, -7, 3), 48, 32, 45.0)]


@pytest.fixture(scope="module")
def model() -> SplatModel:
    gaussians = pixel_gaussians(VIEWS)
    model = SplatModel(SplatModelConfig(num_gaussians=len(gaussians), num_harmonics=1), unit_scene_box(), 2)
    model.hold(gaussians)
    return model.eval()


def camera(**options) -> Cameras:
    """The second view's."""
    pose = camera_to_worlds(VIEWS[1].world_to_camera)[None]
    return Cameras(pose, 45.0, 45.0, 24.0, 16.0, 48, 32, **options)


def test_images_are_those_of_the_renderer(model: SplatModel):
    outputs = model.get_outputs_for_camera(camera())
    seen = render(model.gaussians, VIEWS[1], torch.zeros(3))
    # The pose has been to nerfstudio's axes and back, and Gaussians end at tiles.
    assert (outputs["rgb"] - seen.image.clamp(0, 1)).abs().mean() < 1e-5
    assert (outputs["accumulation"][..., 0] - seen.accumulation).abs().mean() < 1e-5


def test_rays_of_nerfstudios_cameras_see_the_same(model: SplatModel):
    outputs = model.get_outputs_for_camera(camera())
    bundle = camera().generate_rays(camera_indices=0, keep_shape=True)
    by_rays = model(bundle)
    for name, most in (("rgb", 2e-3), ("accumulation", 2e-3), ("depth", 0.01)):
        assert by_rays[name].shape == outputs[name].shape
        assert (by_rays[name] - outputs[name]).abs().mean() < most, name


def test_a_lens_that_distorts_is_drawn_ray_by_ray(model: SplatModel):
    straight = model.get_outputs_for_camera(camera())["rgb"]
    for options in (
        {"distortion_params": torch.tensor([[0.2, 0, 0, 0, 0, 0.0]])},
        {"camera_type": CameraType.FISHEYE},
    ):
        bent = model.get_outputs_for_camera(camera(**options))["rgb"]
        assert bent.shape == straight.shape
        middle = (slice(14, 18), slice(22, 26))
        assert (bent[middle] - straight[middle]).abs().max() < 0.06 < (bent - straight).abs().max()


def test_no_distortion_at_all_is_none(model: SplatModel):
    zeros = model.get_outputs_for_camera(camera(distortion_params=torch.zeros(1, 6)))["rgb"]
    assert torch.equal(zeros, model.get_outputs_for_camera(camera())["rgb"])


def test_a_box_cuts_the_scene(model: SplatModel):
    half = OrientedBox.from_params((-5.0, 0.0, 0.0), (0.0, 0.0, 0.0), (10.0, 20.0, 20.0))
    accumulation = model.get_outputs_for_camera(camera(), half)["accumulation"][..., 0]
    # The camera, at 0.4 and turned to the left by 7 degrees, sees what is left of 0 in the left half.
    assert accumulation[:, :8].min() > 0.5 and accumulation[:, -8:].max() == 0.0


def test_exported_points_are_those_of_the_scene(model: SplatModel):
    outputs = {"rgb": torch.tensor([[0.4, 0.2, 0.0], [0.0, 0.0, 0.0]]), "accumulation": torch.tensor([[0.5], [0.0]])}
    expected = torch.tensor([[0.8, 0.4, 0.0, 0.5], [0.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(model.get_rgba_image(outputs), expected)


def test_metrics_of_an_image(model: SplatModel):
    outputs = model.get_outputs_for_camera(camera())
    wrong = (outputs["rgb"] + 0.1 * (outputs["rgb"] < 0.5) - 0.1 * (outputs["rgb"] >= 0.5)).clamp(0, 1)
    metrics, images = model.get_image_metrics_and_images(outputs, {"image": wrong})
    assert metrics["psnr"] == pytest.approx(20.0, abs=0.3)
    assert images["img"].shape == (32, 144, 3) and images["depth"].shape == (32, 48, 3)


def test_poses_can_be_refined_in_it(model: SplatModel):
    bundle = camera().generate_rays(camera_indices=0)[:4, :4].flatten()
    ImageRenderer(model).check_gradients(bundle)
    assert model.get_param_groups() == {} and math.isfinite(float(model(bundle)["depth"].mean()))
