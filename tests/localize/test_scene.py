import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Set, Tuple, get_args

import numpy as np
import pytest
import torch
import torchmetrics.image.lpip
from analytic_scene import random_poses
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.field_components.encodings import HashEncoding
from nerfstudio.models.nerfacto import NerfactoModel
from nerfstudio.models.vanilla_nerf import VanillaModelConfig
from nerfstudio.pipelines.base_pipeline import Pipeline
from PIL import ExifTags, Image
from tiny_run import build_pipeline, pipeline_config
from torch import nn

from gnerf_ns.data.lens_sources import LensSource
from gnerf_ns.fields.hash_encoding import CompiledHashEncoding, use_compiled_hash_grids
from gnerf_ns.localize.scene import RunLens, TrainedScene
from gnerf_ns.utils.errors import InputError


class Loaded(Pipeline):
    """A loaded pipeline of some other method."""

    def __init__(self, model: Any, datamanager: Any) -> None:
        nn.Module.__init__(self)
        self._model, self.datamanager = model, datamanager


@pytest.fixture
def pipeline(tiny_scene, monkeypatch) -> Any:
    monkeypatch.setattr(
        torchmetrics.image.lpip, "LearnedPerceptualImagePatchSimilarity", lambda **options: nn.Identity()
    )
    outputs = BlenderDataParserConfig(data=tiny_scene, scale_factor=0.5).setup().get_dataparser_outputs("train")
    outputs.dataparser_transform = torch.cat([random_poses(1)[0, :, :3], torch.tensor([[1.0], [2.0], [3.0]])], dim=-1)
    outputs.dataparser_scale = 0.5
    config: Any = VanillaModelConfig(num_coarse_samples=4, num_importance_samples=4)
    model = config.setup(scene_box=SceneBox(torch.tensor([[-1.0] * 3, [1.0] * 3])), num_train_data=6)
    return Loaded(model, SimpleNamespace(train_dataparser_outputs=outputs, train_dataset=InputDataset(outputs)))


def test_a_scene_of_another_method(pipeline: Any):
    scene = TrainedScene.of(pipeline)
    outputs = pipeline.datamanager.train_dataparser_outputs
    assert len(scene.training) == len(outputs.image_filenames) == len(scene.camera_to_worlds)
    assert torch.equal(scene.camera_to_worlds, outputs.cameras.camera_to_worlds)
    camera = outputs.cameras
    assert scene.lens.fov_deg == pytest.approx(math.degrees(2 * math.atan(0.5 * float(camera.width[0] / camera.fx[0]))))
    assert scene.image_side == int(camera.width[0]) and scene.regress_poses is None
    assert torch.equal(scene.renderer.background_or_black, torch.ones(3))  # blender's images are laid over white


def test_the_field_of_view_is_that_of_whole_images(pipeline: Any, tmp_path: Path):
    """Although training images are compared without their borders, where their shapes differ a little."""
    outputs = pipeline.datamanager.train_dataparser_outputs
    widths = [42, 40] * 3
    files = [tmp_path / f"{index}.png" for index in range(len(widths))]
    for file, width in zip(files, widths, strict=True):
        Image.new("RGB", (width, 32)).save(file)
    sides = torch.tensor(widths, dtype=torch.float32)[:, None]
    outputs.image_filenames = files
    outputs.cameras = Cameras(random_poses(6), sides, sides, sides / 2, torch.full_like(sides, 16.0), sides.int(), 32)
    assert TrainedScene.of(pipeline).lens.fov_deg == pytest.approx(math.degrees(2 * math.atan(0.5)), rel=1e-5)


def test_the_frames_of_field_and_data(pipeline: Any):
    outputs, poses = pipeline.datamanager.train_dataparser_outputs, random_poses(5)
    there = TrainedScene.of(pipeline).world.to_data(poses)
    torch.testing.assert_close(there, outputs.transform_poses_to_original_space(poses, "opengl"), atol=1e-5, rtol=0)
    assert not torch.allclose(there, poses, atol=0.1)


def test_a_learned_focal_length_is_no_part_of_what_was_given(tiny_scene: Path):
    built = build_pipeline(pipeline_config(tiny_scene, focal_length="shared"))
    count = len(built.datamanager.train_dataset)
    built.cameras.assign(torch.arange(count), random_poses(count))
    built.publish_cameras()
    before = TrainedScene.of(built).lens
    built.cameras.focal_scales.logarithms.data.fill_(math.log(1.2))
    built.publish_cameras()
    after = TrainedScene.of(built).lens
    assert (before.focal_scale, after.focal_scale) == (1.0, pytest.approx(1.2))
    assert after.fov_deg == pytest.approx(before.fov_deg)
    # Training images are seen through the lens as it turned out to be.
    dataset = built.datamanager.train_dataset
    assert float(dataset.cameras.fx[0] / dataset.given_cameras.fx[0]) == pytest.approx(1.2)


@pytest.mark.parametrize(
    "started_from, corrected",
    [
        ("default", {"default"}),
        ("user", {"default"}),
        ("transforms.json", {"default"}),
        ("exif", {"default", "exif"}),
        (None, {"default"}),
    ],
)
def test_only_guesses_like_the_first_one_are_corrected(started_from: Any, corrected: Set[str]):
    lens = RunLens(40.0, started_from, focal_scale=1.2)
    sources: Tuple[LensSource, ...] = get_args(LensSource)
    assert {source for source in sources if lens.focal_scale_of(source) == 1.2} == corrected
    assert all(lens.focal_scale_of(source) == 1.0 for source in sources if source not in corrected)


def test_corrections_of_a_camera_optimizer_count(pipeline: Any):
    config: Any = CameraOptimizerConfig(mode="SO3xR3")
    optimizer = config.setup(num_cameras=len(pipeline.datamanager.train_dataset), device="cpu")
    optimizer.pose_adjustment.data[:, :3] = torch.tensor([0.1, 0.0, 0.0])
    pipeline.model.camera_optimizer = optimizer
    shifted = TrainedScene.of(pipeline).camera_to_worlds
    given = pipeline.datamanager.train_dataparser_outputs.cameras.camera_to_worlds
    assert torch.allclose(
        shifted[..., 3] - given[..., 3], torch.tensor([0.1, 0.0, 0.0]).expand(len(given), 3), atol=1e-6
    )
    assert torch.allclose(shifted[..., :3], given[..., :3], atol=1e-6)


def test_a_datamanager_without_images_gets_one_sentence(pipeline: Any):
    pipeline.datamanager = SimpleNamespace()
    with pytest.raises(InputError, match="holds no training images"):
        TrainedScene.of(pipeline)


def test_hash_grids_are_compiled_and_give_the_same():
    grid = HashEncoding(num_levels=3, min_res=4, max_res=16, log2_hashmap_size=8, implementation="torch")
    model = NerfactoModel.__new__(NerfactoModel)
    nn.Module.__init__(model)
    model.grid = grid
    positions = torch.rand(50, 3)
    before = grid(positions)
    use_compiled_hash_grids(model)
    assert isinstance(grid, CompiledHashEncoding) and torch.allclose(grid(positions), before, atol=1e-6)


@pytest.mark.parametrize("exif_focal_mm, source", [(35, "exif"), (None, "default")])
def test_a_run_tells_where_its_lens_is_known_from(tmp_path: Path, exif_focal_mm: Any, source: str):
    for index in range(8):
        exif = Image.Exif()
        if exif_focal_mm is not None:
            exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = exif_focal_mm
        noise = np.random.default_rng(index).integers(0, 255, (24, 24, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{index}.jpg", exif=exif)
    built = build_pipeline(pipeline_config(tmp_path))
    count = len(built.datamanager.train_dataset)
    built.cameras.assign(torch.arange(count), random_poses(count))
    built.publish_cameras()
    assert TrainedScene.of(built).lens.source == source
