import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
import yaml
from PIL import ExifTags, Image

from gnerf_ns.data.dataparser import (
    GROUND_TRUTH_KEY,
    HAS_CALIBRATION_KEY,
    LENS_ORIGIN_KEY,
    LENS_SOURCE_KEY,
    UnposedDataParserConfig,
)
from gnerf_ns.data.frames import hold_out_every
from gnerf_ns.data.transforms_json import Frame
from gnerf_ns.utils.errors import InputError


def parse(data: Path, split: str = "train", **options):
    return UnposedDataParserConfig(data=data, **options).setup().get_dataparser_outputs(split=split)


def names(outputs) -> list:
    return [path.name for path in outputs.image_filenames]


def edit_json(path: Path, change) -> None:
    meta = json.loads(path.read_text())
    change(meta)
    path.write_text(json.dumps(meta))


def test_bare_folder_of_mixed_formats(image_folder):
    folder = image_folder(count=9)
    for old, new in (("00", "png"), ("01", "JPG"), ("02", "jpeg"), ("03", "webp"), ("04", "PNG")):
        with Image.open(folder / f"view_{old}.png") as image:
            image.load()
        (folder / f"view_{old}.png").unlink()
        image.save(folder / f"view_{old}.{new}")
    (folder / "notes.txt").write_text("not an image")
    (folder / "._view_05.png").write_text("not an image either")
    train, held_out = parse(folder), parse(folder, "val")
    assert names(held_out) == ["view_00.png", "view_08.png"]
    assert names(train) == [
        *("view_01.JPG", "view_02.jpeg", "view_03.webp", "view_04.PNG", "view_05.png", "view_06.png", "view_07.png"),
    ]
    assert names(parse(folder, "test")) == names(held_out)
    assert train.metadata[GROUND_TRUTH_KEY] is None
    assert train.mask_filenames is None


def test_images_subfolder_and_eval_interval(image_folder):
    folder = image_folder(count=9)
    folder.rename(folder.with_name("images"))
    train, held_out = parse(folder.parent, eval_interval=3), parse(folder.parent, "test", eval_interval=3)
    assert names(held_out) == ["view_00.png", "view_03.png", "view_06.png"]
    assert len(names(train)) == 6
    assert len(names(parse(folder.parent, eval_interval=0))) == 9
    assert names(parse(folder.parent, "test", eval_interval=0)) == []


@pytest.mark.parametrize(
    ("count", "interval", "held_out"),
    [(2, 8, [0]), (3, 8, [0, 2]), (6, 8, [0, 3]), (7, 8, [0, 4]), (8, 8, [0, 4]), (9, 8, [0, 8]), (6, 2, [0, 2, 4])],
)
def test_at_least_two_images_are_held_out(count: int, interval: int, held_out: list):
    """ns-render's camera paths need two poses."""
    frames = [Frame(Path(f"{index}.png")) for index in range(count)]
    train, found = hold_out_every(frames, interval)
    assert found == [frames[index] for index in held_out]
    assert train == [frame for frame in frames if frame not in found]


def test_placeholder_cameras_say_nothing(blender_folder: Path):
    outputs = parse(blender_folder)
    poses = outputs.cameras.camera_to_worlds
    assert (poses == poses[0]).all()
    torch.testing.assert_close(torch.linalg.det(poses[0, :, :3]), torch.tensor(1.0))
    torch.testing.assert_close(poses[0, :, 3] / poses[0, :, 3].norm(), poses[0, :, 2])  # looks at the origin
    assert abs(float(poses[0, 2, 2])) < 0.99  # no pole


def write_focal_length(images, millimeters: int, orientation: int = 1) -> None:
    """As the 35 mm equivalent in the EXIF data."""
    for path in images:
        exif = Image.Exif()
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = millimeters
        exif[ExifTags.Base.Orientation] = orientation
        with Image.open(path) as image:
            image.save(path, exif=exif)


def printed(capsys) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_fifty_degrees_are_the_last_resort(image_folder):
    outputs = parse(image_folder(width=32, height=24))
    cameras = outputs.cameras
    torch.testing.assert_close(cameras.fx, torch.full((8, 1), 16 / math.tan(math.radians(25))))
    torch.testing.assert_close(cameras.fy, cameras.fx)
    assert float(cameras.cx[0]) == 16.0 and float(cameras.cy[0]) == 12.0
    assert cameras.distortion_params is None
    assert outputs.metadata[LENS_SOURCE_KEY] == "default" and not outputs.metadata[HAS_CALIBRATION_KEY]
    assert "an assumed field of view of 50 degrees" in outputs.metadata[LENS_ORIGIN_KEY]


def test_what_the_user_says_comes_before_exif(image_folder):
    folder = image_folder(suffix=".jpg", width=36, height=24)
    write_focal_length(folder.iterdir(), 50)
    for split in ("train", "test"):
        outputs = parse(folder, split, fov_deg=90.0)
        torch.testing.assert_close(outputs.cameras.fx, torch.full_like(outputs.cameras.fx, 18.0))
        assert outputs.metadata[LENS_SOURCE_KEY] == "user" and not outputs.metadata[HAS_CALIBRATION_KEY]
        origin = outputs.metadata[LENS_ORIGIN_KEY]
        assert "--fov-deg 90 along the longer side, whatever a transforms.json or EXIF" in origin


def test_what_the_user_says_comes_before_transforms(nerfstudio_folder: Path):
    """Of the focal length; the rest of the lens is as listed."""
    outputs = parse(nerfstudio_folder, fov_deg=90.0)
    cameras = outputs.cameras
    assert (float(cameras.fx[0]), float(cameras.fy[0])) == (20.0, 20.0)
    assert (float(cameras.cx[0]), float(cameras.cy[0])) == (14.0, 21.0)
    assert cameras.distortion_params is not None
    torch.testing.assert_close(cameras.distortion_params[0], torch.tensor([0.05, 0.0, 0.0, 0.0, 0.0, 0.001]))
    assert outputs.metadata[LENS_SOURCE_KEY] == "user"


def test_what_the_user_says_about_a_fisheye_is_in_its_own_measure(nerfstudio_folder: Path):
    edit_json(nerfstudio_folder / "transforms.json", lambda meta: meta.update(camera_model="OPENCV_FISHEYE", p2=0))
    torch.testing.assert_close(parse(nerfstudio_folder, fov_deg=90.0).cameras.fy, torch.full((14, 1), 80 / math.pi))


@pytest.mark.parametrize("scale", [1.0, 0.2, 9.0])
def test_nerfstudios_rays_on_the_axis_of_a_fisheye_are_finite(image_folder, scale: float):
    """They are what evaluation, rendering and export show."""
    folder = image_folder(width=15, height=15)
    frames = [{"file_path": path.name} for path in folder.iterdir()]
    meta = {"camera_model": "OPENCV_FISHEYE", "fl_x": 10.0, "cx": 7.5, "cy": 7.5, "w": 15, "h": 15, "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(meta))
    cameras = parse(folder).cameras
    cameras.rescale_output_resolution(scale)
    rays = cameras.generate_rays(camera_indices=0)
    assert bool(rays.directions.isfinite().all()) and bool(rays.pixel_area.isfinite().all())
    middle = rays.directions[rays.directions.shape[0] // 2, rays.directions.shape[1] // 2]
    axis = -cameras.camera_to_worlds[0, :, 2]
    torch.testing.assert_close(middle, axis, atol=1e-4, rtol=0.0)


def test_the_user_cannot_say_what_a_panorama_shows(nerfstudio_folder: Path):
    edit_json(nerfstudio_folder / "transforms.json", lambda meta: meta.update(camera_model="EQUIRECTANGULAR"))
    for key in ("k1", "p2"):
        edit_json(nerfstudio_folder / "transforms.json", lambda meta, key=key: meta.pop(key))
    with pytest.raises(InputError, match="--fov-deg tells nothing about equirectangular images"):
        parse(nerfstudio_folder, fov_deg=90.0)


def test_exif_comes_before_the_last_resort(image_folder):
    folder = image_folder(suffix=".jpg", width=36, height=24)
    files = sorted(folder.iterdir())
    write_focal_length(files[:3] + files[4:], 50, orientation=6)
    with Image.open(files[3]) as image:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        image.save(files[3], exif=exif)
    outputs = parse(folder)
    cameras = outputs.cameras
    torch.testing.assert_close(cameras.fx, torch.full((8, 1), 50.0))  # the one without has its neighbors' field
    assert int(cameras.width[0]) == 24 and int(cameras.height[0]) == 36  # as displayed
    assert outputs.metadata[LENS_ORIGIN_KEY] == "EXIF data (9 of 10 images)"
    assert outputs.metadata[LENS_SOURCE_KEY] == "exif" and not outputs.metadata[HAS_CALIBRATION_KEY]


@pytest.mark.parametrize("millimeters", [1, 5000])
def test_impossible_exif_is_named_and_not_used(image_folder, capsys, millimeters: int):
    folder = image_folder(suffix=".jpg", width=36, height=24)
    write_focal_length(folder.iterdir(), 50)
    write_focal_length([folder / "view_03.jpg"], millimeters)
    outputs = parse(folder)
    torch.testing.assert_close(outputs.cameras.fx, torch.full((8, 1), 50.0))
    text = printed(capsys)
    assert outputs.metadata[LENS_ORIGIN_KEY] == "EXIF data (9 of 10 images)"
    assert f"In {folder}, the focal length in the EXIF data is impossible, and not used, of view_03.jpg." in text


def test_a_held_out_image_without_exif_has_the_field_of_the_training_images(image_folder):
    folder = image_folder(suffix=".jpg", width=36, height=24)
    write_focal_length(sorted(folder.iterdir())[1:8], 50)  # the first and the ninth are held out
    for split, count in (("train", 8), ("test", 2)):
        torch.testing.assert_close(parse(folder, split).cameras.fx, torch.full((count, 1), 50.0))


def test_held_out_images_without_a_listed_lens_have_that_of_the_training_images(blender_folder: Path, capsys):
    edit_json(blender_folder / "transforms_test.json", lambda meta: meta.pop("camera_angle_x"))
    for split, count in (("train", 8), ("test", 4)):
        outputs = parse(blender_folder, split)
        torch.testing.assert_close(outputs.cameras.fx, torch.full((count, 1), 16 / math.tan(0.35)))
        assert outputs.metadata[LENS_SOURCE_KEY] == "transforms.json" and outputs.metadata[HAS_CALIBRATION_KEY]
    assert "the focal length is not listed, and taken from the other images, of r_0.png, r_1.png" in printed(capsys)


def test_transforms_come_before_exif(nerfstudio_folder: Path):
    outputs = parse(nerfstudio_folder)
    cameras = outputs.cameras
    assert (float(cameras.fx[0]), float(cameras.fy[0])) == (50.0, 51.0)
    assert (float(cameras.cx[0]), float(cameras.cy[0])) == (14.0, 21.0)
    assert cameras.distortion_params is not None
    torch.testing.assert_close(cameras.distortion_params[0], torch.tensor([0.05, 0.0, 0.0, 0.0, 0.0, 0.001]))
    assert outputs.metadata[LENS_ORIGIN_KEY] == str(nerfstudio_folder / "transforms.json")


def test_transforms_without_intrinsics_fall_through(nerfstudio_folder: Path):
    def drop(meta):
        for key in ("fl_x", "fl_y", "cx", "cy", "w", "h", "k1", "p2"):
            del meta[key]

    edit_json(nerfstudio_folder / "transforms.json", drop)
    outputs = parse(nerfstudio_folder)
    torch.testing.assert_close(outputs.cameras.fy, torch.full((14, 1), 20.0 / math.tan(math.radians(25.0))))
    assert outputs.metadata[LENS_SOURCE_KEY] == "default"
    assert outputs.metadata[GROUND_TRUTH_KEY].shape == (14, 3, 4)


def test_intrinsics_of_single_frames(nerfstudio_folder: Path):
    def own(meta):
        meta["frames"][1].update(fl_x=70.0, fl_y=71.0)
        meta["frames"][2].update(distortion_params=[0.1, 0.02, 0.03, 0.04, 0.005, 0.006], k1=None, p2=None)

    edit_json(nerfstudio_folder / "transforms.json", own)
    cameras = parse(nerfstudio_folder).cameras
    assert [float(value) for value in cameras.fx[:3]] == [70.0, 50.0, 50.0]  # frame 0 is held out
    assert cameras.distortion_params is not None
    torch.testing.assert_close(cameras.distortion_params[1], torch.tensor([0.1, 0.02, 0.03, 0.04, 0.005, 0.006]))


def test_single_transforms_file(nerfstudio_folder: Path):
    train, held_out = parse(nerfstudio_folder), parse(nerfstudio_folder, "test")
    assert names(held_out) == ["0000.jpg", "0008.jpg"] and len(names(train)) == 14
    truth = train.metadata[GROUND_TRUTH_KEY]
    meta = json.loads((nerfstudio_folder / "transforms.json").read_text())
    torch.testing.assert_close(truth[0], torch.tensor(meta["frames"][1]["transform_matrix"])[:3])
    assert names(parse(nerfstudio_folder / "transforms.json")) == names(train)


def test_lists_of_file_names(nerfstudio_folder: Path):
    def lists(meta):
        meta["train_filenames"] = [f"images/{index:04d}.jpg" for index in range(10)]
        meta["val_filenames"] = ["images/0012.jpg"]

    edit_json(nerfstudio_folder / "transforms.json", lists)
    assert len(names(parse(nerfstudio_folder))) == 10
    assert names(parse(nerfstudio_folder, "test")) == ["0012.jpg"]


def test_blender_layout(blender_folder: Path):
    train, held_out = parse(blender_folder), parse(blender_folder, "val")
    assert len(names(train)) == 8
    assert len(names(held_out)) == 4 and held_out.image_filenames[0].parent.name == "test"
    torch.testing.assert_close(train.cameras.fx, torch.full((8, 1), 16 / math.tan(0.35)))
    torch.testing.assert_close(held_out.metadata[GROUND_TRUTH_KEY][:, :, 3].norm(dim=-1), torch.full((4,), 6.0))
    (blender_folder / "transforms_test.json").unlink()
    assert parse(blender_folder, "test").image_filenames[0].parent.name == "val"
    (blender_folder / "transforms_val.json").unlink()
    assert names(parse(blender_folder, "test")) == ["r_0.png", "r_4.png"]
    assert len(names(parse(blender_folder))) == 6


def test_one_frame_without_a_pose_is_nan(blender_folder: Path):
    edit_json(blender_folder / "transforms_train.json", lambda meta: meta["frames"][3].pop("transform_matrix"))
    known = parse(blender_folder).metadata[GROUND_TRUTH_KEY].isfinite().all(dim=(1, 2))
    assert known.tolist() == [True, True, True, False, *[True] * (len(known) - 4)]
    assert parse(blender_folder, "test").metadata[GROUND_TRUTH_KEY] is not None


def test_masks_folder(image_folder):
    folder = image_folder(suffix=".jpg")
    (folder / "masks").mkdir()
    for index in range(10):
        name = f"view_{index:02d}.png" if index % 2 else f"view_{index:02d}.jpg.png"
        Image.fromarray(np.full((24, 32), 255, dtype=np.uint8)).save(folder / "masks" / name)
    outputs = parse(folder)
    assert outputs.mask_filenames is not None
    assert [path.name for path in outputs.mask_filenames[:2]] == ["view_01.png", "view_02.jpg.png"]
    (folder / "masks" / "view_05.png").unlink()
    with pytest.raises(InputError, match=r"masks has no mask for view_05\.jpg"):
        parse(folder)


def test_missing_folder(tmp_path: Path):
    with pytest.raises(InputError, match=r"There is no folder .*nowhere"):
        parse(tmp_path / "nowhere")


def test_file_in_place_of_a_folder(tmp_path: Path):
    (tmp_path / "a.txt").touch()
    with pytest.raises(InputError, match="is neither a folder nor a video"):
        parse(tmp_path / "a.txt")


def test_a_image_is_a_folder_of_one(tmp_path: Path):
    Image.fromarray(np.zeros((12, 16, 3), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"has 1 images .* at least 6 are needed"):
        parse(tmp_path / "a.png")
    outputs = UnposedDataParserConfig(data=tmp_path / "a.png", min_images=1).setup().get_dataparser_outputs("all")
    assert outputs.image_filenames == [tmp_path / "a.png"]


def test_empty_folder(tmp_path: Path):
    with pytest.raises(InputError, match="is empty"):
        parse(tmp_path)


def test_no_images_among_the_files(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(InputError, match=r"No image is among the files in .*\.webp"):
        parse(tmp_path)


def test_too_few_images(image_folder):
    folder = image_folder(count=5)
    with pytest.raises(InputError, match=r"5 images .* at least 6 are needed"):
        parse(folder)
    assert len(names(parse(folder, min_images=5))) == 3


@pytest.mark.parametrize("content", ['{"frames": [', "[]", "{}", '{"frames": {"a": 1}}', b"\xff\xfe\x00"])
def test_unreadable_transforms(nerfstudio_folder: Path, content):
    path = nerfstudio_folder / "transforms.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=r"transforms\.json (cannot be read|has no list)"):
        parse(nerfstudio_folder)


def test_frame_whose_file_is_missing(nerfstudio_folder: Path):
    (nerfstudio_folder / "images" / "0004.jpg").unlink()
    with pytest.raises(InputError, match=r"transforms\.json lists the image .*0004\.jpg, which does not exist"):
        parse(nerfstudio_folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda meta: meta["frames"][0].pop("file_path"), "without"),
        (lambda meta: meta["frames"][0].update(mask_path="none.png"), "mask .*none[.]png, which does not exist"),
        (lambda meta: meta["frames"][1].update(transform_matrix=[[1.0]]), "4x4 finite numbers"),
        (lambda meta: meta["frames"][1].update(transform_matrix=[[float("nan")] * 4] * 4), "4x4 finite numbers"),
        (lambda meta: meta.update(fl_x="wide"), "fl_x = 'wide'"),
        (lambda meta: meta.update(fl_x=-3.0), "fl_x = -3 .*must be positive"),
        (lambda meta: meta.update(camera_model="PINHOLE9"), "PINHOLE9"),
        (lambda meta: meta.update(camera_model=["OPENCV"]), "camera model .*OPENCV.*; use one of SIMPLE_PINHOLE"),
        (lambda meta: meta["frames"][0].update(mask_path=5), '0000.jpg a "mask_path" that is no file name'),
        (lambda meta: meta.update(train_filenames=None), '"train_filenames" that is no list of file names'),
        (lambda meta: meta.update(train_filenames=[], test_filenames=5), '"test_filenames" that is no list'),
        (lambda meta: meta.update(train_filenames=[3]), '"train_filenames" that is no list'),
        (lambda meta: meta.update(fl_x=None, fl_y=None, camera_angle_x=4.0), "camera_angle_x = 4 .*radians"),
        (lambda meta: meta.update(distortion_params=[1.0]), "6 finite numbers"),
    ],
)
def test_transforms_that_make_no_sense(nerfstudio_folder: Path, change, message):
    edit_json(nerfstudio_folder / "transforms.json", change)
    with pytest.raises(InputError, match=message):
        parse(nerfstudio_folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fov_deg": 0.0}, "--fov-deg 0 is not between 1 and 150 degrees"),
        ({"fov_deg": 180.0}, "--fov-deg 180 is not"),
        ({"fov_deg": math.nan}, "--fov-deg nan is not"),
        ({"eval_interval": 1}, "--eval-interval 1 leaves no image to train on"),
        ({"eval_interval": -1}, "--eval-interval -1 leaves"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, options, message):
    with pytest.raises(InputError, match=message):
        UnposedDataParserConfig(data=tmp_path, **options).setup()


def test_masks_of_one_split_only(nerfstudio_folder: Path):
    """Held-out images would keep their background."""
    Image.fromarray(np.full((40, 30), 255, dtype=np.uint8)).save(nerfstudio_folder / "mask.png")

    def mask_training_images(meta):
        for index, frame in enumerate(meta["frames"]):
            if index % 8:
                frame["mask_path"] = "mask.png"

    edit_json(nerfstudio_folder / "transforms.json", mask_training_images)
    for split in ("train", "test"):
        with pytest.raises(InputError, match=r"2 of 16 frames have no mask \(0000.jpg, 0008.jpg\)"):
            parse(nerfstudio_folder, split)


def test_nothing_is_said_unless_the_user_says_it():
    assert tyro.cli(UnposedDataParserConfig, args=["--fov-deg", "30"]).fov_deg == 30.0
    config = tyro.cli(UnposedDataParserConfig, args=[])
    assert config.fov_deg is None
    assert yaml.load(yaml.dump(config), Loader=yaml.Loader) == config


def test_module_stays_clear_of_nerfstudios_half_imported_packages():
    """nerfstudio loads the parser's entry point while these three are being imported."""
    script = """
import sys
import gnerf_ns.data.dataparser
loaded = [name for name in sys.modules if name.startswith(
    ("nerfstudio.engine", "nerfstudio.pipelines", "nerfstudio.data.datamanagers"))]
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", script], check=True, env=dict(os.environ))
