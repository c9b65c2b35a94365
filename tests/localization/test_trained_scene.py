import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchmetrics.image.lpip
from analytic_scene import random_poses
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.field_components.encodings import HashEncoding
from nerfstudio.models.nerfacto import NerfactoModel
from nerfstudio.models.vanilla_nerf import VanillaModelConfig
from nerfstudio.pipelines.base_pipeline import Pipeline
from torch import nn

from gnerf_ns.errors import InputError
from gnerf_ns.field_components.compiled_hash_encoding import CompiledHashEncoding
from gnerf_ns.localization.trained_scene import TrainedScene, use_compiled_hash_grids


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
    assert scene.fov_deg == pytest.approx(math.degrees(2 * math.atan(0.5 * float(camera.width[0] / camera.fx[0]))))
    assert scene.image_side == int(camera.width[0]) and scene.regress_poses is None
    assert torch.equal(scene.field.background_or_black, torch.ones(3))  # blender's pictures are laid over white


def test_there_and_back_between_the_frames(pipeline: Any):
    scene = TrainedScene.of(pipeline)
    poses = random_poses(5)
    there = scene.in_data_frame(poses)
    assert torch.allclose(scene.in_field_frame(there), poses, atol=1e-5)
    # As nerfstudio writes its own training cameras.
    expected = scene.dataparser_outputs.transform_poses_to_original_space(poses, "opengl")
    assert torch.allclose(there, expected) and not torch.allclose(there, poses, atol=0.1)


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


def test_a_datamanager_without_pictures_gets_one_sentence(pipeline: Any):
    pipeline.datamanager = SimpleNamespace()
    with pytest.raises(InputError, match="holds no training pictures"):
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
