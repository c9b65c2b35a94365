"""The pose prior: presets, what is sampled, and which ranges are refused."""

import math

import pytest
import torch

from gnerf_ns.cameras.pose_prior import PosePriorConfig, object_filling_radius
from gnerf_ns.utils.errors import InputError

RADIUS = 2.75


def sample(config: PosePriorConfig, count: int = 4000) -> torch.Tensor:
    return config.resolve().sample(count, RADIUS, "cpu", torch.Generator().manual_seed(0))


def test_released_presets() -> None:
    blender, dtu = PosePriorConfig("blender").resolve(), PosePriorConfig("dtu").resolve()
    assert (blender.azimuth_deg, blender.elevation_deg, blender.radius) == ((0.0, 360.0), (0.0, 90.0), (1.0, 1.0))
    assert (dtu.azimuth_deg, dtu.elevation_deg, dtu.look_at_jitter) == ((0.0, 150.0), (0.0, 80.0), 0.01)
    assert blender.looks_at_origin
    assert not dtu.looks_at_origin
    assert not PosePriorConfig(roll_deg=(-5.0, 5.0)).resolve().looks_at_origin


def test_given_values_replace_the_preset() -> None:
    prior = PosePriorConfig("dtu", elevation_deg=(-10.0, 20.0), look_at_jitter=0.0).resolve()
    assert prior.elevation_deg == (-10.0, 20.0)
    assert prior.azimuth_deg == (0.0, 150.0)
    assert prior.looks_at_origin


def test_hemisphere_is_uniform_in_solid_angle() -> None:
    positions = sample(PosePriorConfig("blender"))[..., 3]
    torch.testing.assert_close(positions.norm(dim=-1), torch.full((4000,), RADIUS))
    heights = (positions[:, 2] / RADIUS).sort().values
    # Heights on a uniform hemisphere are uniform; Kolmogorov-Smirnov's distance stays under 1.95 / sqrt(n) (p 0.001).
    assert (heights - torch.linspace(0.0, 1.0, 4000)).abs().max() < 1.95 / math.sqrt(4000)
    azimuths = (torch.atan2(positions[:, 1], positions[:, 0]) % (2 * math.pi)).sort().values / (2 * math.pi)
    assert (azimuths - torch.linspace(0.0, 1.0, 4000)).abs().max() < 1.95 / math.sqrt(4000)


def test_ranges_are_kept_and_reached() -> None:
    config = PosePriorConfig(azimuth_deg=(-30.0, 60.0), elevation_deg=(-20.0, 40.0), radius=(0.5, 2.0))
    positions = sample(config)[..., 3]
    distance = positions.norm(dim=-1)
    azimuth = torch.rad2deg(torch.atan2(positions[:, 1], positions[:, 0]))
    elevation = torch.rad2deg(torch.asin(positions[:, 2] / distance))
    for values, low, high in ((azimuth, -30, 60), (elevation, -20, 40), (distance / RADIUS, 0.5, 2.0)):
        slack = 0.01 * (high - low)
        assert low - 1e-3 <= values.min() < low + slack
        assert high - slack < values.max() <= high + 1e-3


def test_jitter_moves_the_point_looked_at() -> None:
    poses = sample(PosePriorConfig("dtu", look_at_jitter=0.05))
    # The viewing axis misses the origin by the two components of the jitter across it.
    backward, positions = poses[..., 2], poses[..., 3]
    misses = (positions - (positions * backward).sum(dim=-1, keepdim=True) * backward).norm(dim=-1)
    assert misses.square().mean().sqrt() == pytest.approx(0.05 * RADIUS * math.sqrt(2.0), rel=0.05)


def test_roll_turns_the_camera() -> None:
    poses = sample(PosePriorConfig(roll_deg=(-20.0, 10.0)))
    # Without roll the right axis is horizontal; the roll is the angle by which it leaves the horizontal plane.
    level = poses[..., 2, :2].norm(dim=-1)
    roll = torch.rad2deg(torch.atan2(poses[..., 2, 0], poses[..., 2, 1]))[level > 1e-2]
    assert roll.min() == pytest.approx(-20.0, abs=0.2)
    assert roll.max() == pytest.approx(10.0, abs=0.2)


def test_same_generator_same_poses() -> None:
    torch.testing.assert_close(sample(PosePriorConfig("dtu"), 5), sample(PosePriorConfig("dtu"), 5), atol=0.0, rtol=0.0)


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (PosePriorConfig(azimuth_deg=(90.0, 10.0)), "azimuth_deg"),
        (PosePriorConfig(azimuth_deg=(0.0, 361.0)), "azimuth_deg"),
        (PosePriorConfig(elevation_deg=(50.0, 40.0)), "elevation_deg"),
        (PosePriorConfig(elevation_deg=(-91.0, 0.0)), "elevation_deg"),
        (PosePriorConfig(elevation_deg=(0.0, 90.5)), "elevation_deg"),
        (PosePriorConfig(radius=(0.0, 1.0)), "radius"),
        (PosePriorConfig(radius=(2.0, 1.0)), "radius"),
        (PosePriorConfig(radius=(1.0, math.inf)), "radius"),
        (PosePriorConfig(look_at_jitter=-0.1), "look_at_jitter"),
        (PosePriorConfig(look_at_jitter=math.nan), "look_at_jitter"),
        (PosePriorConfig(roll_deg=(10.0, -10.0)), "roll_deg"),
    ],
)
def test_contradictory_ranges_are_refused(config: PosePriorConfig, names: str) -> None:
    with pytest.raises(InputError, match=names):
        config.resolve()


def test_object_filling_radius() -> None:
    assert object_filling_radius(math.radians(90.0)) == pytest.approx(1.0)
    assert object_filling_radius(math.radians(40.0)) == pytest.approx(2.747, abs=1e-3)
    for impossible in (0.0, -1.0, math.pi, math.nan):
        with pytest.raises(InputError, match="field of view"):
            object_filling_radius(impossible)
