"""Values between two ends, as a function of how much has passed."""

from typing import Tuple


def geometric(ends: Tuple[float, float], progress: float) -> float:
    """Value between two positive ends, changing by equal factors; exact at both ends."""
    first, last = ends
    return first * (last / first) ** progress


def linear(ends: Tuple[float, float], progress: float) -> float:
    """Value between two ends, changing by equal amounts; exact at both ends."""
    first, last = ends
    return first * (1.0 - progress) + last * progress
