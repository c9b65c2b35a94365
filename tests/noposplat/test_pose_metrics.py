"""Errors of relative poses, and the area under their curve."""

import numpy as np
import pytest
import roma
import torch
from hypothesis import given
from hypothesis import strategies as st

from gnerf_ns.noposplat.pose_metrics import pose_auc, relative_pose_errors


def pose(turn_deg: float, position: tuple) -> torch.Tensor:
    rotation = roma.rotvec_to_rotmat(torch.tensor([0.0, turn_deg, 0.0]).double().deg2rad())
    return torch.cat([rotation, torch.tensor(position).double()[:, None]], dim=1)


@pytest.mark.parametrize(
    ("estimated", "rotation_deg", "translation_deg"),
    [
        (pose(30.0, (2.0, 0.0, 0.0)), 0.0, 0.0),  # length does not count
        (pose(50.0, (-1.0, 0.0, 0.0)), 20.0, 0.0),  # nor does the sign
        (pose(30.0, (1.0, 0.0, 1.0)), 0.0, 45.0),
        (pose(-150.0, (-1.0, 0.0, 1e-9)), 180.0, 0.0),
        (pose(30.0, (0.0, 3.0, 0.0)), 0.0, 90.0),
        (pose(30.0, (0.0, 0.0, 0.0)), 0.0, 90.0),
        (torch.full((3, 4), float("nan"), dtype=torch.float64), 180.0, 90.0),
    ],
)
def test_errors(estimated: torch.Tensor, rotation_deg: float, translation_deg: float):
    errors = relative_pose_errors(estimated[None], pose(30.0, (1.0, 0.0, 0.0))[None])
    assert float(errors.rotation_deg) == pytest.approx(rotation_deg, abs=1e-5)
    assert float(errors.translation_deg) == pytest.approx(translation_deg, abs=1e-5)
    assert float(errors.pose_deg) == pytest.approx(max(rotation_deg, translation_deg), abs=1e-5)


def test_area_computed_by_hand():
    # Up to 5: from (0, 0) to (2, 1/3), to (4, 2/3), level to 5: 1/3 + 1 + 2/3 = 2, of 5. Up to 10: 16/3 of 10.
    areas = pose_auc(torch.tensor([30.0, 2.0, 4.0]))
    assert areas == {5.0: pytest.approx(0.4), 10.0: pytest.approx(16 / 30), 20.0: pytest.approx(36 / 60)}


@pytest.mark.parametrize(("error", "area"), [(0.0, 1.0), (5.0, 0.0), (180.0, 0.0), (float("inf"), 0.0)])
def test_area_of_one_pose(error: float, area: float):
    assert pose_auc(torch.tensor([error]), [5.0])[5.0] == area


@given(st.lists(st.floats(0.01, 60.0), min_size=1, max_size=30), st.sampled_from([5.0, 10.0, 20.0]))
def test_area_equals_a_sum_of_thin_strips(errors: list, threshold: float):
    positions = (np.arange(20_000) + 0.5) / 20_000 * threshold
    known = np.sort(errors)
    below = known[known < threshold]
    heights = np.interp(positions, [0.0, *below], np.arange(len(below) + 1) / len(known))
    assert pose_auc(torch.tensor(errors), [threshold])[threshold] == pytest.approx(heights.mean(), abs=2e-4)
