"""What is said of the images of a folder that are not those of a run."""

import shutil
from pathlib import Path
from typing import Callable, List, Sequence

import pytest

from gnerf_ns.utils.errors import InputError
from gnerf_ns.utils.run_images import ImageSource, RunImages


def make_folder(folder: Path, count: int = 12) -> Path:
    folder.mkdir()
    for index in range(count):
        (folder / f"p{index:02d}.png").write_bytes(f"image {index}".encode() * 1000)
    return folder


def sources(paths: Sequence[Path], focal_length: float = 1.2) -> List[ImageSource]:
    """Images with masks, if there is a folder of these beside theirs."""
    masks = [path.parent.with_name("masks") / path.name for path in paths]
    return [
        ImageSource(path, mask if mask.exists() else None, focal_length)
        for path, mask in zip(paths, masks, strict=True)
    ]


def images_of(folder: Path, interval: int = 8, focal_length: float = 1.2) -> RunImages:
    """As a bare folder is split."""
    images = sources(sorted(folder.glob("*.png")), focal_length)
    return RunImages.read([image for index, image in enumerate(images) if index % interval], images[::interval], folder)


def complaint(then: RunImages, now: RunImages) -> str:
    with pytest.raises(InputError) as error:
        then.check_training_images(now)
    text = str(error.value)
    assert text.startswith(f"The images in {now.folder} are not those that the run was trained on: ")
    assert text.endswith("; restore them as they were, or train anew.") and "\n" not in text
    return text.split(": ", 1)[1].rsplit(";", 1)[0]


def swap(folder: Path, first: str, second: str) -> None:
    a, b = (folder / name for name in (first, second))
    contents = a.read_bytes(), b.read_bytes()
    b.write_bytes(contents[0])
    a.write_bytes(contents[1])


def delete_and_add(folder: Path) -> None:
    (folder / "p03.png").unlink()
    (folder / "p12.png").write_bytes(b"new")


CHANGES = [
    (lambda folder: (folder / "p03.png").unlink(), "p03.png is missing"),
    (lambda folder: (folder / "p00.png").unlink(), "p00.png is missing"),  # it was held out: the split is shifted
    (lambda folder: (folder / "a.png").write_bytes(b"new"), "a.png is new"),  # likewise
    (delete_and_add, "p03.png is missing, p12.png is new"),
    (lambda folder: (folder / "p05.png").write_bytes(b"new"), "p05.png has other content"),
    (lambda folder: (folder / "p05.png").rename(folder / "z.png"), "p05.png (now z.png) has another name"),
    (lambda folder: swap(folder, "p05.png", "p06.png"), "p05.png and p06.png have other content"),
    (
        lambda folder: [path.write_bytes(path.read_bytes() + b"!") for path in folder.glob("p0*.png")],
        "p00.png, p01.png, p02.png and 7 more have other content",
    ),
]


@pytest.mark.parametrize(("change", "words"), CHANGES)
def test_what_differs_is_named(tmp_path: Path, change: Callable[[Path], object], words: str):
    folder = make_folder(tmp_path / "images")
    then = images_of(folder)
    change(folder)
    assert complaint(then, images_of(folder)) == words


def test_another_folder(tmp_path: Path):
    then = images_of(make_folder(tmp_path / "one"))
    other = tmp_path / "two"
    other.mkdir()
    for index in range(9):
        (other / f"q{index}.png").write_bytes(f"another {index}".encode())
    assert complaint(then, images_of(other)) == "none of its 12 images is among the 9 that are there"


def test_another_folder_with_the_same_names(tmp_path: Path):
    then = images_of(make_folder(tmp_path / "one"))
    other = make_folder(tmp_path / "two")
    for path in other.iterdir():
        path.write_bytes(b"another" + path.read_bytes())
    assert complaint(then, images_of(other)) == "p00.png, p01.png, p02.png and 9 more have other content"


def test_another_split(tmp_path: Path):
    folder = make_folder(tmp_path / "images")
    assert complaint(images_of(folder), images_of(folder, interval=6)) == (
        "p06.png is held out now, p08.png was held out"
    )


def test_another_order(tmp_path: Path):
    images = sources(sorted(make_folder(tmp_path / "images").iterdir()))
    then, now = (RunImages.read(some, [], tmp_path) for some in (images, images[::-1]))
    assert complaint(then, now) == "they come in another order"


def test_moved_and_renamed_images_are_the_same_as_long_as_their_order_is(tmp_path: Path):
    folder = make_folder(tmp_path / "images")
    then = images_of(folder)
    moved = tmp_path / "elsewhere" / "deep"
    shutil.copytree(folder, moved)
    for path in moved.iterdir():
        path.rename(path.with_name(f"x{path.name}"))
    then.check_training_images(images_of(moved))
    assert then.has_held_out_images_of(images_of(moved))


def test_other_held_out_images_beside_the_same_training_images(tmp_path: Path):
    folder = make_folder(tmp_path / "images")
    then = images_of(folder)
    (folder / "p08.png").write_bytes(b"new")
    then.check_training_images(images_of(folder))
    assert not then.has_held_out_images_of(images_of(folder))


def test_the_same_image_twice_is_no_difference(tmp_path: Path):
    folder = make_folder(tmp_path / "images")
    shutil.copy(folder / "p05.png", folder / "p05 copy.png")
    then = images_of(folder)
    then.check_training_images(images_of(folder))
    (folder / "p05 copy.png").unlink()
    assert complaint(then, images_of(folder)) != ""


def test_names_are_relative_to_the_data_where_they_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = make_folder(tmp_path / "images", count=1)
    aside = tmp_path / "aside.png"
    aside.write_bytes(b"aside")
    monkeypatch.chdir(tmp_path)
    listing = Path("transforms.json")
    listing.touch()
    images = RunImages.read(sources([Path("images/p00.png"), aside]), [], listing)
    assert images.folder == str(tmp_path)
    assert [image.name for image in images.train] == ["images/p00.png", "aside.png"]
    images = RunImages.read(sources([aside]), [], folder)
    assert [image.name for image in images.train] == [str(aside)]


def test_it_survives_being_saved(tmp_path: Path):
    images = images_of(make_folder(tmp_path / "images"))
    assert RunImages.from_state(images.to_state()) == images


def test_an_image_that_is_gone_gets_one_sentence(tmp_path: Path):
    with pytest.raises(InputError, match=r"gone\.png cannot be read \(No such file or directory\)"):
        RunImages.read(sources([tmp_path / "gone.png"]), [], tmp_path)


def test_another_lens(tmp_path: Path):
    folder = make_folder(tmp_path / "images")
    then = images_of(folder)
    then.check_training_images(images_of(folder, focal_length=1.2005))
    now = images_of(folder, focal_length=0.93)
    with pytest.raises(InputError, match=r"p01\.png has a focal length of 0\.930 image widths, which was 1\.200; give"):
        then.check_training_images(now)
    assert not then.has_held_out_images_of(now)


def test_other_masks_are_told_and_used(tmp_path: Path, capsys: pytest.CaptureFixture):
    folder, masks = make_folder(tmp_path / "images"), make_folder(tmp_path / "masks")
    then = images_of(folder)
    then.check_training_images(images_of(folder))
    assert capsys.readouterr().out == ""
    (masks / "p03.png").write_bytes(b"other")
    then.check_training_images(images_of(folder))
    assert capsys.readouterr().out == "Not the masks that the run was trained with: p03.png has another.\n"
    shutil.rmtree(masks)
    then.check_training_images(images_of(folder))
    assert "p01.png, p02.png, p03.png and 7 more have others" in capsys.readouterr().out
