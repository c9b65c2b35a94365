"""The interface of radiance representations: rays in, samples with colors and weights out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, List, Optional, Protocol

from jaxtyping import Float
from nerfstudio.cameras.rays import RayBundle, RaySamples
from torch import Tensor
from torch.nn import Parameter


@dataclass
class RadianceAlongRays:
    """Samples along a bundle of rays."""

    ray_samples: RaySamples
    """Samples at which colors were evaluated."""
    rgb: Float[Tensor, "rays samples 3"]
    """Color of every sample, in [0, 1]."""
    weights: Float[Tensor, "rays samples 1"]
    """Volume-rendering weight of every sample (NeRF eq. 3)."""
    earlier_levels: List["RadianceAlongRays"] = field(default_factory=list)
    """The same rays as sampled by coarser passes, supervised like the last one (NeRF's coarse network)."""
    proposal_weights: List[Float[Tensor, "rays _ 1"]] = field(default_factory=list)
    """Weights by the proposal networks, which are trained to bound the final weights (Mip-NeRF 360 eq. 13)."""
    proposal_samples: List[RaySamples] = field(default_factory=list)
    """Samples of the `proposal_weights`."""
    ray_counts: Optional[Float[Tensor, "rays"]] = None
    """What each ray counts in the mean of lengths along rays, where empty space was left out: the share of its way that
    was sampled, times that of the rays that were. None for 1."""


class Radiance(Protocol):
    """A scene representation that can be sampled along rays. Implemented by `HashRadiance`, `MLPRadiance` and
    `Mip360Radiance`."""

    def __call__(self, ray_bundle: RayBundle) -> RadianceAlongRays:
        """Sample rays whose nears and fars are set."""
        ...

    def get_param_groups(self) -> Dict[str, List[Parameter]]:
        """Parameters by optimizer group."""
        ...

    def density(self, positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 1"]:
        """Density (per scene unit) at positions, differentiable."""
        ...

    def set_schedule(self, phase_a: bool, phase_b_progress: float, active_levels: float, density_noise: float) -> None:
        """Adapt to the training schedule.

        Args:
            phase_a: whether this is phase A, whose small renderings need few, uniform samples only.
            phase_b_progress: completed share of phase B, in [0, 1].
            active_levels: share of the levels of detail in use, in [0, 1].
            density_noise: standard deviation of the noise on densities before activation.
        """
        ...
