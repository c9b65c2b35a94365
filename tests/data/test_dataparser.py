import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from gnerf_ns.data.dataparser import GROUND_TRUTH_KEY, UnposedDataParserConfig
from gnerf_ns.data.frames import Frame, hold_out_every
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


def test_field_of_view_is_the_last_resort(image_folder):
    folder = image_folder(width=32, height=24)
    cameras = parse(folder, fov_deg=60.0).cameras
    torch.testing.assert_close(cameras.fx, torch.full((8, 1), 16 / math.tan(math.radians(30))))
    torch.testing.assert_close(cameras.fy, cameras.fx)
    assert float(cameras.cx[0]) == 16.0 and float(cameras.cy[0]) == 12.0
    assert cameras.distortion_params is None


def test_exif_comes_before_the_field_of_view(image_folder, capsys):
    folder = image_folder(suffix=".jpg", width=36, height=24)
    for index, path in enumerate(sorted(folder.iterdir())):
        exif = Image.Exif()
        if index != 3:
            exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = 50
        exif[ExifTags.Base.Orientation] = 6
        with Image.open(path) as image:
            image.save(path, exif=exif)
    cameras = parse(folder).cameras
    torch.testing.assert_close(cameras.fx, torch.full((8, 1), 50.0))  # the one without has its neighbors' field
    assert int(cameras.width[0]) == 24 and int(cameras.height[0]) == 36  # as displayed
    assert "EXIF data (9 of 10 images)" in " ".join(capsys.readouterr().out.split())


def test_a_held_out_image_without_exif_has_the_field_of_the_training_images(image_folder):
    folder = image_folder(suffix=".jpg", width=36, height=24)
    for path in sorted(folder.iterdir())[1:8]:  # the first and the ninth are held out
        exif = Image.Exif()
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = 50
        with Image.open(path) as image:
            image.save(path, exif=exif)
    for split, count in (("train", 8), ("test", 2)):
        torch.testing.assert_close(parse(folder, split).cameras.fx, torch.full((count, 1), 50.0))


def test_transforms_of_one_split_serve_it_alone(blender_folder: Path):
    edit_json(blender_folder / "transforms_test.json", lambda meta: meta.pop("camera_angle_x"))
    torch.testing.assert_close(parse(blender_folder).cameras.fx, torch.full((8, 1), 16 / math.tan(0.35)))
    cameras = parse(blender_folder, "test", fov_deg=90.0).cameras
    torch.testing.assert_close(cameras.fx, torch.full((4, 1), 16.0))


def test_transforms_come_before_exif(nerfstudio_folder: Path, capsys):
    cameras = parse(nerfstudio_folder).cameras
    assert (float(cameras.fx[0]), float(cameras.fy[0])) == (50.0, 51.0)
    assert (float(cameras.cx[0]), float(cameras.cy[0])) == (14.0, 21.0)
    assert cameras.distortion_params is not None
    torch.testing.assert_close(cameras.distortion_params[0], torch.tensor([0.05, 0.0, 0.0, 0.0, 0.0, 0.001]))
    assert "transforms.json" in " ".join(capsys.readouterr().out.split())


def test_transforms_without_intrinsics_fall_through(nerfstudio_folder: Path):
    def drop(meta):
        for key in ("fl_x", "fl_y", "cx", "cy", "w", "h", "k1", "p2"):
            del meta[key]

    edit_json(nerfstudio_folder / "transforms.json", drop)
    outputs = parse(nerfstudio_folder, fov_deg=90.0)
    torch.testing.assert_close(outputs.cameras.fy, torch.full((14, 1), 20.0))
    assert outputs.metadata[GROUND_TRUTH_KEY].shape == (14, 3, 4)


def test_intrinsics_of_single_frames(nerfstudio_folder: Path):
    def own(meta):
        meta["frames"][1].update(fl_x=70.0, fl_y=71.0)
        meta["frames"][2].update(distortion_params=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6])

    edit_json(nerfstudio_folder / "transforms.json", own)
    cameras = parse(nerfstudio_folder).cameras
    assert [float(value) for value in cameras.fx[:3]] == [70.0, 50.0, 50.0]  # frame 0 is held out
    assert cameras.distortion_params is not None
    torch.testing.assert_close(cameras.distortion_params[1], torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]))


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


def test_one_frame_without_a_pose_leaves_no_ground_truth(blender_folder: Path):
    edit_json(blender_folder / "transforms_train.json", lambda meta: meta["frames"][3].pop("transform_matrix"))
    assert parse(blender_folder).metadata[GROUND_TRUTH_KEY] is None
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
    with pytest.raises(InputError, match="is not a folder"):
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
        (lambda meta: meta.update(fl_x=-3.0), "not positive"),
        (lambda meta: meta.update(camera_model="PINHOLE9"), "PINHOLE9"),
        (lambda meta: meta.update(camera_model=["OPENCV"]), "camera model .*OPENCV.*, which is unknown"),
        (lambda meta: meta["frames"][0].update(mask_path=5), '0000.jpg a "mask_path" that is no file name'),
        (lambda meta: meta.update(train_filenames=None), '"train_filenames" that is no list of file names'),
        (lambda meta: meta.update(train_filenames=[], test_filenames=5), '"test_filenames" that is no list'),
        (lambda meta: meta.update(train_filenames=[3]), '"train_filenames" that is no list'),
        (lambda meta: meta.update(camera_angle_x=4.0), "camera angle of 4.0"),
        (lambda meta: meta.update(distortion_params=[1.0]), "6 numbers"),
    ],
)
def test_transforms_that_make_no_sense(nerfstudio_folder: Path, change, message):
    edit_json(nerfstudio_folder / "transforms.json", change)
    with pytest.raises(InputError, match=message):
        parse(nerfstudio_folder)


@pytest.mark.parametrize("options", [{"fov_deg": 0.0}, {"fov_deg": 180.0}, {"eval_interval": 1}, {"eval_interval": -1}])
def test_options_that_make_no_sense(tmp_path: Path, options):
    with pytest.raises(InputError):
        UnposedDataParserConfig(data=tmp_path, **options).setup()


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
