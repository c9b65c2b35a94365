"""Which files of a folder are images; see test_dataparser.py for splits and transforms files."""

from pathlib import Path
from typing import List

import pytest

from gnerf_ns.data.frames import read_all_frames, read_frames
from gnerf_ns.utils.errors import InputError


def touch(folder: Path, names: List[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def found(folder: Path) -> List[str]:
    return [frame.image.relative_to(folder).as_posix() for frame in read_all_frames(folder)]


def test_skipped_formats_are_named_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    touch(tmp_path, ["a.jpg", "b.HEIC", "c.heic", "d.mov", "e.dng", "._f.heic", "notes.txt"])
    assert found(tmp_path) == ["a.jpg"]
    read_frames(tmp_path, eval_interval=8)
    said = capsys.readouterr().out
    assert (
        said == f"Files in {tmp_path} are skipped: 2 .heic, 1 .mov, 1 .dng; convert them to JPEG or PNG to use them.\n"
    )


def test_nothing_is_said_of_what_is_all_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    touch(
        tmp_path, ["a.jpg", "b.PNG", "c.webp", "d.avif", "e.tif", "f.TIFF", "g.bmp", "h.jfif", "transforms.txt", ".x"]
    )
    assert len(found(tmp_path)) == 8
    assert not capsys.readouterr().out


@pytest.mark.parametrize("name", ["images", "Images"])
def test_images_beside_the_folder_images(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]):
    touch(tmp_path, [f"{name}/a.png", f"{name}/b.heic", "c.png", "d.png"])
    assert found(tmp_path) == [f"{name}/a.png"]
    said = capsys.readouterr().out
    assert f"{tmp_path / name} is read, but not the images beside that folder: c.png, d.png." in said
    assert f"Files in {tmp_path / name} are skipped: 1 .heic" in said


def test_a_folder_images_without_images(tmp_path: Path):
    touch(tmp_path, ["images/notes.txt", "c.png"])
    assert found(tmp_path) == ["c.png"]


def test_masks_beside_images_are_no_images(tmp_path: Path):
    touch(tmp_path, [f"p{index:02d}{ending}" for index in range(12) for ending in (".png", "_mask.png")])
    frames = read_all_frames(tmp_path)
    assert [frame.image.name for frame in frames] == [f"p{index:02d}.png" for index in range(12)]
    assert [frame.mask and frame.mask.name for frame in frames] == [f"p{index:02d}_mask.png" for index in range(12)]


def test_masks_beside_images_in_the_folder_images(tmp_path: Path):
    touch(tmp_path, ["images/a.png", "images/b.png", "images/mask_a.png", "images/mask_b.png"])
    frames = read_all_frames(tmp_path)
    assert [frame.image.name for frame in frames] == ["a.png", "b.png"]
    assert [frame.mask and frame.mask.name for frame in frames] == ["mask_a.png", "mask_b.png"]


def test_the_only_folder_below_that_has_images_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    touch(tmp_path, ["scan/photos/0.jpg", "scan/photos/1.jpg", "scan/notes.txt", ".git/x.png", "scan/masks/y.png"])
    assert found(tmp_path) == ["scan/photos/0.jpg", "scan/photos/1.jpg"]
    inner = tmp_path / "scan" / "photos"
    assert capsys.readouterr().out == f"There are no images in {tmp_path} itself: {inner} is read.\n"


def test_the_only_folder_below_is_read_with_what_lies_beside_the_images(tmp_path: Path):
    touch(tmp_path, [f"scan/{folder}/{index}.png" for folder in ("images", "masks") for index in range(3)])
    frames = read_all_frames(tmp_path)
    assert [frame.mask for frame in frames] == [tmp_path / "scan" / "masks" / f"{index}.png" for index in range(3)]


def test_the_only_folder_below_is_read_with_its_transforms(tmp_path: Path, blender_folder: Path):
    train, held_out = read_frames(tmp_path, eval_interval=8)
    assert (len(train), len(held_out)) == (8, 4)
    assert {frame.image.parent for frame in train} == {blender_folder / "train"}


def test_both_splits_are_all_frames(blender_folder: Path):
    assert len(read_all_frames(blender_folder)) == 8 + 4


def test_thumbnails_do_not_stand_for_images_that_are_not_read(tmp_path: Path):
    touch(tmp_path, ["a.heic", "b.heic", "thumbnails/a.jpg", "thumbnails/b.jpg"])
    with pytest.raises(InputError, match=r"there are others \(2 \.heic\); convert"):
        read_frames(tmp_path, eval_interval=8)


def test_of_several_folders_below_one_must_be_given(tmp_path: Path):
    touch(tmp_path, [f"images_{factor}/a.png" for factor in (2, 4)])
    folders = ", ".join(str(tmp_path / f"images_{factor}") for factor in (2, 4))
    with pytest.raises(InputError) as error:
        read_frames(tmp_path, eval_interval=8)
    assert str(error.value) == f"No image is among the files in {tmp_path}, but in {folders}; give one of these."
    touch(tmp_path, [f"images_{factor}/a.png" for factor in (8, 16, 32, 64)])
    with pytest.raises(InputError, match=r"images_4 and 2 more; give one of these\.$"):
        read_frames(tmp_path, eval_interval=8)


def test_only_formats_that_are_not_read(tmp_path: Path):
    touch(tmp_path, ["a.heic", "b.HEIC"])
    with pytest.raises(InputError, match=r"No image is among the files in .* there are others \(2 \.heic\); convert"):
        read_frames(tmp_path, eval_interval=8)


def test_a_file_in_place_of_the_folder(tmp_path: Path):
    touch(tmp_path, ["scene.zip"])
    with pytest.raises(InputError, match=r"scene\.zip is neither a folder nor a video; give the folder that holds the"):
        read_frames(tmp_path / "scene.zip", eval_interval=8)
