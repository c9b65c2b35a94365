"""Folders for other programs, of awkward images: with masks, several lenses, names that differ in their ending."""

import json
from pathlib import Path
from typing import Any, Callable, Dict

import numpy as np
import pycolmap
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from PIL import Image

from gnerf_ns.cameras.pose_prior import PosePriorConfig
from gnerf_ns.data.transforms_writer import FileFrames
from gnerf_ns.export import folders
from gnerf_ns.export.folders import Format, export_results, write_results
from gnerf_ns.export.surface_points import SurfacePoints
from gnerf_ns.utils.errors import InputError

WIDTH, HEIGHT = 24, 16
POSES = PosePriorConfig().resolve().sample(3, 2.8, "cpu", torch.Generator().manual_seed(0))
NAMES = ("a.png", "a.jpg", "in here/b.png")
FORMATS = ("colmap", "nerfstudio", "instant-ngp", "blender")


@pytest.fixture
def results(tmp_path: Path) -> Callable[..., Path]:
    """Writes results of three images, of which the last is held out."""

    def write(reach: float = 1.0, masks: bool = True, **lens: Any) -> Path:
        images = [tmp_path / "data" / name for name in NAMES]
        silhouettes = [tmp_path / "silhouettes" / f"{index}.{end}" for index, end in enumerate(("png", "bmp", "png"))]
        for index, (image, mask) in enumerate(zip(images, silhouettes, strict=True)):
            for file in (image, mask):
                file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (WIDTH, HEIGHT), (50 * index, 100, 200)).save(image)
            left = np.zeros((HEIGHT, WIDTH), np.uint8)
            left[:, : 5 + index] = 255
            Image.fromarray(left).save(mask)
        options: Dict[str, Any] = {"fx": 20.0, "fy": 20.0, "cx": WIDTH / 2, "cy": HEIGHT / 2, **lens}
        cameras = Cameras(POSES, width=WIDTH, height=HEIGHT, **options)
        points = SurfacePoints(
            torch.tensor([[reach, 0.0, 0.0], [0.0, -reach, 0.0]]),
            torch.zeros(2, 3, dtype=torch.uint8),
            torch.tensor([0, 1]),
        )
        splits = {
            name: FileFrames(cameras[rows], images[rows], silhouettes[rows] if masks else None)
            for name, rows in (("train", slice(0, 2)), ("test", slice(2, 3)))
        }
        write_results(tmp_path / "results", splits, points)
        return tmp_path / "results"

    return write


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def test_masks_come_along_as_png_files_of_their_images_names(results, tmp_path: Path):
    for format in ("colmap", "nerfstudio", "instant-ngp"):
        folder = tmp_path / format
        export_results(results(), folder, format)
        for index, name in enumerate(NAMES):
            assert (folder / "images" / name).read_bytes() == (tmp_path / "data" / name).read_bytes()
            with Image.open(folder / "masks" / f"{name}.png") as mask:  # a.png and a.jpg cannot both have masks/a.png
                assert (np.asarray(mask)[0] > 0).sum() == 5 + index
    for format in ("nerfstudio", "instant-ngp"):
        frames = read_json(tmp_path / format / "transforms.json")["frames"]
        assert [frame["mask_path"] for frame in frames] == [f"masks/{name}.png" for name in NAMES]


def test_masks_become_alpha_in_blenders_format(results, tmp_path: Path):
    folder = tmp_path / "blender"
    export_results(results(), folder, "blender")
    listed = [folder / f"transforms_{split}.json" for split in ("train", "test")]
    frames = [frame for path in listed for frame in read_json(path)["frames"]]
    assert [frame["file_path"] for frame in frames] == [f"./images/{name}" for name in NAMES]
    for index, frame in enumerate(frames):
        pixels = np.asarray(Image.open(folder / f"{frame['file_path']}.png"))
        assert pixels.shape == (HEIGHT, WIDTH, 4) and ((pixels[..., 3] > 0).sum(axis=1) == 5 + index).all()
        np.testing.assert_allclose(pixels[0, 0, :3], (50 * index, 100, 200), atol=3)


def test_held_out_images_stay_so(results, tmp_path: Path):
    for format in ("colmap", "nerfstudio", "blender"):
        export_results(results(masks=False), tmp_path / format, format)
    meta = read_json(tmp_path / "nerfstudio" / "transforms.json")
    assert meta["train_filenames"] == ["images/a.png", "images/a.jpg"]
    assert meta["test_filenames"] == meta["val_filenames"] == ["images/in here/b.png"]
    assert (tmp_path / "colmap" / "train_list.txt").read_text().splitlines() == ["a.png", "a.jpg"]
    for split in ("val", "test"):
        assert (tmp_path / "colmap" / f"{split}_list.txt").read_text() == "in here/b.png"
        assert len(read_json(tmp_path / "blender" / f"transforms_{split}.json")["frames"]) == 1


@pytest.mark.parametrize(
    ("lens", "refusing"),
    [
        ({"fx": torch.tensor([20.0, 20.0, 22.0])}, ("instant-ngp", "blender")),
        ({"cx": 9.0}, ("blender",)),
        ({"fy": 21.0}, ("blender",)),
        ({"distortion_params": torch.tensor([[0.1, 0.0, 0.0, 0.0, 0.0, 0.0]]).expand(3, 6)}, ("blender",)),
        ({"distortion_params": torch.tensor([[0.0, 0.0, 0.0, 0.1, 0.0, 0.0]]).expand(3, 6)}, ("colmap", "blender")),
    ],
)
def test_formats_that_cannot_hold_a_lens_say_so_and_leave_nothing(results, tmp_path: Path, lens: Any, refusing: Any):
    source = results(**lens)
    for format in FORMATS:
        if format not in refusing:
            export_results(source, tmp_path / format, format)
            continue
        with pytest.raises(InputError, match="use --format nerfstudio"):
            export_results(source, tmp_path / format, format)
    assert {path.name for path in tmp_path.iterdir()} == {"data", "silhouettes", "results"} | set(FORMATS) - {*refusing}


def test_a_later_lens_without_a_camera_of_colmaps_leaves_no_old_model(results):
    assert pycolmap.Reconstruction(results() / "sparse" / "0").num_images() == 3
    distorted = torch.tensor([[0.0, 0.0, 0.0, 0.1, 0.0, 0.0]]).expand(3, 6)
    assert not (results(distortion_params=distorted) / "sparse" / "0").exists()


@pytest.mark.parametrize(("reach", "side"), [(0.5, 1), (1.5, 1), (2.0, 2), (20.0, 16), (1e4, 128)])
def test_instant_ngp_gets_a_cube_that_holds_the_surface(results, tmp_path: Path, reach: float, side: int):
    export_results(results(reach), tmp_path / "ngp", "instant-ngp")
    assert read_json(tmp_path / "ngp" / "transforms.json")["aabb_scale"] == side


def test_what_is_there_stays_and_what_fails_leaves_nothing(results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source, output = results(), tmp_path / "output"
    output.mkdir()
    (output / "mine").touch()
    with pytest.raises(InputError, match=r"output exists already; give another --output"):
        export_results(source, output, "nerfstudio")
    assert [path.name for path in output.iterdir()] == ["mine"]

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders.shutil, "copyfile", full)
    with pytest.raises(InputError, match=r"new cannot be written \(No space left on device\)"):
        export_results(source, tmp_path / "new", "nerfstudio")
    monkeypatch.undo()
    (source / "images" / "a.jpg").unlink()
    with pytest.raises(InputError, match=r"transforms.json lists .*a.jpg, which is not there .*give --images"):
        export_results(source, tmp_path / "new", "nerfstudio")
    assert not [path for path in tmp_path.iterdir() if "new" in path.name]


@pytest.mark.parametrize("format", FORMATS)
def test_results_without_points_are_exported_too(results, tmp_path: Path, format: Format):
    """Of runs of older versions; these have no sparse/0 either, and learn how to get it."""
    source: Path = results()
    (source / "points.ply").unlink()
    export_results(source, tmp_path / "output", format)
    assert not (tmp_path / "output" / "points.ply").exists()
    if format == "nerfstudio":
        assert "ply_file_path" not in read_json(tmp_path / "output" / "transforms.json")


# Results that move


def named_in(folder: Path) -> Dict[str, Path]:
    """Images and masks that the transforms.json of a folder names, by the name that it has."""
    frames = read_json(folder / "transforms.json")["frames"]
    return {frame[key]: folder / frame[key] for frame in frames for key in ("file_path", "mask_path")}


def test_results_move_without_the_images_which_take_no_room_twice(results, tmp_path: Path):
    before = results()
    after = before.rename(tmp_path / "elsewhere")
    originals = {"images": tmp_path / "data", "masks": tmp_path / "silhouettes"}
    for name, file in named_in(after).items():
        kind, _, rest = name.partition("/")
        assert file.samefile(originals[kind] / rest) and file.stat().st_nlink == 2
    model = pycolmap.Reconstruction(after / "sparse" / "0")
    assert sorted(image.name for image in model.images.values()) == sorted(NAMES)
    assert all((after / "images" / image.name).is_file() for image in model.images.values())
    export_results(after, tmp_path / "output", "nerfstudio")
    assert len(named_in(tmp_path / "output")) == 6


def test_links_follow_the_images(results, tmp_path: Path):
    folder = results()
    (folder / "images" / "old").mkdir()
    (folder / "images" / "old" / "c.png").touch()  # from when the images had another folder in common
    Image.new("RGB", (WIDTH, HEIGHT), (9, 9, 9)).save(tmp_path / "another.png")
    (folder / "images" / "a.png").unlink()
    (tmp_path / "another.png").rename(folder / "images" / "a.png")
    results()
    assert {path for path in (folder / "images").rglob("*") if path.is_file()} == {folder / "images" / n for n in NAMES}
    assert (folder / "images" / "a.png").samefile(tmp_path / "data" / "a.png")


def test_where_no_links_can_be_made_images_are_named_where_they_are(results, tmp_path: Path, monkeypatch):
    def refuse(*arguments: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(folders.os, "link", refuse)
    source = results()
    expected = {(tmp_path / "data" / name).as_posix() for name in NAMES}
    assert expected <= set(named_in(source))
    # The images move, and the results do not find them.
    (tmp_path / "photos").mkdir()
    (tmp_path / "data").rename(tmp_path / "photos" / "data")
    (tmp_path / "silhouettes").rename(tmp_path / "photos" / "silhouettes")
    with pytest.raises(InputError, match=r"which is not there .*give --images"):
        export_results(source, tmp_path / "output", "colmap")
    with pytest.raises(InputError, match=r"which is not there .*give --images"):
        export_results(source, tmp_path / "output", "colmap", tmp_path / "photos")
    for format in FORMATS:
        export_results(source, tmp_path / format, format, tmp_path / "photos" / "data")
    assert (tmp_path / "colmap" / "test_list.txt").read_text() == "in here/b.png"
    assert read_json(tmp_path / "nerfstudio" / "transforms.json")["test_filenames"] == ["images/in here/b.png"]
