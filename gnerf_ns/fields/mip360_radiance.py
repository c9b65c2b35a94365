"""Radiance as in Mip-NeRF 360 (CVPR 2022, arXiv 2111.12077): cones in place of rays, and MLPs alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Dict, List, Literal, Optional, Tuple, Type

import torch
import tyro
from jaxtyping import Float
from nerfstudio.cameras.rays import Frustums, RayBundle, RaySamples
from nerfstudio.configs.base_config import InstantiateConfig
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.field_components.encodings import NeRFEncoding
from nerfstudio.field_components.mlp import MLP
from torch import Tensor, nn
from torch.nn import Parameter, functional
from torch.utils.checkpoint import checkpoint

from gnerf_ns.fields.contraction import contract_gaussians
from gnerf_ns.fields.integrated_encoding import IntegratedEncoding
from gnerf_ns.fields.radiance import RadianceAlongRays
from gnerf_ns.fields.ray_histograms import dilate, sample_edges

SKIP_LAYER = 5
"""Index of the layer that gets the encoded Gaussian again (NeRF appendix A), in networks that have more layers."""

DENSITY_BIAS = -1.0
"""Added before softplus, so that the untrained field is nearly empty."""

COLOR_PADDING = 0.001
"""Colors may be that much outside of [0, 1], so that black and white are not at infinity."""

DILATION, DILATION_BIAS = 0.5, 0.0025
"""How far weights are dilated: so many times as wide as a bin would be by now, and at least that much (appendix)."""

ANNEAL_SLOPE = 10.0
"""Of Mip-NeRF 360's eq. 18."""

CROPPED_BEFORE = 100.0
"""Rays that end nearer, in scene units, have been cut off: space has no end."""

BYTES_IN_MEMORY = 2**30
"""Activations that are kept for the backward pass; if there are more, they are computed again there, in chunks."""


@dataclass
class Mip360RadianceConfig(InstantiateConfig):
    """Configuration of `Mip360Radiance`; the defaults are the published ones."""

    _target: Type = field(default_factory=lambda: Mip360Radiance)
    """Target class to instantiate."""
    num_layers: int = 8
    """Layers of the network before its density."""
    layer_width: int = 1024
    """Width of those layers."""
    num_layers_proposal: tyro.conf.Suppress[int] = 4
    """Layers of the proposal network."""
    layer_width_proposal: int = 256
    """Width of those layers."""
    bottleneck_width: tyro.conf.Suppress[int] = 256
    """Features of which colors are made."""
    layer_width_color: tyro.conf.Suppress[int] = 128
    """Width of the layer between these and a color."""
    num_frequencies: int = 12
    """Octaves of the integrated encoding, from one radian per unit of length on."""
    polyhedron: tyro.conf.Suppress[Literal["octahedron", "icosahedron"]] = "icosahedron"
    """Whose corners are the encoding's directions."""
    subdivisions: tyro.conf.Suppress[int] = 2
    """Parts of its edges: 2 of an icosahedron's make 21 directions, 1 makes 6."""
    direction_frequencies: tyro.conf.Suppress[int] = 4
    """Octaves of the viewing direction's encoding."""
    num_proposal_samples: Tuple[int, ...] = (64, 64)
    """Samples per ray of each round of the proposal network."""
    num_nerf_samples: int = 32
    """Samples per ray of the network that has colors."""
    num_uniform_samples: tyro.conf.Suppress[int] = 24
    """Uniform samples per ray in phase A, and in fields that poses of few images are tried in."""
    phase_a_frequencies: tyro.conf.Suppress[float] = 5.0
    """Octaves in use during phase A, while poses are unknown; the others fade in during phase B."""
    proposal_anneal_fraction: tyro.conf.Suppress[float] = 1.0
    """Share of phase B during which sampling changes from uniform to the proposal network's (eq. 18)."""
    point_radius: tyro.conf.Suppress[float] = 0.005
    """Standard deviation of a point whose density is asked for, in scene units: finer than what cones of training have
    seen, the network knows nothing."""


class GaussianNetwork(nn.Module):
    """An MLP on encoded Gaussians: features from which densities follow, and colors where it has a head for them.

    Attributes:
        density_noise: standard deviation of the noise added before the density's activation while training.
        view_dependence: factor on the encoding of viewing directions, in [0, 1].
    """

    def __init__(self, config: Mip360RadianceConfig, num_layers: int, layer_width: int, has_colors: bool) -> None:
        super().__init__()
        self.encoding = IntegratedEncoding(config.num_frequencies, config.polyhedron, config.subdivisions)
        self.trunk = MLP(
            in_dim=self.encoding.get_out_dim(),
            num_layers=num_layers,
            layer_width=layer_width,
            out_dim=layer_width,
            skip_connections=(SKIP_LAYER,) if num_layers > SKIP_LAYER else None,
            activation=nn.ReLU(),
            out_activation=nn.ReLU(),
        )
        self.density_head = nn.Linear(layer_width, 1)
        if has_colors:
            octaves = config.direction_frequencies - 1
            turn = math.log2(2.0 * math.pi)  # nerfstudio multiplies by 2 pi
            self.direction_encoding = NeRFEncoding(
                3, config.direction_frequencies, -turn, octaves - turn, include_input=True
            )
            self.bottleneck = nn.Linear(layer_width, config.bottleneck_width)
            self.color_head = MLP(
                in_dim=config.bottleneck_width + self.direction_encoding.get_out_dim(),
                num_layers=2,
                layer_width=config.layer_width_color,
                out_dim=3,
                activation=nn.ReLU(),
                out_activation=nn.Sigmoid(),
            )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)
        self.density_noise = 0.0
        self.view_dependence: float = 1.0

    @property
    def bytes_per_sample(self) -> int:
        """Of activations that the backward pass needs: each layer's, before and after its ReLU, and the encoding's."""
        widths = sum(module.out_features for module in self.modules() if isinstance(module, nn.Linear))
        return 4 * (2 * widths + 4 * self.encoding.get_out_dim())

    def density_and_features(
        self, encoded: Float[Tensor, "*batch encoded"]
    ) -> Tuple[Float[Tensor, "*batch 1"], Float[Tensor, "*batch features"]]:
        """Densities (per scene unit) of encoded Gaussians, and what colors are made of."""
        features = self.trunk(encoded)
        density = self.density_head(features) + DENSITY_BIAS
        if self.training and self.density_noise > 0:
            density = density + self.density_noise * torch.randn_like(density)
        return functional.softplus(density), features

    def colors(
        self, features: Float[Tensor, "*batch features"], directions: Float[Tensor, "*batch 3"]
    ) -> Float[Tensor, "*batch 3"]:
        """Colors seen along unit directions, in [0, 1] up to `COLOR_PADDING`."""
        encoded = self.view_dependence * self.direction_encoding(directions)
        colors = self.color_head(torch.cat([self.bottleneck(features), encoded], dim=-1))
        return colors * (1.0 + 2.0 * COLOR_PADDING) - COLOR_PADDING


class Mip360Radiance(nn.Module):
    """Two networks: one that proposes where to look, taught by the other, which has colors.

    Both see the Gaussians that approximate a pixel's cone between two distances, so that what is smaller than a pixel
    is averaged and not aliased. Gradients reach cameras through mean and covariance of every Gaussian, except those of
    the proposal network, which must not move cameras.
    """

    def __init__(
        self, config: Mip360RadianceConfig, scene_box: SceneBox, num_train_data: int, is_unbounded: bool = False
    ) -> None:
        """
        Args:
            config: sizes.
            scene_box: not used: frequencies, not cells, fill space.
            num_train_data: not used: images have no appearance of their own.
            is_unbounded: whether space beyond the unit ball is part of it, contracted.
        """
        super().__init__()
        self.config = config
        self.is_unbounded = is_unbounded
        self.network = GaussianNetwork(config, config.num_layers, config.layer_width, has_colors=True)
        self.proposal_network = GaussianNetwork(
            config, config.num_layers_proposal, config.layer_width_proposal, has_colors=False
        )
        self._phase_a = False
        self._anneal = 1.0

    def get_param_groups(self) -> Dict[str, List[Parameter]]:
        """Both networks, each in a group of its own: gradients are shortened by the norm of each."""
        return {
            "fields": list(self.network.parameters()),
            "proposal_networks": list(self.proposal_network.parameters()),
        }

    def density(self, positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 1"]:
        """Density (per scene unit) at positions, differentiable."""
        covariances = self.config.point_radius**2 * torch.eye(3).to(positions)
        density, _ = self._density_and_features(self.network, positions, covariances.expand(*positions.shape, 3))
        return density

    def set_schedule(self, phase_a: bool, phase_b_progress: float, active_levels: float, density_noise: float) -> None:
        """See `Radiance.set_schedule`. The view dependence of colors fades in with the higher frequencies."""
        config = self.config
        self._phase_a = phase_a
        self.network.density_noise = density_noise
        self.network.view_dependence = active_levels
        active = config.phase_a_frequencies + active_levels * (config.num_frequencies - config.phase_a_frequencies)
        for network in (self.network, self.proposal_network):
            network.encoding.set_active_frequencies(active)
        fraction = min(1.0, phase_b_progress / config.proposal_anneal_fraction)
        self._anneal = ANNEAL_SLOPE * fraction / ((ANNEAL_SLOPE - 1.0) * fraction + 1.0)

    def forward(self, ray_bundle: RayBundle) -> RadianceAlongRays:
        """Sample rays whose nears and fars are set, and whose pixels have areas."""
        counts = () if self._phase_a else self.config.num_proposal_samples
        edges, weights = self._whole_ray(ray_bundle)
        expected_width = 1.0
        proposal_samples: List[RaySamples] = []
        proposal_weights: List[Tensor] = []
        for count in counts:
            edges = self._next_edges(edges, weights, expected_width, count)
            samples = self._samples(ray_bundle, edges)
            means, covariances = _gaussians(samples.frustums)
            density, _ = self._in_chunks(self.proposal_network, means.detach(), covariances.detach(), None)
            level_weights = self._weights(samples, density)
            proposal_samples.append(samples)
            proposal_weights.append(level_weights)
            weights = level_weights.detach().squeeze(-1)
            expected_width /= count
        edges = self._next_edges(
            edges, weights, expected_width, self.config.num_nerf_samples if counts else self.config.num_uniform_samples
        )
        samples = self._samples(ray_bundle, edges)
        means, covariances = _gaussians(samples.frustums)
        density, rgb = self._in_chunks(self.network, means, covariances, samples.frustums.directions)
        return RadianceAlongRays(
            ray_samples=samples,
            rgb=rgb,
            weights=self._weights(samples, density),
            proposal_weights=proposal_weights,
            proposal_samples=proposal_samples,
        )

    # Where to look

    def _whole_ray(self, ray_bundle: RayBundle) -> Tuple[Float[Tensor, "rays 2"], Float[Tensor, "rays 1"]]:
        ones = torch.ones_like(ray_bundle.origins[:, :1])
        return torch.cat([torch.zeros_like(ones), ones], dim=-1), ones

    @torch.no_grad()
    def _next_edges(
        self, edges: Float[Tensor, "rays edges"], weights: Float[Tensor, "rays bins"], expected_width: float, count: int
    ) -> Float[Tensor, "rays new_edges"]:
        """Edges of the samples to take, in normalized distance, by what is known of the weights along each ray."""
        if weights.shape[1] > 1:
            edges, weights = dilate(edges, weights, DILATION_BIAS + DILATION * expected_width)
            weights = torch.where(edges[:, 1:] > edges[:, :-1], weights.pow(self._anneal), 0.0)
        jitter = torch.rand_like(edges[:, :1]) if self.training else torch.full_like(edges[:, :1], 0.5)
        return sample_edges(edges, weights, count, jitter)

    def _samples(self, ray_bundle: RayBundle, edges: Float[Tensor, "rays edges"]) -> RaySamples:
        nears, fars = ray_bundle.nears, ray_bundle.fars
        assert nears is not None and fars is not None, "rays need nears and fars"

        def to_distances(normalized: Float[Tensor, "rays edges"]) -> Float[Tensor, "rays edges"]:
            if self.is_unbounded:  # uniform in disparity (eq. 11, with g(t) = 1/t)
                return 1.0 / torch.lerp(1.0 / nears, 1.0 / fars, normalized)
            return torch.lerp(nears, fars, normalized)

        distances = to_distances(edges)
        return ray_bundle.get_ray_samples(
            bin_starts=distances[:, :-1, None],
            bin_ends=distances[:, 1:, None],
            spacing_starts=edges[:, :-1, None],
            spacing_ends=edges[:, 1:, None],
            spacing_to_euclidean_fn=to_distances,
        )

    # What is there

    def _in_chunks(
        self,
        network: GaussianNetwork,
        means: Float[Tensor, "rays samples 3"],
        covariances: Float[Tensor, "rays samples 3 3"],
        directions: Optional[Float[Tensor, "rays samples 3"]],
    ) -> Tuple[Float[Tensor, "rays samples 1"], Float[Tensor, "rays samples _"]]:
        """Densities and, given directions, colors; of wide networks computed again in the backward pass."""
        rays_at_once = max(1, BYTES_IN_MEMORY // (network.bytes_per_sample * means.shape[1]))
        if len(means) <= rays_at_once:
            return self._evaluate(network, means, covariances, directions)
        chunks = [
            checkpoint(
                self._evaluate,
                network,
                means[rays],
                covariances[rays],
                None if directions is None else directions[rays],
                use_reentrant=False,
            )
            for rays in torch.arange(len(means), device=means.device).split(rays_at_once)
        ]
        densities, colors = zip(*chunks, strict=True)
        return torch.cat(densities), torch.cat(colors)

    def _evaluate(
        self,
        network: GaussianNetwork,
        means: Float[Tensor, "rays samples 3"],
        covariances: Float[Tensor, "rays samples 3 3"],
        directions: Optional[Float[Tensor, "rays samples 3"]],
    ) -> Tuple[Float[Tensor, "rays samples 1"], Float[Tensor, "rays samples _"]]:
        density, features = self._density_and_features(network, means, covariances)
        return density, features[..., :0] if directions is None else network.colors(features, directions)

    def _density_and_features(
        self, network: GaussianNetwork, means: Float[Tensor, "*batch 3"], covariances: Float[Tensor, "*batch 3 3"]
    ) -> Tuple[Float[Tensor, "*batch 1"], Float[Tensor, "*batch features"]]:
        with torch.autocast(means.device.type, enabled=False):  # half precision knows no pixel, nor what is far away
            if self.is_unbounded:
                means, covariances = contract_gaussians(means, covariances)
            encoded = network.encoding(means, covariances)
        return network.density_and_features(encoded)

    def _weights(
        self, samples: RaySamples, density: Float[Tensor, "rays samples 1"]
    ) -> Float[Tensor, "rays samples 1"]:
        """Weights of samples; in unbounded space what is last is opaque, as every ray ends somewhere."""
        weights = samples.get_weights(density)
        if not self.is_unbounded:
            return weights
        # Not where the viewer's crop ends a ray.
        is_end = samples.frustums.ends[:, -1:] > CROPPED_BEFORE
        rest = (1.0 - weights.sum(dim=1, keepdim=True)) * is_end
        return torch.cat([weights[:, :-1], weights[:, -1:] + rest], dim=1)


def _gaussians(frustums: Frustums) -> Tuple[Float[Tensor, "*batch 3"], Float[Tensor, "*batch 3 3"]]:
    """Means and covariances of the parts of cones (Mip-NeRF eq. 7), in scene units.

    A cone's radius is as published: a disk and a square pixel then have the same variance. nerfstudio's have the same
    area, which is 3/pi of that variance.
    """
    blobs = replace(frustums, pixel_area=frustums.pixel_area * (math.pi / 3.0)).get_gaussian_blob()
    return blobs.mean, blobs.cov
