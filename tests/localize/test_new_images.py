import json
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import CameraType
from PIL import ExifTags, Image

from gnerf_ns.localize.new_images import NewImages, read_new_images
from gnerf_ns.localize.scene import RunLens
from gnerf_ns.utils.errors import InputError

GUESS = 20 / np.tan(np.radians(20.0))
"""Focal length in pixels of an image 40 pixels wide, by the field of view that the run started from."""
FROM_EXIF = 35.0 * np.hypot(40, 30) / np.hypot(36, 24)
"""Likewise, by EXIF data."""


def read(path: Path, side: int = 64, lens: Optional[RunLens] = None, **options: Any) -> NewImages:
    return read_new_images(path, lens or RunLens(40.0, "default"), side, torch.device("cpu"), **options)


def write_image(
    path: Path, width: int, height: int, brightness: int = 100, exif_focal_mm: Optional[int] = None
) -> None:
    exif = Image.Exif()
    if exif_focal_mm is not None:
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = exif_focal_mm
    Image.fromarray(np.full((height, width, 3), brightness, np.uint8)).save(path, exif=exif)


def write_transforms(path: Path, count: int, **values: Any) -> None:
    frames = []
    for number in range(count):
        write_image(path.parent / f"{number}.png", 40, 30)
        matrix = np.eye(4)
        matrix[0, 3] = number
        frames.append({"file_path": f"{number}.png", "transform_matrix": matrix.tolist()})
    path.write_text(json.dumps({"w": 40, "h": 30, "frames": frames, **values}))


def focal_lengths(images: NewImages) -> Any:
    """Along x, as they are written into the transforms.json and as rays have them, for images 40 pixels wide."""
    right = torch.tensor([[[1.0, 0.0]]])
    used = []
    for indices, image_set in images.groups:
        for row in range(len(indices)):
            x, _, z = image_set.directions.at(torch.tensor([row]), right)[0, 0].tolist()
            used.append(20 * -z / x)
    assert used == pytest.approx(images.cameras.fx.flatten().tolist(), rel=1e-3)
    return used


def test_one_image(tmp_path: Path):
    write_image(tmp_path / "a.png", 40, 30)
    images = read(tmp_path / "a.png")
    ((indices, image_set),) = images.groups
    assert indices.tolist() == [0] and (image_set.images.width, image_set.images.height) == (40, 30)
    assert images.given_poses is None and not images.skipped
    assert focal_lengths(images) == pytest.approx([GUESS], rel=1e-3)


@pytest.mark.parametrize(
    "source_of_run, exif, options, expected",
    [
        ("default", False, {}, 1.5 * GUESS),
        ("exif", False, {}, 1.5 * GUESS),
        ("transforms.json", False, {}, 1.5 * GUESS),
        ("exif", True, {}, 1.5 * FROM_EXIF),
        ("default", True, {}, FROM_EXIF),
        ("user", True, {}, FROM_EXIF),
        (None, True, {}, FROM_EXIF),
        ("default", False, {"fov_deg": 60.0}, 20 / np.tan(np.radians(30.0))),
        ("exif", True, {"fov_deg": 60.0}, 20 / np.tan(np.radians(30.0))),
    ],
)
def test_only_guesses_like_that_of_the_run_are_corrected(
    tmp_path: Path, source_of_run: Any, exif: bool, options: Any, expected: float
):
    write_image(tmp_path / "a.jpg", 40, 30, exif_focal_mm=35 if exif else None)
    images = read(tmp_path, lens=RunLens(40.0, source_of_run, focal_scale=1.5), **options)
    assert focal_lengths(images) == pytest.approx([expected], rel=1e-3)


def test_images_without_a_lens_of_their_own_have_all_of_the_runs(tmp_path: Path):
    write_image(tmp_path / "a.png", 40, 30)
    lens = RunLens(40.0, "transforms.json", 1.0, CameraType.FISHEYE, (0.1, 0.0, 0.0, 0.0, 0.0, 0.0))
    cameras = read(tmp_path, lens=lens).cameras
    assert cameras.camera_type.tolist() == [[CameraType.FISHEYE.value]]
    assert cameras.distortion_params is not None and cameras.distortion_params[0, 0] == pytest.approx(0.1)
    cameras = read(tmp_path, lens=lens, fov_deg=60.0).cameras
    assert cameras.camera_type.tolist() == [[CameraType.PERSPECTIVE.value]] and cameras.distortion_params is None


def test_a_known_lens_is_used_as_it_is(tmp_path: Path):
    write_transforms(tmp_path / "transforms.json", 2, fl_x=55.0)
    images = read(tmp_path, lens=RunLens(40.0, "default", focal_scale=1.5))
    assert images.lens_source == "transforms.json" and focal_lengths(images) == pytest.approx([55.0, 55.0], rel=1e-3)


def test_a_field_of_view_out_of_range_gets_one_sentence(tmp_path: Path):
    write_image(tmp_path / "a.png", 40, 30)
    with pytest.raises(InputError, match="--fov-deg 0 is not between"):
        read(tmp_path, fov_deg=0.0)


def test_images_of_several_sizes_keep_all_of_theirs(tmp_path: Path):
    sizes = {"a.png": (40, 30), "b.png": (30, 40), "c.png": (40, 30), "d.png": (160, 120)}
    for number, (name, size) in enumerate(sizes.items()):
        write_image(tmp_path / name, *size, brightness=50 * number)
    images = read(tmp_path)
    assert len(images) == 4 and sorted(indices.tolist() for indices, _ in images.groups) == [[0, 2], [1], [3]]
    for indices, image_set in images.groups:
        width, height = sizes[sorted(sizes)[int(indices[0])]]
        scale = min(1.0, 64 / max(width, height))
        assert (image_set.images.width, image_set.images.height) == (width * scale, height * scale)
        assert image_set.images.pixels[:, 0, 0, 0].tolist() == [50 * index for index in indices.tolist()]


def test_an_image_on_its_side_is_turned_with_its_camera(tmp_path: Path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    write_image(tmp_path / "b.jpg", 30, 40)
    images = read(tmp_path)
    ((indices, image_set),) = images.groups  # both are upright
    assert indices.tolist() == [0, 1] and (image_set.images.width, image_set.images.height) == (30, 40)


def test_a_transforms_json_gives_poses_and_intrinsics_of_all_that_it_lists(tmp_path: Path):
    listed = {"train_filenames": ["0.png"], "test_filenames": ["1.png"], "val_filenames": ["2.png"]}
    write_transforms(tmp_path / "transforms.json", 3, fl_x=55.0, **listed)
    for path in (tmp_path, tmp_path / "transforms.json"):
        images = read(path)
        assert images.given_poses is not None and images.given_poses[:, 0, 3].tolist() == [0.0, 1.0, 2.0]
        assert images.cameras.fx.flatten().tolist() == [55.0] * 3


def test_images_with_masks_and_without(tmp_path: Path):
    write_transforms(tmp_path / "transforms.json", 3, fl_x=55.0)
    meta = json.loads((tmp_path / "transforms.json").read_text())
    Image.fromarray(np.tile(np.array([[0, 255]], np.uint8), (30, 20))).save(tmp_path / "mask.png")
    meta["frames"][1]["mask_path"] = "mask.png"
    (tmp_path / "transforms.json").write_text(json.dumps(meta))
    images = read(tmp_path)
    assert [(indices.tolist(), image_set.images.has_alpha) for indices, image_set in images.groups] == [
        ([0, 2], False),
        ([1], True),
    ]
    frames = images.with_cameras(torch.eye(4)[:3].repeat(3, 1, 1), torch.ones(3), [{}] * 3)
    assert frames.mask_filenames is None


def test_what_cannot_be_used_is_named_and_skipped(tmp_path: Path, capsys):
    write_image(tmp_path / "good.png", 40, 30)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)).save(tmp_path / "whole.png")
    content = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "whole.png").unlink()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "unread.psd").write_text("no image")
    write_image(tmp_path / "small.png", 40, 8)
    images = read(tmp_path)
    assert [path.name for path in images.image_filenames] == ["good.png"]
    assert sorted(path.name for path in images.skipped) == ["cut.png", "empty.jpg", "small.png", "text.png"]
    printed = capsys.readouterr().out
    assert "4 of 5 images are skipped (cut.png, empty.jpg, small.png and 1 more)" in printed and "1 .psd" in printed


@pytest.mark.parametrize("size, words", [((40, 8), "has 40x8 pixels, but at least 16"), (None, "is empty")])
def test_an_image_that_cannot_be_used_alone_gets_one_sentence(tmp_path: Path, size: Any, words: str):
    path = tmp_path / "a.png"
    path.write_bytes(b"") if size is None else write_image(path, *size)
    with pytest.raises(InputError, match=words):
        read(path)


@pytest.mark.parametrize(
    "name, words",
    [("missing", "There is no .*missing; give --images"), ("note.txt", "--images .*note.txt is no image")],
)
def test_what_is_no_image_gets_one_sentence(tmp_path: Path, name: str, words: str):
    (tmp_path / "note.txt").write_text("hello")
    with pytest.raises(InputError, match=words) as raised:
        read(tmp_path / name)
    assert "--data" not in str(raised.value)
