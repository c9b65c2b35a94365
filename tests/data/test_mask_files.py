from pathlib import Path
from typing import List, Tuple

import pytest

from gnerf_ns.data.frames import read_frames
from gnerf_ns.data.mask_files import masks_of_images, split_off_masks
from gnerf_ns.utils.errors import InputError


def touch(folder: Path, names: List[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def found(folder: Path, names: List[str]) -> List[str]:
    images = [folder / name for name in names]
    masks = masks_of_images(images, folder)
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
    assert masks_of_images([image], Path(".")) == {image: Path("masks/train/a.png")}


@pytest.mark.parametrize(
    "names",
    [
        ("a_mask.png", "b_mask.png"),
        ("a.mask.png", "b.mask.png"),
        ("a.jpg.mask.png", "b.jpg.mask.png"),
        ("mask_a.png", "mask_b.png"),
        ("A-Mask.PNG", "b MASKS.png"),
        ("a_seg.png", "b_silhouette.webp"),
    ],
)
def test_masks_beside_images(tmp_path: Path, names: Tuple[str, str], capsys: pytest.CaptureFixture[str]):
    touch(tmp_path, ["a.jpg", "b.jpg", *names])
    images, masks = split_off_masks(sorted(tmp_path.iterdir()))
    assert [path.name for path in images] == ["a.jpg", "b.jpg"]
    assert sorted(path.name for path in masks) == sorted(names)
    assert found(tmp_path, ["a.jpg", "b.jpg"]) == list(names)
    assert f"Files beside the images are used as their masks: {names[0]}, {names[1]}." in capsys.readouterr().out


def test_masks_beside_images_by_number(tmp_path: Path):
    touch(tmp_path, [f"IMG_{index:04d}.JPG" for index in range(3)] + [f"mask_{index:04d}.png" for index in range(3)])
    images, masks = split_off_masks(sorted(tmp_path.iterdir()))
    assert [path.name for path in images] == [f"IMG_{index:04d}.JPG" for index in range(3)] and len(masks) == 3
    assert found(tmp_path, ["IMG_0001.JPG", "IMG_0002.JPG", "IMG_0000.JPG"])[0] == "mask_0001.png"


def test_word_in_the_middle(tmp_path: Path):
    touch(tmp_path, ["frame_001.png", "frame_mask_001.png", "frame_002.png", "frame_mask_002.png"])
    assert found(tmp_path, ["frame_001.png", "frame_002.png"]) == ["frame_mask_001.png", "frame_mask_002.png"]


@pytest.mark.parametrize(
    "stem", ["mask", "mask_{}", "{}_mask", "facemask_{}", "unmasked_{}", "segment_{}", "{}_masked"]
)
def test_images_of_masks_are_images(tmp_path: Path, stem: str):
    """Say, of a mask that is worn."""
    touch(tmp_path, [f"{stem.format(index)}{'' if '{' in stem else index}.png" for index in range(3)])
    images, masks = split_off_masks(sorted(tmp_path.iterdir()))
    assert len(images) == 3 and not masks
    assert masks_of_images(images, tmp_path) is None


def test_masks_of_images_of_masks(tmp_path: Path):
    touch(tmp_path, ["mask_1.png", "mask_2.png", "mask_1_mask.png", "mask_2_mask.png"])
    images, _ = split_off_masks(sorted(tmp_path.iterdir()))
    assert [path.name for path in images] == ["mask_1.png", "mask_2.png"]
    assert found(tmp_path, ["mask_1.png", "mask_2.png"]) == ["mask_1_mask.png", "mask_2_mask.png"]


def test_listed_images_are_images(tmp_path: Path):
    touch(tmp_path, ["a.png", "a_mask.png"])
    assert masks_of_images([tmp_path / "a.png", tmp_path / "a_mask.png"], tmp_path) is None


def test_some_images_without_a_mask_beside_them(tmp_path: Path):
    touch(tmp_path, ["a.png", "b.png", "c.png", "b_mask.png"])
    with pytest.raises(InputError, match=r"no mask beside a\.png, c\.png, while 1 other images .* b_mask\.png;"):
        found(tmp_path, ["a.png", "b.png", "c.png"])


def test_instant_ngps_dynamic_masks_are_neither_images_nor_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    touch(tmp_path, ["x.png", "y.png", "dynamic_mask_x.png", "dynamic_mask_y.png"])
    images, _ = split_off_masks(sorted(tmp_path.iterdir()))
    assert [path.name for path in images] == ["x.png", "y.png"]
    assert masks_of_images(images, tmp_path) is None
    assert "neither images nor masks of their object: dynamic_mask_x.png, dynamic_mask_y.png" in capsys.readouterr().out
    touch(tmp_path, ["x_mask.png", "y_mask.png"])
    assert found(tmp_path, ["x.png", "y.png"]) == ["x_mask.png", "y_mask.png"]


@pytest.mark.parametrize(
    "name", ["mask", "Masks", "MASK", "segmentation", "Segmentations", "silhouettes", "object_masks"]
)
def test_other_names_of_the_folder(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]):
    touch(tmp_path, ["images/e.png", f"{name}/e.png"])
    assert found(tmp_path, ["images/e.png"]) == [f"{name}/e.png"]
    assert f"Masks are read from {tmp_path / name}." in capsys.readouterr().out


def test_the_folder_called_masks_goes_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    touch(tmp_path, ["images/f.png", "images/f_mask.png", "Mask/f.png", "masks/f.png", "masks_2/f.png", "seg/f.png"])
    assert found(tmp_path, ["images/f.png"]) == ["masks/f.png"]
    assert (
        "Masks beside the images are not used, since there is a folder of masks: f_mask.png." in capsys.readouterr().out
    )


def test_folders_of_other_things(tmp_path: Path):
    touch(tmp_path, ["images/a.png", "depth_masks/a.png", "dynamic_masks/a.png", "masks_2/a.png", "mask_rcnn.py/a.png"])
    (tmp_path / "masks").mkdir()
    assert masks_of_images([tmp_path / "images" / "a.png"], tmp_path) is None


def test_words_in_the_folder_of_masks(tmp_path: Path):
    touch(tmp_path, ["masks/a_mask.png", "masks/mask_b.png", "masks/left/c.mask.png"])
    assert found(tmp_path, ["images/a.jpg", "images/b.jpg", "images/left/c.jpg"]) == [
        "masks/a_mask.png",
        "masks/mask_b.png",
        "masks/left/c.mask.png",
    ]


def test_masks_of_a_folder_further_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    touch(tmp_path, ["images/g.png", "masks/g.png"])
    assert masks_of_images([tmp_path / "images" / "g.png"], tmp_path / "images") is None
    assert f"The masks in {tmp_path / 'masks'} are not used; give {tmp_path}" in capsys.readouterr().out


def test_no_masks(tmp_path: Path):
    assert masks_of_images([tmp_path / "a.png"], tmp_path) is None
    touch(tmp_path, ["masks/notes.txt"])
    assert masks_of_images([tmp_path / "a.png"], tmp_path) is None


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
