"""What every radiance representation hands to the model: samples along rays with weights and colors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, List, Protocol

from jaxtyping import Float
from nerfstudio.cameras.rays import RayBundle, RaySamples
from torch import Tensor
from torch.nn import Parameter


@dataclass
class RadianceAlongRays:
    """Samples along a bundle of rays."""

    ray_samples: RaySamples
    """The samples that colors were evaluated at."""
    rgb: Float[Tensor, "rays samples 3"]
    """Color of every sample, in [0, 1]."""
    weights: Float[Tensor, "rays samples 1"]
    """Volume-rendering weight of every sample (NeRF eq. 3)."""
    earlier_levels: List["RadianceAlongRays"] = field(default_factory=list)
    """Coarser networks' own renderings of the same rays, to be supervised like the last (NeRF's coarse network)."""
    proposal_weights: List[Float[Tensor, "rays _ 1"]] = field(default_factory=list)
    """Weights of the proposal networks, to be bound by the final weights (Mip-NeRF 360 eq. 13)."""
    proposal_samples: List[RaySamples] = field(default_factory=list)
    """Samples that belong to `proposal_weights`."""


class Radiance(Protocol):
    """A scene representation that can be sampled along rays. Implemented by `HashRadiance` and `MLPRadiance`."""

    def __call__(self, ray_bundle: RayBundle) -> RadianceAlongRays:
        """Samples rays whose nears and fars are set."""
        ...

    def get_param_groups(self) -> Dict[str, List[Parameter]]:
        """Parameters by optimizer group."""
        ...

    def density(self, positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 1"]:
        """Density (per scene unit) at positions, differentiable."""
        ...

    def set_schedule(self, phase_a: bool, phase_b_progress: float, active_levels: float, density_noise: float) -> None:
        """Adapts to the training schedule.

        Args:
            phase_a: whether views at random poses are rendered (a few uniform samples do).
            phase_b_progress: share of phase B that has passed, in [0, 1].
            active_levels: share of the levels of detail in use, in [0, 1].
            density_noise: standard deviation of the noise on densities before activation.
        """
        ...
