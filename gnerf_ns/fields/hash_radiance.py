"""Radiance as in nerfacto: a hash-grid field with proposal sampling."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from typing import Dict, List, Literal, Type

import torch
import tyro
from jaxtyping import Float
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.configs.base_config import InstantiateConfig
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.model_components.ray_samplers import (
    ProposalNetworkSampler,
    UniformLinDispPiecewiseSampler,
    UniformSampler,
)
from nerfstudio.utils.external import TCNN_EXISTS
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor, nn
from torch.nn import Parameter

from gnerf_ns.fields.contraction import UnitBallContraction
from gnerf_ns.fields.nerfacto_field import CoarseToFineNerfactoField, CompiledDensityField
from gnerf_ns.fields.radiance import RadianceAlongRays

PROPOSALS_ALL_ALONG = 40
"""Samples per ray of the proposal network, at least, where rays are sampled all along: in unbounded scenes, and of few
images."""


@dataclass
class HashRadianceConfig(InstantiateConfig):
    """Configuration of `HashRadiance`."""

    _target: Type = field(default_factory=lambda: HashRadiance)
    """Target class to instantiate."""
    num_levels: int = 8
    """Levels of the hash grid."""
    phase_a_levels: tyro.conf.Suppress[int] = 4
    """Levels in use during phase A, while poses are unknown; the others fade in during phase B."""
    base_resolution: tyro.conf.Suppress[int] = 8
    """Cells per side of the coarsest level."""
    max_resolution: int = 256
    """Cells per side of the finest level."""
    log2_hashmap_size: int = 17
    """Entries of each level's table, as a power of two."""
    hidden_dim: int = 32
    """Width of the hidden layer behind the grid."""
    hidden_dim_color: int = 32
    """Width of the hidden layers of the color network."""
    num_layers_color: tyro.conf.Suppress[int] = 2
    """Layers of the color network."""
    average_init_density: tyro.conf.Suppress[float] = 1.0
    """Mean density of the untrained field, per scene unit."""
    num_uniform_samples: int = 24
    """Uniform samples per ray in phase A, and in fields that few images are looked up in."""
    num_proposal_samples: int = 24
    """Samples per ray of the proposal network in phase B."""
    num_nerf_samples: int = 20
    """Samples per ray of the field in phase B."""
    proposal_levels: tyro.conf.Suppress[int] = 4
    """Levels of the proposal network's hash grid."""
    proposal_max_resolution: tyro.conf.Suppress[int] = 64
    """Cells per side of the proposal network's finest level."""
    proposal_anneal_fraction: tyro.conf.Suppress[float] = 0.2
    """Share of phase B during which sampling changes from uniform to the proposal network's (Mip-NeRF 360 eq. 18)."""
    implementation: Literal["auto", "tcnn", "torch"] = "auto"
    """Implementation of hash grids and MLPs; auto: tiny-cuda-nn if it is installed and there is a GPU."""

    def for_surroundings(self) -> HashRadianceConfig:
        """The same with finer levels: of contracted space, the unit ball is but the middle; and with more proposals
        along rays of which no part is known to be empty."""
        proposals = max(self.num_proposal_samples, PROPOSALS_ALL_ALONG)
        levels, cells = self.num_levels + 2, 4 * self.max_resolution
        return replace(self, num_levels=levels, max_resolution=cells, num_proposal_samples=proposals)


def resolve_implementation(requested: Literal["auto", "tcnn", "torch"]) -> Literal["tcnn", "torch"]:
    """Choose between tiny-cuda-nn and torch; print the choice of `auto`."""
    if requested != "auto":
        return requested
    if TCNN_EXISTS and torch.cuda.is_available():
        return "tcnn"
    if torch.cuda.is_available():
        _say_once("Using nerfstudio's torch hash grids, because tiny-cuda-nn is not installed.")
    else:
        _say_once("Using hash grids compiled for CPUs, because there is no GPU.")
    return "torch"


@cache
def _say_once(line: str) -> None:
    """Print a line the first time only: a run builds several fields."""
    CONSOLE.print(line)


def redraw_tcnn_weights(module: nn.Module) -> None:
    """Draw the weights of tiny-cuda-nn's modules with torch's generator; without them, nothing is drawn.

    Left alone, every module of tiny-cuda-nn starts from the same seed, so that no two fields would begin differently.
    """
    for part in module.modules():
        native = getattr(part, "native_tcnn_module", None)
        if native is not None:
            seed = int(torch.randint(2**31, ()))
            part.get_parameter("params").data.copy_(native.initial_params(seed))


class HashRadiance(nn.Module):
    """A coarse-to-fine `NerfactoField`, sampled uniformly in phase A and by a proposal network in phase B."""

    def __init__(
        self, config: HashRadianceConfig, scene_box: SceneBox, num_train_data: int, is_unbounded: bool = False
    ) -> None:
        """
        Args:
            config: sizes.
            scene_box: where the field is, unless it is unbounded.
            num_train_data: number of training images.
            is_unbounded: whether space beyond the unit ball is part of it, contracted.
        """
        super().__init__()
        self.config = config
        contraction = UnitBallContraction() if is_unbounded else None
        implementation = resolve_implementation(config.implementation)
        self.field = CoarseToFineNerfactoField(
            scene_box.aabb,
            num_images=num_train_data,
            num_levels=config.num_levels,
            base_res=config.base_resolution,
            max_res=config.max_resolution,
            log2_hashmap_size=config.log2_hashmap_size,
            hidden_dim=config.hidden_dim,
            hidden_dim_color=config.hidden_dim_color,
            num_layers_color=config.num_layers_color,
            appearance_embedding_dim=0,
            average_init_density=config.average_init_density,
            spatial_distortion=contraction,
            implementation=implementation,
        )
        self.proposal_network = CompiledDensityField(
            scene_box.aabb,
            num_levels=config.proposal_levels,
            base_res=config.base_resolution,
            max_res=config.proposal_max_resolution,
            log2_hashmap_size=15,
            hidden_dim=16,
            average_init_density=config.average_init_density,
            spatial_distortion=contraction,
            implementation=implementation,
        )
        self.uniform_sampler = UniformSampler(num_samples=config.num_uniform_samples)
        self.proposal_sampler = ProposalNetworkSampler(
            num_proposal_samples_per_ray=(config.num_proposal_samples,),
            num_nerf_samples_per_ray=config.num_nerf_samples,
            num_proposal_network_iterations=1,
            # The proposal network gets gradients if more steps than this have passed since it last did: always.
            update_sched=lambda step: -1,
            # Half of the samples within distance 1, the others uniform in disparity.
            initial_sampler=UniformLinDispPiecewiseSampler() if is_unbounded else UniformSampler(),
        )
        self._phase_a = False
        redraw_tcnn_weights(self)

    def get_param_groups(self) -> Dict[str, List[Parameter]]:
        """Parameters of the field and of the proposal network."""
        return {
            "fields": list(self.field.parameters()),
            "proposal_networks": list(self.proposal_network.parameters()),
        }

    def density(self, positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 1"]:
        """Density (per scene unit) at positions, differentiable."""
        return self.field.density_fn(positions)

    def set_schedule(self, phase_a: bool, phase_b_progress: float, active_levels: float, density_noise: float) -> None:
        """See `Radiance.set_schedule`. `active_levels` is 0 for `phase_a_levels` and 1 for all levels of the grid.

        The view dependence of colors fades in with the finer levels.
        """
        config = self.config
        self._phase_a = phase_a
        self.field.density_noise = density_noise
        self.field.view_dependence = active_levels
        self.field.hash_encoding.set_active_levels(
            config.phase_a_levels + active_levels * (config.num_levels - config.phase_a_levels)
        )
        fraction = min(1.0, phase_b_progress / config.proposal_anneal_fraction)
        slope = 10.0
        self.proposal_sampler.set_anneal(slope * fraction / ((slope - 1.0) * fraction + 1.0))

    def forward(self, ray_bundle: RayBundle) -> RadianceAlongRays:
        """Sample rays whose nears and fars are set."""
        if self._phase_a:
            ray_samples, proposal_weights, proposal_samples = self.uniform_sampler(ray_bundle), [], []
        else:
            ray_samples, proposal_weights, proposal_samples = self.proposal_sampler(
                # Detached, because the interlevel loss trains the proposal network and must not move cameras.
                ray_bundle,
                density_fns=[lambda positions: self.proposal_network.density_fn(positions.detach())],
            )
        field_outputs = self.field(ray_samples)
        return RadianceAlongRays(
            ray_samples=ray_samples,
            rgb=field_outputs[FieldHeadNames.RGB],
            weights=ray_samples.get_weights(field_outputs[FieldHeadNames.DENSITY]),
            proposal_weights=proposal_weights,
            proposal_samples=proposal_samples,
        )
