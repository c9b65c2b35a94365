"""Values that change from a start to an end with progress."""

from typing import Tuple


def geometric(ends: Tuple[float, float], progress: float) -> float:
    """Geometric interpolation between two positive values, exact at both ends.

    Args:
        ends: values at progress 0 and 1.
        progress: position between them, in [0, 1].
    """
    first, last = ends
    return first * (last / first) ** progress


def linear(ends: Tuple[float, float], progress: float) -> float:
    """Linear interpolation between two values, exact at both ends; see `geometric`."""
    first, last = ends
    return first * (1.0 - progress) + last * progress
