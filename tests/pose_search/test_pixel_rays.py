import pytest
import torch
from analytic_scene import Blobs, cameras, image_set_of, model_of, random_poses
from nerfstudio.cameras.cameras import Cameras

from gnerf_ns.cameras.rays import CameraDirections
from gnerf_ns.data.image_set import ImageSet, ImageStack
from gnerf_ns.pose_search import pixel_sampling
from gnerf_ns.pose_search.pixel_sampling import sample_pixel_rays


def labeled_images(count: int, width: int, height: int) -> ImageSet:
    """Images whose red is the column, green the row, blue the image's number."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack([columns, rows, torch.zeros_like(rows)], dim=-1).repeat(count, 1, 1, 1)
    pixels[..., 2] = torch.arange(count)[:, None, None]
    return ImageSet(ImageStack(pixels.byte()), CameraDirections(cameras(count, width, height)))


def test_each_ray_goes_through_the_pixel_whose_color_it_gets():
    count, width, height = 5, 12, 7
    image_set, poses = labeled_images(count, width, height), random_poses(count)
    rays, colors = sample_pixel_rays(image_set, poses, 400, image_side=width)
    column, row, image = (255 * colors).round().long().T
    assert rays.camera_indices is not None
    torch.testing.assert_close(rays.camera_indices[:, 0], image)
    truth: Cameras = cameras(count, width, height)
    truth.camera_to_worlds = poses
    expected = truth.generate_rays(camera_indices=image[:, None], coords=torch.stack([row, column], dim=-1) + 0.5)
    torch.testing.assert_close(rays.origins, expected.origins)
    torch.testing.assert_close(rays.directions, expected.directions)
    # Every image, row and column is drawn.
    assert len(image.unique()) == count and len(row.unique()) == height and len(column.unique()) == width


def test_shrunken_images_are_averages_seen_through_larger_pixels():
    image_set, poses = labeled_images(1, 12, 8), random_poses(1)
    rays, colors = sample_pixel_rays(image_set, poses, 200, image_side=6)
    column, row = (255 * colors[:, :2]).T  # the mean of two neighbors
    assert torch.allclose((column - 0.5) % 2, torch.zeros(200), atol=1e-4)
    truth = cameras(1, 12, 8)
    truth.camera_to_worlds = poses
    coords = torch.stack([row, column], dim=-1) + 0.5
    expected = truth.generate_rays(camera_indices=torch.zeros(200, 1).long(), coords=coords)
    torch.testing.assert_close(rays.directions, expected.directions)


def test_only_some_of_many_images_are_looked_at_in_one_step(monkeypatch):
    monkeypatch.setattr(pixel_sampling, "MAX_IMAGES_PER_BATCH", 4)
    image_set = labeled_images(30, 4, 4)
    seen = set()
    for _ in range(60):
        rays, colors = sample_pixel_rays(image_set, random_poses(30), 50, image_side=4)
        images = (255 * colors[:, 2]).round().long()
        assert rays.camera_indices is not None and torch.equal(rays.camera_indices[:, 0], images)
        assert len(images.unique()) <= 4
        seen.update(images.tolist())
    assert seen == set(range(30))


def test_rays_are_differentiable_in_the_poses():
    poses = random_poses(3).requires_grad_()
    rays, _ = sample_pixel_rays(labeled_images(3, 8, 8), poses, 64, image_side=8)
    (gradient,) = torch.autograd.grad(rays.origins.sum() + rays.directions[:, 0].sum(), poses)
    assert (gradient.abs().amax(dim=(1, 2)) > 0).all()


@pytest.mark.parametrize("side", [32, 16])
def test_at_the_true_poses_the_model_shows_the_images(side: int):
    torch.manual_seed(0)
    model = model_of(Blobs())
    poses = random_poses(3)
    image_set = image_set_of(model, poses)
    rays, colors = sample_pixel_rays(image_set, poses, 2000, side)
    model.eval().requires_grad_(False)
    error = float(model.get_photometric_loss(model.render(rays), colors))
    assert error < (1e-4 if side == 32 else 4e-3)
    wrong_rays, colors = sample_pixel_rays(image_set, random_poses(3, seed=9), 2000, side)
    assert float(model.get_photometric_loss(model.render(wrong_rays), colors)) > 0.02
