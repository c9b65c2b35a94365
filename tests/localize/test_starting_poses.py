import math

import pytest
import roma
import torch
from analytic_scene import RADIUS, Blobs, image_set_of, model_of, random_poses

from gnerf_ns.cameras.pose_codec import UpDirection
from gnerf_ns.data.image_set import ImageSet, ImageStack
from gnerf_ns.localize.localizer import best_candidates, best_of_bank, perturb_poses, retrieved_poses
from gnerf_ns.localize.scene import ViewingShell
from gnerf_ns.pose_search.image_renderer import ImageRenderer

MOVED = torch.tensor([3.0, -1.0, 2.0])


def moved_poses(count: int, seed: int = 0) -> torch.Tensor:
    poses = random_poses(count, seed, elevation_deg=(10.0, 50.0))
    return torch.cat([poses[..., :3], poses[..., 3:] + MOVED[:, None]], dim=-1)


def test_surroundings_are_what_the_cameras_stand_around():
    around = ViewingShell.of(moved_poses(40))
    assert torch.allclose(around.center, MOVED, atol=1e-3) and around.radius == pytest.approx(RADIUS, rel=1e-3)
    low, high = around.elevation_deg
    assert low + 0.1 >= 10.0 and high - 0.1 <= 50.0 and high - low > 30.0


def test_poses_all_around_keep_to_them():
    torch.manual_seed(0)
    poses = ViewingShell.of(moved_poses(40)).all_around(500)
    arms = poses[..., 3] - MOVED
    assert torch.allclose(arms.norm(dim=-1), torch.full((500,), RADIUS), rtol=1e-3)
    elevations = torch.rad2deg(torch.asin(arms[:, 2] / arms.norm(dim=-1)))
    assert elevations.min() > 9.5 and elevations.max() < 50.5
    # They look at the center.
    assert torch.allclose(-poses[..., 2], -arms / arms.norm(dim=-1, keepdim=True), atol=1e-3)


def test_what_is_up_may_lean():
    up = UpDirection()
    up.tilt.copy_(torch.tensor([0.4, -0.3]))
    level = random_poses(40, 0, elevation_deg=(10.0, 50.0))
    around = ViewingShell.of(up.from_z_up(level), up)
    low, high = around.elevation_deg
    assert low + 0.1 >= 10.0 and high - 0.1 <= 50.0 and high - low > 30.0
    torch.manual_seed(0)
    poses = up.to_z_up(around.all_around(500))
    elevations = torch.rad2deg(torch.asin(poses[:, 2, 3] / poses[..., 3].norm(dim=-1)))
    assert elevations.min() > 9.5 and elevations.max() < 50.5
    assert float(poses[:, 2, 0].abs().max()) < 1e-5


def test_disturbed_poses_stay_within_bounds():
    torch.manual_seed(0)
    poses = random_poses(3)
    around = perturb_poses(poses, torch.zeros(3), 200, rotation_deg=40.0, translation=0.1)
    assert around.shape == (3, 200, 3, 4) and torch.allclose(around[:, 0], poses, atol=1e-6)
    turns = torch.rad2deg(
        roma.rotmat_geodesic_distance(around[..., :3], poses[:, None, :, :3].expand_as(around[..., :3]))
    )
    assert 35.0 < float(turns.max()) <= 40.01
    # About the center: the distance from it changes by the shift only, along each axis a tenth at most.
    distances = around[..., 3].norm(dim=-1)
    assert float((distances - RADIUS).abs().max()) <= 0.1 * math.sqrt(3) * RADIUS + 1e-5


@pytest.fixture(scope="module")
def field() -> ImageRenderer:
    return ImageRenderer(model_of(Blobs(num_samples=16)))


def test_retrieval_finds_the_same_image_and_its_neighbors(field: ImageRenderer):
    poses = random_poses(30, seed=1)
    training = image_set_of(field.model, poses)  # type: ignore[arg-type]
    found = retrieved_poses(field, training[torch.tensor([7, 21])], training, poses, count=5)
    assert found.shape == (2, 5, 3, 4) and torch.equal(found[:, 0], poses[[7, 21]])
    assert retrieved_poses(field, training[torch.tensor([7])], training, poses, count=99).shape[1] == 30


def test_retrieval_does_not_stretch_images_of_another_shape(field: ImageRenderer):
    """Training images lie in the middle of a square canvas, as those of upright and wide ones together do."""
    poses = random_poses(30, seed=1)
    wide = image_set_of(field.model, poses, 32, 24)  # type: ignore[arg-type]
    pixels = torch.nn.functional.pad(wide.images.pixels, (0, 0, 0, 0, 4, 4))
    padded = ImageSet(ImageStack(pixels, torch.tensor([[1.0, 0.75]]).expand(30, 2)), wide.directions)
    some = torch.tensor([7, 21, 3])
    assert torch.equal(retrieved_poses(field, wide[some], padded, poses, count=1)[:, 0], poses[some])
    assert torch.equal(retrieved_poses(field, padded[some], wide, poses, count=1)[:, 0], poses[some])


def test_the_best_candidates_are_those_that_look_alike(field: ImageRenderer):
    truth = random_poses(4, seed=2)
    image_set = image_set_of(field.model, truth)  # type: ignore[arg-type]
    candidates = random_poses(4 * 20, seed=3).view(4, 20, 3, 4).clone()
    candidates[:, 13] = truth
    assert torch.equal(best_candidates(field, image_set, candidates, 3)[:, 0], truth)
    assert torch.equal(best_of_bank(field, image_set, candidates.flatten(0, 1), 3)[:, 0], truth)
