from pathlib import Path
from typing import Tuple

import numpy as np
import pytest
from PIL import ExifTags, Image

from gnerf_ns.data.images import ImageSize, read_header, read_image
from gnerf_ns.data.mask_pixels import has_labels, read_mask


def with_orientation(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def test_masks_of_all_kinds_agree(tmp_path: Path):
    inside = np.zeros((40, 60), dtype=bool)
    inside[10:30, 15:45] = True
    ones = inside.astype(np.uint8)
    palette = Image.fromarray(ones, mode="P")
    palette.putpalette([0, 0, 0, 128, 0, 0])
    transparent = Image.fromarray(np.stack([np.zeros_like(ones)] * 3 + [ones * 255], axis=-1))
    opaque = Image.fromarray(np.stack([ones * 255] * 3 + [np.full_like(ones, 255)], axis=-1))
    kinds = {
        "bytes.png": Image.fromarray(ones * 255),
        "ones.png": Image.fromarray(ones),
        "bits.png": Image.fromarray(inside),
        "bits.tif": Image.fromarray(inside),
        "16bits.png": Image.fromarray(ones.astype(np.uint16) * 65535),
        "16bit_ones.png": Image.fromarray(ones.astype(np.uint16)),
        "noisy.jpg": Image.fromarray(ones * 255),
        "palette.png": palette,
        "transparent.png": transparent,
        "opaque.webp": opaque,
    }
    for name, mask in kinds.items():
        mask.save(tmp_path / name, lossless=True)
        small = read_mask(tmp_path / name, ImageSize(12, 8))
        expected = inside.reshape(8, 5, 12, 5).mean(axis=(1, 3)) * 255
        np.testing.assert_allclose(small.astype(float), expected, atol=2 if name == "noisy.jpg" else 1, err_msg=name)
        assert not has_labels(tmp_path / name)
    Image.fromarray(np.zeros((40, 60), dtype=np.uint8)).save(tmp_path / "nothing.png")
    assert not read_mask(tmp_path / "nothing.png", ImageSize(12, 8)).any()


@pytest.mark.parametrize("scale", [1, 257])
def test_soft_masks_stay_soft(tmp_path: Path, scale: int):
    ramp = np.broadcast_to(np.linspace(0, 255, 60).round(), (40, 60)).astype(np.uint8)
    Image.fromarray(ramp.astype(np.uint16) * scale if scale > 1 else ramp).save(tmp_path / "ramp.png")
    np.testing.assert_allclose(read_mask(tmp_path / "ramp.png", ImageSize(60, 40)).astype(int), ramp, atol=1)
    # A disc with two gray levels along its edge, as half the size of a bilevel one is.
    rows, columns = np.mgrid[:80, :80]
    disc = (np.hypot(rows - 39.5, columns - 39.5) < 25).reshape(40, 2, 40, 2).mean(axis=(1, 3)) * 255
    values = disc.astype(np.uint16) * scale if scale > 1 else disc.astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "disc.png")
    np.testing.assert_allclose(read_mask(tmp_path / "disc.png", ImageSize(40, 40)).astype(int), disc, atol=1)
    assert not has_labels(tmp_path / "ramp.png") and not has_labels(tmp_path / "disc.png")


@pytest.mark.parametrize("labels", [(1, 3), (1, 2), (7, 200), (85, 170, 255), (1000, 24001)])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_all_labels_of_a_segmentation_are_the_object(tmp_path: Path, labels: Tuple[int, ...], suffix: str):
    path = tmp_path / f"a{suffix}"
    pixels = np.zeros((40, 60), dtype=np.uint16)
    for index, label in enumerate(labels):
        pixels[10:30, 10 + 12 * index : 22 + 12 * index] = label
    Image.fromarray(pixels if max(labels) > 255 else pixels.astype(np.uint8)).save(path)
    np.testing.assert_array_equal(read_mask(path, ImageSize(60, 40)), (pixels > 0) * np.uint8(255))
    assert has_labels(path)


def test_all_colors_of_a_segmentation_are_the_object(tmp_path: Path):
    indices = np.zeros((40, 60), dtype=np.uint8)
    indices[10:20, 10:50], indices[20:30, 10:50] = 1, 2
    mask = Image.fromarray(indices, mode="P")
    mask.putpalette([0, 0, 0, 128, 0, 0, 0, 64, 0])
    for path in (tmp_path / "palette.png", tmp_path / "colors.png"):
        (mask if path.stem == "palette" else mask.convert("RGB")).save(path)
        np.testing.assert_array_equal(read_mask(path, ImageSize(60, 40)), (indices > 0) * np.uint8(255))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_turn_as_their_images_do(tmp_path: Path, orientation: int):
    stored = np.zeros((32, 48), dtype=np.uint8)
    stored[:8, 8:16], stored[16:, :8] = 255, 255
    Image.fromarray(stored).save(tmp_path / "mask.png", exif=with_orientation(orientation))
    Image.fromarray(np.repeat(stored[..., None], 3, axis=-1)).save(
        tmp_path / "image.png", exif=with_orientation(orientation)
    )
    header = read_header(tmp_path / "image.png")
    for applied, (width, height) in ((None, header.displayed_size), (1, header.size)):
        for size, aspect in ((ImageSize(width // 2, height // 2), None), (ImageSize(16, 16), 1.0)):
            image = read_image(tmp_path / "image.png", size=size, aspect=aspect, orientation=applied)
            mask = read_mask(tmp_path / "mask.png", size, aspect, orientation=applied)
            np.testing.assert_array_equal(mask, image[..., 0])
