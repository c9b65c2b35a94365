"""How sure a pose is, as a color: evenly spaced to the eye, and to those who cannot tell red from green."""

from __future__ import annotations

import math
from typing import List, Optional, Tuple

from matplotlib import colormaps

from gnerf_ns.cameras.pose_covariance import MIN_TURN_DEG

Rgb = Tuple[int, int, int]

UNKNOWN_COLOR: Rgb = (150, 150, 150)
"""While nothing is known of how sure a pose is."""
FLAG_COLOR: Rgb = (230, 30, 30)
"""Of what marks a pose that is not to be trusted; it is thick as well, for who sees no red."""

SCALE_DEG = (0.1, 10.0)
"""Expected errors at the ends of the scale; between them it is logarithmic, as errors are spread."""
_SCALE_ENDS = (0.25, 0.97)
"""The part of matplotlib's viridis in use: its darkest colors are hard to see over a dark rendering."""


def expected_error_deg(rotation_sigma_deg: float, alternative_probability: float) -> Optional[float]:
    """Root mean square of the rotation error that is to be expected of a pose, in degrees.

    Args:
        rotation_sigma_deg: standard deviation about the pose, in degrees; NaN where that is unknown.
        alternative_probability: that it is another pose, at least `MIN_TURN_DEG` away; NaN where that is unknown.

    Returns:
        None where both are unknown; else, what is unknown counts as nothing.
    """
    if math.isnan(rotation_sigma_deg) and math.isnan(alternative_probability):
        return None
    sigma, probability = (0.0 if math.isnan(each) else each for each in (rotation_sigma_deg, alternative_probability))
    return math.sqrt((1.0 - probability) * sigma**2 + probability * MIN_TURN_DEG**2)


def hexadecimal(color: Rgb) -> str:
    """A color as pages of HTML have it."""
    return "#" + "".join(f"{channel:02x}" for channel in color)


def scale_colors(count: int) -> List[Rgb]:
    """The scale's colors from its first to its last, as evenly spread as errors by their logarithm.

    Args:
        count: how many; at least two.
    """
    first, last = SCALE_DEG
    return [confidence_color(first * (last / first) ** (number / (count - 1))) for number in range(count)]


def confidence_color(error_deg: Optional[float]) -> Rgb:
    """From blue for a sure pose to yellow for a doubtful one; gray where nothing is known.

    Args:
        error_deg: to be expected, in degrees.
    """
    if error_deg is None:
        return UNKNOWN_COLOR
    low, high = (math.log(end) for end in SCALE_DEG)
    share = min(1.0, max(0.0, (math.log(max(error_deg, SCALE_DEG[0])) - low) / (high - low)))
    first, last = _SCALE_ENDS
    red, green, blue = (round(255 * channel) for channel in colormaps["viridis"](first + share * (last - first))[:3])
    return red, green, blue
