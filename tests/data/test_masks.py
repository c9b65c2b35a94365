from pathlib import Path
from typing import List

import pytest

from gnerf_ns.data.frames import read_frames
from gnerf_ns.data.masks import masks_of_folder
from gnerf_ns.utils.errors import InputError


def touch(folder: Path, names: List[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def found(folder: Path, names: List[str]) -> List[str]:
    images = [folder / name for name in names]
    masks = masks_of_folder(images, folder)
    assert masks is not None
    return [masks[image].relative_to(folder).as_posix() for image in images]


def test_the_nearest_of_three_places_counts(tmp_path: Path):
    touch(tmp_path, ["masks/images/a.png", "masks/left/b.png", "masks/c.png", "masks/a.png", "masks/b.png"])
    assert found(tmp_path, ["images/a.jpg"]) == ["masks/images/a.png"]  # relative to the data folder
    assert found(tmp_path, ["images/left/b.jpg"]) == ["masks/left/b.png"]  # relative to images/
    assert found(tmp_path, ["images/right/c.jpg"]) == ["masks/c.png"]  # by base name


def test_the_images_ending_may_stay(tmp_path: Path):
    touch(tmp_path, ["masks/train/a.jpg.png", "masks/train/a.png.png", "masks/._a.png"])
    names = ["train/a.jpg", "train/a.png"]
    assert found(tmp_path, names) == ["masks/train/a.jpg.png", "masks/train/a.png.png"]


def test_paths_as_transforms_files_write_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    touch(tmp_path, ["masks/train/a.png", "elsewhere/a.png"])
    assert found(tmp_path, ["test/../train/a.png"]) == ["masks/train/a.png"]
    monkeypatch.chdir(tmp_path)
    image = (tmp_path / "train" / "a.png").absolute()
    assert masks_of_folder([image], Path(".")) == {image: Path("masks/train/a.png")}


def test_no_masks(tmp_path: Path):
    assert masks_of_folder([tmp_path / "a.png"], tmp_path) is None
    touch(tmp_path, ["masks/notes.txt"])
    assert masks_of_folder([tmp_path / "a.png"], tmp_path) is None


def test_one_mask_for_two_images(tmp_path: Path):
    touch(tmp_path, ["masks/a.png"])
    with pytest.raises(InputError, match=r"masks/a\.png would serve both .*left/a\.jpg and .*right/a\.jpg"):
        found(tmp_path, ["left/a.jpg", "right/a.jpg"])
    assert found(tmp_path, ["left/a.jpg", "left/a.jpg"]) == ["masks/a.png"] * 2  # one image, listed twice


def test_blenders_splits_have_masks_of_their_own(blender_folder: Path):
    touch(blender_folder, [f"masks/train/r_{index}.png" for index in range(8)])
    touch(blender_folder, [f"masks/test/r_{index}.png" for index in range(4)])
    for frames, split in zip(read_frames(blender_folder, 8), ("train", "test"), strict=True):
        for frame in frames:
            assert frame.mask == blender_folder / "masks" / split / frame.image.name


def test_blenders_splits_do_not_share_masks(blender_folder: Path):
    touch(blender_folder, [f"masks/r_{index}.png" for index in range(8)])
    with pytest.raises(InputError, match=r"masks/r_0\.png would serve both .*train/r_0\.png and .*test/r_0\.png"):
        read_frames(blender_folder, 8)
