"""A chair whose left and right sides differ only by a cup, so that it is hard to tell from its mirror image.

All lengths are in scene units: the chair stands in the unit sphere around the origin, +z up, its front towards +x.
"""

from typing import List

import numpy as np

from gnerf_ns.demo.ray_casting import PaintedPart, Points, mix, plain, stripes, value_noise

TOWARDS_SUN = np.array([0.4, 0.0, 1.0])
"""In the chair's plane of symmetry, so that light and shadows are symmetric, too."""

FLOOR = -0.72
SEAT = -0.12
"""Heights of the feet's lower end and of the seat's top."""

HALF_WIDTH = 0.40
DARK_WOOD = np.array([0.36, 0.22, 0.13])
LIGHT_WOOD = np.array([0.58, 0.38, 0.22])


def build_chair() -> List[PaintedPart]:
    """Every part of the chair."""
    return [*_legs(), _seat(), *_back(), *_armrests(), *_cup()]


def _box(size: List[float], center: List[float]) -> PaintedPart:
    """A piece of wood with a grain that is symmetric in the chair."""
    import trimesh

    mesh = trimesh.creation.box(size)
    mesh.apply_translation(center)

    def paint(points: Points, normals: Points) -> Points:
        grain = value_noise((points + center) * [1.0, 0.0, 1.0] + np.abs((points + center) * [0.0, 1.0, 0.0]), 7.0)
        return mix(DARK_WOOD, LIGHT_WOOD, grain[:, None])

    return PaintedPart(mesh, paint, np.array(center))


def _legs() -> List[PaintedPart]:
    height = SEAT - 0.06 - FLOOR
    return [
        _box([0.07, 0.07, height], [x, y, FLOOR + height / 2.0])
        for x in (-0.36, 0.36)
        for y in (-HALF_WIDTH + 0.04, HALF_WIDTH - 0.04)
    ]


def _seat() -> PaintedPart:
    """A striped cushion."""
    import trimesh

    mesh = trimesh.creation.box([0.82, 2.0 * HALF_WIDTH, 0.10])
    center = np.array([0.0, 0.0, SEAT - 0.05])
    mesh.apply_translation(center)

    def paint(points: Points, normals: Points) -> Points:
        bands = stripes(np.abs(points[:, 1]) + 0.04, period=0.16)[:, None]
        return mix(np.array([0.72, 0.16, 0.18]), np.array([0.92, 0.82, 0.62]), bands)

    return PaintedPart(mesh, paint, center)


def _back() -> List[PaintedPart]:
    """Two posts, five slats, and a rail on top."""
    posts = [_box([0.07, 0.07, 0.72], [-0.38, y, SEAT + 0.36]) for y in (-HALF_WIDTH + 0.04, HALF_WIDTH - 0.04)]
    slats = [_box([0.03, 0.05, 0.56], [-0.38, y, SEAT + 0.32]) for y in (-0.24, -0.12, 0.0, 0.12, 0.24)]
    return [*posts, *slats, _box([0.09, 2.0 * HALF_WIDTH, 0.12], [-0.38, 0.0, SEAT + 0.66])]


def _armrests() -> List[PaintedPart]:
    rests = [_box([0.72, 0.08, 0.05], [-0.02, y, SEAT + 0.30]) for y in (-HALF_WIDTH, HALF_WIDTH)]
    posts = [_box([0.06, 0.06, 0.28], [0.28, y, SEAT + 0.14]) for y in (-HALF_WIDTH, HALF_WIDTH)]
    return [*rests, *posts]


def _cup() -> List[PaintedPart]:
    """A small cup on the left armrest, the only difference between left and right."""
    import trimesh

    foot = np.array([0.18, HALF_WIDTH, SEAT + 0.325])
    cup = trimesh.creation.cylinder(radius=0.06, height=0.12, sections=32)
    cup.apply_translation(foot + [0.0, 0.0, 0.06])
    return [PaintedPart(cup, plain(np.array([0.20, 0.45, 0.75])), foot)]
