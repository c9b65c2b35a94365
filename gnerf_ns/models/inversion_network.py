"""GNeRF's inversion network: estimates camera poses from images of the object (arXiv 2103.15606)."""

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
    """Configuration of `InversionNetwork`; the defaults are the paper's."""

    _target: Type = field(default_factory=lambda: InversionNetwork)
    image_side: int = 64
    """Side of the square that each image is resized to, in pixels."""
    tokens_per_side: int = 16
    """Tokens along each side of the image."""
    in_channels: int = 3
    """Channels of an image: 3 for color, 4 for color and opacity."""
    width: int = 256
    """Dimension of a token."""
    depth: int = 6
    """Number of transformer blocks."""
    heads: int = 16
    """Attention heads per block."""
    mlp_width: int = 256
    """Hidden width of the blocks' MLPs."""
    radius_range: Optional[Tuple[float, float]] = None
    """Smallest and largest distance of the predicted cameras from the origin, relative to the distance at which the
    object fills the view. None: the range of the pose prior, extended by a factor of 1.25 at both ends."""


class InversionNetwork(nn.Module):
    """A small vision transformer that maps whole images to pose codes (see `PoseCodec`).

    A position is predicted as a direction and a distance within ``radius_range``, so that no camera lies inside the
    object, where a look-at pose is meaningless. With 9-D codes, the untrained network predicts cameras that look
    towards the origin.

    Args:
        config: sizes of the network.
        code_dim: 3 for positions only (look-at mode), 9 for positions and 6-D rotations.
        prior_radius_range: smallest and largest distance in the pose prior, relative to the distance at which the
            object fills the view.

    Raises:
        InputError: the image side is not a multiple of the tokens per side, or the width not one of the heads; or the
            distances are not 0 < smallest <= largest.
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
                f"The inversion network cannot divide images of {config.image_side} pixels into "
                f"{config.tokens_per_side} tokens per side; make image_side a multiple of tokens_per_side."
            )
        if config.width % config.heads:
            raise InputError(
                f"The inversion network cannot divide a width of {config.width} among {config.heads} heads; make width "
                "a multiple of heads."
            )
        if not 0 < self.radius_range[0] <= self.radius_range[1]:
            raise InputError(
                f"The inversion network's radius_range is {self.radius_range}; give 0 < smallest <= largest."
            )
        # Imported here because every ns-* command imports this module, and timm takes seconds.
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
            # In the camera's own axes, the position of every camera that looks at the origin is (0, 0, distance).
            with torch.no_grad():
                self.transformer.get_parameter("head.bias")[2] = 1.0

    def forward(self, images: Float[Tensor, "batch channels side side"]) -> Float[Tensor, "batch code_dim"]:
        """Estimate the poses of images.

        Args:
            images: whole images resized to ``image_side``, colors in [0, 1].

        Returns:
            Positions relative to the distance at which the object fills the view, in the world's axes. With 9-D codes
            they are in the camera's axes, followed by the first two columns of the rotation, which are neither
            normalized nor orthogonal.
        """
        outputs = self.transformer(2 * images - 1)
        smallest, largest = self.radius_range
        # Geometric: an output of zero is the geometric mean of the bounds.
        radii = smallest * (largest / smallest) ** torch.sigmoid(outputs[:, -1:])
        positions = radii * F.normalize(outputs[:, :3], dim=-1)
        return torch.cat([positions, outputs[:, 3 : self.code_dim]], dim=-1)
