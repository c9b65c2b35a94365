"""Training images of a dataparser, and localized ones beside them."""

import json
from pathlib import Path
from typing import Any, List

import numpy as np
import pytest
import torch
from analytic_scene import random_poses
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from PIL import ExifTags, Image

from gnerf_ns.data.dataparser import GROUND_TRUTH_KEY, UnposedDataParserConfig
from gnerf_ns.data.dataset import UnposedDataset
from gnerf_ns.data.grown_dataparser import GrownDataParserConfig
from gnerf_ns.data.orientation import ORIENTATIONS_KEY
from gnerf_ns.data.transforms_writer import FileFrames, write_transforms_json
from gnerf_ns.utils.errors import InputError

POSES = random_poses(2)


@pytest.fixture
def localized(tmp_path: Path) -> Path:
    """Two images with the poses `POSES`, as `gnerf-localize` writes them."""
    names: List[Path] = []
    for index in range(2):
        names.append(tmp_path / f"new_{index}.png")
        Image.fromarray(np.full((16, 16, 4), 40 * index, np.uint8)).save(names[-1])
    cameras = Cameras(POSES, fx=20.0, fy=21.0, cx=8.0, cy=8.0, width=16, height=16)
    path = tmp_path / "localized.json"
    write_transforms_json(path, {"localized": FileFrames(cameras, names)})
    return path


def test_added_images_follow_those_of_the_data_in_its_frame(tiny_scene: Path, localized: Path):
    base = BlenderDataParserConfig(scale_factor=0.5)
    outputs = GrownDataParserConfig(data=tiny_scene, base=base, localized=localized).setup().get_dataparser_outputs()
    before = BlenderDataParserConfig(data=tiny_scene, scale_factor=0.5).setup().get_dataparser_outputs("train")
    assert outputs.image_filenames[:-2] == before.image_filenames and len(outputs.cameras) == len(before.cameras) + 2
    assert [path.name for path in outputs.image_filenames[-2:]] == ["new_0.png", "new_1.png"]
    added: Any = outputs.cameras[-2:]
    torch.testing.assert_close(outputs.cameras.camera_to_worlds[:-2], before.cameras.camera_to_worlds)
    torch.testing.assert_close(added.camera_to_worlds[..., :3], POSES[..., :3])
    torch.testing.assert_close(added.camera_to_worlds[..., 3], 0.5 * POSES[..., 3])
    assert added.fx.flatten().tolist() == [20.0, 20.0] and added.fy.flatten().tolist() == [21.0, 21.0]
    assert outputs.dataparser_scale == 0.5


def test_held_out_images_stay_as_they_are(tiny_scene: Path, localized: Path):
    grown = GrownDataParserConfig(data=tiny_scene, base=BlenderDataParserConfig(), localized=localized).setup()
    before = BlenderDataParserConfig(data=tiny_scene).setup().get_dataparser_outputs("test")
    assert grown.get_dataparser_outputs("test").image_filenames == before.image_filenames


@pytest.mark.parametrize("base", [UnposedDataParserConfig(), BlenderDataParserConfig()])
def test_where_the_field_has_a_frame_of_its_own_the_truth_of_added_images_is_not_known(
    tiny_scene: Path, localized: Path, base: Any
):
    config = GrownDataParserConfig(data=tiny_scene, base=base, localized=localized, base_has_true_poses=False)
    truth = config.setup().get_dataparser_outputs().metadata[GROUND_TRUTH_KEY]
    assert bool(truth[:-2].isfinite().all()) and bool(truth[-2:].isnan().all()) and len(truth) == 9


def test_masks_of_some_only_get_one_sentence(tiny_scene: Path, localized: Path, tmp_path: Path):
    meta = json.loads(localized.read_text())
    mask = tmp_path / "mask.png"
    Image.fromarray(np.full((16, 16), 255, np.uint8)).save(mask)
    for frame in meta["frames"]:
        frame["mask_path"] = str(mask)
    localized.write_text(json.dumps(meta))
    with pytest.raises(InputError, match=r"training images or those of .*localized\.json have masks, but not both"):
        GrownDataParserConfig(
            data=tiny_scene, base=BlenderDataParserConfig(), localized=localized
        ).setup().get_dataparser_outputs("train")


def test_what_each_training_image_comes_with_and_added_ones_do_not_gets_one_sentence(
    tiny_scene: Path, localized: Path, monkeypatch: pytest.MonkeyPatch
):
    base = BlenderDataParserConfig()
    original = base._target._generate_dataparser_outputs

    def with_depth(self: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = original(self, *args, **kwargs)
        outputs.metadata["depth_filenames"] = [Path("depth.png")] * len(outputs.image_filenames)
        return outputs

    monkeypatch.setattr(base._target, "_generate_dataparser_outputs", with_depth)
    with pytest.raises(InputError, match=r"entry of depth_filenames, which those of .*localized\.json have not"):
        GrownDataParserConfig(data=tiny_scene, base=base, localized=localized).setup().get_dataparser_outputs("train")


@pytest.mark.parametrize("base_has_true_poses", [False, True])
def test_added_images_are_turned_as_the_run_reads_them(tiny_scene: Path, tmp_path: Path, base_has_true_poses: bool):
    """Other methods' datasets read pixels as they are stored, ours turn them upright."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(np.zeros((24, 16, 3), np.uint8)).save(tmp_path / "new.png", exif=exif)
    upright = Cameras(POSES[:1], fx=20.0, fy=21.0, cx=11.0, cy=9.0, width=24, height=16)
    path = tmp_path / "localized.json"
    write_transforms_json(path, {"localized": FileFrames(upright, [tmp_path / "new.png"])})
    config = GrownDataParserConfig(
        data=tiny_scene, base=BlenderDataParserConfig(), localized=path, base_has_true_poses=base_has_true_poses
    )
    outputs = config.setup().get_dataparser_outputs("train")
    added: Any = outputs.cameras[-1]
    right, up, backward = POSES[0, :, :3].T
    if base_has_true_poses:
        assert ORIENTATIONS_KEY not in outputs.metadata
        figures, axes = (21.0, 20.0, 9.0, 13.0, 16, 24), torch.stack([-up, right, backward], dim=-1)
    else:
        assert outputs.metadata[ORIENTATIONS_KEY] == {}
        figures, axes = (20.0, 21.0, 11.0, 9.0, 24, 16), POSES[0, :, :3]
    assert tuple(float(getattr(added, name)) for name in ("fx", "fy", "cx", "cy", "width", "height")) == figures
    torch.testing.assert_close(added.camera_to_worlds[:, :3], axes)
    # Either way, ours sees the same upright image with the same camera.
    dataset = UnposedDataset(outputs)
    assert (int(dataset.file_cameras.width[-1]), int(dataset.file_cameras.height[-1])) == (24, 16)
    torch.testing.assert_close(dataset.cameras.camera_to_worlds[-1, :, :3], POSES[0, :, :3])
