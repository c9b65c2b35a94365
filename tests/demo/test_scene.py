"""The demo's scene: readable by our parser and nerfstudio's, inside the unit sphere, different from every side."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gnerf_ns.cameras.look_at import look_at
from gnerf_ns.cameras.pose_prior import PosePriorConfig, object_filling_radius
from gnerf_ns.demo.ray_casting import stripes, value_noise
from gnerf_ns.demo.scene import CASTERS, ProceduralSceneConfig, render_procedural_scene

SMALL = ProceduralSceneConfig(num_train=6, num_test=2, image_side=32, samples_per_side=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scene")
    render_procedural_scene(folder, SMALL)
    return folder


def test_images_have_alpha_and_fill_the_frame(folder):
    paths = sorted((folder / "images").iterdir())
    assert len(paths) == 6 and len(list((folder / "held_out").iterdir())) == 2
    for path in paths:
        image = np.asarray(Image.open(path))
        assert image.shape == (32, 32, 4) and image.dtype == np.uint8
        assert 0.25 < (image[..., 3] > 127).mean() < 0.8
        border = np.concatenate([image[[0, -1], :, 3].ravel(), image[:, [0, -1], 3].ravel()])
        assert (border > 0).mean() < 0.06  # the object is not cut off


def test_the_same_configuration_gives_the_same_bytes_and_another_seed_others(folder, tmp_path):
    seen = []
    render_procedural_scene(tmp_path / "again", SMALL, on_image=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 8) for done in range(1, 9)]
    for path in sorted(folder.rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(folder)).read_bytes()
    render_procedural_scene(
        tmp_path / "other", ProceduralSceneConfig(num_train=1, num_test=0, image_side=32, samples_per_side=2, seed=1)
    )
    assert (tmp_path / "other/images/0000.png").read_bytes() != (folder / "images/0000.png").read_bytes()


def test_our_parser_sets_the_true_poses_aside(folder):
    from gnerf_ns.data.dataparser import GROUND_TRUTH_KEY, UnposedDataParserConfig

    parser = UnposedDataParserConfig(data=folder).setup()
    for split, file in (("train", "transforms_train.json"), ("test", "transforms_test.json")):
        outputs = parser.get_dataparser_outputs(split)
        frames = json.loads((folder / file).read_text())["frames"]
        assert [path.is_file() for path in outputs.image_filenames] == [True] * len(frames)
        truth = torch.tensor([frame["transform_matrix"] for frame in frames])[:, :3]
        torch.testing.assert_close(outputs.metadata[GROUND_TRUTH_KEY], truth)
        assert torch.equal(outputs.cameras.camera_to_worlds, outputs.cameras.camera_to_worlds[:1].expand_as(truth))
        focal = 16.0 / math.tan(math.radians(20.0))
        torch.testing.assert_close(outputs.cameras.fx, torch.full((len(frames), 1), focal))


def test_nerfstudios_blender_parser_reads_it(folder):
    from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig

    parser = BlenderDataParserConfig(data=folder).setup()
    for split, count in (("train", 6), ("val", 2), ("test", 2)):
        outputs = parser.get_dataparser_outputs(split)
        assert [path.is_file() for path in outputs.image_filenames] == [True] * count


def test_cameras_follow_the_prior(tmp_path):
    config = ProceduralSceneConfig(
        num_train=200,
        num_test=0,
        image_side=1,
        samples_per_side=1,
        cameras=PosePriorConfig(radius=(0.9, 1.2), roll_deg=(-20.0, 20.0), look_at_jitter=0.02),
    )
    render_procedural_scene(tmp_path, config)
    frames = json.loads((tmp_path / "transforms_train.json").read_text())["frames"]
    poses = torch.tensor([frame["transform_matrix"] for frame in frames])
    positions = poses[:, :3, 3]
    distance = torch.linalg.vector_norm(positions, dim=-1) / object_filling_radius(math.radians(40.0))
    assert distance.min() < 0.93 and distance.max() > 1.17 and distance.min() > 0.899 and distance.max() < 1.201
    # Uniform in solid angle: heights over the hemisphere are uniform.
    heights = positions[:, 2] / torch.linalg.vector_norm(positions, dim=-1)
    assert heights.min() >= 0.0 and abs(heights.mean() - 0.5) < 0.06
    unrolled = look_at(positions)
    assert (poses[:, :3, :3] - unrolled[..., :3]).abs().max() > 0.2


@pytest.mark.parametrize("subject", ["island", "chair"])
def test_the_scene_stands_in_the_unit_sphere_and_fills_it(subject: str):
    caster = CASTERS[subject]()
    assert all(part.mesh.is_watertight for part in caster.parts)
    # A sphere of radius cos(fov / 2) just touches the image's borders.
    assert 0.90 < caster.bounding_radius < math.cos(math.radians(20.0))


def test_left_and_right_of_the_chair_differ_by_the_cup_alone():
    caster = CASTERS["chair"]()
    images = []
    for side in (1.0, -1.0):
        pose = look_at(torch.tensor([1.6, 1.4 * side, 1.5], dtype=torch.float64)).numpy()
        rgba = caster.render(pose, math.radians(40.0), 64, 2) / 255.0
        images.append(rgba[..., :3] * rgba[..., 3:] + 1.0 - rgba[..., 3:])
    difference = np.abs(images[0] - images[1][:, ::-1]).max(axis=-1) > 0.1
    assert 0.002 < difference.mean() < 0.03


def test_no_two_sides_look_alike():
    caster = CASTERS["island"]()
    azimuths = torch.arange(12) * (2.0 * math.pi / 12)
    elevation = math.radians(30.0)
    positions = 2.75 * torch.stack(
        [
            math.cos(elevation) * azimuths.cos(),
            math.cos(elevation) * azimuths.sin(),
            math.sin(elevation) + 0 * azimuths,
        ],
        -1,
    )
    images = []
    for pose in look_at(positions.double()).numpy():
        rgba = caster.render(pose, math.radians(40.0), 16, 4) / 255.0
        images.append(rgba[..., :3] * rgba[..., 3:] + 1.0 - rgba[..., 3:])
    images = np.stack(images)
    for turn in range(1, 12):
        # Even the most alike two views so far apart differ by more than 0.1 (root mean square) at 16 x 16 pixels.
        difference = np.sqrt(((images - np.roll(images, turn, axis=0)) ** 2).mean(axis=(1, 2, 3)))
        assert difference.min() > 0.1, turn


def test_stripes_and_noise():
    assert stripes(np.array([0.0, 0.24, 0.26, 0.51]), 0.5).tolist() == [0.0, 0.0, 1.0, 0.0]
    points = np.random.default_rng(0).uniform(-5.0, 5.0, (2000, 3))
    noise = value_noise(points, 3.0)
    assert noise.min() >= 0.0 and noise.max() <= 1.0 and noise.std() > 0.1
    assert np.abs(value_noise(points + 1e-6, 3.0) - noise).max() < 1e-4  # continuous
