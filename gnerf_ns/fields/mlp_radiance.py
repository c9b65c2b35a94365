"""Radiance as in the released GNeRF code: one MLP, sampled twice along each ray."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, List, Tuple, Type, cast

import torch
from jaxtyping import Float
from nerfstudio.cameras.rays import RayBundle, RaySamples
from nerfstudio.configs.base_config import InstantiateConfig
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.field_components.encodings import NeRFEncoding
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.fields.vanilla_nerf_field import NeRFField
from nerfstudio.model_components.ray_samplers import PDFSampler, UniformSampler
from torch import Tensor, nn
from torch.nn import Parameter, functional
from torch.utils.checkpoint import checkpoint

from gnerf_ns.fields.radiance import RadianceAlongRays

SKIP_LAYER = 4
"""Index of the layer that gets the encoded position again (NeRF appendix A), unless it is the last layer."""

RAYS_PER_CHECKPOINT = 512
"""Rays whose activations are in memory at the same time; about 3 GiB at the published sizes."""


@dataclass
class MLPRadianceConfig(InstantiateConfig):
    """Configuration of `MLPRadiance`; the defaults are GNeRF's (its section 4 and released configuration)."""

    _target: Type = field(default_factory=lambda: MLPRadiance)
    """Target class to instantiate."""
    num_layers: int = 8
    """Layers of the network before its density head."""
    layer_width: int = 360
    """Width of those layers."""
    num_layers_color: int = 1
    """Layers between features and color."""
    layer_width_color: int = 180
    """Width of those layers."""
    position_frequencies: int = 10
    """Frequencies of the position encoding (NeRF eq. 4)."""
    direction_frequencies: int = 4
    """Frequencies of the viewing-direction encoding."""
    num_coarse_samples: int = 64
    """Uniform samples per ray in the coarse pass."""
    num_fine_samples: int = 64
    """Additional samples per ray in the fine pass, drawn by the weights of the coarse pass."""


def published_encoding(num_frequencies: int) -> NeRFEncoding:
    """Sines and cosines at pi 2^k for k from 0 (NeRF eq. 4), and the coordinates themselves, which lie in [-1, 1].

    GNeRF's released code uses 2^k, with a quarter of the camera distance as the unit of length. The equivalent here
    depends on the field of view (about 1.5 * 2^k for 40 degrees), so the frequencies are those of the equation.
    """
    # nerfstudio multiplies by 2 pi, which suits [0, 1]; over [-1, 1], a period of 1 cannot tell x from x + 1.
    return NeRFEncoding(3, num_frequencies, -1.0, num_frequencies - 2.0, include_input=True)


class NoisySoftplus(nn.Module):
    """Softplus, with Gaussian noise added to its input while training.

    Attributes:
        noise: standard deviation of the noise.
    """

    def __init__(self) -> None:
        super().__init__()
        self.noise = 0.0

    def forward(self, values: Float[Tensor, "*batch 1"]) -> Float[Tensor, "*batch 1"]:
        """Densities from the network's outputs."""
        if self.training and self.noise > 0:
            values = values + self.noise * torch.randn_like(values)
        return functional.softplus(values)


class MLPRadiance(nn.Module):
    """A `NeRFField` with hierarchical sampling (NeRF section 5.2).

    NeRF has a network for each pass; GNeRF's released code shares one. That matters here: the losses of phase A use
    the fine pass only, so that a separate coarse network would never be trained.
    """

    def __init__(self, config: MLPRadianceConfig, scene_box: SceneBox, num_train_data: int) -> None:
        super().__init__()
        self.config = config
        self.density_activation = NoisySoftplus()
        self.nerf_field = self._build_field()
        self.uniform_sampler = UniformSampler(num_samples=config.num_coarse_samples)
        self.pdf_sampler = PDFSampler(num_samples=config.num_fine_samples, include_original=True)

    def _build_field(self) -> NeRFField:
        config = self.config
        network = NeRFField(
            position_encoding=published_encoding(config.position_frequencies),
            direction_encoding=published_encoding(config.direction_frequencies),
            base_mlp_num_layers=config.num_layers,
            base_mlp_layer_width=config.layer_width,
            head_mlp_num_layers=config.num_layers_color,
            head_mlp_layer_width=config.layer_width_color,
            skip_connections=cast(Tuple[int], (SKIP_LAYER,) if config.num_layers > SKIP_LAYER + 1 else ()),
        )
        network.field_output_density.activation = self.density_activation
        return network

    def get_param_groups(self) -> Dict[str, List[Parameter]]:
        """Parameters of the network, in one group."""
        return {"fields": list(self.nerf_field.parameters())}

    def density(self, positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 1"]:
        """Density (per scene unit) at positions, differentiable."""
        return self.nerf_field.density_fn(positions)

    def set_schedule(self, phase_a: bool, phase_b_progress: float, active_levels: float, density_noise: float) -> None:
        """See `Radiance.set_schedule`; of the schedule, the published network uses the noise only."""
        self.density_activation.noise = density_noise

    def forward(self, ray_bundle: RayBundle) -> RadianceAlongRays:
        """Sample rays whose nears and fars are set."""
        coarse = self._evaluate(self.uniform_sampler(ray_bundle))
        fine_samples = self.pdf_sampler(ray_bundle, coarse.ray_samples, coarse.weights)
        fine = self._evaluate(fine_samples)
        fine.earlier_levels = [coarse]
        return fine

    def _evaluate(self, ray_samples: RaySamples) -> RadianceAlongRays:
        # Activations of these wide layers take 50 KB per sample; they are recomputed in the backward pass, in chunks.
        chunks = [
            cast(Dict[FieldHeadNames, Tensor], checkpoint(self.nerf_field, ray_samples[rays], use_reentrant=False))
            for rays in torch.arange(len(ray_samples.frustums.starts)).split(RAYS_PER_CHECKPOINT)
        ]
        outputs = {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}
        weights = ray_samples.get_weights(outputs[FieldHeadNames.DENSITY])
        return RadianceAlongRays(ray_samples, outputs[FieldHeadNames.RGB], weights)
