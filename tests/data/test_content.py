from pathlib import Path
from typing import Callable, List, Optional, Sequence

import numpy as np
import pytest
import torch
from PIL import Image

from gnerf_ns.data.content import check_content
from gnerf_ns.data.dataparser import UnposedDataParserConfig
from gnerf_ns.data.dataset import UnposedDataset
from gnerf_ns.data.image_set import ImageStack
from gnerf_ns.utils.console import remark
from gnerf_ns.utils.errors import InputError


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[[], List[str]]:
    """The lines printed since the last call."""

    def lines() -> List[str]:
        remark.cache_clear()
        return capsys.readouterr().out.splitlines()

    return lines


def views(count: int = 6, channels: int = 3, height: int = 24, width: int = 32) -> np.ndarray:
    """Noise on white, of blocks that copies of other sizes keep, in a disc that alone is opaque."""
    blocks = np.random.default_rng(0).integers(0, 256, (count, height // 4, width // 4, channels), dtype=np.uint8)
    pixels = blocks.repeat(4, axis=1).repeat(4, axis=2)
    rows, columns = np.mgrid[:height, :width]
    inside = np.hypot(rows - height / 2 + 0.5, columns - width / 2 + 0.5) < 0.45 * min(height, width)
    pixels[..., :3] = np.where(inside[..., None], pixels[..., :3], 255)
    if channels == 4:
        pixels[..., 3] = 255 * inside
    return pixels


def named_files(count: int, pattern: str = "p{:02d}.png") -> List[Path]:
    return [Path(pattern.format(index)) for index in range(count)]


def written(folder: Path, names: Sequence[Path]) -> List[Path]:
    """Files whose size matters, not what they show."""
    files = [folder / name for name in names]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        Image.new("L", (32, 24)).save(file)
    return files


@pytest.fixture
def check(tmp_path: Path) -> Callable[..., None]:
    """As of a run that holds the first two images out."""

    def check_all(
        pixels: np.ndarray, names: Optional[Sequence[Path]] = None, masks: Optional[Sequence[Path]] = None
    ) -> None:
        files = written(tmp_path, named_files(len(pixels)) if names is None else names)
        stacks = [ImageStack(torch.from_numpy(part)) for part in (pixels[2:], pixels[:2])]
        check_content(stacks, [*files[2:], *files[:2]], None if masks is None else [*masks[2:], *masks[:2]])

    return check_all


@pytest.mark.parametrize("channels", [3, 4])
def test_nothing_is_said_of_good_images(channels: int, said, check):
    check(views(channels=channels))
    assert not said()


def test_files_that_hold_several_images_are_named(tmp_path: Path, said):
    files = written(tmp_path, named_files(6, "p{:02d}.tif"))
    for file in files[2:4]:
        Image.new("L", (32, 24)).save(file, save_all=True, append_images=[Image.new("L", (8, 8))])
    check_content([ImageStack(torch.from_numpy(views()))], files)
    assert said() == ["2 of 6 files hold several images (p02.tif, p03.tif): the first is read."]


def test_no_held_out_images(tmp_path: Path, said):
    stacks = [ImageStack(torch.from_numpy(views())), ImageStack(torch.empty(0, 24, 32, 3).byte())]
    check_content(stacks, written(tmp_path, named_files(6)))
    assert not said()


@pytest.mark.parametrize("color", [100, 255])
def test_images_of_a_single_color(color: int, check, said):
    pixels = views()
    pixels[[0, 3]] = color
    check(pixels)
    assert said() == ["2 of 6 images are of a single color (p03.png, p00.png); they show nothing."]
    pixels[:] = np.random.default_rng(0).integers(color - 2, color + 1, pixels.shape)
    with pytest.raises(InputError, match=r"All 6 images are of a single color, like .*p02\.png"):
        check(pixels)


def test_dark_images(said, check):
    pixels = views()
    pixels[:4] //= 16
    check(pixels)
    assert said() == ["4 of 6 images are nearly black (p02.png, p03.png, p00.png and 1 more)."]
    pixels[4:] //= 16
    with pytest.raises(InputError, match=r"No image is brighter than 10 %, like .*p02\.png; brighten them .*12 bits"):
        check(pixels)
    pixels //= 4
    with pytest.raises(InputError, match=r"No image is brighter than 10 %"):
        check(pixels)


def test_black_objects_are_seen_by_their_outline(said, check):
    pixels = views(channels=4)
    for index in range(6):
        pixels[index, 4 : 8 + 2 * index, 8:20, 3] = 0
    pixels[..., :3] = 5
    check(pixels)
    (line,) = said()
    assert line.startswith("No image is brighter than 10 %, like ")


def test_transparent_images(check):
    pixels = views(channels=4)
    pixels[1:3, ..., 3] = 0
    with pytest.raises(InputError, match=r"2 of 6 images leave nothing .* \(p02\.png, p01\.png\)"):
        check(pixels)
    pixels[..., 3] = 0
    with pytest.raises(InputError, match=r"All 6 images are transparent everywhere, like .*p02\.png"):
        check(pixels)


def test_empty_masks(check):
    pixels, masks = views(channels=4), named_files(6, "masks/m{:d}.png")
    pixels[4, ..., 3] = 0
    with pytest.raises(InputError, match=r"1 of 6 masks leave nothing of their image to see \(m4\.png\)"):
        check(pixels, masks=masks)
    pixels[..., 3] = 0
    with pytest.raises(InputError, match=r"All 6 masks are empty \(black everywhere\), like masks/m2\.png"):
        check(pixels, masks=masks)


def masks_of_size(folder: Path, pixels: np.ndarray) -> List[Path]:
    """Files of the images' alpha."""
    masks = named_files(len(pixels), f"{folder}/m{{:d}}.png")
    for mask, image in zip(masks, pixels, strict=True):
        Image.fromarray(image[..., 3]).save(mask)
    return masks


def test_full_masks(tmp_path: Path, said, check):
    pixels = views(channels=4)
    pixels[1, ..., 3] = 255
    masks = masks_of_size(tmp_path, pixels)
    check(pixels, masks=masks)
    assert said() == ["1 of 6 masks are white everywhere (m1.png): there the background stays."]
    check(views(), masks=masks)  # an image stack keeps no alpha that is opaque everywhere
    assert said() == ["All 6 masks are white everywhere: they say nothing, and the background stays."]


def test_transparency_of_some_images_only(said, check):
    pixels = views(channels=4)
    pixels[3:5, ..., 3] = 255
    check(pixels)
    assert said() == ["2 of 6 images are opaque everywhere (p03.png, p04.png): there the background stays."]


def test_inverted_masks(tmp_path: Path, said, check):
    pixels = views(channels=4)
    pixels[:3, ..., 3] ^= 255
    masks = masks_of_size(tmp_path, pixels)
    check(pixels, masks=masks)
    assert said()[0] == "3 of 6 masks look inverted (m2.png, m0.png, m1.png); the object must be white."
    pixels[3, ..., 3] ^= 255
    with pytest.raises(InputError, match=r"4 of 6 masks look inverted: their border is white and .* \(m2\.png, "):
        check(pixels, masks=masks)


def test_objects_that_touch_the_border_are_not_inverted(said, check):
    pixels = views(channels=4)
    pixels[:, 4:, :, 3], pixels[:, :4, :, 3] = 255, 0
    check(pixels)
    assert not said()


def test_labels(tmp_path: Path, said, check):
    pixels = views(channels=4)
    masks = masks_of_size(tmp_path, pixels)
    for mask in masks[1:3]:
        labels = np.asarray(Image.open(mask)) // 255
        labels[:12] *= 3
        Image.fromarray(labels).save(mask)
    check(pixels, masks=masks)
    assert said() == ["The masks hold labels of a segmentation (m2.png, m1.png): all but 0 is taken for the object."]


def test_copies(said, check):
    pixels = np.concatenate([views(), views()[1:3]])
    check(pixels, [*named_files(6), Path("copy/p01.png"), Path("other.png")])
    (line,) = said()
    assert line.startswith("4 of 8 images come more than once, or nearly so (p02.png = other.png, p01.png = p01.png): ")


def test_views_close_together_are_no_copies(check, said):
    pixels = views()
    pixels[3] = (0.97 * pixels[2] + 0.03 * pixels[4]).astype(np.uint8)
    check(pixels)
    assert not said()


def test_the_same_image_only(check):
    pixels = views()
    pixels[:] = pixels[:1] ^ np.random.default_rng(0).integers(0, 16, pixels.shape, dtype=np.uint8)  # compressed, say
    with pytest.raises(
        InputError, match=r"All 6 images are the same image, like .*p02\.png, .*; take them from all aro"
    ):
        check(pixels)


def test_copies_in_other_formats_and_sizes(tmp_path: Path, said):
    for index, pixels in enumerate(views(height=48, width=96)):
        Image.fromarray(pixels).save(tmp_path / f"p{index}.png")
        if index < 2:
            Image.fromarray(pixels).save(tmp_path / f"copy{index}.jpg", quality=95)
            Image.fromarray(pixels).resize((48, 24), Image.Resampling.BOX).save(tmp_path / f"thumb{index}.png")
    outputs = UnposedDataParserConfig(data=tmp_path, eval_interval=0).setup().get_dataparser_outputs("train")
    dataset = UnposedDataset(outputs)
    said()
    check_content([ImageStack.from_dataset(dataset)], dataset.image_filenames)
    assert said() == [
        "6 of 10 images come more than once, or nearly so "
        "(copy0.jpg = p0.png = thumb0.png, copy1.jpg = p1.png = thumb1.png): "
        "copies are trained on and held out at the same time; keep one of each."
    ]


def test_equal_names_but_for_the_ending(said, check):
    check(views(), [*named_files(4), Path("p01.jpg"), Path("p02.JPG")])
    (line,) = said()
    assert line.startswith(
        "4 of 6 images have the name of another but for its ending (p02.png = p02.JPG, p01.jpg = p01.png); keep one"
    )
    check(views(), [*named_files(4), Path("left/p01.png"), Path("right/p01.jpg")])
    assert not said()


def test_padding_does_not_count(tmp_path: Path, said):
    """A landscape among portraits, all of one color inside."""
    stack = ImageStack(torch.zeros(3, 24, 24, 4).byte(), torch.tensor([[1.0, 0.5], [0.5, 1.0], [1.0, 0.5]]))
    stack.pixels[0, 6:18], stack.pixels[2, 6:18], stack.pixels[1, :, 6:18] = 200, 200, 200
    stack.pixels[..., 3] = 255 * (stack.pixels[..., 0] > 0)
    with pytest.raises(InputError, match="All 3 images are of a single color"):
        check_content([stack], written(tmp_path, named_files(3)))


def test_tiny_images_are_refused_if_held_out_as_well(tmp_path: Path):
    names = [tmp_path / f"p{index}.png" for index in range(6)]
    for index, file in enumerate(names):
        Image.new("L", (8, 32) if index == 5 else (32, 24)).save(file)
    with pytest.raises(InputError, match=r"1 of 6 images have less than 16 pixels on a side \(p5\.png\)"):
        check_content([ImageStack(torch.from_numpy(views()))], names)


def test_strips_among_other_images(tmp_path: Path):
    extents = torch.tensor([[1.0, 1.0], [1.0, 0.25], [1.0, 1.0]])
    stack = ImageStack(torch.from_numpy(views(3)), extents)
    with pytest.raises(InputError, match=r"p01\.png is shrunk to 32x6 pixels"):
        check_content([stack], written(tmp_path, named_files(3)))
