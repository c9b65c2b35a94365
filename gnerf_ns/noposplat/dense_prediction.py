"""From tokens to maps: the convolutional decoder of dense prediction transformers (DPT, Ranftl et al., ICCV 2021).

Module names are those of the official checkpoints.
"""

from __future__ import annotations

from typing import List, Optional, Sequence, Tuple

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def double_size(maps: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height2 width2"]:
    """Twice the height and width, bilinear, corner pixels staying corner pixels: so the weights were trained."""
    return F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=True)


def reassembly(level: int, patch_side: int, in_channels: int, channels: int) -> nn.Sequential:
    """Layers that bring maps of one value a patch to the size and the channels of a level.

    Args:
        level: 0 to 3, at one value for squares of 4, 8, 16 and 32 pixels.
        patch_side: of a patch, in pixels.
        in_channels: dimension of the tokens.
        channels: those of the level.
    """
    project, side = nn.Conv2d(in_channels, channels, 1), 4 << level
    if side < patch_side:
        factor = patch_side // side
        return nn.Sequential(project, nn.ConvTranspose2d(channels, channels, factor, stride=factor))
    if side == patch_side:
        return nn.Sequential(project)
    return nn.Sequential(project, nn.Conv2d(channels, channels, 3, stride=side // patch_side, padding=1))


class ResidualConvolutions(nn.Module):
    """Two 3x3 convolutions, added to their input.

    Args:
        channels: of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(
        self, maps: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Maps of the same size."""
        return maps + self.conv2(F.relu(self.conv1(F.relu(maps))))


class Fusion(nn.Module):
    """Adds a level to what the coarser ones came to, and doubles the size.

    Args:
        channels: of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(channels, channels, 1)
        self.resConfUnit1 = ResidualConvolutions(channels)
        self.resConfUnit2 = ResidualConvolutions(channels)

    def forward(
        self,
        level: Float[Tensor, "batch channels height width"],
        coarser: Optional[Float[Tensor, "batch channels height width"]] = None,
    ) -> Float[Tensor, "batch channels height2 width2"]:
        """Maps of twice the size; None where the level is the coarsest."""
        maps = level if coarser is None else coarser + self.resConfUnit1(level)
        # The official order is the other one. A 1x1 convolution commutes with interpolation, and costs a quarter here.
        return double_size(self.out_conv(self.resConfUnit2(maps)))


class Scratch(nn.Module):
    """The fusion of four levels; "scratch" because DPT trained it from scratch.

    Args:
        level_channels: channels of the four levels.
        channels: channels of the result.
    """

    def __init__(self, level_channels: Sequence[int], channels: int) -> None:
        super().__init__()
        adapters = [nn.Conv2d(count, channels, 3, padding=1, bias=False) for count in level_channels]
        self.layer1_rn, self.layer2_rn, self.layer3_rn, self.layer4_rn = adapters
        self.layer_rn = nn.ModuleList(adapters)  # the same four: checkpoints have both names
        self.refinenet1 = Fusion(channels)
        self.refinenet2 = Fusion(channels)
        self.refinenet3 = Fusion(channels)
        self.refinenet4 = Fusion(channels)
        # The coarsest level is added to nothing. The weights are in checkpoints, but never used.
        self.refinenet4.resConfUnit1.requires_grad_(False)

    def forward(self, levels: List[Float[Tensor, "batch _ _ _"]]) -> Float[Tensor, "batch channels height width"]:
        """Maps of twice the size of the finest level.

        Args:
            levels: from fine to coarse.
        """
        finest, fine, coarse, coarsest = (adapt(maps) for adapt, maps in zip(self.layer_rn, levels, strict=True))
        # Where an image has an odd number of patches, the coarsest level covers half a patch more.
        maps = self.refinenet4(coarsest)[..., : coarse.shape[-2], : coarse.shape[-1]]
        return self.refinenet1(finest, self.refinenet2(fine, self.refinenet3(coarse, maps)))


class DensePrediction(nn.Module):
    """Maps of half the image's size from the tokens of four layers.

    Args:
        patch_side: of the square of pixels that a token stands for.
        layer_widths: dimensions of the four layers' tokens.
        level_channels: channels of the four levels that they become, from fine to coarse.
        channels: channels of the result.
    """

    def __init__(
        self, patch_side: int, layer_widths: Sequence[int], level_channels: Sequence[int], channels: int
    ) -> None:
        super().__init__()
        self.scratch = Scratch(level_channels, channels)
        self.act_postprocess = nn.ModuleList(
            reassembly(level, patch_side, width, count)
            for level, (width, count) in enumerate(zip(layer_widths, level_channels, strict=True))
        )

    def fused(
        self, layers: Sequence[Float[Tensor, "batch tokens _"]], patches: Tuple[int, int]
    ) -> Float[Tensor, "batch channels height width"]:
        """The maps.

        Args:
            layers: tokens, one for each patch, row by row.
            patches: rows and columns of patches.
        """
        maps = (tokens.transpose(1, 2).unflatten(2, patches) for tokens in layers)
        return self.scratch([reassemble(each) for reassemble, each in zip(self.act_postprocess, maps, strict=True)])


class CenterPrediction(DensePrediction):
    """Dense prediction of three channels, from which the Gaussians' centers are computed.

    Args:
        patch_side: see `DensePrediction`.
        layer_widths: see `DensePrediction`.
        level_channels: see `DensePrediction`.
        channels: see `DensePrediction`.
    """

    def __init__(
        self, patch_side: int, layer_widths: Sequence[int], level_channels: Sequence[int], channels: int
    ) -> None:
        super().__init__(patch_side, layer_widths, level_channels, channels)
        narrow = channels // 2
        self.head = nn.Sequential(
            nn.Conv2d(channels, narrow, 3, padding=1),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            nn.Conv2d(narrow, narrow, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(narrow, 3, 1),
        )

    def forward(
        self, layers: Sequence[Float[Tensor, "batch tokens _"]], patches: Tuple[int, int]
    ) -> Float[Tensor, "batch 3 height width"]:
        """One vector for each pixel.

        Args:
            layers: tokens of four layers, see `fused`.
            patches: rows and columns of patches.
        """
        return self.head(self.fused(layers, patches))


class ParameterPrediction(DensePrediction):
    """Dense prediction of all other parameters of the Gaussians; sees the image itself, too.

    Args:
        patch_side: see `DensePrediction`.
        layer_widths: see `DensePrediction`.
        level_channels: see `DensePrediction`.
        channels: see `DensePrediction`.
        out_channels: parameters of a Gaussian.
    """

    def __init__(
        self,
        patch_side: int,
        layer_widths: Sequence[int],
        level_channels: Sequence[int],
        channels: int,
        out_channels: int,
    ) -> None:
        super().__init__(patch_side, layer_widths, level_channels, channels)
        self.head = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.Identity(),  # so that the others have the numbers that they have in checkpoints
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Conv2d(channels, out_channels, 1),
        )
        self.input_merger = nn.Sequential(nn.Conv2d(3, channels, 7, padding=3), nn.ReLU())

    def forward(
        self,
        layers: Sequence[Float[Tensor, "batch tokens _"]],
        patches: Tuple[int, int],
        images: Float[Tensor, "batch 3 height width"],
    ) -> Float[Tensor, "batch out_channels height width"]:
        """The parameters for each pixel.

        Args:
            layers: tokens of four layers, see `fused`.
            patches: rows and columns of patches.
            images: colors from -1 to 1.
        """
        return self.head(double_size(self.fused(layers, patches)) + self.input_merger(images))
