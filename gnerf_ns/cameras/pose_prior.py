"""Where cameras may stand: the prior P(phi) over poses (GNeRF section 3.1), and what is learned of it.

GNeRF needs a prior that is right and names learning it as future work. Here poses that images were matched with are
drawn again, a little changed, more often than the prior has them: a wide prior narrows by itself.
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
    """Camera distance, in scene units, at which the unit sphere's equator just fills the view.

    Args:
        fov_rad: the smaller of the two fields of view, in radians.

    Returns:
        1 / tan(fov / 2): about 2.75 for 40 degrees.

    Raises:
        InputError: the field of view is not between 0 and 180 degrees.
    """
    if not 0.0 < fov_rad < math.pi:
        raise InputError(
            f"The field of view is {math.degrees(fov_rad):g} degrees; give one between 0 and 180, both excluded."
        )
    return 1.0 / math.tan(fov_rad / 2.0)


@dataclass(frozen=True)
class PosePrior:
    """A distribution over camera poses around the origin, every value filled in."""

    azimuth_deg: Tuple[float, float]
    """Smallest and largest azimuth, in degrees, counter-clockwise from +x as seen from +z; uniform."""
    elevation_deg: Tuple[float, float]
    """Smallest and largest elevation above the xy plane, in degrees; directions are uniform in solid angle."""
    radius: Tuple[float, float]
    """Smallest and largest distance from the origin, as a multiple of the radius given to ``sample``; uniform."""
    look_at_jitter: float
    """Standard deviation of the point looked at, on each axis, as a share of the radius given to ``sample``."""
    roll_deg: Tuple[float, float]
    """Smallest and largest turn about the viewing axis, in degrees; uniform."""

    @property
    def looks_at_origin(self) -> bool:
        """Whether a camera's position alone determines its pose."""
        return self.look_at_jitter == 0.0 and self.roll_deg == (0.0, 0.0)

    @property
    def centerd(self) -> "PosePrior":
        """The same cameras, all aimed at the origin."""
        return replace(self, look_at_jitter=0.0)

    def sample(
        self,
        count: int,
        radius: float,
        device: Union[torch.device, str],
        generator: Optional[torch.Generator] = None,
    ) -> Float[Tensor, "count 3 4"]:
        """Draws independent poses.

        Args:
            count: how many.
            radius: the camera distance that counts as 1, in scene units.
            device: where the poses (and the generator, if any) live.
            generator: source of randomness; torch's global one if None.

        Returns:
            camera_to_world matrices.
        """

        def uniform(low: float, high: float) -> Float[Tensor, "count"]:
            return low + (high - low) * torch.rand(count, device=device, generator=generator)

        azimuth = uniform(*(math.radians(angle) for angle in self.azimuth_deg))
        # A band of a sphere between two heights has an area proportional to their difference (Archimedes).
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
"""The ranges of the released GNeRF code, by the kind of data they were made for.

Within them, two things differ: the released code draws elevations uniformly in degrees, which crowds cameras around
the pole, and moves the point looked at along x and y only, not along z.
"""


@dataclass
class PosePriorConfig:
    """What is known about where the images were taken from."""

    preset: Literal["blender", "dtu"] = "blender"
    """Where values come from that are not given below: the ranges of the released GNeRF for Blender scenes (the upper
    hemisphere, looking at the origin) or for DTU (azimuth 0 to 150, elevation 0 to 80 degrees, look-at jitter).
    Directions are uniform in solid angle; the released code's elevations are uniform in degrees."""
    azimuth_deg: Optional[Tuple[float, float]] = None
    """Smallest and largest azimuth, in degrees."""
    elevation_deg: Optional[Tuple[float, float]] = None
    """Smallest and largest elevation, in degrees, between -90 and 90; all directions in the range are as likely."""
    radius: Optional[Tuple[float, float]] = None
    """Smallest and largest camera distance, in units of the distance at which the object fills the view."""
    look_at_jitter: Optional[float] = None
    """Standard deviation of the point looked at, as a share of the camera distance."""
    roll_deg: Optional[Tuple[float, float]] = None
    """Smallest and largest turn about the viewing axis, in degrees."""

    def resolve(self) -> PosePrior:
        """Fills in the preset's values.

        Raises:
            InputError: a range is contradictory; the sentence names it.
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
    """Raises InputError on values that no camera can have."""
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
    """Poses of the last few steps, with weights; all of them aimed at the origin.

    Attributes:
        poses: camera_to_worlds [capacity, 3, 4], newest first.
        weights: of the same poses; 0 where there is none yet.
    """

    poses: Tensor
    weights: Tensor

    def __init__(self, capacity: int) -> None:
        """Starts empty.

        Args:
            capacity: how many poses are remembered.
        """
        super().__init__()
        self.register_buffer("poses", torch.zeros(capacity, 3, 4))
        self.register_buffer("weights", torch.zeros(capacity))

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw from."""
        return not bool(self.weights.any())

    def reset_parameters(self) -> None:
        """Empty it."""
        self.weights.zero_()

    @torch.no_grad()
    def remember(self, poses: Float[Tensor, "batch 3 4"], weights: Float[Tensor, "batch"]) -> None:
        """Takes in poses and how much each explained; the oldest are forgotten.

        Weights that are no numbers, of an attempt at phase A that has diverged, count as 0.
        """
        capacity = len(self.weights)
        weights = weights.nan_to_num()
        self.poses.copy_(torch.cat([poses.to(self.poses), self.poses])[:capacity])
        self.weights.copy_(torch.cat([weights.to(self.weights), self.weights])[:capacity])

    @torch.no_grad()
    def sample(self, count: int, prior: PosePrior, radius: float, spread: float) -> Float[Tensor, "count 3 4"]:
        """Draws poses near remembered ones, by weight.

        Args:
            count: how many.
            prior: distances and rolls stay within its ranges.
            radius: the camera distance that counts as 1 in the prior, in scene units.
            spread: standard deviation of the change of direction, in radians; distance and roll change by this share
                of their ranges.
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
    """How far cameras that look at the origin are turned about their axis, in radians, as `look_at` has it."""
    level = look_at(camera_to_worlds[..., 3])
    right = camera_to_worlds[..., 0]
    return torch.atan2((right * level[..., 1]).sum(dim=-1), (right * level[..., 0]).sum(dim=-1))
