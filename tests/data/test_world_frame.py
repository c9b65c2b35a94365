"""Between the data's own frame and the field's, for every way in which a dataparser moves poses."""

import json
from pathlib import Path
from typing import Any, Dict

import numpy as np
import pytest
import torch
from analytic_scene import random_poses
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image

from gnerf_ns.data.grown_dataparser import GrownDataParserConfig, WorldFrame, world_frame_of

POSES = random_poses(8)
APPLIED = [[1.0, 0.0, 0.0, 0.5], [0.0, 0.0, 1.0, -2.0], [0.0, -1.0, 0.0, 0.25]]


def nerfstudio_folder(folder: Path, **entries: Any) -> Path:
    """As ns-process-data leaves it."""
    (folder / "images").mkdir(parents=True)
    frames = []
    for index, pose in enumerate(POSES):
        Image.fromarray(np.full((16, 16, 3), 20 * index, np.uint8)).save(folder / "images" / f"{index}.png")
        matrix = torch.cat([pose, torch.tensor([[0.0, 0.0, 0.0, 1.0]])]).tolist()
        frames.append({"file_path": f"images/{index}.png", "transform_matrix": matrix})
    meta: Dict[str, Any] = {"fl_x": 20.0, "fl_y": 20.0, "cx": 8.0, "cy": 8.0, "w": 16, "h": 16, "frames": frames}
    (folder / "transforms.json").write_text(json.dumps({**meta, **entries}))
    return folder


@pytest.mark.parametrize(
    "entries, has_colmap_files",
    [
        ({}, False),
        ({}, True),
        ({"applied_transform": APPLIED}, False),
        ({"applied_transform": APPLIED, "applied_scale": 3.0}, True),
    ],
)
@pytest.mark.parametrize("by_file", [False, True])
def test_training_images_have_their_poses_of_the_file(
    tmp_path: Path, entries: Dict[str, Any], has_colmap_files: bool, by_file: bool
):
    folder = nerfstudio_folder(tmp_path / "data", **entries)
    if has_colmap_files:
        (folder / "colmap/sparse/0").mkdir(parents=True)
    data = folder / "transforms.json" if by_file else folder
    parser: Any = NerfstudioDataParserConfig(data=data, eval_mode="all", scale_factor=0.7).setup()
    outputs = parser.get_dataparser_outputs("train")
    field_poses = outputs.cameras.camera_to_worlds
    assert not torch.allclose(field_poses, POSES, atol=0.1), "it moves and scales them"
    world = WorldFrame.of(parser, outputs)
    torch.testing.assert_close(world.to_data(field_poses), POSES, atol=1e-5, rtol=0)
    torch.testing.assert_close(world.to_field(POSES), field_poses, atol=1e-5, rtol=0)


def test_grown_data_has_the_frame_of_the_data_before(tmp_path: Path):
    folder = nerfstudio_folder(tmp_path / "data", applied_transform=APPLIED)
    parser: Any = NerfstudioDataParserConfig(data=folder, eval_mode="all").setup()
    outputs = parser.get_dataparser_outputs("train")
    once = GrownDataParserConfig(data=folder, base=parser.config)
    twice = GrownDataParserConfig(data=folder, base=once)
    for config in (once, twice):
        poses = world_frame_of(config.setup(), outputs).to_data(outputs.cameras.camera_to_worlds)
        torch.testing.assert_close(poses, POSES, atol=1e-5, rtol=0)


def test_other_dataparsers_are_taken_at_their_word(tiny_scene: Path):
    parser: Any = BlenderDataParserConfig(data=tiny_scene).setup()
    outputs: DataparserOutputs = parser.get_dataparser_outputs("train")
    outputs.dataparser_transform = torch.cat([POSES[3, :, :3], torch.tensor([[1.0], [2.0], [3.0]])], dim=-1)
    outputs.dataparser_scale = 0.5
    world = WorldFrame.of(parser, outputs)
    there = world.to_field(POSES)
    # As nerfstudio writes its own training cameras.
    torch.testing.assert_close(outputs.transform_poses_to_original_space(there, "opengl"), POSES, atol=1e-5, rtol=0)
    torch.testing.assert_close(world.to_data(there), POSES, atol=1e-5, rtol=0)


def test_a_frame_of_its_own_stays():
    assert torch.equal(WorldFrame.same().to_data(POSES), POSES) and torch.equal(
        WorldFrame.same().to_field(POSES), POSES
    )
