"""nerfacto's field and its density field for proposal sampling, on our hash grids."""

from __future__ import annotations

from typing import Literal, Tuple

import torch
from jaxtyping import Float
from nerfstudio.cameras.rays import RaySamples
from nerfstudio.field_components.mlp import MLP
from nerfstudio.fields.density_fields import HashMLPDensityField
from nerfstudio.fields.nerfacto_field import NerfactoField
from torch import Tensor, nn

from gnerf_ns.fields.hash_encoding import CoarseToFineHashEncoding, CompiledHashEncoding


class CoarseToFineNerfactoField(NerfactoField):
    """`NerfactoField` whose hash levels and view dependence fade in, and whose densities can be made noisy.

    Attributes:
        hash_encoding: the windowed hash grid inside `mlp_base`.
        density_noise: standard deviation of the noise added to log density while training. As in GNeRF, it keeps early
            geometry from freezing; here the density's activation is an exponential.
        view_dependence: factor on the encoding of viewing directions, in [0, 1]. At 0 colors do not depend on the
            view, so that view-dependent appearance cannot explain an image from a wrong pose.
    """

    def __init__(
        self,
        aabb: Float[Tensor, "2 3"],
        num_images: int,
        num_levels: int,
        base_res: int,
        max_res: int,
        log2_hashmap_size: int,
        features_per_level: int = 2,
        num_layers: int = 2,
        hidden_dim: int = 64,
        geo_feat_dim: int = 15,
        implementation: Literal["tcnn", "torch"] = "torch",
        **kwargs,
    ) -> None:
        # The parent's own grid is replaced below, so a tiny one is requested.
        super().__init__(
            aabb=aabb,
            num_images=num_images,
            num_levels=2,
            log2_hashmap_size=4,
            num_layers=num_layers,
            hidden_dim=hidden_dim,
            geo_feat_dim=geo_feat_dim,
            implementation=implementation,
            **kwargs,
        )
        self.hash_encoding = CoarseToFineHashEncoding(
            num_levels=num_levels,
            min_res=base_res,
            max_res=max_res,
            log2_hashmap_size=log2_hashmap_size,
            features_per_level=features_per_level,
            implementation=implementation,
        )
        self.mlp_base = nn.Sequential(
            self.hash_encoding,
            MLP(
                in_dim=self.hash_encoding.get_out_dim(),
                num_layers=num_layers,
                layer_width=hidden_dim,
                out_dim=1 + geo_feat_dim,
                activation=nn.ReLU(),
                implementation=implementation,
            ),
        )
        for name, value in (("max_res", max_res), ("num_levels", num_levels), ("log2_hashmap_size", log2_hashmap_size)):
            self.register_buffer(name, torch.tensor(value))
        self.density_noise = 0.0
        self.view_dependence: float = 1.0
        self.direction_encoding.register_forward_hook(self._scale_directions)

    def _scale_directions(
        self, module: nn.Module, inputs: Tuple[Tensor, ...], encoded: Float[Tensor, "samples features"]
    ) -> Float[Tensor, "samples features"]:
        return self.view_dependence * encoded

    def get_density(
        self, ray_samples: RaySamples
    ) -> Tuple[Float[Tensor, "*samples 1"], Float[Tensor, "*samples features"]]:
        """Densities (per scene unit) and geometry features at samples."""
        density, features = super().get_density(ray_samples)
        if self.training and self.density_noise > 0:
            density = density * torch.exp(self.density_noise * torch.randn_like(density))
        return density, features


class CompiledDensityField(HashMLPDensityField):
    """`HashMLPDensityField` on a `CompiledHashEncoding`, with the same state dict."""

    def __init__(
        self,
        aabb: Float[Tensor, "2 3"],
        num_levels: int,
        base_res: int,
        max_res: int,
        log2_hashmap_size: int,
        implementation: Literal["tcnn", "torch"],
        **kwargs,
    ) -> None:
        super().__init__(
            aabb,
            num_levels=num_levels,
            base_res=base_res,
            max_res=max_res,
            log2_hashmap_size=log2_hashmap_size,
            implementation=implementation,
            **kwargs,
        )
        self.encoding = CompiledHashEncoding(
            num_levels=num_levels,
            min_res=base_res,
            max_res=max_res,
            log2_hashmap_size=log2_hashmap_size,
            implementation=implementation,
        )
        self.mlp_base = nn.Sequential(self.encoding, self.mlp_base[1])
