"""The pose prior: presets, what is sampled, which ranges are refused; and the distribution learned in its place."""

import math

import pytest
import torch
from torch.nn import functional

from gnerf_ns.cameras.look_at import look_at
from gnerf_ns.cameras.pose_prior import PosePopulation, PosePriorConfig, object_filling_radius, roll_of
from gnerf_ns.utils.errors import InputError

RADIUS = 2.75
LOOSE_PRIOR = PosePriorConfig(radius=(0.8, 1.2), roll_deg=(-20.0, 20.0)).resolve()


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


# The learned distribution


def test_roll_is_what_look_at_was_given() -> None:
    roll = torch.linspace(-3.0, 3.0, 9)
    poses = look_at(functional.normalize(torch.randn(9, 3), dim=-1), roll=roll)
    torch.testing.assert_close(roll_of(poses), roll, atol=1e-5, rtol=1e-5)


def test_an_empty_one_says_so_and_remembers_the_newest() -> None:
    population = PosePopulation(5)
    assert population.is_empty
    first, second = LOOSE_PRIOR.sample(4, RADIUS, "cpu"), LOOSE_PRIOR.sample(3, RADIUS, "cpu")
    population.remember(first, torch.ones(4))
    population.remember(second, 2.0 * torch.ones(3))
    assert not population.is_empty
    torch.testing.assert_close(population.poses, torch.cat([second, first[:2]]))
    assert population.weights.tolist() == [2.0, 2.0, 2.0, 1.0, 1.0]
    assert set(population.state_dict()) == {"poses", "weights"}


def test_poses_are_drawn_by_weight() -> None:
    torch.manual_seed(0)
    population = PosePopulation(3)
    axes = RADIUS * torch.eye(3)
    population.remember(look_at(axes), torch.tensor([1.0, 3.0, 0.0]))
    drawn = population.sample(4000, LOOSE_PRIOR.centered, RADIUS, spread=0.01)
    nearest = torch.cdist(drawn[..., 3], axes).argmin(dim=1)
    shares = torch.bincount(nearest, minlength=3) / 4000
    torch.testing.assert_close(shares, torch.tensor([0.25, 0.75, 0.0]), atol=0.03, rtol=0.0)


def test_children_differ_from_their_parent_as_much_as_asked_and_stay_within_the_prior() -> None:
    torch.manual_seed(0)
    population = PosePopulation(1)
    parent = look_at(1.19 * RADIUS * functional.normalize(torch.tensor([[1.0, 1.0, 0.5]]), dim=-1), roll=torch.zeros(1))
    population.remember(parent, torch.ones(1))
    children = population.sample(5000, LOOSE_PRIOR, RADIUS, spread=0.1)
    directions = functional.normalize(children[..., 3], dim=-1)
    angles = torch.arccos((directions * functional.normalize(parent[..., 3], dim=-1)).sum(-1).clamp(-1.0, 1.0))
    assert abs(float(angles.square().mean().sqrt()) - 0.1 * math.sqrt(2.0)) < 0.01  # two axes
    distances = torch.linalg.vector_norm(children[..., 3], dim=-1) / RADIUS
    assert distances.max() <= 1.2 + 1e-5 and distances.min() > 1.0
    rolls = torch.rad2deg(roll_of(children))
    assert abs(float(rolls.std()) - 4.0) < 0.3  # a tenth of the range


def test_a_wide_prior_narrows() -> None:
    """Images from the upper half alone, a prior all around: after some rounds most draws are in the upper half."""
    torch.manual_seed(0)
    wide = PosePriorConfig(elevation_deg=(-90.0, 90.0)).resolve()
    truth = PosePriorConfig(elevation_deg=(20.0, 60.0)).resolve().sample(40, 1.0, "cpu")[..., 3]
    population = PosePopulation(400)
    drawn = wide.sample(80, 1.0, "cpu")
    for _ in range(20):
        # How well a pose explains an image, by distance alone.
        votes = torch.softmax(-torch.cdist(truth, drawn[..., 3]).square() / 0.05, dim=1).sum(dim=0)
        population.remember(drawn, votes)
        drawn = torch.cat([wide.sample(40, 1.0, "cpu"), population.sample(40, wide, 1.0, 0.1)])
    elevations = torch.rad2deg(torch.asin(population.sample(2000, wide, 1.0, 0.05)[..., 2, 3].clamp(-1.0, 1.0)))
    assert ((elevations > 5.0) & (elevations < 75.0)).float().mean() > 0.95
    assert elevations.std() > 8.0  # it has not collapsed to one pose
