from dataclasses import replace
from pathlib import Path
from typing import Any, Sequence, Tuple

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.pixel_samplers import PixelSamplerConfig
from nerfstudio.data.utils.dataloaders import CacheDataloader, FixedIndicesEvalDataloader
from nerfstudio.data.utils.nerfstudio_collate import nerfstudio_collate
from PIL import Image

from gnerf_ns.data.dataset import UnposedDataset, common_format
from gnerf_ns.data.images import ImageSize, read_image
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


@pytest.mark.parametrize("max_side", [None, 40, 23, 17])
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


def mixed_outputs(tmp_path: Path, sizes: Sequence[Tuple[int, int]], channels: int = 3, **more) -> DataparserOutputs:
    """Images of given sizes, focal lengths 1.1 times their longer sides and off-center principal points."""
    images = [save(tmp_path / f"{index}.png", size[0], size[1], channels) for index, size in enumerate(sizes)]
    widths, heights = torch.tensor(sizes, dtype=torch.float32).T
    focal = 1.1 * torch.maximum(widths, heights)
    cameras = Cameras(
        camera_to_worlds=torch.eye(4)[:3].repeat(len(sizes), 1, 1),
        fx=focal,
        fy=focal,
        cx=0.52 * widths,
        cy=0.47 * heights,
        width=widths.long(),
        height=heights.long(),
        distortion_params=torch.tensor([0.05, -0.02, 0.0, 0.0, 0.001, 0.002]),
    )
    return DataparserOutputs(images, cameras, **more)


@pytest.mark.parametrize("max_side", [None, 100, 40, 33])
@pytest.mark.parametrize(
    "sizes",
    [
        [(48, 32)] * 3 + [(32, 48)] * 3,
        [(480, 320), (32, 48)],  # longer sides are made equal
        [(64, 48), (96, 64), (64, 36), (48, 48)],
        [(80, 60)] * 4 + [(130, 40)],
    ],
)
def test_images_of_differing_aspects_are_padded(tmp_path: Path, sizes, max_side):
    outputs = mixed_outputs(tmp_path, sizes)
    dataset = UnposedDataset(outputs, max_side)
    canvas = dataset.image_format.size
    assert dataset.extents is not None and float(dataset.extents.max()) == 1.0
    assert torch.equal(dataset.extents.amax(dim=1), torch.ones(len(sizes))), "each touches two borders"
    assert not dataset.cameras.is_jagged
    for index, (width, height) in enumerate(sizes):
        item = dataset[index]
        assert item["image"].shape == (canvas.height, canvas.width, 3)
        assert item["mask"].shape == (canvas.height, canvas.width, 1) and item["mask"].dtype == torch.bool
        extent = dataset.extents[index]
        inside = item["mask"][..., 0]
        assert int(inside.sum()) == round(float(extent.prod()) * canvas.width * canvas.height)
        assert torch.equal(inside, inside.flip(0)) and torch.equal(inside, inside.flip(1)), "in the middle"
        assert not item["image"][~inside].any()
        # All of the image is there, where its camera sees it.
        rows, columns = (inside.any(dim=axis).nonzero()[[0, -1]].flatten().tolist() for axis in (1, 0))
        inner = item["image"][rows[0] : rows[1] + 1, columns[0] : columns[1] + 1]
        whole = read_image(outputs.image_filenames[index], size=ImageSize(inner.shape[1], inner.shape[0]))
        np.testing.assert_array_equal((255 * inner).round().numpy(), whole)
        assert abs(inner.shape[1] / width / (inner.shape[0] / height) - 1) <= 1.01 / min(inner.shape[:2])
        for x, y in [(0.0, 0.0), (0.3, 0.9), (1.0, 0.5)]:
            on_canvas = [0.5 + (share - 0.5) * float(extent[axis]) for axis, share in enumerate((x, y))]
            torch.testing.assert_close(
                direction(dataset.cameras, index, *on_canvas),
                direction(outputs.cameras, index, x, y),
                atol=1e-5,
                rtol=0,
            )
        file = dataset.file_cameras[index]
        assert (int(file.width), int(file.height)) == (width, height)
        torch.testing.assert_close(file.cx, outputs.cameras[index].cx)


def test_portraits_among_landscapes_have_their_scale(tmp_path: Path):
    dataset = UnposedDataset(mixed_outputs(tmp_path, [(48, 32)] * 2 + [(32, 48)] * 2), 36)
    assert dataset.image_format.size == ImageSize(36, 36)
    assert dataset.extents is not None
    torch.testing.assert_close(dataset.extents, torch.tensor([[1.0, 2 / 3]] * 2 + [[2 / 3, 1.0]] * 2))
    torch.testing.assert_close(dataset.cameras.fx, torch.full((4, 1), 1.1 * 36))
    assert dataset.changes() == (
        "Images are brought to 36x36 pixels: shrunk from 48x32 and other sizes; 4 of 4 are padded (0.png, 1.png, 2.png "
        "and 1 more)."
    )


def test_padding_of_images_with_alpha_is_transparent(tmp_path: Path):
    outputs = mixed_outputs(tmp_path, [(48, 32), (32, 48)], 4, alpha_color=torch.tensor([1.0, 0.5, 0.0]))
    dataset = UnposedDataset(outputs)
    assert not dataset.get_numpy_image(0)[:8].any() and not dataset.get_numpy_image(1)[:, 40:].any()
    torch.testing.assert_close(dataset[0]["image"][0, 0], torch.tensor([1.0, 0.5, 0.0]))


def test_padded_images_go_through_nerfstudios_dataloaders(tmp_path: Path):
    dataset = UnposedDataset(mixed_outputs(tmp_path, [(48, 32), (32, 48), (40, 40)]))
    for _, batch in FixedIndicesEvalDataloader(dataset, device="cpu"):
        assert batch["mask"].shape == (48, 48, 1)
    loader = CacheDataloader(dataset, num_images_to_sample_from=-1, device="cpu", collate_fn=nerfstudio_collate)
    batch: Any = next(iter(loader))
    assert batch["mask"].shape == (3, 48, 48, 1)
    sampled = PixelSamplerConfig().setup(num_rays_per_batch=64).sample(batch)
    found, rows, columns = sampled["indices"].T
    for image, row, column in zip(found.tolist(), rows.tolist(), columns.tolist(), strict=True):
        assert bool(dataset[image]["mask"][row, column])


def test_slightly_differing_aspects_are_cropped_and_no_image_is_padded(tmp_path: Path):
    dataset = UnposedDataset(mixed_outputs(tmp_path, [(400, 300)] * 3 + [(397, 300), (403, 300), (410, 300)]), 40)
    assert dataset.image_format.size == ImageSize(40, 30) and dataset.extents is None
    assert "mask" not in dataset[3]
    torch.testing.assert_close(dataset.cameras.cx[5], torch.tensor([(0.52 * 410 - 5) / 10]))
    assert dataset.changes() == (
        "Images are brought to 40x30 pixels: shrunk from 400x300 and other sizes; 1 of 6 lose up to 2 % of a side "
        "(5.png)."
    )


def test_thumbnails_do_not_set_the_size(tmp_path: Path):
    """Nine images and twelve thumbnails, as with the held-out ones taken away."""
    dataset = UnposedDataset(mixed_outputs(tmp_path, [(96, 96)] * 9 + [(24, 24)] * 12))
    assert dataset.image_format.size == ImageSize(96, 96)
    assert dataset.changes() == (
        "Images are brought to 96x96 pixels: 12 of 21 are smaller, and enlarged (9.png, 10.png, 11.png and 9 more)."
    )
    assert common_format([ImageSize(100, 100)] * 9 + [ImageSize(4000, 4000)], None).size == ImageSize(100, 100)


def test_nothing_is_said_of_images_that_stay_as_they_are(tmp_path: Path):
    assert UnposedDataset(mixed_outputs(tmp_path, [(48, 32)] * 3)).changes() is None
    shrunk = UnposedDataset(mixed_outputs(tmp_path, [(48, 32)] * 3), 24)
    assert shrunk.changes() == "Images are brought to 24x16 pixels: shrunk from 48x32."


@pytest.mark.parametrize(
    ("sizes", "options", "sentence"),
    [
        ([(48, 32)], {"max_image_side": 0}, "--max-image-side 0 is too small"),
        ([(48, 32)], {"max_image_side": -5}, "--max-image-side -5 is too small"),
        ([(48, 32)], {"max_image_side": 15}, "--max-image-side 15 is too small"),
        ([(48, 32)], {"scale_factor": 0.001}, "Images shrunk to 1x1 pixels do not tell poses; raise --max-image-side"),
        ([(48, 32)], {"scale_factor": -1.0}, "Images shrunk to 1x1 pixels"),
        ([(600, 20)], {"max_image_side": 64}, "Images shrunk to 64x2 pixels do not tell poses"),
        ([(1, 1)] * 5, {}, r"5 of 5 images have less than 16 pixels on a side \(0.png, 1.png, 2.png and 2 more\)"),
        ([(48, 32), (8, 8)], {}, r"1 of 2 images have less than 16 pixels on a side \(1.png\)"),
    ],
)
def test_images_too_small_to_tell_anything(tmp_path: Path, sizes, options, sentence):
    with pytest.raises(InputError, match=sentence):
        UnposedDataset(mixed_outputs(tmp_path, sizes), **options)


def test_a_second_dataset_follows_the_format_of_the_first(tmp_path: Path):
    first = UnposedDataset(outputs_for([save(tmp_path / "a.png", 270, 480)], (270, 480)), max_image_side=29)
    second = UnposedDataset(
        outputs_for([save(tmp_path / "b.png", 540, 960)], (540, 960)), image_format=first.image_format
    )
    assert second[0]["image"].shape == first[0]["image"].shape == (29, 16, 3)
    # Nothing cut off, although 16/29 is not 270/480.
    torch.testing.assert_close(second.cameras.fx / 16, second.file_cameras.fx / 540)


def test_held_out_images_fit_the_canvas_of_the_training_images(tmp_path: Path):
    first = UnposedDataset(mixed_outputs(tmp_path, [(48, 32)] * 3))
    second = UnposedDataset(mixed_outputs(tmp_path, [(48, 32), (32, 48)]), image_format=first.image_format)
    assert second[1]["image"].shape == (32, 48, 3) and int(second[1]["mask"].sum()) == 32 * 22
    assert bool(second[0]["mask"].all())


def test_common_format():
    assert common_format([ImageSize(270, 480)] * 3, 100).size == ImageSize(56, 100)
    assert common_format([ImageSize(200, 200)] * 3, None).size == ImageSize(200, 200)
    assert common_format([ImageSize(50, 40)], 100).size == ImageSize(50, 40), "never enlarged"
    mixed = common_format([ImageSize(400, 300), ImageSize(300, 400)], 100)
    assert mixed.size == ImageSize(100, 100) and mixed.aspect == pytest.approx(1.0)
    assert common_format([ImageSize(640, 480), ImageSize(640, 360)], None).size == ImageSize(640, 480)


def test_alpha_and_mask_become_the_background_color(tmp_path: Path):
    image = tmp_path / "a.png"
    pixels = np.full((16, 16, 4), 100, dtype=np.uint8)
    pixels[..., 3] = 255
    pixels[0, 0, 3] = 0
    Image.fromarray(pixels).save(image)
    mask = np.full((16, 16), 255, dtype=np.uint8)
    mask[3, 3] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    outputs = outputs_for([image], (16, 16), alpha_color=torch.tensor([1.0, 0.5, 0.0]))
    outputs = replace(outputs, mask_filenames=[tmp_path / "mask.png"])
    batch = UnposedDataset(outputs)[0]
    assert "mask" not in batch
    torch.testing.assert_close(batch["image"][0, 0], torch.tensor([1.0, 0.5, 0.0]))
    torch.testing.assert_close(batch["image"][3, 3], torch.tensor([1.0, 0.5, 0.0]))
    torch.testing.assert_close(batch["image"][1, 1], torch.full((3,), 100 / 255))
    assert UnposedDataset(replace(outputs, alpha_color=None))[0]["image"].shape == (16, 16, 4)


def test_mask_of_another_size(tmp_path: Path):
    outputs = outputs_for([save(tmp_path / "a.png", 18, 18)], (18, 18))
    outputs = replace(outputs, mask_filenames=[save(tmp_path / "mask.png", 18, 17)])
    with pytest.raises(InputError, match=r"mask\.png has 18x17 pixels, but its image .*a\.png has 18x18"):
        UnposedDataset(outputs)


def test_intrinsics_of_another_image(tmp_path: Path):
    image = save(tmp_path / "a.png", 40, 30)
    with pytest.raises(InputError, match=r"a\.png has 40x30 pixels, but its intrinsics are for 100x30"):
        UnposedDataset(outputs_for([image], (100, 30)))


def test_scale_factor(tmp_path: Path):
    dataset = UnposedDataset(outputs_for([save(tmp_path / "a.png", 40, 30)], (40, 30)), 40, scale_factor=0.5)
    assert dataset[0]["image"].shape == (15, 20, 3)
    torch.testing.assert_close(dataset.cameras.fx, torch.tensor([[25.0]]))
