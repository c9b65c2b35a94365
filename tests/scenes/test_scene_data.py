"""Scenes from files made by hand: chunks of RealEstate10K's kind, and folders with transforms files."""

import io
import json
import math
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np
import pytest
import roma
import torch
from nerfstudio.cameras.camera_utils import radial_and_tangential_undistort
from PIL import Image

from gnerf_ns.data.images import ImageSize
from gnerf_ns.scenes import scene_data
from gnerf_ns.scenes.scene_data import ChunkFile, ChunkScene, FolderScene, UnusableScene, check_scene, find_scenes
from gnerf_ns.utils.errors import InputError

WIDTH, HEIGHT = 64, 36


@pytest.fixture(autouse=True)
def no_open_chunks() -> None:
    scene_data._chunks.clear()


def jpeg(red: float, size: Tuple[int, int] = (WIDTH, HEIGHT)) -> torch.Tensor:
    """A plain image as a chunk has it."""
    file = io.BytesIO()
    Image.new("RGB", size, (round(red), 100, 50)).save(file, "JPEG", quality=95)
    return torch.tensor(np.frombuffer(file.getvalue(), dtype=np.uint8))


def entry(key: str, count: int = 3, focal: float = 0.8) -> Dict[str, Any]:
    """A scene whose frame k is turned by k * 10 degrees about y and stands at (k, 2, -k)."""
    rows = []
    for k in range(count):
        rotation = roma.rotvec_to_rotmat(torch.tensor([0.0, math.radians(10.0 * k), 0.0]))
        position = torch.tensor([float(k), 2.0, -float(k)])
        world_to_camera = torch.cat([rotation.mT, -(rotation.mT @ position)[:, None]], dim=1)
        rows.append(torch.cat([torch.tensor([focal, 1.4, 0.5, 0.45, 0.0, 0.0]), world_to_camera.flatten()]))
    images = [jpeg(60 * k) for k in range(count)]
    return {"key": key, "url": "", "timestamps": torch.arange(count), "cameras": torch.stack(rows), "images": images}


def write_chunks(folder: Path, chunks: Dict[str, List[Dict[str, Any]]]) -> None:
    folder.mkdir(parents=True)
    for name, entries in chunks.items():
        torch.save(entries, folder / name)
    index = {each["key"]: name for name, entries in chunks.items() for each in entries}
    (folder / "index.json").write_text(json.dumps(index))


def write_scene(folder: Path, count: int = 3, size: Tuple[int, int] = (WIDTH, HEIGHT), **shared: Any) -> Path:
    """A folder in nerfstudio's layout; frame k looks along -z from (k, 0, 0)."""
    folder.mkdir(parents=True)
    frames = []
    for k in range(count):
        Image.new("RGB", size, (60 * k, 100, 50)).save(folder / f"{k}.png")
        pose = np.eye(4)
        pose[0, 3] = k
        frames.append({"file_path": f"{k}.png", "transform_matrix": pose.tolist()})
    lens = {"fl_x": 50.0, "fl_y": 51.0, "cx": 30.0, "cy": 20.0, "w": size[0], "h": size[1]}
    (folder / "transforms.json").write_text(json.dumps({**lens, **shared, "frames": frames}))
    return folder


# Chunks


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("re10k/train", "re10k"),
        ("DL3DV-960/train", "dl3dv"),
        ("mixRe10kDl3dv/RealEstate10K/train", "re10k"),
        ("mixRe10kDl3dv/dl3dv/train", "dl3dv"),
        ("of-dl3dv-and-more/acid/test", "re10k"),
        ("mixRe10kDl3dv/train", "re10k"),
        ("data/train", "re10k"),
    ],
)
def test_the_nearest_name_tells_how_far_apart_frames_are(folder: str, kind: str):
    assert ChunkFile(Path("/") / folder / "000000.torch", ["a"]).kind == kind


def test_cameras_and_images_of_a_chunk(tmp_path: Path):
    write_chunks(tmp_path / "train", {"000000.torch": [entry("a"), entry("b", 5)], "000001.torch": [entry("c")]})
    first, second = find_scenes(tmp_path, "train")
    assert (first.keys, second.keys) == (["a", "b"], ["c"]) and first.kind == "re10k"
    scene = first.scene("b")
    intrinsics, camera_to_worlds = scene.cameras
    assert intrinsics.shape == (5, 3, 3) and camera_to_worlds.dtype == torch.float64
    torch.testing.assert_close(intrinsics[3], torch.tensor([[0.8, 0.0, 0.5], [0.0, 1.4, 0.45], [0.0, 0.0, 1.0]]))
    angle = math.radians(30.0)
    expected = [
        [math.cos(angle), 0.0, math.sin(angle), 3.0],
        [0.0, 1.0, 0.0, 2.0],
        [-math.sin(angle), 0.0, math.cos(angle), -3.0],
    ]
    torch.testing.assert_close(camera_to_worlds[3], torch.tensor(expected).double(), atol=1e-6, rtol=0)
    assert scene.size == ImageSize(WIDTH, HEIGHT)
    np.testing.assert_allclose(scene.image(2)[5, 7], [120, 100, 50], atol=3)


def test_nothing_is_read_before_a_scene_is_asked_for_and_no_file_twice(tmp_path: Path, monkeypatch):
    write_chunks(tmp_path / "train", {"000000.torch": [entry("a"), entry("b")], "000001.torch": [entry("c")]})
    opened, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda path, **options: opened.append(path.name) or load(path, **options))
    groups = find_scenes(tmp_path, "train")
    assert opened == []
    for key in ("a", "b", "a"):
        groups[0].scene(key)
    assert opened == ["000000.torch"]
    monkeypatch.setattr(scene_data, "_OPEN_CHUNKS", 1)
    groups[1].scene("c")
    groups[0].scene("a")
    assert opened == ["000000.torch", "000001.torch", "000000.torch"]


def test_a_file_of_an_old_torch_that_cannot_be_mapped(tmp_path: Path):
    write_chunks(tmp_path / "train", {"000000.torch": [entry("a")]})
    torch.save([entry("a")], tmp_path / "train" / "000000.torch", _use_new_zipfile_serialization=False)
    assert len(find_scenes(tmp_path, "train")[0].scene("a").cameras.intrinsics) == 3


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "missing or cannot be read"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "missing or cannot be read"),
        ({"a": 1}, "holds no scenes"),
        ([{"key": "b"}], "does not hold"),
        ([{"key": "a"}], "18 numbers"),
        ([{**entry("a"), "images": []}], "18 numbers"),
        ([{**entry("a"), "cameras": torch.full((3, 18), math.nan)}], "18 numbers"),
    ],
)
def test_a_damaged_chunk(tmp_path: Path, content: Any, reason: str):
    write_chunks(tmp_path / "train", {"000000.torch": [entry("a")]})
    path = tmp_path / "train" / "000000.torch"
    path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UnusableScene, match=reason):
        find_scenes(tmp_path, "train")[0].scene("a")


def test_code_in_a_chunk_is_not_run(tmp_path: Path):
    write_chunks(tmp_path / "train", {"000000.torch": [entry("a")]})
    torch.save([{"key": "a", "run": print}], tmp_path / "train" / "000000.torch")
    with pytest.raises(UnusableScene, match="cannot be read"):
        find_scenes(tmp_path, "train")[0].scene("a")


@pytest.mark.parametrize("damaged", [torch.zeros(100, dtype=torch.uint8), jpeg(9)[:300], "no tensor"])
def test_a_damaged_image(damaged: Any):
    scene = ChunkScene({**entry("a", 2), "images": [jpeg(0), damaged]})
    assert scene.image(0).shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(UnusableScene, match="decoded"):
        scene.image(1)


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 3}'])
def test_a_damaged_index(tmp_path: Path, text: str):
    write_chunks(tmp_path / "train", {"000000.torch": [entry("a")]})
    (tmp_path / "train" / "index.json").write_text(text)
    with pytest.raises(InputError, match=r"index\.json"):
        find_scenes(tmp_path, "train")


def test_what_cannot_be_trained_on():
    scene = ChunkScene(entry("a"))
    check_scene(scene, ImageSize(WIDTH, HEIGHT))
    with pytest.raises(UnusableScene, match="smaller than 65x36"):
        check_scene(scene, ImageSize(WIDTH + 1, HEIGHT))
    # 0.5 / tan(50 degrees) = 0.4195
    check_scene(ChunkScene(entry("a", focal=0.42)))
    with pytest.raises(UnusableScene, match="field of view above 100 degrees"):
        check_scene(ChunkScene(entry("a", focal=0.419)))
    with pytest.raises(UnusableScene, match="impossible"):
        check_scene(ChunkScene(entry("a", focal=0.0)))


# Folders


def test_cameras_of_a_folder_have_opencvs_axes(tmp_path: Path):
    scene = FolderScene(write_scene(tmp_path / "scene"))
    intrinsics, camera_to_worlds = scene.cameras
    expected = [[50 / WIDTH, 0.0, 30 / WIDTH], [0.0, 51 / HEIGHT, 20 / HEIGHT], [0.0, 0.0, 1.0]]
    torch.testing.assert_close(intrinsics[1], torch.tensor(expected))
    pose = [[1.0, 0.0, 0.0, 2.0], [0.0, -1.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0]]
    assert camera_to_worlds[2].tolist() == pose and scene.image(2)[0, 0].tolist() == [120, 100, 50]


def test_blenders_layout_and_transparent_images(tiny_scene: Path):
    scene = FolderScene(tiny_scene)
    focal = float(scene.cameras.intrinsics[0, 0, 0])
    listed = json.loads((tiny_scene / "transforms_train.json").read_text())
    assert focal == pytest.approx(0.5 / math.tan(listed["camera_angle_x"] / 2.0))
    first = listed["frames"][0]
    with Image.open(tiny_scene / f"{first['file_path']}.png") as image:
        pixels = np.array(image).astype(float)
    alpha = pixels[..., 3:] / 255
    np.testing.assert_allclose(scene.image(0), pixels[..., :3] * alpha + 255 * (1 - alpha), atol=0.51)
    look = scene.cameras.camera_to_worlds[0, :, 2]
    torch.testing.assert_close(look, -torch.tensor(first["transform_matrix"]).double()[:3, 2], atol=1e-6, rtol=0)


def test_a_portrait_photograph_on_its_side(tmp_path: Path):
    folder = write_scene(tmp_path / "scene")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    stored = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    stored[:, :10] = 200  # the left edge, which comes to the top
    for k in range(3):
        Image.fromarray(stored).save(folder / f"{k}.png", exif=exif)
    scene = FolderScene(folder)
    assert scene.size == ImageSize(HEIGHT, WIDTH)
    assert scene.image(0).shape == (WIDTH, HEIGHT, 3) and scene.image(0)[:10].min() == 200
    matrix = scene.cameras.intrinsics[0]
    assert float(matrix[0, 0]) == pytest.approx(51 / HEIGHT) and float(matrix[1, 2]) == pytest.approx(30 / WIDTH)
    # What was right is now down, in the world as before.
    assert scene.cameras.camera_to_worlds[0, :, 1].tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("k1", [-0.15, 0.1])
def test_distortion_is_undone(tmp_path: Path, k1: float):
    """Each pixel of the stored image shows a smooth function of the direction that it looks along."""
    size = ImageSize(160, 100)
    distortion = {"k1": k1, "k2": 0.03, "k3": -0.01, "p1": 0.004, "p2": -0.006}
    folder = write_scene(tmp_path / "scene", 2, size, **distortion, fl_x=110.0, fl_y=115.0, cx=75.0, cy=52.0)

    def shown(directions: np.ndarray) -> np.ndarray:
        x, y = directions[..., 0], directions[..., 1]
        return np.stack([128 + 120 * x, 128 + 150 * y, 128 + 60 * np.sin(4 * x + 5 * y)], axis=-1)

    columns, rows = np.meshgrid(np.arange(160) + 0.5, np.arange(100) + 0.5)
    distorted = torch.from_numpy(np.stack([(columns - 75.0) / 110.0, (rows - 52.0) / 115.0], axis=-1))
    params = torch.tensor([k1, 0.03, -0.01, 0.0, 0.004, -0.006]).double()
    seen = radial_and_tangential_undistort(distorted, params, max_iterations=30).numpy()
    Image.fromarray(shown(seen).round().astype(np.uint8)).save(folder / "0.png")
    scene = FolderScene(folder)
    matrix = scene.cameras.intrinsics[0].double().numpy()
    x = ((columns / 160) - matrix[0, 2]) / matrix[0, 0]
    y = ((rows / 100) - matrix[1, 2]) / matrix[1, 1]
    difference = np.abs(scene.image(0) - shown(np.stack([x, y], axis=-1)))
    assert np.quantile(difference, 0.99) < 1.5 and np.abs(difference).mean() < 0.6


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"camera_model": "OPENCV_FISHEYE"}, "fisheye"),
        ({"k4": 0.001, "camera_model": "OPENCV"}, "fourth radial"),
        ({"fl_x": None, "fl_y": None}, "unknown focal lengths"),
        ({"w": 40, "cx": 20}, "another shape"),
    ],
)
def test_lenses_that_cannot_be_used(tmp_path: Path, changes: Dict[str, Any], reason: str):
    folder = write_scene(tmp_path / "scene", **changes)
    with pytest.raises(UnusableScene, match=reason):
        FolderScene(folder)


def test_a_scene_with_a_fault_says_which(tmp_path: Path):
    for name in ("good", "bad"):
        write_scene(tmp_path / "train" / name)
    (tmp_path / "train" / "bad" / "1.png").unlink()
    (group,) = find_scenes(tmp_path, "train")
    group.scene("train/good")
    with pytest.raises(UnusableScene) as raised:
        group.scene("train/bad")
    assert "1.png" in raised.value.detail and "1.png" not in raised.value.reason


def test_poses_and_images_that_are_missing(tmp_path: Path):
    folder = write_scene(tmp_path / "scene")
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:-30])
    with pytest.raises(UnusableScene, match="decoded"):
        FolderScene(folder).image(1)
    listed = json.loads((folder / "transforms.json").read_text())
    for frame in listed["frames"]:
        del frame["transform_matrix"]
    (folder / "transforms.json").write_text(json.dumps(listed))
    with pytest.raises(UnusableScene, match="poses"):
        FolderScene(folder)


# Layouts


def keys_of(data: Path, split: Any) -> List[str]:
    return [key for group in find_scenes(data, split) for key in group.keys]


def test_folders_are_divided(tmp_path: Path):
    for number in range(12):
        write_scene(tmp_path / "scenes" / f"{number:02d}", 1)
    train, test = (keys_of(tmp_path / "scenes", split) for split in ("train", "test"))
    assert test == ["00", "10"] and len(train) == 10 and not set(train) & set(test)
    one = write_scene(tmp_path / "one")
    assert keys_of(one, "train") == keys_of(one, "test") == ["."]
    for name in ("train/x", "train/y", "test/z"):
        write_scene(tmp_path / "divided" / name, 1)
    assert keys_of(tmp_path / "divided", "train") == ["train/x", "train/y"]
    assert keys_of(tmp_path / "divided", "test") == ["test/z"]


def test_several_sets_below_one_folder(tmp_path: Path):
    for name in ("re10k", "DL3DV-960"):
        for split in ("train", "test"):
            write_chunks(tmp_path / name / split, {"000000.torch": [entry(f"{name} {split}", 1)]})
    groups = find_scenes(tmp_path, "test")
    assert [(group.kind, group.keys) for group in groups] == [
        ("dl3dv", ["DL3DV-960 test"]),
        ("re10k", ["re10k test"]),
    ]


def test_nothing_there(tmp_path: Path):
    with pytest.raises(InputError, match="no folder"):
        find_scenes(tmp_path / "absent", "train")
    with pytest.raises(InputError, match="no scenes for the split train"):
        find_scenes(tmp_path, "train")


@pytest.mark.parametrize("kind", ["chunks", "folders"])
@pytest.mark.parametrize(("there", "missing"), [("train", "test"), ("test", "train")])
def test_one_split_alone(tmp_path: Path, kind: str, there: Any, missing: Any):
    if kind == "chunks":
        write_chunks(tmp_path / there, {"000000.torch": [entry("a", 1)]})
    else:
        write_scene(tmp_path / there / "a", 1)
    assert keys_of(tmp_path, there) == ["a" if kind == "chunks" else f"{there}/a"]
    with pytest.raises(InputError, match=f"has {there}/, but {missing}/, which .*, is missing") as error:
        find_scenes(tmp_path, missing)
    assert ("training learns from" in str(error.value)) == (missing == "train")


def test_a_folder_named_test_among_scenes_divides_nothing(tmp_path: Path):
    for name in ("a", "b", "test/c"):
        write_scene(tmp_path / name, 1)
    assert keys_of(tmp_path, "train") == ["b"] and keys_of(tmp_path, "test") == ["a"]
