"""The learned distribution of poses: drawn by weight, near what is remembered, within the prior's ranges."""

import math

import torch
from torch.nn import functional

from gnerf_ns.cameras.look_at import look_at
from gnerf_ns.cameras.pose_prior import PosePopulation, PosePriorConfig, roll_of

RADIUS = 2.75
PRIOR = PosePriorConfig(radius=(0.8, 1.2), roll_deg=(-20.0, 20.0)).resolve()


def test_roll_is_what_look_at_was_given() -> None:
    roll = torch.linspace(-3.0, 3.0, 9)
    poses = look_at(functional.normalize(torch.randn(9, 3), dim=-1), roll=roll)
    torch.testing.assert_close(roll_of(poses), roll, atol=1e-5, rtol=1e-5)


def test_an_empty_one_says_so_and_remembers_the_newest() -> None:
    population = PosePopulation(5)
    assert population.is_empty
    first, second = PRIOR.sample(4, RADIUS, "cpu"), PRIOR.sample(3, RADIUS, "cpu")
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
    drawn = population.sample(4000, PRIOR.centered, RADIUS, spread=0.01)
    nearest = torch.cdist(drawn[..., 3], axes).argmin(dim=1)
    shares = torch.bincount(nearest, minlength=3) / 4000
    torch.testing.assert_close(shares, torch.tensor([0.25, 0.75, 0.0]), atol=0.03, rtol=0.0)


def test_children_differ_from_their_parent_as_much_as_asked_and_stay_within_the_prior() -> None:
    torch.manual_seed(0)
    population = PosePopulation(1)
    parent = look_at(1.19 * RADIUS * functional.normalize(torch.tensor([[1.0, 1.0, 0.5]]), dim=-1), roll=torch.zeros(1))
    population.remember(parent, torch.ones(1))
    children = population.sample(5000, PRIOR, RADIUS, spread=0.1)
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
