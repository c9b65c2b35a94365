"""Scenes made by seed: their rays meet what is there, their views agree with each other, and no two are the same."""

import cv2
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from gnerf_ns.data.images import ImageSize
from gnerf_ns.scenes import ray_kernels
from gnerf_ns.scenes.made_scenes import NUM_FRAMES, MadeScene, MadeScenes
from gnerf_ns.scenes.view_choice import ChosenViews
from gnerf_ns.scenes.view_sampling import make_example

KINDS = ["balls-and-boxes", "other-solids"]
SIZE = ImageSize(48, 40)

INSIDE = {
    "ball": lambda p: (p**2).sum(-1) <= 1,
    "box": lambda p: (np.abs(p) <= 1).all(-1),
    "cylinder": lambda p: ((p[..., :2] ** 2).sum(-1) <= 1) & (np.abs(p[..., 2]) <= 1),
    "octahedron": lambda p: np.abs(p).sum(-1) <= 1,
}


@pytest.mark.parametrize("shape", INSIDE)
@pytest.mark.parametrize("from_within", [False, True])
def test_depths_equal_those_of_small_steps_along_rays(shape: str, from_within: bool):
    axes = Rotation.from_rotvec([0.4, -0.8, 0.5]).as_matrix() * np.array([0.9, 0.5, 0.7])
    center = np.array([0.1, -0.2, 3.0])
    inverse = np.linalg.inv(axes)
    to_local = np.concatenate([inverse, -inverse @ center[:, None]], axis=1)[None]
    lens, depths = np.array([12.0, 13.0, 8.0, 6.5]), np.empty((14, 17))
    camera_to_world = np.eye(4)[:3]
    ray_kernels.draw_depths(
        camera_to_world,
        lens,
        np.array([ray_kernels.SHAPES.index(shape)]),
        np.array([from_within]),
        to_local,
        depths,
    )
    rows, columns = np.mgrid[:14, :17] + 0.5
    directions = np.stack([(columns - 8.0) / 12.0, (rows - 6.5) / 13.0, np.ones((14, 17))], axis=-1)
    steps = np.arange(1.0, 5.0, 1e-3)
    inside = INSIDE[shape]((directions[:, :, None] * steps[:, None] - center) @ inverse.T)
    hit = inside.any(axis=-1)
    first = inside.argmax(axis=-1)
    last = len(steps) - 1 - inside[..., ::-1].argmax(axis=-1)
    assert 10 < hit.sum() < 150
    expected = np.where(hit, steps[last if from_within else first], np.inf)
    long_enough = inside.sum(axis=-1) > 3  # a ray that grazes may fall between two steps
    np.testing.assert_allclose(depths[long_enough], expected[long_enough], atol=2e-3)
    assert np.isinf(depths[~hit]).mean() > 0.95


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_every_ray_meets_something_and_no_camera_is_inside_of_it(kind, seed: int):
    scene = MadeScene(seed, kind, SIZE)
    for frame in (0, NUM_FRAMES // 2, NUM_FRAMES - 1):
        depths = scene.depth(frame)
        assert bool((depths > 0.1).all()) and float(depths.max()) < 60.0
        assert float(depths.std()) > 0.1
    rotations = scene.cameras.camera_to_worlds[:, :, :3]
    torch.testing.assert_close(rotations.mT @ rotations, torch.eye(3).double().expand(NUM_FRAMES, 3, 3))
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(NUM_FRAMES).double())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flip", [False, True])
def test_points_have_the_same_color_in_both_views(kind, flip: bool):
    agreement = []
    for seed in range(6):
        scene = MadeScene(seed, kind, SIZE)
        views = ChosenViews((10, 16), (10,))
        example = make_example(scene, views, SIZE, flip)
        poses = scene.cameras.camera_to_worlds
        baseline = torch.linalg.vector_norm(poses[16, :, 3] - poses[10, :, 3])
        depths = [(scene.depth(frame) / baseline).float() for frame in views.context]
        depths = [depth.flip(-1) if flip else depth for depth in depths]
        rows, columns = torch.arange(SIZE.height) + 0.5, torch.arange(SIZE.width) + 0.5
        grid = torch.stack(torch.meshgrid(columns / SIZE.width, rows / SIZE.height, indexing="xy"), dim=-1)
        rays = torch.cat([grid, torch.ones(*grid.shape[:2], 1)], dim=-1) @ example.context.intrinsics[0].inverse().mT
        second = example.context.camera_to_worlds[1]
        points = ((rays * depths[0][..., None]) - second[:, 3]) @ second[:, :3]
        pixels = points @ example.context.intrinsics[1].mT
        coords = 2.0 * pixels[..., :2] / pixels[..., 2:] - 1.0
        there, depth_there = (
            torch.nn.functional.grid_sample(image[None], coords[None], mode=mode, align_corners=False)[0]
            for image, mode in ((example.context.images[1], "bilinear"), (depths[1][None], "nearest"))
        )
        seen = (coords.abs() < 0.95).all(dim=-1) & ((depth_there[0] / points[..., 2] - 1.0).abs() < 0.02)
        assert float(seen.float().mean()) > 0.3
        agreement.append(float((there - example.context.images[0]).abs().mean(dim=0)[seen].median()))
    assert max(agreement) < 0.04  # of 1; between points that have nothing to do with each other it is 0.2


@pytest.mark.parametrize("kind", KINDS)
def test_a_scene_follows_from_its_seed(kind):
    scenes = MadeScenes(range(3), kind, SIZE)
    images = [scenes.scene(key).image(5) for key in scenes.keys]
    again = [MadeScenes(range(3), kind, SIZE).scene(key).image(5) for key in scenes.keys]
    np.testing.assert_array_equal(images, again)
    assert all(np.abs(images[k].astype(float) - images[k - 1]).mean() > 10 for k in range(3))


def test_the_kinds_have_no_shape_and_no_texture_in_common():
    used = [
        {(name, value) for seed in range(30) for name in ("shapes", "textures") for value in shown(seed, kind, name)}
        for kind in KINDS
    ]
    assert not used[0] & used[1]
    assert len(used[0] | used[1]) == len(ray_kernels.SHAPES) + len(ray_kernels.TEXTURES)


def shown(seed: int, kind, name: str) -> list:
    return getattr(MadeScene(seed, kind, SIZE)._solids, name).tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_textured_lenses_differ_and_cameras_move(kind):
    scenes = [MadeScene(seed, kind, ImageSize(64, 64)) for seed in range(12)]
    sift = cv2.SIFT.create()
    keypoints = [len(sift.detect(cv2.cvtColor(scene.image(20), cv2.COLOR_RGB2GRAY), None)) for scene in scenes]
    assert np.median(keypoints) > 20
    focal = torch.stack([scene.cameras.intrinsics[0, 0, 0] for scene in scenes])
    assert float(focal.max() / focal.min()) > 1.3
    ends = [scene.cameras.camera_to_worlds[[0, -1], :, 3] for scene in scenes]
    paths = [float(torch.linalg.vector_norm(last - first)) for first, last in ends]
    assert min(paths) > 0.5 and max(paths) > 2.0 * min(paths)


def test_supersampling_is_the_mean_of_rays():
    scene = MadeScene(1, "balls-and-boxes", ImageSize(20, 16), samples_per_side=2)
    twice = MadeScene(1, "balls-and-boxes", ImageSize(40, 32), samples_per_side=1)
    expected = twice.image(7).astype(float).reshape(16, 2, 20, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(scene.image(7), expected, atol=1.1)
    torch.testing.assert_close(scene.cameras.intrinsics, twice.cameras.intrinsics)
