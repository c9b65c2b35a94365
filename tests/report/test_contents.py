import math

import pytest

from gnerf_ns.report.contents import SURE_SIGMA_DEG, UNSURE_SIGMA_DEG, PoseFigures


def test_nothing_known_is_no_doubt_at_all():
    assert PoseFigures().doubt is None
    assert PoseFigures(is_flagged=False).doubt == 0.0


def test_a_flagged_pose_is_in_doubt_whatever_its_figures():
    assert PoseFigures(rotation_sigma_deg=0.01, alternative_probability=0.0, is_flagged=True).doubt == 1.0


@pytest.mark.parametrize(
    ("sigma", "probability", "doubt"),
    [
        (0.0, 0.0, 0.0),
        (SURE_SIGMA_DEG, math.nan, 0.0),
        (UNSURE_SIGMA_DEG, math.nan, 1.0),
        (90.0, 0.2, 1.0),
        (math.sqrt(SURE_SIGMA_DEG * UNSURE_SIGMA_DEG), 0.1, 0.5),
        (SURE_SIGMA_DEG, 0.7, 0.7),
        (math.nan, 0.3, 0.3),
    ],
)
def test_the_larger_doubt_counts(sigma: float, probability: float, doubt: float):
    figures = PoseFigures(rotation_sigma_deg=sigma, alternative_probability=probability, is_flagged=False)
    assert figures.doubt == pytest.approx(doubt)
