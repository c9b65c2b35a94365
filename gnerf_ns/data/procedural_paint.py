"""Colours of procedural surfaces: flat, striped, chequered, noisy."""

import numpy as np
from jaxtyping import Float

from gnerf_ns.data.ray_cast_rendering import Paint

Points = Float[np.ndarray, "points 3"]


def plain(colour: Float[np.ndarray, "3"]) -> Paint:
    """One colour all over."""
    return lambda points, normals: np.broadcast_to(colour, points.shape).copy()


def mix(
    first: Float[np.ndarray, "*#points 3"],
    second: Float[np.ndarray, "*#points 3"],
    share: Float[np.ndarray, "points 1"],
) -> Points:
    """``first`` where ``share`` is 0, ``second`` where it is 1."""
    return first + (second - first) * share


def stripes(coordinate: Float[np.ndarray, "points"], period: float) -> Float[np.ndarray, "points"]:
    """0 and 1 in turn, each over half a period."""
    return np.floor(coordinate / period * 2.0) % 2.0


def checker(points: Points, size: float) -> Float[np.ndarray, "points"]:
    """0 and 1 on the cubes of a chess board in space."""
    # The shift keeps flat faces at round coordinates away from the cubes' borders.
    return np.floor((points + 1.234e-3) / size).sum(axis=-1) % 2.0


def smooth_step(
    value: Float[np.ndarray, "points 1"], from_value: float, to_value: float
) -> Float[np.ndarray, "points 1"]:
    """0 before ``from_value``, 1 after ``to_value``, smooth between."""
    share = ((value - from_value) / (to_value - from_value)).clip(0.0, 1.0)
    return share * share * (3.0 - 2.0 * share)


def value_noise(points: Points, frequency: float) -> Float[np.ndarray, "points"]:
    """Smooth noise in [0, 1]: fixed random values on a lattice of ``frequency`` cells a unit, joined trilinearly."""
    from scipy.ndimage import map_coordinates

    lattice = np.random.default_rng(7).random((32, 32, 32))
    coordinates = (points.T * frequency) % 32.0
    return map_coordinates(lattice, coordinates, order=1, mode="grid-wrap")
