"""Where attention between images is to look."""

import math
from typing import Any

import pytest
import torch
from tiny_noposplat import network_config

from gnerf_ns.data.images import ImageSize
from gnerf_ns.noposplat.matching_loss import SAME_DEPTH, matching_loss, seen_in_others, watched_attention
from gnerf_ns.noposplat.network import NoPoSplatNetwork
from gnerf_ns.scenes.made_scenes import MadeScene
from gnerf_ns.scenes.view_sampling import ChosenViews, Example, make_example, stacked

SIDE = 32
SQUARE = ImageSize(SIDE, SIDE)


def example(*context: int, size: ImageSize = SQUARE) -> Example:
    """Two made scenes, seen from the same frames."""
    views = ChosenViews(context, ())
    scenes = [MadeScene(seed, "balls-and-boxes", size) for seed in (3, 4)]
    return stacked([make_example(scene, views, size, with_points=True) for scene in scenes])


def shares_by_hand(given: Example, scene: int, view: int, other: int, patch: int) -> torch.Tensor:
    """Pixel by pixel."""
    assert given.points is not None
    context, (height, width) = given.context, given.context.images.shape[-2:]
    rows, columns = height // patch, width // patch
    pose = torch.cat([context.camera_to_worlds[scene, other], torch.tensor([[0.0, 0.0, 0.0, 1.0]])]).inverse()
    shares = torch.zeros(rows * columns, rows * columns)
    for row in range(height):
        for column in range(width):
            x, y, z = pose[:3, :3] @ given.points[scene, view, row, column] + pose[:3, 3]
            if z <= 0.0:
                continue
            fx, fy = context.intrinsics[scene, other].diagonal()[:2]
            cx, cy = context.intrinsics[scene, other, :2, 2]
            there_x, there_y = math.floor(width * (fx * x / z + cx)), math.floor(height * (fy * y / z + cy))
            if not (0 <= there_x < width and 0 <= there_y < height):
                continue
            shown = pose[2, :3] @ given.points[scene, other, there_y, there_x] + pose[2, 3]
            if z < shown * (1.0 + SAME_DEPTH):
                of = row // patch * columns + column // patch
                shares[of, there_y // patch * columns + there_x // patch] += 1.0 / patch**2
    return shares


@pytest.mark.parametrize(("patch", "size"), [(8, ImageSize(32, 32)), (16, ImageSize(48, 32))])
def test_shares_are_those_of_single_pixels(patch: int, size: ImageSize) -> None:
    given = example(6, 20, size=size)
    assert given.points is not None
    shares = seen_in_others(given.context, given.points, patch)
    for scene in range(2):
        for view in range(2):
            expected = shares_by_hand(given, scene, view, 1 - view, patch)
            # A pixel at the border of a patch may fall to either side of it.
            assert float((shares[scene, view] - expected).abs().sum()) < 2.5 / patch**2
            assert 0.2 < float(expected.sum() / len(expected)) <= 1.0


def test_of_three_views_each_other_has_its_place():
    given = example(6, 14, 20)
    assert given.points is not None
    shares = seen_in_others(given.context, given.points, 8)
    assert shares.shape == (2, 3, 16, 32)
    for place, other in enumerate((0, 2)):
        expected = shares_by_hand(given, 0, 1, other, 8) / 2.0
        assert float((shares[0, 1, :, 16 * place :][:, :16] - expected).abs().sum()) < 2.5 / 8**2


def test_a_view_sees_itself_just_where_it_is():
    given = example(6, 20)
    assert given.points is not None
    context = given.context
    for values in (context.images, context.intrinsics, context.camera_to_worlds, given.points):
        values[:, 1] = values[:, 0]
    shares = seen_in_others(context, given.points, 8)
    torch.testing.assert_close(shares, torch.eye(16).expand(2, 2, 16, 16), atol=3.0 / 64, rtol=0.0)


@pytest.mark.parametrize("views", [2, 3])
@pytest.mark.parametrize("kind", ["token", "pixelwise"])
def test_attention_is_what_the_network_computes(views: int, kind: str) -> None:
    torch.manual_seed(0)
    network = NoPoSplatNetwork(network_config(patch_side=8, intrinsics=kind, ray_degree=0, decoder_heads=1))
    images, intrinsics = torch.rand(2, views, 3, SIDE, SIDE), torch.eye(3).expand(2, views, 3, 3)
    attended = []
    block: Any = network.backbone.dec_blocks[0].cross_attn
    hook = block.proj.register_forward_hook(lambda layer, given, output: attended.append(given[0]))
    values = []
    value_hook = block.projv.register_forward_hook(lambda layer, given, output: values.append(output))
    with watched_attention(network.backbone) as calls, torch.no_grad():
        network.means(images, intrinsics)
    hook.remove()
    value_hook.remove()
    [shares] = [each.exp() for each in calls.log_shares(2)]
    tokens = SIDE**2 // 8**2 + (kind == "token")
    assert shares.shape == (2, views, tokens, (views - 1) * tokens)
    torch.testing.assert_close(shares.sum(dim=-1), torch.ones(2, views, tokens))
    # The only head there is takes the values in these shares.
    torch.testing.assert_close(shares[:, 0] @ values[0], attended[0], atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        network.means(images, intrinsics)
    assert len(calls.log_shares(2)) == 1, "what is not watched is not kept"


def test_the_loss_is_least_where_attention_looks_at_what_is_seen():
    given = example(6, 20)
    assert given.points is not None
    shares = seen_in_others(given.context, given.points, 8)
    right = (shares / shares.sum(dim=-1, keepdim=True).clamp_min(1e-9)).clamp_min(1e-9).log()
    elsewhere = right.roll(5, dims=-1)
    nowhere = torch.full_like(right, -math.log(16))

    def loss(log_shares: torch.Tensor) -> float:
        assert given.points is not None
        return float(matching_loss([log_shares], given.context, given.points, 8))

    assert loss(right) < loss(nowhere) < loss(elsewhere)
    assert loss(nowhere) == pytest.approx(math.log(16) * float(shares.sum(dim=-1).mean()), rel=1e-5)
    both = matching_loss([right, elsewhere], given.context, given.points, 8)
    assert float(both) == pytest.approx((loss(right) + loss(elsewhere)) / 2.0)
    # A token of the lens, the last of each view, is no patch.
    with_lens = torch.nn.functional.pad(right, (0, 1, 0, 1), value=-1.0)
    assert loss(with_lens) == pytest.approx(loss(right))


def test_attention_learns_where_to_look():
    torch.manual_seed(0)
    network = NoPoSplatNetwork(network_config(patch_side=8, intrinsics="pixelwise", ray_degree=0))
    given = example(6, 20)
    assert given.points is not None
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        with watched_attention(network.backbone) as calls:
            network.means(given.context.images, given.context.intrinsics)
        loss = matching_loss(calls.log_shares(2), given.context, given.points, 8)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
