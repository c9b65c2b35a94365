"""The transforms.json we write, read back by nerfstudio's own parser and checked ray by ray; and those we read."""

import json
import math
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import ExifTags, Image
from torch import Tensor

from gnerf_ns.cameras.pose_prior import PosePriorConfig
from gnerf_ns.data.frames import read_frames
from gnerf_ns.data.transforms_json import Frame, read_transforms_json
from gnerf_ns.data.transforms_writer import FileFrames, write_transforms_json
from gnerf_ns.utils.errors import InputError

COUNT = 4
POSES = PosePriorConfig("dtu").resolve().sample(COUNT, 2.8, "cpu", torch.Generator().manual_seed(0))
UPRIGHT = (60, 40)
"""Width and height of the cameras; the files are twice as large."""
FILE = (120, 80)


def make_cameras(camera_type: CameraType = CameraType.PERSPECTIVE) -> Cameras:
    return Cameras(
        camera_to_worlds=POSES,
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


def write(path: Path, cameras: Cameras, images: List[Path], masks: Optional[List[Path]] = None, **more: Any) -> None:
    write_transforms_json(path, {"train": FileFrames(cameras, images, masks, **more)})


def rays(cameras: Cameras, index: int, coords: Tensor) -> Tuple[Tensor, Tensor]:
    bundle = cameras.generate_rays(camera_indices=index, coords=coords)
    return bundle.origins, bundle.directions


def test_stock_parser_sees_the_same_rays(tmp_path: Path) -> None:
    images = make_files(tmp_path / "photos")
    cameras = make_cameras()
    write(tmp_path / "run" / "transforms.json", cameras, images)
    found, found_images, found_masks = read_back(tmp_path / "run" / "transforms.json")
    assert found_images == images
    assert found_masks is None
    assert (int(found.width[0]), int(found.height[0])) == FILE
    torch.testing.assert_close(found.camera_to_worlds, POSES)
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
    write(tmp_path / "transforms.json", cameras, images)
    found, _, _ = read_back(tmp_path / "transforms.json")
    assert (int(found.width[0]), int(found.height[0])) == stored_size
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
    write(tmp_path / "transforms.json", cameras, images, masks, orientations=dict.fromkeys([*images, *masks], 1))
    found, found_images, found_masks = read_back(tmp_path / "transforms.json")
    assert found_images == images and found_masks == masks  # the stock reader turns neither
    assert (int(found.width[0]), int(found.height[0])) == FILE
    torch.testing.assert_close(found.camera_to_worlds, POSES)
    coords = torch.tensor([[0.0, 0.0], [10.5, 20.25], [39.0, 59.0]])
    for index in range(COUNT):
        for expected, actual in zip(rays(cameras, index, coords), rays(found, index, 2.0 * coords), strict=True):
            torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_no_pixel_is_decoded(tmp_path: Path) -> None:
    images = make_files(tmp_path / "photos")
    images[0].write_bytes(images[0].read_bytes()[:60])  # the header and a little
    write(tmp_path / "transforms.json", make_cameras(), images)
    assert len(json.loads((tmp_path / "transforms.json").read_text())["frames"]) == COUNT


def test_an_upright_copy_stands_in_for_what_exif_calls_mirrored(tmp_path: Path) -> None:
    images = make_files(tmp_path / "photos")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 5
    pixels = np.random.default_rng(0).integers(0, 256, (FILE[0], FILE[1], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert("CMYK").convert("RGB").save(images[1], exif=exif)
    write(tmp_path / "transforms.json", make_cameras(), images)
    found, found_images, _ = read_back(tmp_path / "transforms.json")
    assert found_images[:3] == [images[0], images[2], images[3]]
    assert found_images[3].parent == tmp_path / "transforms_upright"
    torch.testing.assert_close(found.camera_to_worlds, POSES[[0, 2, 3, 1]])
    with Image.open(found_images[3]) as copy:
        assert copy.size == FILE and ExifTags.Base.Orientation not in copy.getexif()
        np.testing.assert_array_equal(np.asarray(copy), pixels.swapaxes(0, 1))
    before = found_images[3].stat().st_mtime_ns
    write(tmp_path / "transforms.json", make_cameras(), images)
    assert found_images[3].stat().st_mtime_ns == before, "it is not made again at every checkpoint"


def test_masks_are_named_when_all_of_them_fit(tmp_path: Path) -> None:
    images, masks = make_files(tmp_path / "photos"), make_files(tmp_path / "masks")
    write(tmp_path / "transforms.json", make_cameras(), images, masks)
    assert read_back(tmp_path / "transforms.json")[2] == masks
    Image.new("L", (10, 10)).save(masks[2])
    write(tmp_path / "transforms.json", make_cameras(), images, masks)
    assert read_back(tmp_path / "transforms.json")[2] is None


def test_relative_file_names_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = make_files(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    relative = [image.relative_to(tmp_path) for image in images]
    write(tmp_path / "elsewhere" / "transforms.json", make_cameras(), relative)
    monkeypatch.chdir("/")
    assert read_back(tmp_path / "elsewhere" / "transforms.json")[1] == images


def test_cameras_without_distortion_and_with_gradients(tmp_path: Path) -> None:
    cameras = make_cameras(CameraType.FISHEYE)
    cameras.distortion_params = None
    cameras.camera_to_worlds = POSES.clone().requires_grad_()
    write(tmp_path / "transforms.json", cameras, make_files(tmp_path / "photos"))
    found, _, _ = read_back(tmp_path / "transforms.json")
    assert found.camera_type.flatten().tolist() == [CameraType.FISHEYE.value] * COUNT
    assert found.distortion_params is not None and not found.distortion_params.any()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "transforms.json"
    images = make_files(tmp_path / "photos")
    write(path, make_cameras(), images)
    before = path.read_text()
    with pytest.raises(InputError, match="ORTHOPHOTO"):
        write(path, make_cameras(CameraType.ORTHOPHOTO), images)
    with pytest.raises(InputError, match=r"gone\.png does not exist"):
        write(path, make_cameras(), [*images[:-1], tmp_path / "gone.png"])
    assert path.read_text() == before
    assert len(json.loads(before)["frames"]) == COUNT
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["photos", "transforms.json"]


@pytest.mark.parametrize("name", ["camera_to_worlds", "fx", "cy", "distortion_params"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_never_written(tmp_path: Path, name: str, value: float) -> None:
    cameras = make_cameras()
    broken = getattr(cameras, name).clone()
    broken[2].flatten()[0] = value
    setattr(cameras, name, broken)
    with pytest.raises(InputError, match=r"The camera of .*photo_2\.png is not finite numbers"):
        write(tmp_path / "run" / "transforms.json", cameras, make_files(tmp_path / "photos"))
    assert not (tmp_path / "run").exists()


def test_a_full_disk_leaves_nothing_partial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, *args: Any, **kwargs: Any) -> None:
        self.touch()
        raise OSError(28, "No space left on device")

    images = make_files(tmp_path / "photos")
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "transforms.json", make_cameras(), images)
    assert [entry.name for entry in tmp_path.iterdir()] == ["photos"]


@pytest.mark.parametrize("held_out_name", ["test", "val"])
def test_held_out_images_are_in_the_file_as_nerfstudio_reads_them(tmp_path: Path, held_out_name: str) -> None:
    images, cameras = make_files(tmp_path / "photos"), make_cameras()
    chosen = {"train": torch.tensor([0, 2, 3]), held_out_name: torch.tensor([1])}
    splits = {
        name: FileFrames(cameras[indices], [images[index] for index in indices]) for name, indices in chosen.items()
    }
    path = tmp_path / "transforms.json"
    write_transforms_json(path, splits)
    for split, indices in (("train", [0, 2, 3]), ("val", [1]), ("test", [1])):
        config = NerfstudioDataParserConfig(
            data=path, orientation_method="none", center_method="none", auto_scale_poses=False
        )
        outputs = config.setup().get_dataparser_outputs(split)
        assert outputs.image_filenames == [images[index] for index in indices]
        torch.testing.assert_close(outputs.cameras.camera_to_worlds, POSES[indices])
    train, held_out = read_frames(path, eval_interval=8)
    assert [frame.image for frame in train] == [images[index] for index in (0, 2, 3)]
    assert [frame.image for frame in held_out] == [images[1]]


def test_without_held_out_images_there_are_no_splits(tmp_path: Path) -> None:
    images, cameras = make_files(tmp_path / "photos"), make_cameras()
    nothing = FileFrames(cameras[torch.arange(0)], [])
    write_transforms_json(tmp_path / "transforms.json", {"train": FileFrames(cameras, images), "test": nothing})
    assert json.loads((tmp_path / "transforms.json").read_text()).keys() == {"camera_model", "frames"}


def test_remarks_are_further_entries(tmp_path: Path) -> None:
    remarks = [{"localization": {"converged": index == 0}} for index in range(COUNT)]
    write(tmp_path / "transforms.json", make_cameras(), make_files(tmp_path / "photos"), remarks=remarks)
    frames = read_transforms_json(tmp_path / "transforms.json").frames
    assert [frame.values["localization"]["converged"] for frame in frames] == [True, False, False, False]


# Reading

MATRIX = [*POSES[0].tolist(), [0.0, 0.0, 0.0, 1.0]]


def listing(folder: Path, names: Sequence[str] = tuple("abcdef"), matrix: Any = MATRIX, **entries: Any) -> Path:
    for name in set(names):
        Image.new("RGB", (16, 16)).save(folder / f"{name}.png")
    frames = [{"file_path": f"{name}.png", "fl_x": 20, "transform_matrix": matrix} for name in names]
    (folder / "transforms.json").write_text(json.dumps({"frames": frames, **entries}))
    return folder / "transforms.json"


def stems(frames: Sequence[Frame]) -> str:
    return "".join(frame.image.stem for frame in frames)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_any_encoding_of_json(tmp_path: Path, encoding: str) -> None:
    path = listing(tmp_path, ["ü"])
    path.write_text(json.dumps(json.loads(path.read_text()), ensure_ascii=False), encoding=encoding)
    assert stems(read_transforms_json(path).frames) == "ü"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"frames": {}}', "\xff\xfe{", "[" * 10**5])
def test_what_is_no_transforms_file_gets_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "transforms.json").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=r"transforms\.json (cannot be read|has no list)"):
        read_transforms_json(tmp_path / "transforms.json")


@pytest.mark.parametrize("name", ["images\\a.png", ".\\images\\a.png", "images\\a", "images/a.png"])
def test_back_slashes_are_slashes(tmp_path: Path, name: str) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (16, 16)).save(tmp_path / folder / "a.png")
    meta = {"frames": [{"file_path": name, "mask_path": "masks\\a.png"}], "train_filenames": [name]}
    (tmp_path / "transforms.json").write_text(json.dumps(meta))
    found = read_transforms_json(tmp_path / "transforms.json")
    assert found.frames[0].image == tmp_path / "images" / "a.png"
    assert found.frames[0].mask == tmp_path / "masks" / "a.png"
    assert found.lists["train_filenames"] == found.frames and not found.unmatched["train_filenames"]


@pytest.mark.parametrize(
    "name",
    [
        "IMAGES/Ä.PNG",
        "images/a\u0308.png",  # as macOS decomposes it
        "Images/ä",
        "/home/anna/scans/lego/images/ä.png",
        "C:\\Users\\anna\\images\\ä.png",
        "/srv/./x/../images/ä.PNG",
        "sub/../images/Ä.png",
    ],
)
def test_names_of_another_machine_are_found(tmp_path: Path, name: str) -> None:
    for folder in ("images", "masks", "sub"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (16, 16)).save(tmp_path / folder / "ä.png")
    meta = {"frames": [{"file_path": name, "mask_path": "Masks/Ä.png"}], "test_filenames": [name]}
    (tmp_path / "transforms.json").write_text(json.dumps(meta))
    found = read_transforms_json(tmp_path / "transforms.json")
    assert found.frames[0].image.samefile(tmp_path / "images" / "ä.png")
    assert found.frames[0].mask == tmp_path / "masks" / "ä.png"
    assert found.lists["test_filenames"] == found.frames


def test_a_name_that_may_be_either_of_two_files_is_none_of_them(tmp_path: Path) -> None:
    path = listing(tmp_path, ["a"])
    Image.new("RGB", (16, 16)).save(tmp_path / "A.png")
    assert stems(read_transforms_json(path).frames) == "a"
    path.write_text(path.read_text().replace("a.png", "a.Png"))
    with pytest.raises(InputError, match=r"a\.Png, which does not exist; restore"):
        read_transforms_json(path)


def test_files_of_another_place_are_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = listing(tmp_path, "ab")
    path.write_text(path.read_text().replace("a.png", "/home/anna/a.png").replace("b.png", "/home/anna/b.png"))
    assert stems(read_transforms_json(path).frames) == "ab"
    assert capsys.readouterr().out == (
        f"{path} lists files of another place, like /home/anna/a.png; they are read from {tmp_path}.\n"
    )


def test_missing_images_are_counted(tmp_path: Path) -> None:
    path = listing(tmp_path, "abcdef")
    for stem in "bde":
        (tmp_path / f"{stem}.png").unlink()
    with pytest.raises(InputError, match=r"b\.png, which does not exist, like 2 more of 6; restore it or"):
        read_transforms_json(path)


@pytest.mark.parametrize("name", [None, "", 3])
def test_a_frame_without_a_file(tmp_path: Path, name: Any) -> None:
    (tmp_path / "transforms.json").write_text(json.dumps({"frames": [{"file_path": name}]}))
    with pytest.raises(InputError, match=r'lists a frame without "file_path"'):
        read_transforms_json(tmp_path / "transforms.json")


def scaled(matrix: Any, factors: Any) -> Any:
    result = np.array(matrix)
    result[:3, :3] = result[:3, :3] * np.array(factors)
    return result.tolist()


@pytest.mark.parametrize(
    ("matrix", "sentence"),
    [
        (np.zeros((4, 4)).tolist(), "has only zeros for its rotation"),
        (scaled(MATRIX, 0), "has only zeros for its rotation"),
        (scaled(MATRIX, (1, 1, -1)), "mirrors the world"),
        (scaled(MATRIX, (1, 1, 1.3)), "is no rotation"),
        (scaled(MATRIX, (1, 0, 1)), "is no rotation"),
        ((np.array(MATRIX) + np.eye(4, k=1)).tolist(), "is no rotation"),
        (np.array(MATRIX).T.tolist(), "does not end with the row 0 0 0 1"),
        (MATRIX[:2], "is not 4x4 finite numbers"),
        (scaled(MATRIX, math.nan), "is not 4x4 finite numbers"),
        ("identity", "is not 4x4 finite numbers"),
        ([MATRIX], "is not 4x4 finite numbers"),
    ],
)
def test_a_pose_is_a_rotation(tmp_path: Path, matrix: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=rf"gives a\.png a transform_matrix that {sentence}"):
        read_transforms_json(listing(tmp_path, "a", matrix))


@pytest.mark.parametrize("factor", [1.0, 3.0, 1e-5, 1e4])
def test_a_scaled_rotation_is_a_rotation(tmp_path: Path, factor: float) -> None:
    pose = read_transforms_json(listing(tmp_path, "a", scaled(MATRIX, factor))).frames[0].camera_to_world
    assert pose is not None
    np.testing.assert_allclose(pose, MATRIX[:3], atol=1e-6)


def test_poses_written_with_two_decimals(tmp_path: Path) -> None:
    matrix = np.round(MATRIX, 2)
    pose = read_transforms_json(listing(tmp_path, "a", matrix.tolist())).frames[0].camera_to_world
    assert pose is not None
    np.testing.assert_array_equal(pose, matrix[:3])


def test_frames_listed_twice_count_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = read_transforms_json(listing(tmp_path, "abcab"))
    assert stems(found.frames) == "abc"
    assert "lists a.png, b.png more than once" in " ".join(capsys.readouterr().out.split())


# Lists of splits


def test_images_that_are_not_listed_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listing(tmp_path, "abcdefgh")
    path = listing(tmp_path, "abcdef")
    train, held_out = read_frames(path, 0)
    assert len(train) == 6 and not held_out
    assert capsys.readouterr().out.splitlines()[0] == (
        f"2 images are not read, since {path} does not list them: g.png, h.png."
    )


def test_frames_of_no_list_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = listing(tmp_path, train_filenames=["a.png", "b.png", "c.png"], test_filenames=["d.png"])
    train, held_out = read_frames(path, 8)
    assert stems(train) == "abc" and stems(held_out) == "d"
    assert capsys.readouterr().out == f"2 of 6 frames of {path} are neither trained on nor held out by its lists.\n"


def test_names_that_match_nothing_are_said_and_validation_images_serve(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lists = {"train_filenames": ["a.png", "b.png"], "test_filenames": ["x.png", "y.png"], "val_filenames": ["c.png"]}
    train, held_out = read_frames(listing(tmp_path, **lists), 8)
    assert stems(train) == "ab" and stems(held_out) == "c"
    assert "no frame for 2 of the names in its test_filenames: x.png, y.png" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.parametrize(
    ("lists", "sentence"),
    [
        ({"train_filenames": ["x.png"]}, "train_filenames in .* names none of its 6 frames"),
        ({"train_filenames": []}, "train_filenames in .* names none of its 6 frames"),
        ({"train_filenames": ["a.png"], "test_filenames": ["x.png"]}, "test_filenames in .* name none of its 6 frames"),
        ({"train_filenames": "a.png"}, '"train_filenames" that is no list'),
        ({"train_filenames": [1]}, '"train_filenames" that is no list'),
    ],
)
def test_lists_that_name_nothing_get_one_sentence(tmp_path: Path, lists: Dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        read_frames(listing(tmp_path, **lists), 8)


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        ({}, ("bcdf", "ae")),
        ({"train_filenames": ["a.png", "b"]}, ("ab", "")),
        ({"train_filenames": ["b.png"], "test_filenames": [], "val_filenames": ["a.png"]}, ("b", "a")),
        ({"train_filenames": ["b.png"], "test_filenames": ["f.png"], "val_filenames": ["a.png"]}, ("b", "f")),
        ({"test_filenames": ["f.png", "e.png"]}, ("abcd", "ef")),
        ({"val_filenames": ["f.png"]}, ("abcde", "f")),
    ],
)
def test_lists_decide(tmp_path: Path, lists: Dict[str, Any], expected: Tuple[str, str]) -> None:
    train, held_out = read_frames(listing(tmp_path, **lists), 4)
    assert (stems(train), stems(held_out)) == expected


def test_held_out_images_that_are_trained_on_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lists = {"train_filenames": ["a.png", "b.png"], "test_filenames": ["b.png", "c.png"]}
    read_frames(listing(tmp_path, **lists), 8)
    assert "are trained on, too (b.png)" in " ".join(capsys.readouterr().out.split())


def test_an_empty_transforms_test_gives_way_to_validation_images(tmp_path: Path) -> None:
    path = listing(tmp_path)
    meta = json.loads(path.read_text())
    for split, frames in (("train", meta["frames"][:4]), ("val", meta["frames"][4:]), ("test", [])):
        (tmp_path / f"transforms_{split}.json").write_text(json.dumps({"frames": frames}))
    train, held_out = read_frames(tmp_path, 8)
    assert (stems(train), stems(held_out)) == ("abcd", "ef")
