"""Raw folders of Polycam and Record3D: which images, which lens, and poses in nerfstudio's convention."""

import json
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np
import pytest
from PIL import Image

from gnerf_ns.data.dataparser import GROUND_TRUTH_KEY, LENS_SOURCE_KEY, UnposedDataParserConfig
from gnerf_ns.data.frames import read_all_frames, read_frames
from gnerf_ns.data.recordings import is_recording, recorded_frames
from gnerf_ns.data.transforms_json import Frame
from gnerf_ns.utils.errors import InputError


def rotation(index: int) -> np.ndarray:
    """About ARKit's upward axis, y."""
    angle = 0.3 * index
    return np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])


def write_images(folder: Path, names: List[str]) -> None:
    folder.mkdir(parents=True)
    for index, name in enumerate(names):
        pixels = np.random.default_rng(index).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)


def polycam_camera(index: int) -> Dict[str, Any]:
    pose = np.concatenate([rotation(index), [[1.0], [2.0], [3.0 + index]]], axis=1)
    entries = {f"t_{row}{column}": float(pose[row, column]) for row in range(3) for column in range(4)}
    return {**entries, "fx": 40.0, "fy": 41.0, "cx": 15.0, "cy": 12.5, "width": 32, "height": 24, "blur_score": 90.0}


@pytest.fixture
def polycam(tmp_path: Path) -> Path:
    """As exported: uncorrected images and cameras, depth, and files that are none of ours."""
    folder = tmp_path / "capture"
    names = [str(10 * index) for index in range(12)]  # time stamps; "100" is after "20"
    write_images(folder / "keyframes" / "images", [f"{name}.jpg" for name in names])
    write_images(folder / "keyframes" / "depth", [f"{name}.png" for name in names])
    (folder / "keyframes" / "cameras").mkdir()
    for index, name in enumerate(names):
        (folder / "keyframes" / "cameras" / f"{name}.json").write_text(json.dumps(polycam_camera(index)))
    (folder / "mesh_info.json").write_text("{}")
    Image.new("RGB", (64, 64)).save(folder / "thumbnail.jpg")
    return folder


@pytest.fixture
def record3d(tmp_path: Path) -> Path:
    folder = tmp_path / "EXR_RGBD"
    write_images(folder / "rgb", [f"{index}.jpg" for index in range(12)])
    write_images(folder / "depth", [f"{index}.png" for index in range(12)])
    half = [0.15 * index for index in range(12)]
    poses = [[0.0, np.sin(angle), 0.0, np.cos(angle), 1.0, 2.0, 3.0 + index] for index, angle in enumerate(half)]
    # Column by column: focal lengths of 40 and 41 pixels.
    meta = {"K": [40, 0, 0, 0, 41, 0, 15, 12.5, 1], "w": 32, "h": 24, "poses": poses, "fps": 60}
    (folder / "metadata.json").write_text(json.dumps(meta))
    return folder


def expected_pose(index: int) -> np.ndarray:
    """Rows z, x, y of ARKit's."""
    pose = np.concatenate([rotation(index), [[1.0], [2.0], [3.0 + index]]], axis=1)
    return pose[[2, 0, 1]]


def pose_of(frame: Frame) -> np.ndarray:
    assert frame.camera_to_world is not None
    return frame.camera_to_world


def test_polycam(polycam: Path, capsys: pytest.CaptureFixture[str]):
    frames = recorded_frames(polycam, limit=5)
    assert frames is not None and [frame.image.stem for frame in frames] == [str(10 * index) for index in range(12)]
    for index, frame in enumerate(frames):
        assert frame.image.parent == polycam / "keyframes" / "images"
        assert np.allclose(pose_of(frame), expected_pose(index))
        lens = {key: frame.values[key] for key in ("fl_x", "fl_y", "cx", "cy", "w", "h")}
        assert lens == {"fl_x": 40, "fl_y": 41, "cx": 15, "cy": 12.5, "w": 32, "h": 24}
    assert "with lenses and 12 rough poses (--pipeline.poses given begins with them)" in capsys.readouterr().out


def test_level_cameras_keep_their_upward_axis(polycam: Path):
    for frame in read_all_frames(polycam):
        assert np.allclose(pose_of(frame)[:, 1], [0, 0, 1])


def test_polycams_corrected_images_go_first(polycam: Path):
    keyframes = polycam / "keyframes"
    write_images(keyframes / "corrected_images", ["10.jpg", "20.jpg"])
    (keyframes / "corrected_cameras").mkdir()
    assert [frame.image.parent.name for frame in read_all_frames(polycam)] == ["images"] * 12, "no cameras of theirs"
    (keyframes / "corrected_cameras" / "10.json").write_text(json.dumps({**polycam_camera(1), "fx": 44.0}))
    frames = read_all_frames(polycam)
    assert [frame.image.parent.name for frame in frames] == ["corrected_images"] * 2
    assert frames[0].values["fl_x"] == 44.0
    assert frames[1].camera_to_world is None and "fl_x" not in frames[1].values


@pytest.mark.parametrize("given", ["capture", "capture/keyframes", "."])
def test_polycams_lens_and_poses_reach_the_parser(polycam: Path, tmp_path: Path, given: str):
    outputs = UnposedDataParserConfig(data=tmp_path / given).setup().get_dataparser_outputs("train")
    assert outputs.metadata[LENS_SOURCE_KEY] == "transforms.json"
    assert outputs.cameras.fx[:, 0].tolist() == [40.0] * 10 and outputs.cameras.cx[0, 0] == 15.0
    # The first and every eighth are held out; true poses are for evaluation, and for those who say "given".
    assert np.allclose(outputs.metadata[GROUND_TRUTH_KEY][0], expected_pose(1), atol=1e-6)
    assert not np.allclose(outputs.cameras.camera_to_worlds[0], expected_pose(1), atol=1e-3)


def test_cameras_without_poses(polycam: Path, capsys: pytest.CaptureFixture[str]):
    for file in (polycam / "keyframes" / "cameras").iterdir():
        camera = json.loads(file.read_text())
        file.write_text(json.dumps({key: value for key, value in camera.items() if not key.startswith("t_")}))
    assert all(frame.camera_to_world is None for frame in read_all_frames(polycam))
    assert "with lenses from" in capsys.readouterr().out


def test_record3d(record3d: Path):
    frames = recorded_frames(record3d, limit=60)
    assert frames is not None and [frame.image.name for frame in frames] == [f"{index}.jpg" for index in range(12)]
    for index, frame in enumerate(frames):
        assert np.allclose(pose_of(frame), expected_pose(index))
        assert (frame.values["fl_x"], frame.values["fl_y"], frame.values["w"], frame.values["h"]) == (40, 41, 32, 24)


@pytest.mark.parametrize(("limit", "taken"), [(1, [0]), (4, [0, 4, 7, 11]), (11, [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11])])
def test_record3ds_video_is_thinned_out(record3d: Path, limit: int, taken: List[int]):
    frames = recorded_frames(record3d, limit)
    assert frames is not None and [int(frame.image.stem) for frame in frames] == taken
    assert np.allclose(pose_of(frames[-1]), expected_pose(taken[-1])), "each keeps its pose"


def test_record3d_is_found_in_its_parent_folder(record3d: Path):
    (record3d / "metadata.json").rename(record3d / "metadata")
    train, held_out = read_frames(record3d.parent, eval_interval=8)
    assert (len(train), len(held_out)) == (10, 2)


def test_what_is_no_recording(tmp_path: Path, nerfstudio_folder: Path):
    assert not is_recording(tmp_path) and recorded_frames(nerfstudio_folder, 60) is None
    write_images(tmp_path / "images", ["a.png"])
    (tmp_path / "cameras").mkdir()
    (tmp_path / "cameras" / "b.json").write_text("{}")
    assert not is_recording(tmp_path), "cameras of other images"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (None, r"metadata\.json cannot be read \(.*\); restore it, or give the folder of images alone\.$"),
        ({"K": [1, 2]}, r"metadata\.json gives K that is not 9 finite numbers; correct it\.$"),
        ({"poses": [[0, 0, 0, 1, 0, 0]] * 12}, r"gives one of the poses that is not 7 finite numbers; correct it\.$"),
        ({"poses": [[0, 0, 0, 0, 0, 0, 0]] * 12}, r"gives rgb/0\.jpg a transform_matrix that .*; correct it\.$"),
        ({"poses": [[0, 0, 0, 1, 0, 0, 0]] * 9}, r"has 9 poses, but there are 12 images in .*rgb; restore"),
        ({"w": "wide"}, r"metadata\.json gives w = 'wide' for .*; it must be a finite number\.$"),
    ],
)
def test_spoiled_metadata(record3d: Path, change: Optional[Dict[str, Any]], sentence: str):
    file = record3d / "metadata.json"
    file.write_text("{" if change is None else json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(InputError, match=sentence):
        UnposedDataParserConfig(data=record3d).setup().get_dataparser_outputs("train")


def test_a_spoiled_camera(polycam: Path):
    file = polycam / "keyframes" / "cameras" / "30.json"
    file.write_text(json.dumps({**polycam_camera(3), "t_12": "north"}))
    with pytest.raises(InputError, match=r"30\.json gives t_00 to t_23 that is not 12 finite numbers; correct it\.$"):
        read_all_frames(polycam)
    file.write_text("[]")
    with pytest.raises(InputError, match=r"30\.json does not hold a dictionary; restore it"):
        read_all_frames(polycam)
