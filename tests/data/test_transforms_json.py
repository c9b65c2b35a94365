"""The transforms.json we write, read back by nerfstudio's own parser and checked ray by ray."""

import json
from pathlib import Path
from typing import List, Optional, Tuple

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import ExifTags, Image
from torch import Tensor

from gnerf_ns.cameras.pose_prior import PosePriorConfig
from gnerf_ns.data.transforms_json import write_transforms_json
from gnerf_ns.utils.errors import InputError

COUNT = 4
POSES = PosePriorConfig("dtu").resolve().sample(COUNT, 2.8, "cpu", torch.Generator().manual_seed(0))
UPRIGHT = (60, 40)
"""Width and height of the cameras; the files are twice as large."""
FILE = (120, 80)


def make_cameras(camera_type: CameraType = CameraType.PERSPECTIVE) -> Cameras:
    return Cameras(
        camera_to_worlds=torch.full((COUNT, 3, 4), torch.nan),
        fx=torch.tensor([50.0, 52.0, 54.0, 56.0]),
        fy=torch.tensor([51.0, 53.0, 55.0, 57.0]),
        cx=31.0,
        cy=18.5,
        width=UPRIGHT[0],
        height=UPRIGHT[1],
        distortion_params=torch.tensor([[0.1, -0.02, 0.003, 0.0, 0.01, -0.02]]).expand(COUNT, 6),
        camera_type=camera_type,
    )


def make_files(folder: Path, size: Tuple[int, int] = FILE, orientation: Optional[int] = None) -> List[Path]:
    folder.mkdir()
    paths = [folder / f"photo_{index}.png" for index in range(COUNT)]
    for path in paths:
        exif = Image.Exif()
        if orientation is not None:
            exif[ExifTags.Base.Orientation] = orientation
        Image.new("RGB", size).save(path, exif=exif)
    return paths


def read_back(path: Path) -> Tuple[Cameras, List[Path], Optional[List[Path]]]:
    """What a stock method gets from the file, with nerfstudio's own changes to the world frame switched off."""
    config = NerfstudioDataParserConfig(
        data=path, eval_mode="all", orientation_method="none", center_method="none", auto_scale_poses=False
    )
    outputs = config.setup().get_dataparser_outputs("train")
    return outputs.cameras, outputs.image_filenames, outputs.mask_filenames


def rays(cameras: Cameras, index: int, coords: Tensor) -> Tuple[Tensor, Tensor]:
    bundle = cameras.generate_rays(camera_indices=index, coords=coords)
    return bundle.origins, bundle.directions


def test_stock_parser_sees_the_same_rays(tmp_path: Path) -> None:
    images = make_files(tmp_path / "photos")
    cameras = make_cameras()
    write_transforms_json(tmp_path / "run" / "transforms.json", cameras, POSES, images)
    found, found_images, found_masks = read_back(tmp_path / "run" / "transforms.json")
    assert found_images == images
    assert found_masks is None
    assert (int(found.width[0]), int(found.height[0])) == FILE
    torch.testing.assert_close(found.camera_to_worlds, POSES)
    cameras.camera_to_worlds = POSES
    coords = torch.tensor([[0.0, 0.0], [10.5, 20.25], [39.0, 59.0]])
    for index in range(COUNT):
        for expected, actual in zip(rays(cameras, index, coords), rays(found, index, 2.0 * coords), strict=True):
            torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_exif_rotated_files_get_the_camera_of_their_stored_pixels(tmp_path: Path, orientation: int) -> None:
    swaps = orientation in (6, 8)
    stored_size = (FILE[1], FILE[0]) if swaps else FILE
    images = make_files(tmp_path / "photos", stored_size, orientation)
    cameras = make_cameras()
    write_transforms_json(tmp_path / "transforms.json", cameras, POSES, images)
    found, _, _ = read_back(tmp_path / "transforms.json")
    assert (int(found.width[0]), int(found.height[0])) == stored_size
    cameras.camera_to_worlds = POSES
    width, height = UPRIGHT
    upright = torch.tensor([[0.0, 0.0], [10.5, 20.25], [39.0, 59.0]])
    row, column = upright.unbind(dim=-1)
    # By EXIF's definition: where the pixel shown at (row, column) lies in the file.
    stored = {
        3: torch.stack([height - row, width - column], dim=-1),
        6: torch.stack([width - column, row], dim=-1),
        8: torch.stack([column, height - row], dim=-1),
    }[orientation]
    for index in range(COUNT):
        for expected, actual in zip(rays(cameras, index, upright), rays(found, index, 2.0 * stored), strict=True):
            torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("orientation", [2, 6])
def test_cameras_of_the_stored_pixels_stay_whatever_exif_says(tmp_path: Path, orientation: int) -> None:
    images, masks = make_files(tmp_path / "photos", orientation=orientation), make_files(tmp_path / "masks")
    cameras = make_cameras()
    write_transforms_json(tmp_path / "transforms.json", cameras, POSES, images, masks, [False] * COUNT)
    found, found_images, found_masks = read_back(tmp_path / "transforms.json")
    assert found_images == images and found_masks == masks  # the stock reader turns neither
    assert (int(found.width[0]), int(found.height[0])) == FILE
    torch.testing.assert_close(found.camera_to_worlds, POSES)
    cameras.camera_to_worlds = POSES
    coords = torch.tensor([[0.0, 0.0], [10.5, 20.25], [39.0, 59.0]])
    for index in range(COUNT):
        for expected, actual in zip(rays(cameras, index, coords), rays(found, index, 2.0 * coords), strict=True):
            torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_no_pixel_is_decoded(tmp_path: Path) -> None:
    images = make_files(tmp_path / "photos")
    images[0].write_bytes(images[0].read_bytes()[:60])  # the header and a little
    write_transforms_json(tmp_path / "transforms.json", make_cameras(), POSES, images)
    assert len(json.loads((tmp_path / "transforms.json").read_text())["frames"]) == COUNT


def test_files_that_exif_calls_mirrored_are_left_out(tmp_path: Path) -> None:
    images = make_files(tmp_path / "photos")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 2
    Image.new("RGB", FILE).save(images[1], exif=exif)
    write_transforms_json(tmp_path / "transforms.json", make_cameras(), POSES, images)
    found, found_images, _ = read_back(tmp_path / "transforms.json")
    assert found_images == [images[0], images[2], images[3]]
    torch.testing.assert_close(found.camera_to_worlds, POSES[[0, 2, 3]])


def test_masks_are_named_when_all_of_them_fit(tmp_path: Path) -> None:
    images, masks = make_files(tmp_path / "photos"), make_files(tmp_path / "masks")
    write_transforms_json(tmp_path / "transforms.json", make_cameras(), POSES, images, masks)
    assert read_back(tmp_path / "transforms.json")[2] == masks
    Image.new("L", (10, 10)).save(masks[2])
    write_transforms_json(tmp_path / "transforms.json", make_cameras(), POSES, images, masks)
    assert read_back(tmp_path / "transforms.json")[2] is None


def test_relative_file_names_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = make_files(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    relative = [image.relative_to(tmp_path) for image in images]
    write_transforms_json(tmp_path / "elsewhere" / "transforms.json", make_cameras(), POSES, relative)
    monkeypatch.chdir("/")
    assert read_back(tmp_path / "elsewhere" / "transforms.json")[1] == images


def test_cameras_without_distortion_and_with_gradients(tmp_path: Path) -> None:
    cameras = make_cameras(CameraType.FISHEYE)
    cameras.distortion_params = None
    write_transforms_json(
        tmp_path / "transforms.json", cameras, POSES.clone().requires_grad_(), make_files(tmp_path / "photos")
    )
    found, _, _ = read_back(tmp_path / "transforms.json")
    assert found.camera_type.flatten().tolist() == [CameraType.FISHEYE.value] * COUNT
    assert found.distortion_params is not None and not found.distortion_params.any()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "transforms.json"
    images = make_files(tmp_path / "photos")
    write_transforms_json(path, make_cameras(), POSES, images)
    before = path.read_text()
    with pytest.raises(InputError, match="ORTHOPHOTO"):
        write_transforms_json(path, make_cameras(CameraType.ORTHOPHOTO), POSES, images)
    with pytest.raises(FileNotFoundError):
        write_transforms_json(path, make_cameras(), POSES, [*images[:-1], tmp_path / "gone.png"])
    assert path.read_text() == before
    assert len(json.loads(before)["frames"]) == COUNT
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["photos", "transforms.json"]
