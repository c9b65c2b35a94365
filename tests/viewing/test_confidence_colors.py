"""Expected errors and their colors."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnerf_ns.cameras.pose_covariance import MIN_TURN_DEG
from gnerf_ns.viewing.confidence_colors import (
    FLAG_COLOR,
    SCALE_DEG,
    UNKNOWN_COLOR,
    confidence_color,
    expected_error_deg,
    hexadecimal,
    scale_colors,
)

NAN = float("nan")
# Viénot, Brettel and Mollon (1999), in linear RGB: what protanopes and deuteranopes see.
BLINDNESS = {
    "protanopia": np.array([[0.112, 0.888, 0.0], [0.112, 0.888, 0.0], [0.004, -0.004, 1.0]]),
    "deuteranopia": np.array([[0.293, 0.707, 0.0], [0.293, 0.707, 0.0], [-0.021, 0.021, 1.0]]),
}


def lightness(color, blindness=None) -> float:
    """CIE L*, in [0, 100]."""
    seen = luminance(color, blindness)
    return 116 * seen ** (1 / 3) - 16 if seen > 0.008856 else 903.3 * seen


def luminance(color, blindness=None) -> float:
    """Relative one, in [0, 1], of sRGB."""
    share = np.array(color) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return float((linear if blindness is None else blindness @ linear) @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize(
    "sigma, probability, expected",
    [
        (0.5, 0.0, 0.5),
        (0.0, 1.0, MIN_TURN_DEG),
        (3.0, 0.5, math.sqrt(0.5 * 9 + 0.5 * MIN_TURN_DEG**2)),
        (NAN, 0.25, MIN_TURN_DEG / 2),
        (2.0, NAN, 2.0),
        (NAN, NAN, None),
    ],
)
def test_expected_error(sigma, probability, expected):
    assert expected_error_deg(sigma, probability) == pytest.approx(expected)


@given(st.floats(0.0, 20.0), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_more_doubt_is_no_smaller_error(sigma, one, other):
    low, high = sorted((one, other))
    if sigma <= MIN_TURN_DEG:
        less, more = expected_error_deg(sigma, low), expected_error_deg(sigma, high)
        assert less is not None and more is not None and less <= more + 1e-9


@pytest.mark.parametrize("blindness", [None, *BLINDNESS.values()])
def test_equal_ratios_of_errors_are_equal_steps_of_lightness(blindness):
    errors = np.geomspace(*SCALE_DEG, 9)
    steps = np.diff([lightness(confidence_color(error), blindness) for error in errors])
    assert steps.min() > 0.6 * steps.mean() and steps.max() < 1.5 * steps.mean() and steps.mean() > 5


def test_ends_of_the_scale():
    assert confidence_color(0.0) == confidence_color(SCALE_DEG[0])
    assert confidence_color(1e9) == confidence_color(SCALE_DEG[1])
    blue, yellow = confidence_color(SCALE_DEG[0]), confidence_color(SCALE_DEG[1])
    assert blue[2] > blue[0] and yellow[0] > 200 and yellow[1] > 200 and yellow[2] < 100


def test_all_are_seen_on_the_dark_ground_of_the_report():
    """By WCAG's contrast, of which graphics need 3 and thick lines get by with less."""
    ground = luminance((0x0D, 0x11, 0x17))
    for color in (*scale_colors(9), UNKNOWN_COLOR, FLAG_COLOR):
        assert (luminance(color) + 0.05) / (ground + 0.05) > 2.0


def test_unknown_and_flagged_are_no_colors_of_the_scale():
    scale = np.array([confidence_color(error) for error in np.geomspace(*SCALE_DEG, 50)])
    assert confidence_color(None) == UNKNOWN_COLOR
    for color in (UNKNOWN_COLOR, FLAG_COLOR):
        assert np.abs(scale - color).max(axis=1).min() > 30


def test_colors_of_pages():
    assert hexadecimal((0, 10, 255)) == "#000aff"
    assert scale_colors(3) == [confidence_color(error) for error in (0.1, 1.0, 10.0)]
