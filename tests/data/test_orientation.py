"""Images, masks, lenses and poses belong together, whichever way the pixels are stored."""

import json
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from gnerf_ns.cameras.pose_prior import PosePriorConfig
from gnerf_ns.cameras.rays import CameraDirections
from gnerf_ns.data.dataparser import GROUND_TRUTH_KEY, UnposedDataParserConfig
from gnerf_ns.data.dataset import UnposedDataset
from gnerf_ns.data.images import Header, ImageSize, as_displayed, as_stored, read_header, read_image
from gnerf_ns.data.intrinsics import Intrinsics
from gnerf_ns.data.orientation import (
    ORIENTATIONS_KEY,
    is_of_stored_pixels,
    stored_outputs,
    turned_intrinsics,
    turned_pose,
    upright_outputs,
)
from gnerf_ns.data.transforms_json import read_transforms_json
from gnerf_ns.data.transforms_writer import FileFrames, write_transforms_json
from gnerf_ns.localize.growth import upright_poses

COUNT = 3
POSES = PosePriorConfig("dtu").resolve().sample(COUNT, 2.8, "cpu", torch.Generator().manual_seed(0))
SIZES = [(48, 32), (32, 48), (40, 40), (40, 41)]
COORDS = torch.tensor([[-1.0, -1.0], [0.3, -0.6], [0.9, 0.8], [-0.2, 0.7]]).expand(COUNT, -1, 2)


def upright_pixels(index: int, size: Tuple[int, int], channels: int = 3) -> np.ndarray:
    width, height = size
    pixels = np.random.default_rng(index).integers(0, 256, (height // 4, width // 4, channels), dtype=np.uint8)
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(image)


def save(pixels: np.ndarray, path: Path, orientation: int, tagged: bool = True) -> Path:
    """So that it is displayed as it is here, if it is tagged."""
    exif = Image.Exif()
    if tagged:
        exif[ExifTags.Base.Orientation] = orientation
    path.parent.mkdir(exist_ok=True)
    as_stored(Image.fromarray(pixels), orientation).save(path, exif=exif)
    return path


def images(folder: Path, size: Tuple[int, int], orientation: int) -> List[Path]:
    return [
        save(upright_pixels(index, size), folder / f"{index}.png", orientation if index else 1)
        for index in range(COUNT)
    ]


def upright_cameras(size: Tuple[int, int]) -> Cameras:
    width, height = size
    return Cameras(
        camera_to_worlds=POSES,
        fx=torch.tensor([50.0, 52.0, 54.0]),
        fy=torch.tensor([51.0, 53.0, 55.0]),
        cx=width / 2 + 1.5,
        cy=height / 2 - 2.25,
        width=width,
        height=height,
        distortion_params=torch.tensor([[0.1, -0.02, 0.003, 0.001, 0.01, -0.02]]).expand(COUNT, 6),
        camera_type=CameraType.PERSPECTIVE,
    )


def world_rays(cameras: Cameras, poses: Tensor) -> Tensor:
    directions = CameraDirections(cameras).at(torch.arange(len(cameras)), COORDS)
    return torch.einsum("nij,nrj->nri", poses[..., :3], directions)


def read_ours(path: Path, **options: Any) -> Tuple[UnposedDataset, Tensor]:
    parser = UnposedDataParserConfig(data=path, eval_interval=0, min_images=1).setup()
    outputs = parser.get_dataparser_outputs("all")
    return UnposedDataset(outputs, **options), outputs.metadata[GROUND_TRUTH_KEY]


def read_stock(path: Path) -> DataparserOutputs:
    config = NerfstudioDataParserConfig(
        data=path, eval_mode="all", orientation_method="none", center_method="none", auto_scale_poses=False
    )
    return config.setup().get_dataparser_outputs("train")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_what_exif_says_is_what_pillow_does(tmp_path: Path, orientation: int):
    pixels = upright_pixels(0, (48, 32))
    path = save(pixels, tmp_path / "a.png", orientation)
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(image)), pixels)
        stored = np.asarray(image)
        np.testing.assert_array_equal(np.asarray(as_displayed(image, orientation)), pixels)
    np.testing.assert_array_equal(read_image(path, orientation=orientation), pixels)
    header = read_header(path)
    assert header.orientation == orientation
    assert header.size == (stored.shape[1], stored.shape[0]) and header.displayed_size == (48, 32)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_written_and_read_again_rays_and_images_are_the_same(tmp_path: Path, orientation: int, size: Tuple[int, int]):
    files, cameras = images(tmp_path / "photos", size, orientation), upright_cameras(size)
    path = tmp_path / "poses" / "transforms.json"
    write_transforms_json(path, {"train": FileFrames(cameras, files)})
    expected = world_rays(cameras, POSES)
    dataset, poses = read_ours(path)
    rows = [int(file.name[0]) for file in dataset.image_filenames]  # copies of mirrored images come last
    torch.testing.assert_close(world_rays(dataset.cameras, poses), expected[rows], atol=1e-6, rtol=0)
    torch.testing.assert_close(poses, POSES[rows], atol=0, rtol=0)
    for index, row in enumerate(rows):
        np.testing.assert_array_equal(dataset.get_numpy_image(index), upright_pixels(row, size))
    # Of a nerfstudio method's data, as well.
    stock = UnposedDataset(read_stock(path))
    torch.testing.assert_close(
        world_rays(stock.cameras, stock.cameras.camera_to_worlds), expected[rows], atol=1e-6, rtol=0
    )
    for index, row in enumerate(rows):
        np.testing.assert_array_equal(stock.get_numpy_image(index), upright_pixels(row, size))


@pytest.mark.parametrize("orientation", [2, 3, 6, 7])
def test_written_once_more_the_file_says_the_same(tmp_path: Path, orientation: int):
    files = images(tmp_path / "photos", (48, 32), orientation)
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    write_transforms_json(first, {"train": FileFrames(upright_cameras((48, 32)), files)})
    dataset, poses = read_ours(first)
    cameras = dataset.file_cameras
    cameras.camera_to_worlds = poses
    write_transforms_json(second, {"train": dataset.file_frames(cameras)})
    before, after = (json.loads(path.read_text())["frames"] for path in (first, second))
    before.sort(key=lambda frame: frame["file_path"])
    for old, new in zip(before, after, strict=True):
        assert old["file_path"] == new["file_path"]
        for key in ("w", "h", "fl_x", "fl_y", "cx", "cy", "k1", "p1", "p2", "transform_matrix"):
            np.testing.assert_allclose(new[key], old[key], rtol=1e-6, atol=1e-6)


def test_growth_gets_the_poses_of_upright_images(tmp_path: Path):
    """A portrait photograph of a telephone is level, although the camera of its stored pixels is not."""
    files = images(tmp_path / "photos", (32, 48), 6)
    write_transforms_json(tmp_path / "poses.json", {"localized": FileFrames(upright_cameras((32, 48)), files)})
    poses = upright_poses(tmp_path / "poses.json")
    assert list(poses) == files
    torch.testing.assert_close(torch.stack(list(poses.values())), POSES, atol=0, rtol=0)


@pytest.mark.parametrize("has_size", [False, True])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_listed_poses_are_of_the_stored_pixels(tmp_path: Path, orientation: int, has_size: bool):
    """As nerfstudio, COLMAP and Blender have them: the rays of a file without any EXIF data."""
    pixels = upright_pixels(0, (48, 32))
    matrix = [*POSES[0].tolist(), [0.0, 0.0, 0.0, 1.0]]
    found = {}
    for tagged in (False, True):
        save(pixels, tmp_path / f"{tagged}.png", orientation, tagged)
        width, height = Image.open(tmp_path / f"{tagged}.png").size
        frame: Dict[str, Any] = {"file_path": f"{tagged}.png", "transform_matrix": matrix}
        frame |= {"camera_angle_x": 0.9, "cx": width / 2 + 2, "cy": height / 2 - 1, "p1": 0.01}
        frame |= {"w": width, "h": height} if has_size else {}
        (tmp_path / f"{tagged}.json").write_text(json.dumps({"frames": [frame]}))
        dataset, poses = read_ours(tmp_path / f"{tagged}.json")
        found[tagged] = (dataset, poses[0])
    np.testing.assert_array_equal(found[True][0].get_numpy_image(0), pixels)
    # The same spot of the scene, on the axes of the upright and of the stored image.
    turns = {1: 0, 6: 1, 3: 2, 8: 3}[orientation]
    coords = torch.tensor([[0.5, -0.25]])
    upright = coords.clone()
    for _ in range(turns):
        upright = torch.stack([-upright[:, 1], upright[:, 0]], dim=-1)
    rays = [
        CameraDirections(dataset.cameras).at(torch.tensor([0]), spot[None])[0] @ pose[:, :3].T
        for (dataset, pose), spot in ((found[False], coords), (found[True], upright))
    ]
    torch.testing.assert_close(rays[0], rays[1], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("listed", "orientation", "has_pose", "is_turned"),
    [
        ((32, 48), 6, True, True),  # of the stored pixels
        ((48, 32), 6, True, False),  # of the displayed ones
        ((32, 48), 6, False, True),
        ((48, 32), 6, False, False),
        ((48, 32), 3, True, True),  # proportions do not tell: a pose is of the stored pixels,
        ((48, 32), 3, False, False),  # a lens alone of the displayed ones
        ((480, 320), 3, False, False),
        ((320, 480), 8, False, True),
        (None, 6, True, True),
        (None, 6, False, False),
        ((48, 32), 1, True, False),
    ],
)
def test_which_pixels_a_listed_camera_is_of(
    tmp_path: Path, listed: Optional[Tuple[int, int]], orientation: int, has_pose: bool, is_turned: bool
):
    save(upright_pixels(0, (48, 32)), tmp_path / "a.png", orientation)
    frame: Dict[str, Any] = {"file_path": "a.png", "fl_x": 50.0 if listed is None else float(max(listed))}
    if listed is not None:
        frame |= {"w": listed[0], "h": listed[1]}
    if has_pose:
        frame["transform_matrix"] = [*POSES[0].tolist(), [0.0, 0.0, 0.0, 1.0]]
    (tmp_path / "transforms.json").write_text(json.dumps({"frames": [frame]}))
    found = read_transforms_json(tmp_path / "transforms.json").frames[0]
    assert bool(found.quarter_turns) == is_turned
    dataset, _ = read_ours(tmp_path)
    assert (int(dataset.cameras.width[0]), int(dataset.cameras.height[0])) == (48, 32)


@pytest.mark.parametrize("orientation", [2, 4, 5, 7])
def test_a_listed_pose_of_a_mirrored_image_keeps_its_stored_pixels(tmp_path: Path, orientation: int):
    path = save(upright_pixels(0, (40, 40)), tmp_path / "a.png", orientation)
    frame = {"file_path": "a.png", "fl_x": 50.0, "transform_matrix": [*POSES[0].tolist(), [0.0, 0.0, 0.0, 1.0]]}
    (tmp_path / "transforms.json").write_text(json.dumps({"frames": [frame]}))
    dataset, poses = read_ours(tmp_path)
    np.testing.assert_array_equal(dataset.get_numpy_image(0), np.asarray(Image.open(path)))
    torch.testing.assert_close(poses[0], POSES[0], atol=0, rtol=0)
    cameras = dataset.file_cameras
    cameras.camera_to_worlds = poses
    write_transforms_json(tmp_path / "again.json", {"train": dataset.file_frames(cameras)})
    again = json.loads((tmp_path / "again.json").read_text())["frames"][0]
    assert tmp_path / again["file_path"] == path
    np.testing.assert_allclose(again["transform_matrix"], frame["transform_matrix"])


def test_a_panorama_is_not_turned(tmp_path: Path):
    path = save(upright_pixels(0, (64, 32)), tmp_path / "a.png", 6)
    frame = {"file_path": "a.png", "transform_matrix": [*POSES[0].tolist(), [0.0, 0.0, 0.0, 1.0]]}
    meta = {"camera_model": "EQUIRECTANGULAR", "fl_x": 16, "fl_y": 16, "w": 32, "h": 64, "frames": [frame]}
    (tmp_path / "transforms.json").write_text(json.dumps(meta))
    found = read_transforms_json(tmp_path / "transforms.json").frames[0]
    assert found.quarter_turns == 0 and found.orientations == {path: 1}


# Masks


def mask_pixels(index: int, size: Tuple[int, int]) -> np.ndarray:
    width, height = size
    mask = np.zeros((height, width), np.uint8)
    mask[2 : height // 2, 4 + index : width // 3] = 255
    return mask


@pytest.mark.parametrize("size", [(48, 32), (40, 40)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_listed_masks_are_stored_the_way_their_image_is(tmp_path: Path, orientation: int, size: Tuple[int, int]):
    """Without EXIF data of their own, as segmentation tools write them for nerfstudio."""
    frames = []
    for index in range(COUNT):
        image = save(upright_pixels(index, size), tmp_path / "photos" / f"{index}.png", orientation)
        mask = save(mask_pixels(index, size), tmp_path / "segmented" / image.name, orientation, tagged=False)
        matrix = [*POSES[index].tolist(), [0.0, 0.0, 0.0, 1.0]]
        frames.append({"file_path": str(image), "mask_path": str(mask), "fl_x": 50.0, "transform_matrix": matrix})
    (tmp_path / "transforms.json").write_text(json.dumps({"frames": frames}))
    dataset, poses = read_ours(tmp_path)
    for index in range(COUNT):
        expected = mask_pixels(index, size)
        if orientation in (2, 4, 5, 7):  # mirrored, as no image that has a pose is
            expected = np.asarray(as_stored(Image.fromarray(expected), orientation))
        np.testing.assert_array_equal(dataset.get_numpy_image(index)[..., 3], expected)
    # And so again, when they are written.
    cameras = dataset.file_cameras
    cameras.camera_to_worlds = poses
    write_transforms_json(tmp_path / "again.json", {"train": dataset.file_frames(cameras)})
    again, _ = read_ours(tmp_path / "again.json")
    assert again.mask_filenames == dataset.mask_filenames
    for index in range(COUNT):
        np.testing.assert_array_equal(again.get_numpy_image(index), dataset.get_numpy_image(index))


@pytest.mark.parametrize("tagged", [False, True])
@pytest.mark.parametrize("orientation", [1, 2, 3, 6])
def test_masks_of_a_folder_lie_on_the_displayed_image(tmp_path: Path, orientation: int, tagged: bool):
    size = (48, 32)
    files = images(tmp_path / "images", size, orientation)
    for index, image in enumerate(files):
        save(mask_pixels(index, size), tmp_path / "masks" / image.name, orientation if tagged and index else 1, tagged)
    parser = UnposedDataParserConfig(data=tmp_path, eval_interval=0, min_images=1).setup()
    dataset = UnposedDataset(parser.get_dataparser_outputs("all"))
    for index in range(COUNT):
        np.testing.assert_array_equal(dataset.get_numpy_image(index)[..., 3], mask_pixels(index, size))
    # A stock reader turns neither: it gets the mask turned as the image is stored.
    cameras = dataset.file_cameras
    cameras.camera_to_worlds = POSES
    write_transforms_json(tmp_path / "poses" / "t.json", {"train": dataset.file_frames(cameras)})
    outputs = read_stock(tmp_path / "poses" / "t.json")
    assert outputs.mask_filenames is not None
    for image, mask in zip(outputs.image_filenames, outputs.mask_filenames, strict=True):
        index = int(image.name[0])
        stored = Image.fromarray(mask_pixels(index, size))
        if index and orientation != 2:  # of the mirrored image there is an upright copy
            stored = as_stored(stored, orientation)
        np.testing.assert_array_equal(np.asarray(Image.open(mask)), np.asarray(stored))


def test_a_mask_of_a_folder_that_fits_the_stored_pixels_only(tmp_path: Path):
    save(upright_pixels(0, (48, 32)), tmp_path / "a.png", 8)
    save(mask_pixels(0, (48, 32)), tmp_path / "masks" / "a.png", 8, tagged=False)
    parser = UnposedDataParserConfig(data=tmp_path, eval_interval=0, min_images=1).setup()
    dataset = UnposedDataset(parser.get_dataparser_outputs("all"), max_image_side=24)
    exact = mask_pixels(0, (48, 32)).reshape(16, 2, 24, 2).mean(axis=(1, 3))
    assert np.abs(dataset.get_numpy_image(0)[..., 3] - exact).max() <= 1


# Parts


def test_stock_outputs_turned_upright_and_back_are_the_same(tmp_path: Path):
    files = images(tmp_path / "photos", (48, 32), 6)
    write_transforms_json(tmp_path / "t.json", {"train": FileFrames(upright_cameras((48, 32)), files)})
    outputs = read_stock(tmp_path / "t.json")
    upright = upright_outputs(outputs)
    assert upright_outputs(upright) is upright
    assert outputs.cameras.width.flatten().tolist() == [48, 32, 32], "left alone"
    assert upright.cameras.width.flatten().tolist() == [48, 48, 48]
    back = stored_outputs(upright)
    assert ORIENTATIONS_KEY not in back.metadata
    for name in ("camera_to_worlds", "fx", "fy", "cx", "cy", "width", "height", "distortion_params"):
        torch.testing.assert_close(getattr(back.cameras, name), getattr(outputs.cameras, name), atol=1e-5, rtol=0)


def test_four_quarter_turns_are_none():
    intrinsics = Intrinsics(ImageSize(40, 30), (50.0, 51.0), (22.0, 13.0), (0.1, 0.2, 0.3, 0.4, 0.05, -0.06))
    assert turned_intrinsics(intrinsics, 4) == intrinsics == turned_intrinsics(turned_intrinsics(intrinsics, 1), -1)
    assert turned_intrinsics(intrinsics, 2).center == (18.0, 17.0)
    once = turned_pose(POSES[0], 1)
    torch.testing.assert_close(turned_pose(once, 3), POSES[0], atol=0, rtol=0)
    assert float(torch.det(once[:, :3])) == pytest.approx(1.0)


def test_nearly_square_images_belong_to_the_nearer_side():
    header = Header(ImageSize(40, 41), 6)
    assert is_of_stored_pixels(ImageSize(400, 410), header, in_doubt=False)
    assert not is_of_stored_pixels(ImageSize(41, 40), header, in_doubt=True)
    assert is_of_stored_pixels(ImageSize(30, 30), header, in_doubt=True)


def test_a_changed_file_is_read_again(tmp_path: Path):
    path = save(upright_pixels(0, (48, 32)), tmp_path / "a.png", 1)
    assert read_header(path).size == (48, 32)
    save(upright_pixels(0, (40, 40)), path, 6)
    assert read_header(path) == Header(ImageSize(40, 40), 6)
