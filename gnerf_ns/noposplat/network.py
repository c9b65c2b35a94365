"""NoPoSplat's network: two or more images and their lenses in, one 3D Gaussian for each pixel out.

Ye et al., ICLR 2025 (arXiv 2410.24207). A vision transformer encodes each image by itself, a decoder lets the images
attend to each other, and convolutional heads turn its tokens into Gaussians. All are in the frame of the first camera:
poses are neither given nor predicted, they follow from the Gaussians. Module names are those of the official
checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import List, Literal, Tuple, Type

import torch
from jaxtyping import Float
from nerfstudio.configs.base_config import InstantiateConfig
from torch import Tensor, nn

from gnerf_ns.cameras.viewing_rays import pixel_rays, real_harmonics
from gnerf_ns.noposplat.attention import NORM_EPSILON, DecoderBlock, EncoderBlock, rotations
from gnerf_ns.noposplat.dense_prediction import CenterPrediction, ParameterPrediction
from gnerf_ns.noposplat.gaussian_parameters import centers, gaussians_of_pixels, parameters_per_gaussian
from gnerf_ns.splats.gaussians import Gaussians
from gnerf_ns.utils.errors import InputError

SIDE_UNIT = 16
"""Images' sides are multiples of this, in pixels, so that the heads' levels fit onto each other."""


@dataclass
class NoPoSplatNetworkConfig(InstantiateConfig):
    """Configuration of `NoPoSplatNetwork`; the defaults are those of the official checkpoints."""

    _target: Type = field(default_factory=lambda: NoPoSplatNetwork)
    image_side: int = 256
    """Side of the square images that the network is trained on, in pixels. It sets no size in the network: images of
    other sizes go through, but weights do best at their own."""
    patch_side: Literal[8, 16] = 16
    """Side of the squares of pixels that become tokens, in pixels."""
    encoder_width: int = 1024
    """Dimension of the encoder's tokens."""
    encoder_depth: int = 24
    """Number of the encoder's blocks."""
    encoder_heads: int = 16
    """Attention heads of the encoder's blocks."""
    decoder_width: int = 768
    """Dimension of the decoder's tokens."""
    decoder_depth: int = 12
    """Number of the decoder's blocks."""
    decoder_heads: int = 12
    """Attention heads of the decoder's blocks."""
    head_layers: Tuple[int, int, int, int] = (0, 6, 9, 12)
    """Layers whose tokens the heads read: 0 is the encoder's output, others are those after so many decoder blocks."""
    head_level_channels: Tuple[int, int, int, int] = (96, 192, 384, 768)
    """Channels of the levels that the heads make of these layers, from fine to coarse."""
    head_channels: int = 256
    """Channels of the heads once the levels are fused."""
    harmonics_degree: int = 4
    """Degree of the colors' spherical harmonics."""
    intrinsics: Literal["token", "linear", "pixelwise"] = "token"
    """How the network sees a lens: the camera matrix as one more token, the same added to every token, or the pixels'
    viewing rays beside what is in the pixels. Official weights are all of the first kind."""
    ray_degree: Literal[0, 2, 4, 8] = 4
    """Pixelwise only: degree of the spherical harmonics that rays are given as; 0: as they are."""
    rays_join: Literal["encoder", "decoder"] = "encoder"
    """Pixelwise only: whether rays of pixels join the colors, or rays of patches the tokens that the decoder gets."""

    @property
    def ray_channels(self) -> int:
        """Numbers that a ray is given as."""
        return (self.ray_degree + 1) ** 2 if self.ray_degree else 3


def tiny_network() -> NoPoSplatNetworkConfig:
    """The same network with 2.3 instead of 612 million parameters, for CPUs."""
    return NoPoSplatNetworkConfig(
        image_side=64,
        encoder_width=64,
        encoder_depth=2,
        encoder_heads=4,
        decoder_width=48,
        decoder_heads=4,
        head_level_channels=(12, 24, 48, 96),
        head_channels=32,
    )


class NoPoSplatNetwork(nn.Module):
    """Gaussians from images and lenses (see the module).

    Args:
        config: sizes and the kind of intrinsics.

    Raises:
        InputError: a width is not a multiple of 4 channels a head, or the heads read a layer that there is not.
    """

    def __init__(self, config: NoPoSplatNetworkConfig) -> None:
        super().__init__()
        _check(config)
        self.config = config
        self.backbone = Backbone(config)
        widths = [config.decoder_width if layer else config.encoder_width for layer in config.head_layers]
        sizes = config.patch_side, widths, config.head_level_channels, config.head_channels
        count = parameters_per_gaussian(config.harmonics_degree)
        self.downstream_head1 = nn.ModuleDict({"dpt": CenterPrediction(*sizes)})
        self.downstream_head2 = nn.ModuleDict({"dpt": CenterPrediction(*sizes)})
        self.gaussian_param_head = nn.ModuleDict({"dpt": ParameterPrediction(*sizes, count)})
        self.gaussian_param_head2 = nn.ModuleDict({"dpt": ParameterPrediction(*sizes, count)})

    def forward(
        self, images: Float[Tensor, "batch views 3 height width"], intrinsics: Float[Tensor, "batch views 3 3"]
    ) -> Gaussians:
        """The Gaussians of all pixels of all images of each scene.

        Args:
            images: colors from 0 to 1; sides are multiples of 16 pixels. The first view is the one whose frame is used.
            intrinsics: camera matrices that are given as shares of the image: row 0 of its width, row 1 of its height.

        Returns:
            Gaussians of shape [batch, views * height * width], in the order views, rows, columns:
            ``means.unflatten(1, (views, height, width))`` is by pixel. Axes are those of the first camera: x right, y
            down, z forward.

        Raises:
            InputError: there are fewer than two views, or a side is not a multiple of 16 pixels.
        """
        layers, patches = self._tokens(images, intrinsics)
        vectors = self._maps("downstream_head1", "downstream_head2", layers, patches)
        colors = 2.0 * images - 1.0
        parameters = self._maps("gaussian_param_head", "gaussian_param_head2", layers, patches, colors)
        return gaussians_of_pixels(vectors, parameters)

    def means(
        self, images: Float[Tensor, "batch views 3 height width"], intrinsics: Float[Tensor, "batch views 3 3"]
    ) -> Float[Tensor, "batch gaussians 3"]:
        """The centers of the same Gaussians alone, which takes half the time; see `forward`."""
        vectors = self._maps("downstream_head1", "downstream_head2", *self._tokens(images, intrinsics))
        return centers(vectors.movedim(2, -1).flatten(1, 3))

    def _tokens(
        self, images: Float[Tensor, "batch views 3 height width"], intrinsics: Float[Tensor, "batch views 3 3"]
    ) -> Tuple[List[Float[Tensor, "batch views patches _"]], Tuple[int, int]]:
        """What the heads read, and the rows and columns of patches."""
        views, height, width = images.shape[1], *images.shape[-2:]
        if views < 2:
            raise InputError("NoPoSplat was given one image of a scene; give it two or more.")
        side = self.config.patch_side
        if height % SIDE_UNIT or width % SIDE_UNIT:
            raise InputError(
                f"NoPoSplat was given images of {width}x{height} pixels; resize or crop them to multiples of "
                f"{SIDE_UNIT} pixels."
            )
        return self.backbone(2.0 * images - 1.0, intrinsics), (height // side, width // side)

    def _maps(
        self,
        first_head: str,
        further_head: str,
        layers: List[Float[Tensor, "batch views patches _"]],
        patches: Tuple[int, int],
        *colors: Float[Tensor, "batch views 3 height width"],
    ) -> Float[Tensor, "batch views channels height width"]:
        """What the head of the first view and that of the others put out."""
        batch, maps = len(layers[0]), []
        for shown, name in ((slice(0, 1), first_head), (slice(1, None), further_head)):
            tokens = [layer[:, shown].flatten(0, 1) for layer in layers]
            head = self.get_submodule(f"{name}.dpt")
            maps.append(head(tokens, patches, *(each[:, shown].flatten(0, 1) for each in colors)))
        joined = torch.cat([each.unflatten(0, (batch, -1)) for each in maps], dim=1)
        # Mixed precision ends here: positions grow exponentially with what is put out, and pixels need all digits.
        return joined.to(torch.promote_types(joined.dtype, torch.float32))


class Backbone(nn.Module):
    """Encoder and decoder: tokens of several layers from images and lenses.

    Args:
        config: that of the network.
    """

    def __init__(self, config: NoPoSplatNetworkConfig) -> None:
        super().__init__()
        self.config = config
        pixelwise = config.intrinsics == "pixelwise"
        self.rays_join_colors = pixelwise and config.rays_join == "encoder"
        self.rays_join_tokens = pixelwise and config.rays_join == "decoder"
        width, side = config.encoder_width, config.patch_side
        # CroCo's pretraining masks patches; here none is. The weight is in checkpoints, but never used.
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.decoder_width), requires_grad=False)
        in_channels = 3 + (config.ray_channels if self.rays_join_colors else 0)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(in_channels, width, side, stride=side)})
        self.enc_blocks = nn.ModuleList(EncoderBlock(width, config.encoder_heads) for _ in range(config.encoder_depth))
        self.enc_norm = nn.LayerNorm(width, NORM_EPSILON)
        in_channels = width + (config.ray_channels if self.rays_join_tokens else 0)
        width, heads, depth = config.decoder_width, config.decoder_heads, config.decoder_depth
        self.decoder_embed = nn.Linear(in_channels, width)
        self.dec_blocks = nn.ModuleList(DecoderBlock(width, heads) for _ in range(depth))
        self.dec_blocks2 = nn.ModuleList(DecoderBlock(width, heads) for _ in range(depth))
        self.dec_norm = nn.LayerNorm(width, NORM_EPSILON)
        if not pixelwise:
            self.intrinsic_encoder = nn.Linear(9, config.encoder_width)
        self._initialize()

    def _initialize(self) -> None:
        """Random weights from which a transformer trains: uniform ones after Glorot and Bengio (2010), no biases."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.xavier_uniform_(module.weight.flatten(1).detach())
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(
        self, images: Float[Tensor, "batch views 3 height width"], intrinsics: Float[Tensor, "batch views 3 3"]
    ) -> List[Float[Tensor, "batch views patches _"]]:
        """Tokens of the layers that the heads read, one for each patch, row by row.

        Args:
            images: colors from -1 to 1.
            intrinsics: see `NoPoSplatNetwork.forward`.
        """
        rows, columns = (length // self.config.patch_side for length in images.shape[-2:])
        axes = (torch.arange(count, dtype=images.dtype, device=images.device) for count in (rows, columns))
        positions = torch.cartesian_prod(*axes)
        if self.config.intrinsics == "token":
            # The token of the lens comes last, as if at the beginning of a row below the image.
            positions = torch.cat((positions, positions.new_tensor([[rows, 0]])))
        encoded = self._encode(images.flatten(0, 1), intrinsics.flatten(0, 1), positions)
        encoded = encoded.unflatten(0, images.shape[:2])
        joined = encoded
        if self.rays_join_tokens:
            joined = torch.cat((encoded, self._rays(intrinsics, rows, columns).flatten(-2).mT), dim=-1)
        layers = [encoded, *self._decode(self.decoder_embed(joined), positions)]
        return [layers[layer][:, :, : rows * columns] for layer in self.config.head_layers]

    def _encode(
        self,
        images: Float[Tensor, "images 3 height width"],
        intrinsics: Float[Tensor, "images 3 3"],
        positions: Float[Tensor, "tokens 2"],
    ) -> Float[Tensor, "images tokens encoder_width"]:
        """Tokens of each image by itself."""
        if self.rays_join_colors:
            images = torch.cat((images, self._rays(intrinsics, *images.shape[-2:])), dim=1)
        tokens = self.patch_embed["proj"](images).flatten(2).mT
        if self.config.intrinsics == "token":
            tokens = torch.cat((tokens, self.intrinsic_encoder(intrinsics.flatten(1))[:, None]), dim=1)
        elif self.config.intrinsics == "linear":
            tokens = tokens + self.intrinsic_encoder(intrinsics.flatten(1))[:, None]
        rotation = rotations(positions, self.config.encoder_width // self.config.encoder_heads)
        for block in self.enc_blocks:
            tokens = block(tokens, rotation)
        return self.enc_norm(tokens)

    def _decode(
        self, tokens: Float[Tensor, "batch views tokens width"], positions: Float[Tensor, "tokens 2"]
    ) -> List[Float[Tensor, "batch views tokens width"]]:
        """Tokens after each block, in which each view has attended to all others.

        The first view has blocks of its own, which is how the network knows whose frame to use. All views of a layer
        read the layer before.
        """
        batch, views = tokens.shape[:2]
        others = [[other for other in range(views) if other != view] for view in range(views)]
        rotation = rotations(positions, self.config.decoder_width // self.config.decoder_heads)
        rotation = rotation, rotation.repeat(1, views - 1, 1, 1)
        layers = []
        for first_block, block in zip(self.dec_blocks, self.dec_blocks2, strict=True):
            memory = tokens[:, others].flatten(2, 3)
            first = first_block(tokens[:, 0], memory[:, 0], *rotation)
            further = block(tokens[:, 1:].flatten(0, 1), memory[:, 1:].flatten(0, 1), *rotation)
            tokens = torch.cat((first[:, None], further.unflatten(0, (batch, views - 1))), dim=1)
            layers.append(tokens)
        layers[-1] = self.dec_norm(layers[-1])
        return layers

    def _rays(
        self, intrinsics: Float[Tensor, "*batch 3 3"], height: int, width: int
    ) -> Float[Tensor, "*batch channels height width"]:
        """Viewing rays as the network gets them."""
        rays = pixel_rays(intrinsics, height, width)
        if self.config.ray_degree == 0:
            return rays
        return real_harmonics(rays.movedim(-3, -1), self.config.ray_degree).movedim(-1, -3)


def _check(config: NoPoSplatNetworkConfig) -> None:
    for name, width, heads in (
        ("encoder", config.encoder_width, config.encoder_heads),
        ("decoder", config.decoder_width, config.decoder_heads),
    ):
        if width % (4 * heads):
            raise InputError(
                f"NoPoSplat's {name}_width is {width} with {heads} heads; give a multiple of {4 * heads} (4 channels a "
                "head)."
            )
    if not all(0 <= layer <= config.decoder_depth for layer in config.head_layers):
        raise InputError(
            f"NoPoSplat's heads read the layers {config.head_layers}, but there are only those from 0 to "
            f"decoder_depth, {config.decoder_depth}; change head_layers."
        )
