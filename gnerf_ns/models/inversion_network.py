"""The network that reads a camera's pose off an image of the object (GNeRF, arXiv 2103.15606)."""

from dataclasses import dataclass, field
from typing import Literal, Optional, Tuple, Type

import torch
import torch.nn.functional as F
from jaxtyping import Float
from nerfstudio.configs.base_config import InstantiateConfig
from torch import Tensor, nn

from gnerf_ns.utils.errors import InputError


@dataclass
class InversionNetworkConfig(InstantiateConfig):
    """The inversion network's sizes; the defaults are the paper's."""

    _target: Type = field(default_factory=lambda: InversionNetwork)
    image_side: int = 64
    """Pixels along the side of the square that each image is brought to."""
    tokens_per_side: int = 16
    """The image is cut into this many by this many tokens."""
    in_channels: int = 3
    """Channels of an image: 3 for color, 4 for color and opacity."""
    width: int = 256
    """Numbers in a token."""
    depth: int = 6
    """Transformer blocks."""
    heads: int = 16
    """Attention heads in a block."""
    mlp_width: int = 256
    """Hidden width of the blocks' MLPs."""
    radius_range: Optional[Tuple[float, float]] = None
    """Bounds on the distance from the origin of the camera positions put out, in units of the pose table's radius; None
    for those of the pose prior, a quarter wider."""


class InversionNetwork(nn.Module):
    """A small vision transformer from whole images to pose codes, as the pose table stores them.

    A position is put out as a direction and a distance within ``radius_range``: an untrained or undecided network then
    never puts a camera inside the object, where a look-at pose means nothing. In 9-D mode it starts out from cameras
    that look at the origin.

    Args:
        config: the sizes.
        code_dim: 3 for positions only (look-at mode), 9 for positions and 6-D rotations.
        prior_radius_range: the pose prior's smallest and largest distance, in units of the pose table's radius.

    Raises:
        InputError: the tokens do not divide the image, the heads do not divide the width, or the bounds on the
            distance are not 0 < smallest <= largest.
    """

    def __init__(
        self,
        config: InversionNetworkConfig,
        code_dim: Literal[3, 9] = 3,
        prior_radius_range: Tuple[float, float] = (1.0, 1.0),
    ) -> None:
        super().__init__()
        nearest, farthest = prior_radius_range
        self.radius_range = config.radius_range or (nearest / 1.25, 1.25 * farthest)
        if config.image_side % config.tokens_per_side:
            raise InputError(
                f"The inversion network cannot cut images of {config.image_side} pixels into {config.tokens_per_side} "
                "tokens a side; make image_side a multiple of tokens_per_side."
            )
        if config.width % config.heads:
            raise InputError(
                f"The inversion network cannot share a width of {config.width} among {config.heads} heads; make width "
                "a multiple of heads."
            )
        if not 0 < self.radius_range[0] <= self.radius_range[1]:
            raise InputError(
                f"The inversion network's radius_range is {self.radius_range}; give 0 < smallest <= largest."
            )
        # Here and not above: every ns-* command imports this module, and timm takes seconds.
        from timm.models.vision_transformer import VisionTransformer

        from gnerf_ns.models.fused_attention import FusedAttentionBlock

        self.config = config
        self.code_dim = code_dim
        self.transformer = VisionTransformer(
            img_size=config.image_side,
            patch_size=config.image_side // config.tokens_per_side,
            in_chans=config.in_channels,
            num_classes=code_dim + 1,
            embed_dim=config.width,
            depth=config.depth,
            num_heads=config.heads,
            mlp_ratio=config.mlp_width / config.width,
            block_fn=FusedAttentionBlock,
        )
        if code_dim == 9:
            # Along the camera's axes a position is (0, 0, radius) for every camera that looks at the origin.
            with torch.no_grad():
                self.transformer.get_parameter("head.bias")[2] = 1.0

    def forward(self, images: Float[Tensor, "batch channels side side"]) -> Float[Tensor, "batch code_dim"]:
        """The poses that the images seem to be taken from.

        Args:
            images: whole images brought to ``image_side``, colors in [0, 1].

        Returns:
            Position over the pose table's radius, along the world's axes; in 9-D mode along the camera's axes, followed
            by the rotation's first two columns, which are neither normalized nor orthogonal.
        """
        outputs = self.transformer(2 * images - 1)
        smallest, largest = self.radius_range
        # Geometric, so that a zero output lies midway between a bound and its inverse.
        radii = smallest * (largest / smallest) ** torch.sigmoid(outputs[:, -1:])
        positions = radii * F.normalize(outputs[:, :3], dim=-1)
        return torch.cat([positions, outputs[:, 3 : self.code_dim]], dim=-1)
