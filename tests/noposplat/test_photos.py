"""Photos of any kind to images of one size and their lenses."""

import json
import math
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pytest
import torch
from made_surface import color_at
from PIL import ExifTags, Image

from gnerf_ns.data.images import ImageSize
from gnerf_ns.noposplat.photos import MOST_PHOTOS, Photos, common_size, find_photos, read_photos
from gnerf_ns.utils.console import remark
from gnerf_ns.utils.errors import InputError


def picture(width: int, height: int, focal: float, shift: float = 0.0, k1: float = 0.0) -> Image.Image:
    """A plane at distance 1, by a lens that may distort."""
    x, y = torch.meshgrid(
        (torch.arange(width) + 0.5 - width / 2) / focal,
        (torch.arange(height) + 0.5 - height / 2) / focal,
        indexing="xy",
    )
    x, y = x.double(), y.double()
    straight_x, straight_y = x, y
    for _ in range(50):  # undone by iteration
        factor = 1 + k1 * (straight_x**2 + straight_y**2)
        straight_x, straight_y = x / factor, y / factor
    colors = color_at(straight_x + shift, straight_y)
    return Image.fromarray((255 * colors.clamp(0, 1)).round().byte().numpy())


def read(paths: List[Path], side: int = 64, fov_deg: Any = None) -> Photos:
    return read_photos(find_photos(paths, fov_deg), side, torch.device("cpu"))


@pytest.mark.parametrize(
    ("sizes", "side", "wanted"),
    [
        ([(1000, 1000)], 256, (256, 256)),
        ([(4032, 3024), (4032, 3024)], 256, (304, 224)),
        ([(3024, 4032)], 256, (224, 304)),
        ([(3000, 2000), (2000, 3000)], 256, (256, 256)),
        ([(1920, 1080)], 512, (688, 384)),
        ([(64, 48)], 64, (64, 48)),
    ],
)
def test_the_size_suits_photos_and_network(sizes, side, wanted):
    size = common_size([ImageSize(*each) for each in sizes], side)
    assert size == ImageSize(*wanted)
    assert size.width % 16 == size.height % 16 == 0 and abs(math.log(size.width * size.height / side**2)) < 0.3


def test_four_formats_of_one_picture_are_one(tmp_path: Path):
    image = picture(96, 72, 80.0)
    paths = []
    kinds: List[Any] = [(".png", {}), (".jpg", {"quality": 98}), (".webp", {"lossless": True}), (".tiff", {})]
    for ending, options in kinds:
        paths.append(tmp_path / f"photo{ending}")
        image.save(paths[-1], **options)
    image.save(tmp_path / "photo.avif", quality=98)
    photos = read([*paths, tmp_path / "photo.avif"])
    assert photos.size == ImageSize(64, 48) and photos.images.shape == (5, 3, 48, 64)
    for other in photos.images[1:]:
        assert (other - photos.images[0]).abs().max() < 0.08
    assert photos.same() == [(0, 2), (0, 3), (2, 3)]


def test_a_folder_is_read_in_the_order_of_its_names_and_files_in_that_given(tmp_path: Path):
    for name, shift in (("b.png", 0.3), ("a.png", 0.0)):
        picture(64, 48, 60.0, shift).save(tmp_path / name)
    assert read([tmp_path]).names == ["a.png", "b.png"]
    assert read([tmp_path / "b.png", tmp_path / "a.png"]).names == ["b.png", "a.png"]


def test_lenses_come_from_the_option_a_transforms_json_exif_and_a_guess(tmp_path: Path):
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = 43
    for name in ("a.jpg", "b.jpg"):
        picture(128, 128, 100.0).save(tmp_path / name, exif=exif)
    paths = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    by_exif = 43 * math.hypot(64, 64) / math.hypot(36, 24)
    assert read(paths).focal[0].tolist() == pytest.approx([by_exif, by_exif])
    frames = [{"file_path": "b.jpg", "fl_x": 100.0, "fl_y": 100.0, "cx": 60.0, "cy": 70.0, "w": 128, "h": 128}]
    (tmp_path / "transforms.json").write_text(json.dumps({"frames": [*frames, {**frames[0], "file_path": "a.jpg"}]}))
    listed = read(paths)
    assert listed.focal[0].tolist() == [50.0, 50.0] and listed.centers[0].tolist() == [30.0, 35.0]
    assert listed.names == ["a.jpg", "b.jpg"]
    assert read(paths, fov_deg=90.0).focal[0].tolist() == pytest.approx([32.0, 32.0])
    (tmp_path / "transforms.json").unlink()
    for path in paths:
        picture(128, 128, 100.0).save(path)
    files = find_photos(paths)
    assert "an assumed field of view of 50 degrees" in files.lens_origin
    half = math.radians(25.0)
    photos = read_photos(files, 64, torch.device("cpu"))
    assert photos.focal[0].tolist() == pytest.approx([32 / math.tan(half)] * 2)
    # As shares of the image, as the network has them.
    wanted = torch.tensor([[0.5 / math.tan(half), 0, 0.5], [0, 0.5 / math.tan(half), 0.5], [0, 0, 1]])
    torch.testing.assert_close(photos.intrinsics[1], wanted)


def test_a_lens_of_an_image_of_another_shape_is_refused(tmp_path: Path):
    for name in ("a.png", "b.png"):
        picture(128, 128, 100.0).save(tmp_path / name)
    frames = [{"file_path": name, "fl_x": 100.0, "w": 128, "h": 64} for name in ("a.png", "b.png")]
    (tmp_path / "transforms.json").write_text(json.dumps({"frames": frames}))
    for paths in ([tmp_path], [tmp_path / "a.png", tmp_path / "b.png"]):
        with pytest.raises(InputError, match=r"a\.png has 128x128 pixels, but .*transforms\.json gives .* for 128x64"):
            find_photos(paths)


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_photos_are_upright(tmp_path: Path, orientation: int):
    upright = picture(80, 128, 110.0)
    stored = upright.transpose(
        {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}[orientation]
    )
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    upright.save(tmp_path / "upright.png")
    stored.save(tmp_path / "stored.png", exif=exif)
    photos = read([tmp_path / "upright.png", tmp_path / "stored.png"])
    assert photos.size.height > photos.size.width and photos.same() == [(0, 1)]
    torch.testing.assert_close(photos.focal[0], photos.focal[1])


def test_what_is_cropped_is_said_and_the_lens_is_that_of_the_rest(tmp_path: Path):
    picture(120, 80, 90.0).save(tmp_path / "wide.png")
    picture(80, 120, 90.0).save(tmp_path / "high.png")
    photos = read([tmp_path / "wide.png", tmp_path / "high.png"], fov_deg=67.38)  # 120 pixels at a focal length of 90
    assert photos.size == ImageSize(64, 64)
    assert photos.changes() == (
        "Photos are brought to 64x64 pixels: wide.png loses 33 % of its width, high.png loses 33 % of its height."
    )
    torch.testing.assert_close(photos.focal, torch.full((2, 2), 90.0 * 64 / 80), rtol=1e-4, atol=0.0)
    torch.testing.assert_close(photos.centers, torch.full((2, 2), 32.0))
    # Both show the same middle of the plane.
    assert (photos.images[0] - photos.images[1]).abs().max() < 0.03


def test_a_lens_that_distorts_is_straightened(tmp_path: Path):
    picture(192, 192, 160.0, k1=-0.12).save(tmp_path / "bent.png")
    picture(192, 192, 160.0).save(tmp_path / "straight.png")
    lens: Dict[str, Any] = {"fl_x": 160.0, "fl_y": 160.0, "w": 192, "h": 192, "camera_model": "OPENCV"}
    frames = [{**lens, "file_path": "bent.png", "k1": -0.12}, {**lens, "file_path": "straight.png"}]
    (tmp_path / "transforms.json").write_text(json.dumps({"frames": frames}))
    photos = read([tmp_path])
    difference = (photos.images[0] - photos.images[1]).abs()
    assert difference[:, 8:-8, 8:-8].max() < 0.03
    bare = read_photos(find_photos([tmp_path / "bent.png", tmp_path / "straight.png"], 60.0), 64, torch.device("cpu"))
    assert bare.images.shape == photos.images.shape  # --fov-deg leaves the distortion what it is


def test_what_is_transparent_is_black(tmp_path: Path):
    pixels = np.full((64, 64, 4), 255, dtype=np.uint8)
    pixels[:32, :, 3] = 0
    for name in ("a.png", "b.png"):
        Image.fromarray(pixels).save(tmp_path / name)
    image = read([tmp_path]).images[0]
    assert not image[:, :31].any() and bool((image[:, 33:] == 1).all())


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda folder: [folder / "a.png"], r"There is only one photo \(.*a\.png\); give 2 to 12"),
        (lambda folder: [folder / "gone.png"], r"There is no .*gone\.png; give photos"),
        (lambda folder: [folder / "a.png", folder / "note.txt"], r"note\.txt is no image of a known kind"),
        (lambda folder: [folder / "a.png", folder / "tiny.png"], r"tiny\.png has 8x8 pixels, but at least 16"),
        (lambda folder: [folder / "a.png", folder / "cut.png"], r"cut\.png cannot be decoded|no image in a known"),
        (lambda folder: [folder / "empty"], "The folder .*empty is empty"),
        (lambda folder: [folder / "notes"], "No image is among the files"),
        (lambda folder: [folder / "a.png"] * (MOST_PHOTOS + 1), "There are 13 photos"),
        (
            lambda folder: [folder / "a.png", folder / "." / "a.png"],
            r"a\.png is given 2 times; give photos from different",
        ),
        (lambda folder: [folder / "a.png", folder / "empty"], "empty is no image of a known kind"),
    ],
)
def test_bad_input_gets_one_sentence(tmp_path: Path, make, sentence: str):
    picture(32, 32, 30.0).save(tmp_path / "a.png")
    picture(8, 8, 30.0).save(tmp_path / "tiny.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:300])
    (tmp_path / "note.txt").write_text("no photo")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "note.txt").write_text("no photo")
    with pytest.raises(InputError, match=sentence) as error:
        read(make(tmp_path))
    assert "\n" not in str(error.value)


def test_that_masks_have_no_part_is_said(tmp_path: Path, capsys: pytest.CaptureFixture):
    for name in ("a.png", "b.png"):
        picture(32, 32, 30.0).save(tmp_path / name)
    find_photos([tmp_path])
    assert "Masks" not in capsys.readouterr().out
    (tmp_path / "masks").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("L", (32, 32), 255).save(tmp_path / "masks" / name)
    find_photos([tmp_path])
    assert "Masks have no part in a splat" in capsys.readouterr().out


def test_masks_beside_photos_are_no_photos(tmp_path: Path, capsys: pytest.CaptureFixture):
    remark.cache_clear()
    names = ("a.png", "a_mask.png", "b.png", "b_mask.png")
    for name in names:
        picture(32, 32, 30.0).save(tmp_path / name)
    files = find_photos([tmp_path / name for name in names])
    assert [frame.image.name for frame in files.frames] == ["a.png", "b.png"]
    assert "Masks have no part in a splat" in capsys.readouterr().out


def test_an_impossible_field_of_view_is_refused(tmp_path: Path):
    picture(32, 32, 30.0).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="--fov-deg 170 is not between"):
        find_photos([tmp_path / "a.png"] * 2, 170.0)
