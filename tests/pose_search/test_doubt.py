"""How likely a pose is wrong."""

import math

import pytest
import torch
from analytic_scene import random_poses
from hypothesis import given
from hypothesis import strategies as st

from gnerf_ns.cameras.pose_codec import rotate_poses
from gnerf_ns.cameras.pose_covariance import MIN_TURN_DEG
from gnerf_ns.pose_search.doubt import (
    EVEN_ADVANTAGE,
    WRONG_DEG,
    alternative_probabilities,
    are_elsewhere,
    wrong_probability,
)


def test_where_another_pose_fits_a_little_worse_it_is_as_likely():
    shares = torch.tensor([0.01, 0.01, 0.01, 0.01])
    elsewhere = shares * torch.tensor([math.exp(EVEN_ADVANTAGE), 1.0, 10.0, torch.inf])
    even, likelier, unlikely, none = alternative_probabilities(shares, elsewhere, torch.zeros(4)).tolist()
    assert even == pytest.approx(0.5) and likelier > 0.8 and 0.0 < unlikely < 1e-4 and none == 0.0


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.floats(-5.0, 5.0), st.floats(0.0, 5.0))
def test_probabilities_are_probabilities_whatever_is_unexplained(here: float, there: float, odds: float, more: float):
    shares = torch.tensor([[here], [there]])
    less, greater = (
        float(alternative_probabilities(shares[0], shares[1], torch.tensor([value]))) for value in (odds, odds + more)
    )
    assert 0.0 <= less <= greater <= 1.0


def test_a_pose_is_wrong_if_it_is_far_off_or_another_one():
    assert wrong_probability(math.nan, math.nan) == wrong_probability(0.0, 0.0) == 0.0
    assert wrong_probability(0.1, 0.25) == pytest.approx(0.25)
    assert wrong_probability(WRONG_DEG, 0.0) == pytest.approx(math.exp(-1.0))
    assert wrong_probability(WRONG_DEG, 0.5) == pytest.approx(0.5 + 0.5 * math.exp(-1.0))


@pytest.mark.parametrize(("turn_deg", "is_elsewhere"), [(MIN_TURN_DEG - 0.5, False), (MIN_TURN_DEG + 0.5, True)])
def test_quite_another_pose(turn_deg: float, is_elsewhere: bool):
    poses = random_poses(5)
    angle = math.radians(turn_deg)
    turn = torch.tensor(
        [[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0], [0.0, 0.0, 1.0]]
    )
    assert are_elsewhere(rotate_poses(turn, poses), poses).tolist() == [is_elsewhere] * 5
