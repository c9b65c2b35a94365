import threading
import time
from typing import Any

import pytest
import torch
from analytic_scene import Blobs, cameras, model_of, random_poses
from nerfstudio.model_components.scene_colliders import AABBBoxCollider
from nerfstudio.models.base_model import Model
from torch import nn

from gnerf_ns.cameras.rays import CameraDirections, rays_from_poses
from gnerf_ns.data.dataparser import unit_scene_box
from gnerf_ns.data.patch_sampling import image_coords
from gnerf_ns.pose_search.image_renderer import ImageRenderer
from gnerf_ns.utils.errors import InputError
from gnerf_ns.utils.fair_lock import FairLock


def some_rays(count: int = 1):
    coords = image_coords(8, 8).view(1, -1, 2).expand(count, -1, -1)
    indices = torch.arange(count)
    return rays_from_poses(random_poses(count), CameraDirections(cameras(count)).at(indices, coords), indices)


class Other(Model):
    """A model of some other method."""

    def __init__(self, answer, background_color="white") -> None:
        nn.Module.__init__(self)
        self.device_indicator_param = nn.Parameter(torch.empty(0))
        self.answer, self.renderer_rgb = answer, nn.Module()
        self.renderer_rgb.background_color = background_color  # type: ignore[assignment]

    def forward(self, ray_bundle):
        return self.answer(ray_bundle)

    def get_outputs(self, ray_bundle):
        raise NotImplementedError

    def get_param_groups(self):
        return {}

    def get_image_metrics_and_images(self, outputs, batch):
        raise NotImplementedError


@pytest.mark.parametrize(
    "color, expected",
    [("white", 1.0), ("black", 0.0), ("random", 0.0), ("last_sample", None), (torch.tensor([0.5, 0.5, 0.5]), 0.5)],
)
def test_the_background_of_other_methods(color, expected):
    background: Any = ImageRenderer(Other(lambda rays: {}, color)).background
    assert background is None if expected is None else torch.equal(background, torch.full((3,), expected))


def test_what_images_were_laid_over_is_the_background_whatever_the_renderer_does():
    background: Any = ImageRenderer(Other(lambda rays: {}, "last_sample"), painted=torch.ones(3)).background
    assert torch.equal(background, torch.ones(3))
    assert torch.equal(ImageRenderer(Other(lambda rays: {}, "last_sample")).background_or_black, torch.zeros(3))


@pytest.mark.parametrize("color, expected", [("white", 1.0), ("black", 0.0), ("random", 0.0), ("last_sample", None)])
def test_our_own_background(color, expected):
    background: Any = ImageRenderer(model_of(background_color=color)).background
    assert background is None if expected is None else torch.equal(background, torch.full((3,), expected))


@pytest.mark.parametrize("name", ["rgb", "rgb_fine"])
def test_colors_of_other_methods(name: str):
    field = ImageRenderer(Other(lambda rays: {"rgb_coarse": None, name: rays.directions.abs()}))
    rays = some_rays()
    assert torch.equal(field.colors(rays), rays.directions.abs())


def test_a_field_with_gradients_passes():
    model = model_of(Blobs(num_samples=8))
    ImageRenderer(model).check_gradients(some_rays())
    assert all(parameter.requires_grad for parameter in model.radiance.parameters())


@pytest.mark.parametrize(
    "answer, words",
    [
        (lambda rays: {"rgb": rays.origins.detach()}, "do not change with the camera"),
        (lambda rays: {"rgb": 0.0 * rays.origins}, "do not change with the camera"),
        (lambda rays: {"depth": rays.origins}, "renders no single rays"),
        (lambda rays: rays.camera_to_worlds, "renders no single rays"),
    ],
)
def test_a_field_without_gets_one_sentence(answer, words: str):
    with pytest.raises(InputError, match=words) as caught:
        ImageRenderer(Other(answer)).check_gradients(some_rays())
    assert "Other" in str(caught.value) and "use gnerf-ns" in str(caught.value)


def test_where_rays_enter_a_box_is_no_gradient():
    """TensoRF's samples have no gradient but through its box, so that poses would stand still in it."""

    class Detached(Other):
        def forward(self, ray_bundle):
            return self.answer(ray_bundle if self.collider is None else self.collider(ray_bundle))

    model = Detached(lambda rays: {"rgb": (rays.origins + rays.nears * rays.directions).detach() * rays.nears})
    model.collider = AABBBoxCollider(unit_scene_box())  # type: ignore[assignment]
    with pytest.raises(InputError, match="do not change with the camera"):
        ImageRenderer(model).check_gradients(some_rays())
    assert isinstance(model.collider, AABBBoxCollider)


@pytest.mark.parametrize("training", [True, False])
def test_frozen_and_back(training: bool):
    model = model_of()
    model.train(training)
    field = ImageRenderer(model)
    with pytest.raises(KeyboardInterrupt), field.frozen():
        assert not model.training and not any(p.requires_grad for p in model.radiance.parameters())
        raise KeyboardInterrupt
    assert model.training is training and all(p.requires_grad for p in model.radiance.parameters())


@pytest.mark.parametrize("height, width", [(6, 8), (80, 120)])  # many to a chunk, and more than one
def test_whole_images_are_their_rays_in_order(height: int, width: int):
    model = model_of(Blobs(num_samples=8))
    model.eval()
    poses, directions = random_poses(3), CameraDirections(cameras(3, width, height))
    image_indices = torch.tensor([2, 0, 1])
    shown = ImageRenderer(model).render_images(poses, directions, image_indices, height, width)
    coords = image_coords(height, width).view(1, -1, 2).expand(3, -1, -1)
    with torch.no_grad():
        expected = model.render(rays_from_poses(poses, directions.at(image_indices, coords), image_indices))["rgb"]
    assert torch.allclose(shown.permute(0, 2, 3, 1).reshape(-1, 3), expected, atol=1e-6)
    longer = ImageRenderer(model).render_images(poses, directions, image_indices, height, width, torch.full((3,), 2.0))
    assert not torch.allclose(longer, shown, atol=1e-2)


def test_who_waits_for_the_lock_need_not_wait_for_all_images(monkeypatch: pytest.MonkeyPatch):
    """The viewer, while a step of training looks up many images."""
    monkeypatch.setattr("gnerf_ns.pose_search.image_renderer.RAYS_PER_CHUNK", 64)
    model, lock, chunks, chunks_then = model_of(Blobs()), FairLock(), [], []
    real = model.render
    monkeypatch.setattr(model, "render", lambda rays: (chunks.append(len(rays)), real(rays))[1])

    def look() -> None:
        with lock:
            chunks_then.append((len(chunks), model.training))

    with lock:
        viewer = threading.Thread(target=look, daemon=True)
        viewer.start()
        while not lock.is_awaited:
            time.sleep(0.001)
        indices = torch.arange(5)
        ImageRenderer(model).render_images(random_poses(5), CameraDirections(cameras(5)), indices, 8, 8)
    viewer.join(timeout=10)
    assert chunks_then == [(0, False)] and len(chunks) == 5
