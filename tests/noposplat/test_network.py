import copy
import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict

import numpy as np
import pytest
import torch
from noposplat_parity import (
    CASES,
    expected,
    fixed_images,
    fixed_intrinsics,
    fixed_network,
    quantities,
    relative_difference,
)
from torch import nn

from gnerf_ns.noposplat.attention import CrossAttention, SelfAttention
from gnerf_ns.noposplat.network import NoPoSplatNetwork, NoPoSplatNetworkConfig, tiny_network
from gnerf_ns.utils.errors import InputError

HERE = Path(__file__).parent

REFERENCE = HERE / "reference.npz"
"""What the official code puts out, for some of the pixels of the tiny cases (`benchmarks/noposplat_parity.py`)."""

OFFICIAL_WEIGHTS: Dict[str, Any] = json.loads(gzip.decompress((HERE / "official_weights.json.gz").read_bytes()))
"""Names and shapes in official checkpoints."""

DEAD = {
    "backbone.mask_token",
    *(
        f"{head}.dpt.scratch.refinenet4.resConfUnit1.{conv}.{kind}"
        for head in ("downstream_head1", "downstream_head2", "gaussian_param_head", "gaussian_param_head2")
        for conv in ("conv1", "conv2")
        for kind in ("weight", "bias")
    ),
}


def on_meta(config: NoPoSplatNetworkConfig) -> NoPoSplatNetwork:
    with torch.device("meta"):
        return NoPoSplatNetwork(config)


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("tiny")])
def test_it_equals_the_official_network(name: str) -> None:
    case = CASES[name]
    with torch.no_grad():
        gaussians = fixed_network(case.config)(
            fixed_images(case.views, case.height, case.width), fixed_intrinsics(case.views)
        )
    found = quantities(gaussians)
    with np.load(REFERENCE) as file:
        for quantity, (indices, values) in expected(file, name).items():
            assert len(values) > 30
            assert relative_difference(found[quantity][indices], values) < 1e-4, quantity


def test_weights_have_the_official_names_and_shapes() -> None:
    network = on_meta(NoPoSplatNetworkConfig())
    state = network.state_dict()
    assert {name: list(value.shape) for name, value in state.items()} == OFFICIAL_WEIGHTS
    assert len(state) == 1145 and len(dict(network.named_parameters())) == 1145 - 16
    assert round(sum(parameter.numel() for parameter in network.parameters()) / 1e6, 1) == 612.0


def test_the_tiny_network_is_tiny() -> None:
    network = on_meta(tiny_network())
    assert sum(parameter.numel() for parameter in network.parameters()) == 2_312_428
    assert len(network.state_dict()) == 881


@pytest.mark.parametrize("degree", [0, 2, 4, 8])
@pytest.mark.parametrize("rays_join", ["encoder", "decoder"])
def test_rays_of_any_degree_join_colors_or_tokens(degree: Any, rays_join: Any) -> None:
    config = replace(tiny_network(), intrinsics="pixelwise", ray_degree=degree, rays_join=rays_join)
    network = fixed_network(config)
    channels = {0: 3, 2: 9, 4: 25, 8: 81}[degree]
    colors, tokens = (channels, 0) if rays_join == "encoder" else (0, channels)
    assert network.backbone.patch_embed["proj"].weight.shape == (64, 3 + colors, 16, 16)
    assert network.backbone.decoder_embed.weight.shape == (48, 64 + tokens)
    lenses = fixed_intrinsics(2)
    with torch.no_grad():
        means = network(fixed_images(2, 32, 32), lenses).means
        lenses[..., 0, 0] *= 1.2
        assert (network(fixed_images(2, 32, 32), lenses).means - means).abs().max() > 1e-3


@pytest.mark.parametrize("changes", [{}, {"intrinsics": "linear"}, {"intrinsics": "pixelwise"}])
def test_mixed_precision_ends_before_positions(changes: Dict[str, Any]) -> None:
    network = fixed_network(replace(tiny_network(), **changes))
    given = fixed_images(2, 32, 32), fixed_intrinsics(2)
    with torch.no_grad():
        exact = network(*given)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = network(*given)
        means = network.means(*given)
    for name, value in vars(mixed).items():
        assert value.dtype == torch.float32, name
        assert relative_difference(value.detach(), getattr(exact, name)) < 0.1, name
    put_out = mixed.opacities.detach().double().logit()  # with the digits of bfloat16, which its sigmoid has not
    torch.testing.assert_close(put_out.bfloat16().double(), put_out, rtol=0.0, atol=1e-4)
    assert torch.equal(means, mixed.means)
    mixed.means.sum().backward()
    weight = network.backbone.patch_embed.get_parameter("proj.weight")
    assert weight.grad is not None and bool(weight.grad.isfinite().all()) and bool(weight.grad.any())


def test_gaussians_come_view_by_view_and_row_by_row() -> None:
    network = fixed_network(tiny_network())
    # Blind but for the heads' own look at the image, which reaches 3 + 1 pixels.
    nn.init.zeros_(network.backbone.patch_embed.get_parameter("proj.weight"))
    images, lenses = fixed_images(3, 32, 48), fixed_intrinsics(3)
    with torch.no_grad():
        before = network(images, lenses).opacities
        images[0, 2, :, 10, 20] = 1.0 - images[0, 2, :, 10, 20]
        changed = (network(images, lenses).opacities != before).unflatten(1, (3, 32, 48))[0]
    expected_to_change = torch.zeros_like(changed)
    expected_to_change[2, 6:15, 16:25] = True
    assert torch.equal(changed, expected_to_change)


def test_scenes_of_a_batch_do_not_see_each_other() -> None:
    network = fixed_network(tiny_network())
    images, lenses = fixed_images(4, 32, 48).view(2, 2, 3, 32, 48), fixed_intrinsics(4).view(2, 2, 3, 3)
    with torch.no_grad():
        together = network(images, lenses)
        for scene in range(2):
            alone = network(images[scene : scene + 1], lenses[scene : scene + 1])
            for name, value in vars(alone).items():
                torch.testing.assert_close(getattr(together, name)[scene], value[0], atol=1e-5, rtol=1e-4)


def test_views_after_the_first_have_no_order() -> None:
    network = fixed_network(tiny_network())
    images, lenses = fixed_images(4, 32, 48), fixed_intrinsics(4)
    order = torch.tensor([0, 2, 3, 1])
    with torch.no_grad():
        means = network(images, lenses).means.unflatten(1, (4, -1))
        reordered = network(images[:, order], lenses[:, order]).means.unflatten(1, (4, -1))
        swapped = network(images[:, [1, 0, 2, 3]], lenses[:, [1, 0, 2, 3]]).means.unflatten(1, (4, -1))
    torch.testing.assert_close(reordered, means[:, order], atol=1e-4, rtol=1e-4)
    assert (swapped[:, 0] - means[:, 1]).abs().max() > 0.1  # the first has


def test_a_view_given_twice_tells_the_first_no_more_than_once() -> None:
    # Attention to a token and its copy is attention to the token. After the first block the copies are no longer those
    # of a pair, because they attend to each other.
    config = replace(tiny_network(), decoder_depth=1, head_layers=(0, 0, 1, 1))
    network = fixed_network(config)
    images, lenses = fixed_images(2, 32, 48), fixed_intrinsics(2)
    with torch.no_grad():
        pair = network(images, lenses).means.unflatten(1, (2, -1))
        three = network(images[:, [0, 1, 1]], lenses[:, [0, 1, 1]]).means.unflatten(1, (3, -1))
    torch.testing.assert_close(three[:, 0], pair[:, 0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(three[:, 1], three[:, 2], atol=1e-4, rtol=1e-4)
    assert (three[:, 1] - pair[:, 1]).abs().max() > 1e-2


def transposed(network: NoPoSplatNetwork) -> NoPoSplatNetwork:
    """The network that does to transposed images what the given one does to images as they are."""
    network = copy.deepcopy(network)

    def swap_halves(projection: nn.Linear, rows: slice, heads: int) -> None:
        for values in (projection.weight, projection.bias):
            part = values.data[rows].unflatten(0, (heads, 2, -1))
            values.data[rows] = part.flip(1).flatten(0, 2)

    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.weight.data = module.weight.data.mT.contiguous()
        elif isinstance(module, SelfAttention):
            width = module.qkv.in_features
            swap_halves(module.qkv, slice(0, width), module.heads)
            swap_halves(module.qkv, slice(width, 2 * width), module.heads)
        elif isinstance(module, CrossAttention):
            swap_halves(module.projq, slice(None), module.heads)
            swap_halves(module.projk, slice(None), module.heads)
    return network


@pytest.mark.parametrize("columns", [3, 4])
def test_portrait_images_are_as_good_as_landscape_ones(columns: int) -> None:
    # A token of the lens has a place of its own, which transposing moves; added to all tokens it has none.
    network = fixed_network(replace(tiny_network(), intrinsics="linear"))
    images, lenses = fixed_images(2, 32, 16 * columns), fixed_intrinsics(2)
    with torch.no_grad():
        landscape = vars(network(images, lenses))
        portrait = vars(transposed(network)(images.mT, lenses))
    for name, values in landscape.items():
        by_pixel = values.unflatten(1, (2, 32, 16 * columns)).transpose(2, 3).flatten(1, 3)
        torch.testing.assert_close(portrait[name], by_pixel, atol=1e-4, rtol=1e-4)


def test_every_weight_learns_but_the_unused() -> None:
    torch.manual_seed(0)
    network = NoPoSplatNetwork(tiny_network())
    gaussians = network(fixed_images(3, 32, 48), fixed_intrinsics(3))
    torch.stack([(value * torch.randn_like(value)).sum() for value in vars(gaussians).values()]).sum().backward()
    learning = {name for name, weight in network.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert learning == {name for name, _ in network.named_parameters()} - DEAD
    assert all(weight.requires_grad == (name not in DEAD) for name, weight in network.named_parameters())


def test_dropout_is_for_training_only() -> None:
    network = fixed_network(tiny_network())
    images, lenses = fixed_images(2, 32, 32), fixed_intrinsics(2)
    with torch.no_grad():
        torch.testing.assert_close(network(images, lenses).opacities, network(images, lenses).opacities)
        network.train()
        assert (network(images, lenses).opacities - network(images, lenses).opacities).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("views", "height", "width", "message"),
    [
        (1, 32, 32, "one image of a scene; give it two or more"),
        (2, 32, 40, "images of 40x32 pixels; resize or crop them to multiples of 16"),
        (2, 24, 32, "images of 32x24 pixels; resize or crop them to multiples of 16"),
    ],
)
def test_impossible_images_are_refused(views: int, height: int, width: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        on_meta(tiny_network())(torch.zeros(1, views, 3, height, width), torch.eye(3).expand(1, views, 3, 3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_width": 72}, "encoder_width is 72 with 4 heads; give a multiple of 16"),
        ({"decoder_heads": 5}, "decoder_width is 48 with 5 heads; give a multiple of 20"),
        ({"decoder_depth": 6}, "from 0 to decoder_depth, 6"),
    ],
)
def test_impossible_sizes_are_refused(changes: Dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(tiny_network(), **changes).setup()
