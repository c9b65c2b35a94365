"""The prior over camera poses (GNeRF section 3.1), and how it adapts during training.

GNeRF needs an accurate prior and leaves learning it to future work. Here, poses that explained images are sampled
again with small changes (`PosePopulation`), so that a wide prior narrows by itself.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal, Optional, Tuple, Union

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from gnerf_ns.cameras.look_at import look_at
from gnerf_ns.utils.errors import InputError


def object_filling_radius(fov_rad: float) -> float:
    """Camera distance, in scene units, at which a disk of radius 1 around the origin just fills the view.

    Args:
        fov_rad: smaller one of the two fields of view, in radians.

    Returns:
        1 / tan(fov / 2): about 2.75 for 40 degrees.

    Raises:
        InputError: the field of view is not between 0 and 180 degrees.
    """
    if not 0.0 < fov_rad < math.pi:
        raise InputError(
            f"The field of view is {math.degrees(fov_rad):g} degrees; it must be between 0 and 180, both excluded."
        )
    return 1.0 / math.tan(fov_rad / 2.0)


@dataclass(frozen=True)
class PosePrior:
    """A distribution over camera poses around the origin."""

    azimuth_deg: Tuple[float, float]
    """Smallest and largest azimuth, in degrees, counter-clockwise from +x as seen from +z."""
    elevation_deg: Tuple[float, float]
    """Smallest and largest elevation above the xy plane, in degrees. Directions are uniform in solid angle."""
    radius: Tuple[float, float]
    """Smallest and largest distance from the origin, relative to the radius given to ``sample``; uniform."""
    look_at_jitter: float
    """Standard deviation of the look-at point along each axis, relative to the radius given to ``sample``."""
    roll_deg: Tuple[float, float]
    """Smallest and largest roll about the viewing axis, in degrees; uniform."""

    @property
    def looks_at_origin(self) -> bool:
        """Whether a camera's position alone determines its pose."""
        return self.look_at_jitter == 0.0 and self.roll_deg == (0.0, 0.0)

    @property
    def centered(self) -> "PosePrior":
        """The same distribution with all cameras looking at the origin."""
        return replace(self, look_at_jitter=0.0)

    def sample(
        self,
        count: int,
        radius: float,
        device: Union[torch.device, str],
        generator: Optional[torch.Generator] = None,
    ) -> Float[Tensor, "count 3 4"]:
        """Draw independent poses.

        Args:
            count: number of poses.
            radius: camera distance that is 1 in the prior, in scene units.
            device: device of the poses and of the generator, if any.
            generator: random number generator; torch's global one if None.

        Returns:
            camera_to_world matrices.
        """

        def uniform(low: float, high: float) -> Float[Tensor, "count"]:
            return low + (high - low) * torch.rand(count, device=device, generator=generator)

        azimuth = uniform(*(math.radians(angle) for angle in self.azimuth_deg))
        # Uniform in solid angle means uniform in the sine of the elevation (Archimedes).
        sin_elevation = uniform(*(math.sin(math.radians(angle)) for angle in self.elevation_deg))
        cos_elevation = (1.0 - sin_elevation.square()).clamp_min(0.0).sqrt()
        distance = radius * uniform(*self.radius)
        roll = uniform(*(math.radians(angle) for angle in self.roll_deg))
        targets = self.look_at_jitter * radius * torch.randn(count, 3, device=device, generator=generator)
        directions = torch.stack(
            [cos_elevation * torch.cos(azimuth), cos_elevation * torch.sin(azimuth), sin_elevation], dim=-1
        )
        return look_at(distance[:, None] * directions, targets, roll)


PRESETS = {
    "blender": PosePrior(
        azimuth_deg=(0.0, 360.0),
        elevation_deg=(0.0, 90.0),
        radius=(1.0, 1.0),
        look_at_jitter=0.0,
        roll_deg=(0.0, 0.0),
    ),
    "dtu": PosePrior(
        azimuth_deg=(0.0, 150.0),
        elevation_deg=(0.0, 80.0),
        radius=(1.0, 1.0),
        look_at_jitter=0.01,
        roll_deg=(0.0, 0.0),
    ),
}
"""The ranges of GNeRF's released code, by dataset.

Within these ranges, the released code draws elevations uniformly in degrees, which concentrates cameras near the pole,
and moves the look-at point along x and y only.
"""


@dataclass
class PosePriorConfig:
    """Configuration of `PosePrior`: what is known about the poses of the cameras."""

    preset: Literal["blender", "dtu"] = "blender"
    """Ranges of all that is not given below, as in GNeRF's released code. blender: the upper hemisphere, looking at the
    origin; dtu: azimuth 0 to 150 and elevation 0 to 80 degrees, with look-at jitter."""
    azimuth_deg: Optional[Tuple[float, float]] = None
    """Smallest and largest azimuth, in degrees."""
    elevation_deg: Optional[Tuple[float, float]] = None
    """Smallest and largest elevation, in degrees, between -90 and 90. Directions are uniform in solid angle."""
    radius: Optional[Tuple[float, float]] = None
    """Smallest and largest camera distance, relative to the distance at which the object fills the view."""
    look_at_jitter: Optional[float] = None
    """Standard deviation of the look-at point, relative to the distance at which the object fills the view."""
    roll_deg: Optional[Tuple[float, float]] = None
    """Smallest and largest roll about the viewing axis, in degrees."""

    def resolve(self) -> PosePrior:
        """The prior, with missing values taken from the preset.

        Raises:
            InputError: a range is contradictory or impossible.
        """
        preset = PRESETS[self.preset]
        prior = PosePrior(
            azimuth_deg=preset.azimuth_deg if self.azimuth_deg is None else self.azimuth_deg,
            elevation_deg=preset.elevation_deg if self.elevation_deg is None else self.elevation_deg,
            radius=preset.radius if self.radius is None else self.radius,
            look_at_jitter=preset.look_at_jitter if self.look_at_jitter is None else self.look_at_jitter,
            roll_deg=preset.roll_deg if self.roll_deg is None else self.roll_deg,
        )
        _check(prior)
        return prior


def _check(prior: PosePrior) -> None:
    """Raise an InputError for values that no camera can have."""
    ranges = {
        "azimuth_deg": prior.azimuth_deg,
        "elevation_deg": prior.elevation_deg,
        "radius": prior.radius,
        "roll_deg": prior.roll_deg,
    }
    for name, (low, high) in ranges.items():
        if not (math.isfinite(low) and math.isfinite(high)):
            raise InputError(f"The pose prior's {name} is ({low:g}, {high:g}); give two finite numbers.")
        if low > high:
            raise InputError(
                f"The pose prior's {name} is ({low:g}, {high:g}): its minimum exceeds its maximum; swap the two."
            )
    if prior.elevation_deg[0] < -90.0 or prior.elevation_deg[1] > 90.0:
        low, high = prior.elevation_deg
        raise InputError(f"The pose prior's elevation_deg is ({low:g}, {high:g}); keep it between -90 and 90 degrees.")
    for name in ("azimuth_deg", "roll_deg"):
        low, high = ranges[name]
        if high - low > 360.0:
            raise InputError(f"The pose prior's {name} is ({low:g}, {high:g}); a full turn is 360 degrees, give less.")
    if prior.radius[0] <= 0.0:
        low, high = prior.radius
        raise InputError(f"The pose prior's radius is ({low:g}, {high:g}); camera distances must be greater than 0.")
    if not (math.isfinite(prior.look_at_jitter) and prior.look_at_jitter >= 0.0):
        raise InputError(f"The pose prior's look_at_jitter is {prior.look_at_jitter:g}; give 0 or a positive number.")


class PosePopulation(nn.Module):
    """Weighted poses of recent training steps, from which new poses that look at the origin are sampled.

    Attributes:
        poses: camera_to_world matrices [capacity, 3, 4], newest first.
        weights: weights of these poses [capacity]; 0 for empty places.
    """

    poses: Tensor
    weights: Tensor

    def __init__(self, capacity: int) -> None:
        """Start empty.

        Args:
            capacity: number of poses that are remembered.
        """
        super().__init__()
        self.register_buffer("poses", torch.zeros(capacity, 3, 4))
        self.register_buffer("weights", torch.zeros(capacity))

    @property
    def is_empty(self) -> bool:
        """Whether no pose has a weight, so that nothing can be sampled."""
        return not bool(self.weights.any())

    def reset_parameters(self) -> None:
        """Forget all poses."""
        self.weights.zero_()

    @torch.no_grad()
    def remember(self, poses: Float[Tensor, "batch 3 4"], weights: Float[Tensor, "batch"]) -> None:
        """Add poses with their weights, in place of the oldest ones.

        Weights that are NaN, from an attempt at phase A that has diverged, count as 0.
        """
        capacity = len(self.weights)
        weights = weights.nan_to_num()
        self.poses.copy_(torch.cat([poses.to(self.poses), self.poses])[:capacity])
        self.weights.copy_(torch.cat([weights.to(self.weights), self.weights])[:capacity])

    @torch.no_grad()
    def sample(self, count: int, prior: PosePrior, radius: float, spread: float) -> Float[Tensor, "count 3 4"]:
        """Draw poses near remembered ones, which are chosen in proportion to their weights.

        Args:
            count: number of poses.
            prior: prior whose ranges bound distances and rolls.
            radius: camera distance that is 1 in the prior, in scene units.
            spread: standard deviation of the change of direction, in radians, and of the changes of distance and roll,
                relative to their ranges.
        """
        parents = self.poses[torch.multinomial(self.weights, count, replacement=True)]
        positions = parents[..., 3]
        directions = functional.normalize(positions, dim=-1)
        directions = functional.normalize(directions + spread * torch.randn_like(directions), dim=-1)

        low, high = (radius * limit for limit in prior.radius)
        distances = torch.linalg.vector_norm(positions, dim=-1)
        distances = (distances + spread * (high - low) * torch.randn_like(distances)).clamp(low, high)

        first, last = (math.radians(limit) for limit in prior.roll_deg)
        roll = roll_of(parents)
        roll = (roll + spread * (last - first) * torch.randn_like(roll)).clamp(first, last)
        return look_at(distances[:, None] * directions, roll=roll)


def roll_of(camera_to_worlds: Float[Tensor, "*batch 3 4"]) -> Float[Tensor, "*batch"]:
    """Roll of cameras that look at the origin, in radians, as in `look_at`."""
    level = look_at(camera_to_worlds[..., 3])
    right = camera_to_worlds[..., 0]
    return torch.atan2((right * level[..., 1]).sum(dim=-1), (right * level[..., 0]).sum(dim=-1))
