"""Transformer blocks whose queries and keys are rotated by the image position of their tokens.

The encoder's block attends within an image; the decoder's also attends to the other images. Module names are those of
the official checkpoints.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

NORM_EPSILON = 1e-6
"""Added to the variance by all layer norms; the weights were trained with it."""

ROTATION_BASE = 100.0
"""Base of the geometric series of rotation frequencies ("RoPE100" in CroCo v2, Weinzaepfel et al., ICCV 2023)."""

MLP_RATIO = 4
"""Hidden width of the blocks' MLPs, in widths of a token."""


def rotations(positions: Float[Tensor, "tokens 2"], channels: int) -> Float[Tensor, "2 tokens 2 quarter"]:
    """Cosines and sines of the angles by which tokens are rotated.

    Args:
        positions: row and column of each token, in patches.
        channels: those of one attention head, a multiple of 4.

    Returns:
        Cosines, then sines; for each token those of its row, then those of its column. The angle number i of D/2 is
        position · 100^(-2i/D), where D is half of the channels.
    """
    quarter = channels // 4
    frequencies = ROTATION_BASE ** -(torch.arange(quarter, dtype=positions.dtype, device=positions.device) / quarter)
    angles = positions[..., None] * frequencies
    return torch.stack((angles.cos(), angles.sin()))


def rotate(
    values: Float[Tensor, "batch heads tokens channels"], rotation: Float[Tensor, "2 tokens 2 quarter"]
) -> Float[Tensor, "batch heads tokens channels"]:
    """Rotary position embedding in two dimensions (RoFormer, Su et al., 2021, eq. 15; for images, CroCo v2).

    The first half of the channels is rotated by the token's row, the second by its column. Within a half of D channels,
    channel i and channel i + D/2 are the two coordinates of a point that is rotated.

    Args:
        values: queries or keys.
        rotation: see `rotations`.
    """
    cosines, sines = rotation
    first, second = values.unflatten(-1, (2, 2, -1)).unbind(-2)
    rotated = (first * cosines - second * sines, second * cosines + first * sines)
    return torch.stack(rotated, dim=-2).flatten(-3)


def attend(
    queries: Float[Tensor, "batch tokens width"],
    keys: Float[Tensor, "batch others width"],
    values: Float[Tensor, "batch others width"],
    heads: int,
    query_rotation: Float[Tensor, "2 tokens 2 quarter"],
    key_rotation: Float[Tensor, "2 others 2 quarter"],
) -> Float[Tensor, "batch tokens width"]:
    """Scaled dot-product attention of several heads, with positions."""
    queries, keys, values = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (queries, keys, values))
    attended = F.scaled_dot_product_attention(rotate(queries, query_rotation), rotate(keys, key_rotation), values)
    return attended.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Attention of the tokens of one image among themselves.

    Args:
        width: dimension of a token.
        heads: attention heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(
        self, tokens: Float[Tensor, "batch tokens width"], rotation: Float[Tensor, "2 tokens 2 quarter"]
    ) -> Float[Tensor, "batch tokens width"]:
        """What each token takes from all."""
        queries, keys, values = self.qkv(tokens).chunk(3, dim=-1)
        return self.proj(attend(queries, keys, values, self.heads, rotation, rotation))


class CrossAttention(nn.Module):
    """Attention of the tokens of one image to those of others.

    Args:
        width: dimension of a token.
        heads: attention heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.projq = nn.Linear(width, width)
        self.projk = nn.Linear(width, width)
        self.projv = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)

    def forward(
        self,
        tokens: Float[Tensor, "batch tokens width"],
        memory: Float[Tensor, "batch others width"],
        rotation: Float[Tensor, "2 tokens 2 quarter"],
        memory_rotation: Float[Tensor, "2 others 2 quarter"],
    ) -> Float[Tensor, "batch tokens width"]:
        """What each token takes from the memory."""
        queries, keys, values = self.projq(tokens), self.projk(memory), self.projv(memory)
        return self.proj(attend(queries, keys, values, self.heads, rotation, memory_rotation))


class MLP(nn.Module):
    """Two layers with a GELU between them.

    Args:
        width: dimension of a token.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, MLP_RATIO * width)
        self.fc2 = nn.Linear(MLP_RATIO * width, width)

    def forward(self, tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        """Each token by itself."""
        return self.fc2(F.gelu(self.fc1(tokens)))


class EncoderBlock(nn.Module):
    """Self-attention, then the MLP, each of the normalized tokens and added to them.

    Args:
        width: dimension of a token.
        heads: attention heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, NORM_EPSILON)
        self.attn = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, NORM_EPSILON)
        self.mlp = MLP(width)

    def forward(
        self, tokens: Float[Tensor, "batch tokens width"], rotation: Float[Tensor, "2 tokens 2 quarter"]
    ) -> Float[Tensor, "batch tokens width"]:
        """The tokens of images, each image by itself."""
        tokens = tokens + self.attn(self.norm1(tokens), rotation)
        return tokens + self.mlp(self.norm2(tokens))


class DecoderBlock(nn.Module):
    """Self-attention, attention to the other images, then the MLP.

    Args:
        width: dimension of a token.
        heads: attention heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, NORM_EPSILON)
        self.attn = SelfAttention(width, heads)
        self.cross_attn = CrossAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, NORM_EPSILON)
        self.norm3 = nn.LayerNorm(width, NORM_EPSILON)
        self.mlp = MLP(width)
        self.norm_y = nn.LayerNorm(width, NORM_EPSILON)

    def forward(
        self,
        tokens: Float[Tensor, "batch tokens width"],
        memory: Float[Tensor, "batch others width"],
        rotation: Float[Tensor, "2 tokens 2 quarter"],
        memory_rotation: Float[Tensor, "2 others 2 quarter"],
    ) -> Float[Tensor, "batch tokens width"]:
        """The tokens of images.

        Args:
            tokens: those of one image.
            memory: those of all other images of the same scene.
            rotation: see `rotations`; of the tokens.
            memory_rotation: of the memory.
        """
        tokens = tokens + self.attn(self.norm1(tokens), rotation)
        tokens = tokens + self.cross_attn(self.norm2(tokens), self.norm_y(memory), rotation, memory_rotation)
        return tokens + self.mlp(self.norm3(tokens))
