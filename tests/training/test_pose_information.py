"""What colors and matches tell of poses: against brute force, and nothing of what nobody can see."""

from typing import List

import pytest
import torch
from analytic_scene import RADIUS, Blobs, image_set_of, model_of, random_poses
from torch import Tensor

from gnerf_ns.cameras.pose_codec import PoseCodec
from gnerf_ns.cameras.pose_covariance import free_motions, joint_sigmas, moved
from gnerf_ns.cameras.projection import Projection
from gnerf_ns.cameras.rays import CameraDirections, sampson_errors
from gnerf_ns.data.image_set import ImageSet, ImageStack
from gnerf_ns.training import pose_information
from gnerf_ns.training.pose_information import color_information, match_information

COUNT = 10


def whole_scene_motions(poses: Tensor) -> Tensor:
    """Turns, shifts and a change of scale of everything, which no image shows."""
    rows = []
    for axis in torch.eye(3):
        rows.append(
            torch.cat([axis.expand(len(poses), 3), torch.linalg.cross(axis.expand(len(poses), 3), poses[..., 3])], -1)
        )
        rows.append(torch.cat([torch.zeros(len(poses), 3), axis.expand(len(poses), 3)], -1))
    rows.append(torch.cat([torch.zeros(len(poses), 3), poses[..., 3]], -1))
    return torch.stack(rows).flatten(1)


def matches_of(lenses: CameraDirections, poses: Tensor, count: int = 400, noise: float = 0.0) -> tuple[Tensor, Tensor]:
    """Random points that two cameras each see, in coordinates of their images."""
    random = torch.Generator().manual_seed(0)
    first = torch.randint(len(poses), (count,), generator=random)
    images = torch.stack([first, (first + torch.randint(1, len(poses), (count,), generator=random)) % len(poses)], 1)
    points = 0.5 * torch.randn(count, 3, generator=random)
    projection, coords = Projection(lenses, torch.device("cpu")), []
    for side in (0, 1):
        own = poses[images[:, side]]
        in_camera = (own[..., :3].mT @ (points - own[..., 3])[..., None])[..., 0]
        coords.append(projection(images[:, side], in_camera)[0])
    found = torch.stack(coords, dim=1)
    return images, found + noise * torch.randn(found.shape, generator=random)


@pytest.fixture(scope="module")
def poses() -> Tensor:
    return random_poses(COUNT)


@pytest.fixture(scope="module")
def image_set(poses: Tensor) -> ImageSet:
    return image_set_of(model_of(Blobs()), poses, 48, 48)


def test_matches_against_numeric_derivatives(poses: Tensor, image_set: ImageSet):
    lenses = image_set.directions
    images, coords = matches_of(lenses, poses, noise=0.002)
    information = match_information(lenses, images, coords, poses)

    directions = [lenses.at(images[:, side], coords[:, side : side + 1])[:, 0].double() for side in (0, 1)]

    def errors(motions: Tensor) -> Tensor:
        there = moved(poses.double(), motions.view(COUNT, 6))
        return sampson_errors(there[images[:, 0]], there[images[:, 1]], *directions).sqrt()

    here = errors(torch.zeros(6 * COUNT, dtype=torch.float64))
    step = 1e-7
    slopes = torch.stack([(errors(step * axis) - here) / step for axis in torch.eye(6 * COUNT).double()], dim=1)
    sigma = 1.5 * float(here.median())
    kept = (here < 5.0 * sigma).double()
    expected = slopes.mT @ (kept[:, None] * slopes) / sigma**2
    assert float((information - expected).abs().max()) < 1e-3 * float(expected.abs().max())


def test_matches_say_nothing_of_the_whole_scenes_place(poses: Tensor, image_set: ImageSet):
    information = match_information(image_set.directions, *matches_of(image_set.directions, poses, noise=0.002), poses)
    scene = whole_scene_motions(poses).double()
    told = torch.einsum("ki,ij,kj->k", scene, information, scene)
    others = torch.randn(7, 6 * COUNT, generator=torch.Generator().manual_seed(0)).double()
    # Where points miss each other by noise, moving all of them changes nothing, but each by rounding.
    assert float(told.max()) < 1e-3 * float(torch.einsum("ki,ij,kj->k", others, information, others).min())


def test_no_matches_tell_nothing(poses: Tensor, image_set: ImageSet):
    nobody, nowhere = torch.zeros(0, 2, dtype=torch.long), torch.zeros(0, 2, 2)
    assert not bool(match_information(image_set.directions, nobody, nowhere, poses).any())


def test_colors_say_little_of_the_whole_scenes_place_and_much_of_each_pose(poses: Tensor, image_set: ImageSet):
    information = color_information(model_of(Blobs()), image_set, poses)
    assert float((information - information.mT).abs().max()) < 1e-4 * float(information.abs().max())
    assert float(torch.linalg.eigvalsh(information).min()) > -1e-4 * float(information.abs().max())
    scene = whole_scene_motions(poses).double()
    told = torch.einsum("ki,ij,kj->k", scene, information, scene) / scene.square().sum(dim=1)
    single = information.diagonal().view(COUNT, 6).amin(dim=1)
    assert float(told.max()) < 0.1 * float(single.median())


def test_the_viewer_may_render_between_depth_maps_and_between_images(
    poses: Tensor, image_set: ImageSet, monkeypatch: pytest.MonkeyPatch
):
    given: List[None] = []
    monkeypatch.setattr(pose_information, "give_way", lambda: given.append(None))
    model = model_of(Blobs())
    model.config.eval_num_rays_per_chunk = 4000  # 10 depth maps of 40 x 40 rays
    color_information(model, image_set, poses)
    assert len(given) == 4 + COUNT


def test_what_no_other_camera_sees_is_not_known(poses: Tensor, image_set: ImageSet):
    """A camera that looks away, and one that nothing was painted for."""
    away = poses.clone()
    away[3, :, 0] *= -1.0
    away[3, :, 2] *= -1.0
    information = color_information(model_of(Blobs()), image_set, away)
    assert not bool(information[18:24].any())
    motions = free_motions(away, PoseCodec("free", RADIUS))
    sigmas = joint_sigmas(information, motions, away).rotation_deg
    others = torch.arange(COUNT) != 3
    assert float(sigmas[3]) > 20.0 and float(sigmas[others].max()) < 5.0


@pytest.mark.parametrize(("noise", "least"), [(60.0, 1.15), (250.0, 2.0)])
def test_noise_makes_poses_less_sure(poses: Tensor, image_set: ImageSet, noise: float, least: float):
    """Though its slopes are as steep as those of colors."""
    drawn = noise * torch.randn(image_set.images.pixels.shape, generator=torch.Generator().manual_seed(0))
    drawn[..., 3] = 0.0
    pixels = (image_set.images.pixels.float() + drawn).clamp(0, 255).round().byte()
    noisy = ImageSet(ImageStack(pixels), image_set.directions)
    motions, model = free_motions(poses, PoseCodec("free", RADIUS)), model_of(Blobs())
    clear, blurred = (
        joint_sigmas(color_information(model, images, poses), motions, poses).rotation_deg.median()
        for images in (image_set, noisy)
    )
    assert least < float(blurred / clear) < 15.0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shift", [0.0, 1e-3])
def test_two_copies_of_a_photo_are_no_trouble(seed: int, shift: float):
    """Points that only they see have no place that they could know."""
    torch.manual_seed(seed)
    poses = random_poses(6, seed=seed)
    twin = poses[2:3].clone()
    twin[..., 3] += shift * RADIUS
    both = torch.cat([poses, twin])
    model = model_of(Blobs())
    information = color_information(model, image_set_of(model, both, 48, 48), both)
    assert bool(information.isfinite().all())
    sigmas = joint_sigmas(information, free_motions(both, PoseCodec("free", RADIUS)), both)
    assert bool(sigmas.rotation_deg.isfinite().all()) and float(sigmas.rotation_deg.min()) > 0.0
