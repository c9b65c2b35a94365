"""nerfacto's field and its density field for proposal sampling, on our hash grids and compiled MLPs."""

from __future__ import annotations

from typing import Dict, Literal, Optional, Tuple, Union, cast

import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.rays import RaySamples
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.field_components.activations import trunc_exp
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.field_components.mlp import MLP
from nerfstudio.fields.base_field import get_normalized_directions
from nerfstudio.fields.density_fields import HashMLPDensityField
from nerfstudio.fields.nerfacto_field import NerfactoField
from torch import Tensor, nn

from gnerf_ns.fields.compiled_mlp import TwoLayers
from gnerf_ns.fields.hash_encoding import CoarseToFineHashEncoding, CompiledHashEncoding


def positions_in_cube(
    field: Union[NerfactoField, HashMLPDensityField], ray_samples: RaySamples
) -> Tuple[Float[Tensor, "samples 3"], Optional[Bool[Tensor, "samples"]]]:
    """Where samples are in the unit cube that a hash grid covers, and which of them are in it, the others being at 0.

    None where all are, as along rays that end at the unit ball.
    """
    positions = ray_samples.frustums.get_positions().reshape(-1, 3)
    if field.spatial_distortion is None:
        positions = SceneBox.get_normalized_positions(positions, field.aabb)
    else:
        positions = (field.spatial_distortion(positions) + 2.0) / 4.0
    if len(positions) == 0:
        return positions, None
    lowest, highest = torch.aminmax(positions.detach())
    if bool(lowest > 0.0) and bool(highest < 1.0):  # a third of the time that it takes to look at each sample
        return positions, None
    inside = ((positions > 0.0) & (positions < 1.0)).all(dim=-1)
    return positions * inside[:, None], inside


def densities(
    log_densities: Float[Tensor, "1 samples"], scale: float, inside: Optional[Bool[Tensor, "samples"]]
) -> Float[Tensor, "samples"]:
    """Densities from what a network says of them; none outside of the cube."""
    density = scale * trunc_exp(log_densities[0])
    return density if inside is None else density * inside


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
        base = TwoLayers.of(cast(MLP, self.mlp_base[1])) if self.hash_encoding.is_compiled else None
        if base is None:
            density, features = super().get_density(ray_samples)
        else:
            positions, inside = positions_in_cube(self, ray_samples)
            encoded = self.hash_encoding.look_up(positions)
            # What levels count for is the same for all samples, so that the weights may have it.
            base = base._replace(weights=base.weights[:, : len(encoded)] * self.hash_encoding.feature_weights)
            log_density, features = base(encoded).split([1, self.geo_feat_dim])
            shape = ray_samples.frustums.shape
            density = densities(log_density, self.average_init_density, inside).view(*shape, 1)
            features = features.mT.view(*shape, self.geo_feat_dim)
        if self.training and self.density_noise > 0:
            density = density * torch.exp(self.density_noise * torch.randn_like(density))
        return density, features

    def get_outputs(
        self, ray_samples: RaySamples, density_embedding: Optional[Float[Tensor, "*samples features"]] = None
    ) -> Dict[FieldHeadNames, Tensor]:
        """Colors at samples."""
        head = TwoLayers.of(self.mlp_head) if self.hash_encoding.is_compiled else None
        directions = ray_samples.frustums.directions
        if head is None or density_embedding is None or directions.ndim != 3 or self.embedding_appearance is not None:
            return super().get_outputs(ray_samples, density_embedding)
        # All samples of a ray have its direction: what that adds to the hidden layer is computed once.
        encoded = self.direction_encoding(get_normalized_directions(directions[:, 0]))
        of_directions, of_features = head.weights.split([encoded.shape[-1], self.geo_feat_dim], dim=1)
        head = head._replace(weights=of_features, biases=encoded @ of_directions.T + head.biases)
        colors = torch.sigmoid(head(density_embedding.reshape(-1, self.geo_feat_dim).mT))
        return {FieldHeadNames.RGB: colors.mT.view(directions.shape).to(directions)}


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

    def get_density(self, ray_samples: RaySamples) -> Tuple[Float[Tensor, "*samples 1"], None]:
        """Densities (per scene unit) at samples."""
        network = TwoLayers.of(cast(MLP, self.mlp_base[1])) if self.encoding.is_compiled else None
        if network is None:
            return super().get_density(ray_samples)
        positions, inside = positions_in_cube(self, ray_samples)
        density = densities(network(self.encoding.look_up(positions)), self.average_init_density, inside)
        return density.view(*ray_samples.frustums.shape, 1), None
