"""GNeRF's discriminator: tells patches of images from patches of renderings (arXiv 2103.15606)."""

import math
from dataclasses import dataclass, field
from typing import List, Type

import torch
from jaxtyping import Float
from nerfstudio.configs.base_config import InstantiateConfig
from nerfstudio.field_components.encodings import NeRFEncoding
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from gnerf_ns.utils.errors import InputError

SMALLEST_MAP = 4
"""Side, in pixels, of the feature map that the last convolution reads whole."""

UNIT_FREQUENCY_EXPONENT = -math.log2(2 * math.pi)
"""Undoes NeRFEncoding's factor 2π, so that the lowest frequency is sin(scale) itself."""


@dataclass
class DiscriminatorConfig(InstantiateConfig):
    """Configuration of `Discriminator`; the defaults are the paper's."""

    _target: Type = field(default_factory=lambda: Discriminator)
    patch_side: int = 16
    """Side of a patch, in pixels: a power of two, 8 or more."""
    in_channels: int = 3
    """Channels of a patch: 3 for color, 4 for color and opacity."""
    base_width: int = 64
    """Width of the last layers; the last strided convolution has 8 times as many channels, and each one before it half
    as many as the next."""
    scale_frequencies: int = 4
    """Frequencies of the encoding of a patch's scale."""
    instance_norm: bool = True
    """Whether instance normalization follows the strided convolutions."""
    leaky_slope: float = 0.2
    """Negative slope of the LeakyReLUs."""


class Discriminator(nn.Module):
    """A convolutional network that classifies patches, given the share of the image that each of them spans.

    4x4 convolutions with stride 2 reduce the patch to 4x4, one more turns that into a vector, and three linear layers
    classify it together with the encoded scale. Every layer has spectral normalization.

    Args:
        config: sizes of the layers.

    Raises:
        InputError: ``patch_side`` is not a power of two, or below 8.
    """

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        side = config.patch_side
        if side < 2 * SMALLEST_MAP or side & (side - 1):
            raise InputError(
                f"The discriminator's patch_side is {side}; make it a power of two, 8 or more (the paper's is 16)."
            )
        self.config = config

        layers: List[nn.Module] = []
        num_stages = int(math.log2(side // SMALLEST_MAP))
        channels = config.in_channels
        for stage in range(num_stages):
            width = max(1, (8 * config.base_width) >> (num_stages - 1 - stage))
            layers.append(spectral_norm(nn.Conv2d(channels, width, 4, stride=2, padding=1, bias=False)))
            if config.instance_norm:
                layers.append(nn.InstanceNorm2d(width))
            layers.append(nn.LeakyReLU(config.leaky_slope))
            channels = width
        layers.append(spectral_norm(nn.Conv2d(channels, config.base_width, SMALLEST_MAP, bias=False)))
        self.features = nn.Sequential(*layers)

        self.scale_encoding = NeRFEncoding(
            in_dim=1,
            num_frequencies=config.scale_frequencies,
            min_freq_exp=UNIT_FREQUENCY_EXPONENT,
            max_freq_exp=UNIT_FREQUENCY_EXPONENT + config.scale_frequencies - 1,
            include_input=True,
        )
        width = config.base_width
        self.head = nn.Sequential(
            nn.LeakyReLU(config.leaky_slope),
            spectral_norm(nn.Linear(width + self.scale_encoding.get_out_dim(), width, bias=False)),
            nn.LeakyReLU(config.leaky_slope),
            spectral_norm(nn.Linear(width, width, bias=False)),
            nn.LeakyReLU(config.leaky_slope),
            spectral_norm(nn.Linear(width, 1, bias=False)),
        )

    def forward(
        self, patches: Float[Tensor, "batch channels side side"], scales: Float[Tensor, "batch"]
    ) -> Float[Tensor, "batch"]:
        """Classify patches. In training mode each call advances the power iteration of the spectral norms.

        Args:
            patches: colors in [0, 1].
            scales: share of the image's width that each patch spans, in (0, 1].

        Returns:
            Logits, positive for patches that look real.
        """
        features = self.features(2 * patches - 1).flatten(start_dim=1)
        return self.head(torch.cat([features, self.scale_encoding(scales[:, None])], dim=-1))[:, 0]
