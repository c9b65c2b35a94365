"""Points of a ball whose surface is known."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from analytic_scene import Blobs, Nothing, directions_to, image_set_of, model_of, padded_squares, random_poses
from plyfile import PlyData

from gnerf_ns.data.image_set import ImageSet, ImageStack
from gnerf_ns.export.surface_points import SurfacePoints, surface_points
from gnerf_ns.models.gnerf import GNeRFModel

RADIUS, SIDE, SAMPLES = 0.5, 24, 256
POSES = random_poses(5)


class Ball(Blobs):
    """Opaque within `RADIUS`."""

    def density(self, positions: torch.Tensor) -> torch.Tensor:
        return 1e3 * self.scale * (positions.norm(dim=-1, keepdim=True) < RADIUS)


@pytest.fixture
def model() -> GNeRFModel:
    return model_of(Ball(SAMPLES))


@pytest.fixture
def images(model: GNeRFModel) -> ImageSet:
    return image_set_of(model, POSES, SIDE, SIDE)


def pixels_of(points: SurfacePoints, image_set: ImageSet) -> torch.Tensor:
    """Row and column where each point's own camera sees it, in pixels whose centers are at half-integers."""
    local = directions_to(POSES[points.image_indices], points.positions)
    focal = image_set.directions._focal[0]
    return SIDE / 2 + focal * torch.stack([-local[:, 1], local[:, 0]], dim=-1) / -local[:, 2:]


def test_points_lie_on_the_surface_where_their_pixels_see_it(model: GNeRFModel, images: ImageSet):
    model.train()
    points = surface_points(model, images, POSES)
    assert model.training
    shown = (images.images.pixels[..., 3] >= 128).sum()
    assert len(points) == shown, "each such pixel once, as there are few"
    torch.testing.assert_close(points.positions.norm(dim=-1), torch.full((int(shown),), RADIUS), atol=0.02, rtol=0)
    at = pixels_of(points, images)
    torch.testing.assert_close(at - 0.5, (at - 0.5).round(), atol=2e-3, rtol=0)
    row, column = at.floor().long().unbind(dim=-1)
    assert torch.equal(points.colors, images.images.pixels[points.image_indices, row, column, :3])
    again = surface_points(model, images, POSES)
    assert torch.equal(points.positions, again.positions)


def test_rays_past_the_surface_give_no_points(model: GNeRFModel, images: ImageSet):
    opaque = ImageSet(ImageStack(images.images.pixels[..., :3]), images.directions)
    points = surface_points(model, opaque, POSES)
    assert 0 < len(points) < 0.8 * opaque.images.pixels[..., 0].numel()
    assert float((points.positions.norm(dim=-1) - RADIUS).abs().max()) < 0.02
    assert len(surface_points(model_of(Nothing(8)), opaque, POSES)) == 0


def test_padding_gives_no_points(model: GNeRFModel, images: ImageSet):
    sizes = [(SIDE, 10), (8, SIDE), (SIDE, SIDE), (SIDE, SIDE), (SIDE, SIDE)]
    padded = ImageSet(padded_squares(images.images.pixels, sizes, "noise"), images.directions)
    at = pixels_of(points := surface_points(model, padded, POSES), padded)
    for index, limits in enumerate(sizes):
        offsets = (at[points.image_indices == index] - SIDE / 2).abs()
        assert len(offsets) > 0 and bool((offsets < 0.5 * torch.tensor(limits)).all())


@pytest.mark.parametrize("count", [0, 3])
def test_files_are_read_by_others(tmp_path: Path, count: int):
    positions = torch.randn(count, 3)
    colors = torch.randint(256, (count, 3), dtype=torch.uint8)
    SurfacePoints(positions, colors, torch.zeros(count, dtype=torch.long)).write(tmp_path / "points.ply")
    assert [path.name for path in tmp_path.iterdir()] == ["points.ply"]
    vertex: Any = PlyData.read(tmp_path / "points.ply")["vertex"]
    np.testing.assert_allclose(np.stack([vertex[axis] for axis in "xyz"], axis=1), positions.numpy(), rtol=1e-6)
    if count:
        assert np.array_equal(np.stack([vertex[name] for name in ("red", "green", "blue")], axis=1), colors.numpy())
