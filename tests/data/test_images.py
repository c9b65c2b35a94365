import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Tuple

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image
from pillow_heif import register_heif_opener

from gnerf_ns.data import images
from gnerf_ns.data.images import (
    ImageSize,
    advice_on,
    area_resize,
    fit_max_side,
    focal_from_exif,
    image_size,
    is_image,
    read_header,
    read_image,
)
from gnerf_ns.utils.errors import InputError


def noise(height: int, width: int, channels: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def with_orientation(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_area_resize_equals_brute_force(in_height: int, in_width: int, height: int, width: int):
    images = torch.rand(2, 3, in_height, in_width)
    # Cut every pixel into enough equal cells that each output pixel is a whole number of them.
    cells = images.repeat_interleave(height, dim=2).repeat_interleave(width, dim=3)
    expected = cells.reshape(2, 3, height, in_height, width, in_width).mean(dim=(3, 5))
    torch.testing.assert_close(area_resize(images, height, width), expected)


def test_area_resize_is_differentiable():
    images = torch.rand(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: area_resize(x, 3, 2), (images,))


@pytest.mark.parametrize(
    ("size", "max_side", "expected"),
    [
        ((200, 200), 100, (100, 100)),
        ((270, 480), 100, (56, 100)),
        ((50, 40), 100, (50, 40)),
        ((50, 40), None, (50, 40)),
    ],
)
def test_fit_max_side(size, max_side, expected):
    assert fit_max_side(ImageSize(*size), max_side) == expected


@pytest.mark.parametrize("suffix", [".png", ".webp", ".PNG"])
def test_lossless_formats_come_back_as_written(tmp_path: Path, suffix: str):
    path, pixels = tmp_path / f"a{suffix}", noise(7, 5, 3)
    Image.fromarray(pixels).save(path, lossless=True)
    np.testing.assert_array_equal(read_image(path), pixels)
    assert image_size(path) == ImageSize(5, 7)


def test_jpeg(tmp_path: Path):
    path = tmp_path / "a.jpg"
    Image.new("RGB", (40, 30), (10, 100, 200)).save(path, quality=100)
    np.testing.assert_allclose(read_image(path).astype(int), np.full((30, 40, 3), (10, 100, 200)), atol=2)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".avif"])
def test_exif_orientation(tmp_path: Path, orientation: int, suffix: str):
    """The EXIF standard's "F" glyph: row and column 0 of the stored pixels lie where the orientation says."""
    upright = np.zeros((48, 32, 3), dtype=np.uint8)
    upright[:16, 8:16], upright[16:, :8] = 255, 128  # no symmetry
    undo = {2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.transpose(1, 0, 2)}
    undo |= {6: lambda a: np.rot90(a, 1), 7: lambda a: np.rot90(a, 2).transpose(1, 0, 2), 8: lambda a: np.rot90(a, -1)}
    stored = np.ascontiguousarray(undo.get(orientation, lambda a: a)(upright))
    path = tmp_path / f"a{suffix}"
    options = {} if suffix == ".tif" else {"quality": 100, "lossless": True}
    Image.fromarray(stored).save(path, exif=with_orientation(orientation), **options)
    tolerance = 12 if suffix in (".jpg", ".avif") else 0
    np.testing.assert_allclose(read_image(path).astype(int), upright, atol=tolerance)
    assert image_size(path) == ImageSize(32, 48)
    stored = upright if suffix == ".tif" else stored  # Pillow knows no other way to read those
    assert read_header(path).size == ImageSize(stored.shape[1], stored.shape[0])
    half = upright.reshape(24, 2, 16, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(read_image(path, max_side=24).astype(int), half, atol=tolerance)
    np.testing.assert_allclose(read_image(path, orientation=1).astype(int), stored, atol=tolerance)


def test_dimensions_in_a_header_alone(tmp_path: Path, recwarn: pytest.WarningsRecorder):
    """Of 200 megapixels Pillow would say that they could be an attack."""
    path = tmp_path / "a.bmp"
    Image.new("RGB", (4, 4)).save(path)
    header = bytearray(path.read_bytes())
    header[18:26] = (16384).to_bytes(4, "little") + (12288).to_bytes(4, "little")
    path.write_bytes(bytes(header))
    assert image_size(path) == ImageSize(16384, 12288)
    assert not recwarn.list
    for width in (50000, 10**6):
        header[18:22] = width.to_bytes(4, "little")
        path.write_bytes(bytes(header))
        with pytest.raises(InputError, match=r"a\.bmp has more than 300 megapixels; shrink"):
            image_size(path)


@pytest.mark.parametrize("suffix", [".tif", ".tiff", ".bmp", ".avif"])
def test_further_formats(tmp_path: Path, suffix: str):
    path, pixels = tmp_path / f"a{suffix}", np.zeros((48, 64, 3), dtype=np.uint8)
    pixels[16:, 32:] = (200, 180, 160)
    Image.fromarray(pixels).save(path)
    np.testing.assert_allclose(read_image(path).astype(int), pixels, atol=12 if suffix == ".avif" else 0)
    assert is_image(path) and image_size(path) == ImageSize(64, 48)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_heic_is_upright_with_its_focal_length(tmp_path: Path, orientation: int):
    """As telephones write it: turned by a property of the file that EXIF repeats, with a thumbnail inside."""
    register_heif_opener()
    pixels = np.zeros((240, 320, 3), dtype=np.uint8)
    pixels[:80, :160], pixels[160:, 200:] = (220, 40, 40), (40, 60, 220)
    exif = with_orientation(orientation)
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = 26
    paths = tmp_path / "a.HEIC", tmp_path / "a.jpg"
    Image.fromarray(pixels).save(paths[0], quality=95, exif=exif.tobytes(), thumbnails=[60])
    Image.fromarray(pixels).save(paths[1], quality=95, exif=exif)
    headers = [read_header(path) for path in paths]
    assert is_image(paths[0]) and headers[0].displayed_size == headers[1].displayed_size
    assert focal_from_exif(paths[0]) == pytest.approx(focal_from_exif(paths[1]))
    for side in (None, 30):
        upright, expected = (read_image(path, max_side=side).astype(int) for path in paths)
        assert np.abs(upright - expected).mean() < 3


@pytest.mark.parametrize("damage", ["cut off", "overwritten"])
def test_damaged_heic(tmp_path: Path, damage: str):
    register_heif_opener()
    path = tmp_path / "a.heic"
    Image.fromarray(noise(64, 64, 3)).save(path)
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[:half] + (b"" if damage == "cut off" else bytes(half)))
    with pytest.raises(InputError, match=r"a\.heic"):
        read_image(path)


def test_heic_named_jpg_says_how_to_have_it_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    register_heif_opener()
    path = tmp_path / "a.jpg"
    Image.fromarray(noise(16, 16, 3)).save(path, format="HEIF")
    assert image_size(path) == ImageSize(16, 16)
    monkeypatch.setattr(images, "READS_HEIC", False)
    monkeypatch.setattr(Image, "ID", [kind for kind in Image.ID if kind != "HEIF"])
    images._read_header.cache_clear()
    with pytest.raises(InputError, match=r'a\.jpg is HEIC, whatever its ending: pip install "gnerf-ns\[heic\]" lets'):
        image_size(path)


def test_advice_on_heic_where_it_is_not_read(monkeypatch: pytest.MonkeyPatch):
    assert not advice_on(Path("a.HEIC"))
    monkeypatch.setattr(images, "READS_HEIC", False)
    assert advice_on(Path("a.HEIC")) == ' (pip install "gnerf-ns[heic]" lets .heic files be read)'
    assert not advice_on(Path("a.mov"))


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "avif", "tif", "bmp", "heic"])
def test_damaged_bytes_get_one_sentence(tmp_path: Path, ending: str):
    """Decoders raise errors of many kinds."""
    register_heif_opener()
    random, path = np.random.default_rng(0), tmp_path / f"a.{ending}"
    Image.fromarray(noise(24, 40, 3)).save(path)
    content = path.read_bytes()
    for _ in range(25):
        damaged = np.frombuffer(content, dtype=np.uint8).copy()
        places = random.integers(0, min(len(content), random.choice([64, 400, len(content)])), random.integers(1, 30))
        damaged[places] = random.integers(0, 256, len(places))
        path.write_bytes(damaged.tobytes()[: random.choice([len(content), random.integers(1, len(content))])])
        for read in (read_header, read_image, focal_from_exif):
            with contextlib.suppress(InputError):
                read(path)


@pytest.mark.parametrize(
    ("mode", "values", "sentence"),
    [("I", (0, 70000), "do not fit into 16 bits"), ("I", (-5, 5), "do not fit"), ("F", (0, 1), "floating-point")],
)
def test_numbers_of_more_than_16_bits(tmp_path: Path, mode: str, values: Any, sentence: str):
    kind = np.int32 if mode == "I" else np.float32
    Image.fromarray(np.tile(np.array(values, dtype=kind), (8, 4))).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=rf"a\.tif .*{sentence}"):
        read_image(tmp_path / "a.tif")


def test_a_tiff_that_pillow_does_not_read(tmp_path: Path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 8, 3), dtype=np.float32))
    with pytest.raises(InputError, match=r"a\.tif is a TIFF of a kind that is not read; save it with 8 or 16 bits"):
        image_size(tmp_path / "a.tif")


@pytest.mark.parametrize("ending", ["tif", "webp", "avif", "png"])
def test_several_images_in_one_file_are_counted_and_the_first_is_read(tmp_path: Path, ending: str):
    pages = [Image.new("RGB", (16, 16), color) for color in ("#c80000", "#00c800", "#0000c8")]
    pages[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=pages[1:])
    assert read_header(tmp_path / f"a.{ending}").num_images == 3
    np.testing.assert_allclose(read_image(tmp_path / f"a.{ending}")[8, 8].astype(int), (200, 0, 0), atol=8)
    pages[0].save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=pages[1:])
    assert read_header(tmp_path / "a.jpg").num_images == 1


def test_an_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.png").write_bytes(b"x")

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(InputError, match=r"a\.png cannot be decoded \(\[Errno 13\] Permission denied\)"):
        image_size(tmp_path / "a.png")


def test_floating_point_numbers(tmp_path: Path):
    path = tmp_path / "a.tif"
    Image.fromarray(np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)).save(path)
    with pytest.raises(InputError, match=r"a\.tif holds floating-point numbers"):
        image_size(path)


def test_kinds_of_pixels(tmp_path: Path):
    path = tmp_path / "a.png"
    gray = noise(6, 6, 1)[..., 0]
    Image.fromarray(gray).save(path)
    np.testing.assert_array_equal(read_image(path), np.repeat(gray[..., None], 3, axis=-1))
    Image.fromarray(gray.astype(np.uint16) * 257).save(path)
    np.testing.assert_array_equal(read_image(path), np.repeat(gray[..., None], 3, axis=-1))
    Image.fromarray(noise(6, 6, 3)).quantize(256).save(path)
    np.testing.assert_array_equal(read_image(path), noise(6, 6, 3))
    palette = Image.fromarray(noise(6, 6, 3)).quantize(256)
    palette.info["transparency"] = int(np.asarray(palette)[2, 3])
    palette.save(path, transparency=palette.info["transparency"])
    assert read_image(path)[2, 3, 3] == 0 and read_image(path)[0, 0, 3] == 255
    Image.fromarray(noise(6, 6, 2), mode="LA").save(path)
    np.testing.assert_array_equal(read_image(path), noise(6, 6, 2)[..., [0, 0, 0, 1]])


@pytest.mark.parametrize("side", [100, 75, 33])
def test_shrinking_averages_areas(tmp_path: Path, side: int):
    path, pixels = tmp_path / "a.png", noise(400, 400, 3)
    Image.fromarray(pixels).save(path)
    exact = area_resize(torch.from_numpy(pixels).permute(2, 0, 1)[None].float(), side, side)[0].permute(1, 2, 0)
    # Images far larger than the result are first averaged in whole-number blocks, cut at block borders.
    np.testing.assert_allclose(read_image(path, max_side=side), exact.numpy(), atol=0.51 if side > 75 else 25)
    assert abs(float(read_image(path, max_side=side).mean()) - float(exact.mean())) < 0.2


def test_invisible_pixels_lend_no_color(tmp_path: Path):
    path = tmp_path / "a.png"
    pixels = np.zeros((4, 4, 4), dtype=np.uint8)
    pixels[:, ::2] = (200, 100, 50, 255)
    pixels[:, 1::2] = (0, 255, 0, 0)
    Image.fromarray(pixels).save(path)
    shrunk = read_image(path, max_side=2)
    np.testing.assert_array_equal(shrunk[..., :3], np.broadcast_to([200, 100, 50], (2, 2, 3)))
    np.testing.assert_allclose(shrunk[..., 3], 127.5, atol=1)


def test_reduced_jpeg_keeps_its_geometry(tmp_path: Path):
    """At 1/8, 4001 pixels become 501, of which 500.125 are image; an edge must land where it was all the same."""
    path, pixels = tmp_path / "a.jpg", np.zeros((300, 4001, 3), dtype=np.uint8)
    edge = 98.5 / 100 * 4001
    pixels[:, int(edge) :] = 255
    Image.fromarray(pixels).save(path, quality=95)
    row = read_image(path, max_side=100)[4, :, 0].astype(float)
    np.testing.assert_allclose(row[:97], 0, atol=2)
    np.testing.assert_allclose(row[98], 127.5, atol=12)
    np.testing.assert_allclose(row[99], 255, atol=2)


def test_crop_takes_the_middle(tmp_path: Path):
    path = tmp_path / "a.png"
    pixels = np.zeros((20, 40, 3), dtype=np.uint8)
    pixels[:, 10:30] = 200
    Image.fromarray(pixels).save(path, exif=with_orientation(6))
    cropped = read_image(path, size=ImageSize(10, 10), aspect=1.0)
    np.testing.assert_array_equal(cropped, np.full((10, 10, 3), 200))


def test_focal_from_exif(tmp_path: Path):
    path = tmp_path / "a.jpg"
    image = Image.new("RGB", (36, 24))
    image.save(path)
    assert focal_from_exif(path) is None
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = 50
    image.save(path, exif=exif)
    assert focal_from_exif(path) == pytest.approx(50.0)  # 36x24 pixels as if of 1 mm
    exif = Image.Exif()
    details = exif.get_ifd(ExifTags.IFD.Exif)
    details[ExifTags.Base.FocalLength] = 10.0
    details[ExifTags.Base.FocalPlaneXResolution] = 254.0  # per inch, so 10 a millimeter, of a 72 pixel wide original
    details[ExifTags.Base.FocalPlaneResolutionUnit] = 2
    details[ExifTags.Base.ExifImageWidth] = 72
    details[ExifTags.Base.ExifImageHeight] = 48
    image.save(path, exif=exif)
    assert focal_from_exif(path) == pytest.approx(50.0)
    details[ExifTags.Base.FocalLength] = 0.0
    image.save(path, exif=exif)
    assert focal_from_exif(path) is None


def truncated(image: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()[: len(stream.getvalue()) * 2 // 3]


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_truncated_file(tmp_path: Path, kind: str):
    path = tmp_path / f"a.{kind}"
    path.write_bytes(truncated(Image.fromarray(noise(64, 64, 3)), kind))
    with pytest.raises(InputError, match=path.name):
        read_image(path)
    with pytest.raises(InputError, match=path.name):
        read_image(path, max_side=16)


def test_unusable_files(tmp_path: Path):
    with pytest.raises(InputError, match="does not exist"):
        image_size(tmp_path / "missing.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(InputError, match="0 bytes"):
        image_size(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(InputError, match="no image"):
        read_image(tmp_path / "text.png")


MEASURED = """
import os, sys
from pathlib import Path
from gnerf_ns.data.dataparser import UnposedDataParserConfig
from gnerf_ns.data.image_set import ImageStack
from gnerf_ns.data.dataset import UnposedDataset
from gnerf_ns.utils.cpu import keep_freed_memory
os.cpu_count = lambda: 16
keep_freed_memory()
def mebibytes(field):  # not ru_maxrss, which a child process takes over from its parent
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) // 1024
before = mebibytes("VmRSS")
outputs = UnposedDataParserConfig(data=Path(sys.argv[1]), eval_interval=0).setup().get_dataparser_outputs("train")
stack = ImageStack.from_dataset(UnposedDataset(outputs, max_image_side=int(sys.argv[2])))
print(tuple(stack.pixels.shape), "MiB:", mebibytes("VmHWM") - before)
"""
"""Prints by how much memory grows while the images of a folder are read."""


def memory_to_read(folder: Path, max_side: int) -> Tuple[str, int]:
    """Shape of what was read, and mebibytes."""
    words = [sys.executable, "-c", MEASURED, str(folder), str(max_side)]
    result = subprocess.run(words, capture_output=True, text=True, check=True)
    shape, mebibytes = result.stdout.splitlines()[-1].split(" MiB: ")
    return shape, int(mebibytes)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_stays_bounded_with_huge_images(tmp_path: Path):
    """RGBA images of 50 megapixels: 200 MB each, and as much again while colors are multiplied by alpha."""
    Image.new("RGBA", (8160, 6120), (200, 100, 50, 128)).save(tmp_path / "0.png", compress_level=1)
    for index in range(1, 6):
        os.link(tmp_path / "0.png", tmp_path / f"{index}.png")
    shape, mebibytes = memory_to_read(tmp_path, 800)
    assert shape == "(6, 600, 800, 4)" and mebibytes < 800


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_stays_bounded_with_large_images(tmp_path: Path):
    """12 images of 12 megapixels: 0.43 GB if all were held as bytes, 1.7 GB as floats."""
    rows, columns = np.mgrid[:3000, :4000]
    gradient = np.stack([rows % 256, columns % 256, (rows + columns) % 256], axis=-1).astype(np.uint8)
    Image.fromarray(gradient).save(tmp_path / "00.jpg")
    Image.fromarray(gradient).save(tmp_path / "01.png", compress_level=1)
    for index in range(2, 12):
        os.link(
            tmp_path / ("00.jpg" if index % 2 == 0 else "01.png"),
            tmp_path / f"{index:02d}{'.jpg' if index % 2 == 0 else '.png'}",
        )
    shape, mebibytes = memory_to_read(tmp_path, 100)
    # At most two threads, each with one decoded PNG of 48 MB and its copies; a decoder at work on a JPEG holds less.
    assert shape == "(12, 75, 100, 3)" and mebibytes < 400
