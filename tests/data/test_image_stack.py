from typing import Tuple

import numpy as np
import pytest
import torch
from PIL import Image

from gnerf_ns.data import image_set as image_stack
from gnerf_ns.data.dataparser import UnposedDataParserConfig
from gnerf_ns.data.dataset import UnposedDataset
from gnerf_ns.data.image_set import ImageStack, composite, premultiply
from gnerf_ns.data.images import ImageSize, area_resize


def random_pixels(channels: int) -> torch.Tensor:
    return torch.randint(0, 256, (5, 8, 6, channels), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_full_resolution_composites_to_the_definition():
    pixels = random_pixels(4)
    background = torch.tensor([0.2, 0.5, 0.9])
    stack = ImageStack(pixels)
    color, alpha = pixels[..., :3] / 255, pixels[..., 3:] / 255
    expected = color * alpha + background * (1 - alpha)
    torch.testing.assert_close(composite(stack.at_resolution(8, 6), background).permute(0, 2, 3, 1), expected)
    torch.testing.assert_close(composite(premultiply(pixels), background, channel_dim=-1), expected)


def test_compositing_commutes_with_averaging():
    """True of premultiplied colors only: averaging straight colors would let invisible pixels shine through."""
    stack, background = ImageStack(random_pixels(4)), torch.tensor([1.0, 0.0, 0.5])
    fine = composite(stack.at_resolution(8, 6), background)
    # Color and alpha are rounded to bytes.
    smaller = composite(stack.at_resolution(3, 4), background)
    torch.testing.assert_close(smaller, area_resize(fine, 3, 4), rtol=0, atol=1.001 / 255)


def test_opaque_images_have_three_channels():
    stack = ImageStack(random_pixels(3))
    assert not stack.has_alpha
    torch.testing.assert_close(composite(stack.at_resolution(4, 3), torch.ones(3)), stack.at_resolution(4, 3))
    pixels = random_pixels(4)
    pixels[..., 3] = 255
    assert ImageStack(pixels).pixels.shape[-1] == 3
    pixels[0, 0, 0, 3] = 254
    assert ImageStack(pixels).has_alpha


def test_a_background_may_differ_from_image_to_image():
    stack = ImageStack(random_pixels(4))
    backgrounds = torch.rand(5, 3, 1, 1)
    laid = composite(stack.at_resolution(8, 6), backgrounds)
    torch.testing.assert_close(laid[3], composite(stack.at_resolution(8, 6)[3], backgrounds[3, :, 0, 0]))


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("size", [(8, 6), (4, 3), (3, 4)])
def test_chosen_images_and_pixels_are_those_of_all(channels: int, size: Tuple[int, int]):
    stack = ImageStack(random_pixels(channels))
    whole, indices = stack.at_resolution(*size), torch.tensor([4, 0, 4])
    assert torch.equal(stack.at_resolution(*size, indices), whole[indices])
    pixels = torch.tensor([[0, 5], [7, 7], [size[0] * size[1] - 1, 3]])
    expected = torch.stack([whole[index].flatten(1).T[chosen] for index, chosen in zip(indices, pixels, strict=True)])
    assert torch.equal(stack.pixels_at(*size, indices[:, None].expand(-1, 2), pixels), expected)


def test_smaller_copies_are_bytes_made_once_a_few_at_a_time(monkeypatch):
    stack = ImageStack(random_pixels(4))
    expected = stack.at_resolution(4, 3)
    assert stack._stored(4, 3)[0] is stack._stored(4, 3)[0] and stack._stored(4, 3)[0].dtype == torch.uint8
    first = stack._stored(4, 3)[0]
    monkeypatch.setattr(image_stack, "_KEPT_BYTES", 1)
    for side in range(1, 6):
        stack.at_resolution(side, side)
        assert sum(each.numel() for each in stack._smaller.values()) <= stack.pixels.numel()
    assert stack._stored(4, 3)[0] is not first, "old sizes must make room"
    assert stack._stored(8, 6)[0] is stack.pixels
    monkeypatch.setattr(image_stack, "_CHUNK_BYTES", 1)
    assert torch.equal(ImageStack(random_pixels(4)).at_resolution(4, 3), expected)


def test_from_dataset_with_and_without_alpha(tmp_path):
    """Opaque images among transparent ones are opaque in the stack."""
    generator, written = torch.Generator().manual_seed(1), []
    for index, channels in enumerate((3, 4, 3)):
        written.append(torch.randint(0, 256, (24, 16, channels), dtype=torch.uint8, generator=generator))
        Image.fromarray(written[-1].numpy()).save(tmp_path / f"{index}.png")
    parser = UnposedDataParserConfig(data=tmp_path, eval_interval=0, min_images=3).setup()
    stack = ImageStack.from_dataset(UnposedDataset(parser.get_dataparser_outputs("train")))
    assert torch.equal(stack.pixels[1], written[1])
    assert torch.equal(stack.pixels[0, ..., :3], written[0]) and bool((stack.pixels[[0, 2], ..., 3] == 255).all())
    assert stack.extents is None and stack.validity(12, 8) is None


@pytest.mark.parametrize("channels", [(3, 3, 3), (4, 4, 4), (3, 4, 3)])
def test_padding_is_known_and_shows_nothing(tmp_path, channels):
    """Two images of 24x16 among one of 16x24, the latter ones without alpha of their own in the last case."""
    for index, (count, (height, width)) in enumerate(zip(channels, [(16, 24), (24, 16), (16, 24)], strict=True)):
        pixels = np.full((height, width, count), 200, np.uint8)
        if count == 4:
            pixels[:4, :4, 3] = 0
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    parser = UnposedDataParserConfig(data=tmp_path, eval_interval=0, min_images=3).setup()
    stack = ImageStack.from_dataset(UnposedDataset(parser.get_dataparser_outputs("train")))
    assert stack.pixels.shape == (3, 24, 24, max(channels))
    inside = stack.validity(24, 24)
    assert inside is not None and set(inside.unique().tolist()) == {0.0, 1.0}
    assert inside.sum(dim=(1, 2)).tolist() == [24.0 * 16.0] * 3
    assert bool(inside[0, 4:20].all()) and bool(inside[1, :, 4:20].all())
    assert not stack.pixels[inside == 0].any(), "black, and transparent where there is alpha"
    assert bool((stack.pixels[inside == 1][:, :3] == 200).all())
    chosen = stack[torch.tensor([1, 0])]
    torch.testing.assert_close(chosen.validity(24, 24), inside[[1, 0]])
    torch.testing.assert_close(stack.validity(24, 24, torch.tensor([1, 0])), inside[[1, 0]])


def test_shares_of_pixels_that_are_padding_are_averaged():
    extents = torch.tensor([[1.0, 2 / 3], [0.7, 1.0], [0.3, 0.5]])
    stack = ImageStack(torch.full((3, 30, 20, 3), 255, dtype=torch.uint8), extents)
    fine = stack.validity(30, 20)
    assert fine is not None
    for height, width in ((15, 10), (7, 13), (1, 1), (30, 20)):
        torch.testing.assert_close(stack.validity(height, width), area_resize(fine[:, None], height, width)[:, 0])
    assert ImageStack(stack.pixels, torch.ones(3, 2)).extents is None


def test_alpha_that_is_opaque_but_for_padding_is_dropped():
    pixels = torch.full((2, 8, 6, 4), 255, dtype=torch.uint8)
    pixels[1, :2] = pixels[1, 6:] = 0
    assert ImageStack(pixels).has_alpha
    assert not ImageStack(pixels, torch.tensor([[1.0, 1.0], [1.0, 0.5]])).has_alpha


def test_few_threads_read_large_files(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(image_stack.os, "cpu_count", lambda: 16)
    sides = {(1000, 1000): 4, (4000, 2000): 4, (4032, 3024): 2, (8160, 6120): 1, (16320, 12240): 1}
    for size, count in sides.items():
        assert image_stack._num_readers([ImageSize(10, 10), ImageSize(*size)]) == count
    assert image_stack._num_readers([]) == 4, "none to read"
    monkeypatch.setattr(image_stack.os, "cpu_count", lambda: 2)
    assert image_stack._num_readers([ImageSize(10, 10)]) == 2
