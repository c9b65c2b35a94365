"""What attention between images is told in the first steps of a network without pretrained weights: where to look.

Where a view was taken from follows from what it has in common with the first, so a network has to find in the one image
what the other shows, before images or points can teach it anything about poses. They do so only after very many
examples; official weights come from CroCo and MASt3R, which had them. Where depths are known, attention can be told
directly: the first head of some of the decoder's blocks is to look from each patch to where the patch's points are seen
in the other images. It adds no weights. (The tiny network's error of points after 240 CPU seconds from the start:
0.49 with it, 0.63 without.)
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Iterator, List, Sequence, Tuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from gnerf_ns.noposplat.attention import CrossAttention, rotate
from gnerf_ns.noposplat.network import Backbone
from gnerf_ns.scenes.view_sampling import Views
from gnerf_ns.scenes.visibility import seen_at
from gnerf_ns.splats.axes import inverse_poses

MATCHING_WEIGHT = 0.3
"""Beside `beginning.point_loss`. With 1 points are learned about as fast."""

SAME_DEPTH = 0.05
"""A point is seen in another image unless that shows something nearer by more than this share of the depth: its pixels
are not exactly where the point is."""


class AttentionCalls:
    """The cross-attention of one pass of the network, in the blocks that are told where to look."""

    def __init__(self) -> None:
        self._calls: List[Tuple[CrossAttention, Tuple[Any, ...]]] = []

    def keep(self, attention: CrossAttention, arguments: Tuple[Any, ...], output: Any) -> None:
        """A forward hook."""
        self._calls.append((attention, arguments))

    def log_shares(self, batch: int) -> List[Float[Tensor, "batch views tokens others"]]:
        """Logarithms of the first head's attention, from each token of each view to all tokens of the other views, for
        each block.

        Args:
            batch: scenes of the pass.
        """
        rows = [_log_shares(attention, *arguments) for attention, arguments in self._calls]
        # Each block comes as two: that of the first view, then that of the others.
        pairs = zip(rows[::2], rows[1::2], strict=True)
        return [torch.cat((first[:, None], further.unflatten(0, (batch, -1))), dim=1) for first, further in pairs]


def _log_shares(
    attention: CrossAttention,
    tokens: Float[Tensor, "images tokens width"],
    memory: Float[Tensor, "images others width"],
    rotation: Float[Tensor, "2 tokens 2 quarter"],
    memory_rotation: Float[Tensor, "2 others 2 quarter"],
) -> Float[Tensor, "images tokens others"]:
    channels = tokens.shape[-1] // attention.heads

    def of_first_head(layer: torch.nn.Linear, values: Tensor) -> Float[Tensor, "images 1 _ channels"]:
        assert layer.bias is not None
        return F.linear(values, layer.weight[:channels], layer.bias[:channels])[:, None]

    queries = rotate(of_first_head(attention.projq, tokens), rotation)
    keys = rotate(of_first_head(attention.projk, memory), memory_rotation)
    return (queries @ keys.mT * channels**-0.5)[:, 0].log_softmax(dim=-1)


@contextmanager
def watched_attention(backbone: Backbone) -> Iterator[AttentionCalls]:
    """Keep what attention between images is computed from, in blocks a quarter and half of the way through the decoder.

    Later ones know where to look by what these have found.
    """
    calls = AttentionCalls()
    depth = backbone.config.decoder_depth
    watched: List[Any] = [
        blocks[block].cross_attn
        for block in sorted({depth // 4, depth // 2})
        for blocks in (backbone.dec_blocks, backbone.dec_blocks2)
    ]
    handles = [attention.register_forward_hook(calls.keep) for attention in watched]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def matching_loss(
    log_shares: Sequence[Float[Tensor, "batch views tokens others"]],
    context: Views,
    points: Float[Tensor, "batch views height width 3"],
    patch_side: int,
) -> Float[Tensor, ""]:
    """Cross-entropy between where a patch's points are seen and where attention looks from there.

    What no other image shows has no part in it.

    Args:
        log_shares: of each block (`AttentionCalls.log_shares`); the loss is their mean.
        context: what the network saw.
        points: what its pixels show, in the frame of `context`.
        patch_side: of a patch, in pixels.
    """
    shares = seen_in_others(context, points, patch_side)
    views, patches, others = shares.shape[1:]
    # There may be a token for the lens, the last of each view.
    of_patches = torch.stack(list(log_shares))[..., :patches, :].unflatten(-1, (views - 1, -1))
    return -(shares * of_patches[..., : others // (views - 1)].flatten(-2)).sum(dim=-1).mean()


def seen_in_others(
    context: Views, points: Float[Tensor, "batch views height width 3"], patch_side: int
) -> Float[Tensor, "batch views patches others"]:
    """Which share of each patch's pixels is seen in each patch of the other views, divided by the number of these.

    Args:
        context: see `matching_loss`.
        points: see there.
        patch_side: see there.

    Returns:
        Patches row by row; others: those of the other views in order, row by row.
    """
    batch, views, height, width, _ = points.shape
    columns, patches = width // patch_side, (height // patch_side) * (width // patch_side)
    row, column = torch.meshgrid(*(torch.arange(side, device=points.device) for side in (height, width)), indexing="ij")
    own = (row // patch_side * columns + column // patch_side).flatten()
    in_cameras = _in_cameras(context, points)
    found = []
    for view in range(views):
        of_view = []
        for other in (other for other in range(views) if other != view):
            depths = in_cameras[:, other, other, :, 2].unflatten(-1, (height, width))
            seen, row, column = seen_at(in_cameras[:, other, view], context.intrinsics[:, other], depths, SAME_DEPTH)
            patch = row // patch_side * columns + column // patch_side
            counts = points.new_zeros(batch, patches * patches)
            counts.scatter_add_(1, own * patches + patch, seen.to(points) / patch_side**2)
            of_view.append(counts.view(batch, patches, patches) / (views - 1))
        found.append(torch.cat(of_view, dim=-1))
    return torch.stack(found, dim=1)


def _in_cameras(
    context: Views, points: Float[Tensor, "batch views height width 3"]
) -> Float[Tensor, "batch cameras views pixels 3"]:
    """All points in the frame of each camera."""
    poses = inverse_poses(context.camera_to_worlds)[:, :, None]
    return points.flatten(2, 3)[:, None] @ poses[..., :3].mT + poses[..., None, :, 3]
