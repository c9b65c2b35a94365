"""Nerfacto's field and its density field for proposals, on our hash grids."""

from __future__ import annotations

from typing import Literal, Tuple

import torch
from nerfstudio.cameras.rays import RaySamples
from nerfstudio.field_components.mlp import MLP
from nerfstudio.fields.density_fields import HashMLPDensityField
from nerfstudio.fields.nerfacto_field import NerfactoField
from torch import Tensor, nn

from gnerf_ns.fields.hash_encoding import CoarseToFineHashEncoding, CompiledHashEncoding


class CoarseToFineNerfactoField(NerfactoField):
    """`NerfactoField` whose hash levels are switched on gradually and whose densities can be made noisy.

    Attributes:
        hash_encoding: the windowed hash grid inside `mlp_base`.
        density_noise: standard deviation of the noise added to log density while training (GNeRF's density noise keeps
            early geometry from freezing; ours acts on the pre-activation of an exponential).
        view_dependence: share of the viewing direction's encoding that colors see, in [0, 1]. At 0 an object cannot
            look right from a wrong side by changing its paint.
    """

    def __init__(
        self,
        aabb: Tensor,
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
        # The parent's own grid is replaced below; asking for a tiny one keeps its construction cheap.
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
        self.direction_encoding.register_forward_hook(self._dim)

    def _dim(self, module: nn.Module, inputs: Tuple[Tensor, ...], encoded: Tensor) -> Tensor:
        return self.view_dependence * encoded

    def get_density(self, ray_samples: RaySamples) -> Tuple[Tensor, Tensor]:
        """Densities (per scene unit) and geometry features of samples."""
        density, features = super().get_density(ray_samples)
        if self.training and self.density_noise > 0:
            density = density * torch.exp(self.density_noise * torch.randn_like(density))
        return density, features


class CompiledDensityField(HashMLPDensityField):
    """`HashMLPDensityField` on a `CompiledHashEncoding`; the state is the same."""

    def __init__(
        self,
        aabb: Tensor,
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
