from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from PIL import ExifTags, Image

from gnerf_ns.data.dataset import UnposedDataset, common_format
from gnerf_ns.data.images import ImageSize
from gnerf_ns.utils.errors import InputError


def outputs_for(images, cameras_size, focal=(50.0, 55.0), center=(14.0, 21.0), **more) -> DataparserOutputs:
    width, height = cameras_size
    cameras = Cameras(
        camera_to_worlds=torch.eye(4)[:3].repeat(len(images), 1, 1),
        fx=focal[0],
        fy=focal[1],
        cx=center[0],
        cy=center[1],
        width=width,
        height=height,
        distortion_params=torch.tensor([0.05, -0.02, 0.0, 0.0, 0.001, 0.002]),
        camera_type=CameraType.PERSPECTIVE,
    )
    return DataparserOutputs(image_filenames=list(images), cameras=cameras, **more)


def save(path: Path, width: int, height: int, channels: int = 3, **options) -> Path:
    pixels = np.random.default_rng(width * height).integers(0, 256, (height, width, channels), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def direction(cameras: Cameras, index: int, x: float, y: float) -> torch.Tensor:
    """Through image coordinates given as fractions of the width and height."""
    coords = torch.tensor([y * float(cameras.height[index]), x * float(cameras.width[index])])
    return cameras.generate_rays(camera_indices=index, coords=coords).directions


@pytest.mark.parametrize("max_side", [None, 40, 17, 7])
def test_rays_through_the_same_spot_survive_resizing(tmp_path: Path, max_side):
    """Intrinsics of 30x40, distortion included; a file of 60x80; any output size, rounded sides included."""
    image = save(tmp_path / "a.png", 60, 80)
    outputs = outputs_for([image], (30, 40))
    dataset = UnposedDataset(outputs, max_side)
    assert dataset[0]["image"].shape[:2] == (int(dataset.cameras.height[0]), int(dataset.cameras.width[0]))
    assert max(dataset[0]["image"].shape[:2]) == (max_side or 80)
    for x, y in [(0.0, 0.0), (0.3, 0.9), (1.0, 0.5)]:
        torch.testing.assert_close(
            direction(dataset.cameras, 0, x, y), direction(outputs.cameras, 0, x, y), atol=1e-5, rtol=0
        )
    assert dataset.cameras.distortion_params is not None
    assert (int(dataset.file_cameras.width[0]), int(dataset.file_cameras.height[0])) == (60, 80)
    torch.testing.assert_close(dataset.file_cameras.fx[0], torch.tensor([100.0]))


def test_differing_sizes_are_brought_to_one(tmp_path: Path):
    """Two landscape images and a square one: it keeps its scale and loses rows above and below."""
    wide, large, square = save(tmp_path / "a.png", 80, 40), save(tmp_path / "b.png", 160, 80), tmp_path / "c.png"
    pixels = np.zeros((60, 60, 3), dtype=np.uint8)
    pixels[15:45] = 100
    Image.fromarray(pixels).save(square)
    cameras = Cameras(
        camera_to_worlds=torch.eye(4)[:3].repeat(3, 1, 1),
        fx=torch.tensor([70.0, 140.0, 60.0]),
        fy=torch.tensor([70.0, 140.0, 60.0]),
        cx=torch.tensor([40.0, 80.0, 31.0]),
        cy=torch.tensor([20.0, 40.0, 28.0]),
        width=torch.tensor([80, 160, 60]),
        height=torch.tensor([40, 80, 60]),
    )
    dataset = UnposedDataset(DataparserOutputs([wide, large, square], cameras), max_image_side=20)
    assert all(dataset[index]["image"].shape == (10, 20, 3) for index in range(3))
    torch.testing.assert_close(dataset[2]["image"], torch.full((10, 20, 3), 100 / 255))
    torch.testing.assert_close(dataset.cameras.fx[:, 0], torch.tensor([17.5, 17.5, 20.0]))
    torch.testing.assert_close(dataset.cameras.fy[:, 0], torch.tensor([17.5, 17.5, 20.0]))
    torch.testing.assert_close(dataset.cameras.cx[:, 0], torch.tensor([10.0, 10.0, 31.0 / 3]))
    torch.testing.assert_close(dataset.cameras.cy[:, 0], torch.tensor([5.0, 5.0, (28.0 - 15.0) / 3]))
    assert not dataset.cameras.is_jagged


def test_a_second_dataset_follows_the_format_of_the_first(tmp_path: Path):
    first = UnposedDataset(outputs_for([save(tmp_path / "a.png", 270, 480)], (270, 480)), max_image_side=13)
    second = UnposedDataset(
        outputs_for([save(tmp_path / "b.png", 540, 960)], (540, 960)), image_format=first.image_format
    )
    assert second[0]["image"].shape == first[0]["image"].shape == (13, 7, 3)
    # Nothing cut off, although 7/13 is not 270/480.
    torch.testing.assert_close(second.cameras.fx / 7, second.file_cameras.fx / 540)


def test_common_format():
    assert common_format([ImageSize(270, 480)] * 3, 100).size == ImageSize(56, 100)
    assert common_format([ImageSize(200, 200)] * 3, None).size == ImageSize(200, 200)
    assert common_format([ImageSize(50, 40)], 100).size == ImageSize(50, 40), "never enlarged"
    assert common_format([ImageSize(400, 300), ImageSize(300, 400)], None).aspect == pytest.approx(1.0)


def test_alpha_and_mask_become_the_background_color(tmp_path: Path):
    image = tmp_path / "a.png"
    pixels = np.full((4, 4, 4), 100, dtype=np.uint8)
    pixels[..., 3] = 255
    pixels[0, 0, 3] = 0
    Image.fromarray(pixels).save(image)
    mask = np.full((4, 4), 255, dtype=np.uint8)
    mask[3, 3] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    outputs = outputs_for([image], (4, 4), alpha_color=torch.tensor([1.0, 0.5, 0.0]))
    outputs = replace(outputs, mask_filenames=[tmp_path / "mask.png"])
    batch = UnposedDataset(outputs)[0]
    assert "mask" not in batch
    torch.testing.assert_close(batch["image"][0, 0], torch.tensor([1.0, 0.5, 0.0]))
    torch.testing.assert_close(batch["image"][3, 3], torch.tensor([1.0, 0.5, 0.0]))
    torch.testing.assert_close(batch["image"][1, 1], torch.full((3,), 100 / 255))
    assert UnposedDataset(replace(outputs, alpha_color=None))[0]["image"].shape == (4, 4, 4)


def test_mask_of_another_size(tmp_path: Path):
    outputs = outputs_for([save(tmp_path / "a.png", 8, 8)], (8, 8))
    outputs = replace(outputs, mask_filenames=[save(tmp_path / "mask.png", 8, 7)])
    with pytest.raises(InputError, match=r"mask\.png has 8x7 pixels, but its image .*a\.png has 8x8"):
        UnposedDataset(outputs)


def test_intrinsics_of_stored_pixels_turn_the_exif_orientation_off(tmp_path: Path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    image = save(tmp_path / "a.png", 40, 30, exif=exif)
    assert UnposedDataset(outputs_for([image], (40, 30)))[0]["image"].shape == (30, 40, 3)
    assert UnposedDataset(outputs_for([image], (30, 40)))[0]["image"].shape == (40, 30, 3)


def test_intrinsics_of_another_image(tmp_path: Path):
    image = save(tmp_path / "a.png", 40, 30)
    with pytest.raises(InputError, match=r"a\.png has 40x30 pixels, but its intrinsics are for 100x30"):
        UnposedDataset(outputs_for([image], (100, 30)))


def test_scale_factor(tmp_path: Path):
    dataset = UnposedDataset(outputs_for([save(tmp_path / "a.png", 40, 30)], (40, 30)), 20, scale_factor=0.5)
    assert dataset[0]["image"].shape == (7, 10, 3)
    torch.testing.assert_close(dataset.cameras.fx, torch.tensor([[12.5]]))
