"""Which files of a folder are images; see test_dataparser.py for splits and transforms files."""

from pathlib import Path
from typing import Iterator, List

import pytest
from PIL import Image

from gnerf_ns.data import frames, images
from gnerf_ns.data.frames import read_all_frames, read_frames
from gnerf_ns.utils.errors import InputError


def touch(folder: Path, names: List[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def found(folder: Path) -> List[str]:
    return [frame.image.relative_to(folder).as_posix() for frame in read_all_frames(folder)]


def without_heic(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the package that reads HEIC is not installed."""
    monkeypatch.setattr(images, "IMAGE_SUFFIXES", tuple(set(images.IMAGE_SUFFIXES) - set(images.HEIC_SUFFIXES)))
    monkeypatch.setattr(frames, "UNREAD_SUFFIXES", (*frames.UNREAD_SUFFIXES, *images.HEIC_SUFFIXES))


def test_skipped_formats_are_counted_and_named_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    without_heic(monkeypatch)
    touch(tmp_path, ["a.jpg", "b.HEIC", "c.heic", "d.mov", "e.dng", "._f.heic", "notes.txt", "g.zip"])
    assert found(tmp_path) == ["a.jpg"]
    read_frames(tmp_path, eval_interval=8)
    assert capsys.readouterr().out == (
        f"5 files were not read in {tmp_path}: 2 .heic, 1 .mov, 1 .dng, 1 .zip; {images.HEIC_ADVICE}, convert other "
        "formats to JPEG or PNG, unpack archives.\n"
    )


def test_heic_files_are_images_where_they_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    touch(tmp_path, ["a.jpg", "b.HEIC", "c.heif"])
    assert found(tmp_path) == ["a.jpg", "b.HEIC", "c.heif"]
    assert not capsys.readouterr().out


def test_images_without_an_ending_and_links_that_lead_nowhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    touch(tmp_path, ["a.jpg", "LICENSE"])
    Image.new("RGB", (4, 4)).save(tmp_path / "IMG_0001", format="JPEG")
    (tmp_path / "b.png").symlink_to(tmp_path / "b.png")
    (tmp_path / "c.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "d.png").symlink_to(tmp_path / "a.jpg")
    (tmp_path / "all").symlink_to(tmp_path, target_is_directory=True)
    assert found(tmp_path) == ["a.jpg", "d.png"]
    assert "3 files were not read in" in (said := capsys.readouterr().out)
    assert "1 without an ending, 2 whose link leads nowhere; give names an ending, restore what links" in said


def test_nothing_is_said_of_what_is_all_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    touch(
        tmp_path, ["a.jpg", "b.PNG", "c.webp", "d.avif", "e.tif", "f.TIFF", "g.bmp", "h.jfif", "transforms.txt", ".x"]
    )
    assert len(found(tmp_path)) == 8
    assert not capsys.readouterr().out


@pytest.mark.parametrize("name", ["images", "Images"])
def test_images_beside_the_folder_images(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]):
    touch(tmp_path, [f"{name}/a.png", f"{name}/b.gif", "c.png", "d.png"])
    assert found(tmp_path) == [f"{name}/a.png"]
    said = capsys.readouterr().out
    assert f"{tmp_path / name} is read, but not the images beside that folder: c.png, d.png." in said
    assert f"1 file was not read in {tmp_path / name}: 1 .gif; convert them to JPEG or PNG." in said


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
    touch(tmp_path, ["scan/photos/0.jpg", "scan/photos/1.jpg", "scan/notes.txt", "scan/masks/y.png"])
    touch(tmp_path, [".git/x.png", "scan.zip"])
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
    touch(tmp_path, ["a.dng", "b.dng", "scan.zip", "thumbnails/a.jpg", "thumbnails/b.jpg"])
    with pytest.raises(InputError, match=r"3 files were not read in .*: 2 \.dng, 1 \.zip"):
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


def test_only_formats_that_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    without_heic(monkeypatch)
    touch(tmp_path, ["a.heic", "b.HEIC"])
    with pytest.raises(InputError) as error:
        read_frames(tmp_path, eval_interval=8)
    assert str(error.value) == (
        f"No image is among the files in {tmp_path}. 2 files were not read in {tmp_path}: 2 .heic; "
        'pip install "gnerf-ns[heic]" lets .heic files be read.'
    )


def test_a_file_in_place_of_the_folder(tmp_path: Path):
    touch(tmp_path, ["scene.zip", "scene.txt"])
    with pytest.raises(InputError, match=r"scene\.zip is an archive; unpack it, and give the folder that holds the"):
        read_frames(tmp_path / "scene.zip", eval_interval=8)
    with pytest.raises(InputError, match=r"scene\.txt is neither a folder nor a video; give the folder that holds the"):
        read_frames(tmp_path / "scene.txt", eval_interval=8)


@pytest.mark.parametrize("locked", [".", "images"])
def test_a_folder_that_may_not_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locked: str):
    touch(tmp_path, ["images/a.png"])
    list_folder = Path.iterdir

    def refuse(folder: Path) -> Iterator[Path]:
        if folder == tmp_path / locked:
            raise PermissionError(13, "Permission denied", str(folder))
        return list_folder(folder)

    monkeypatch.setattr(Path, "iterdir", refuse)
    for read in (read_all_frames, lambda folder: read_frames(folder, eval_interval=8)):
        with pytest.raises(InputError, match=rf"{tmp_path / locked} cannot be read \(Permission denied\); correct"):
            read(tmp_path)
