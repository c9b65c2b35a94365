"""A small island with a lighthouse, built from primitives, which looks different from every side.

All lengths are in scene units: the island stands in the unit sphere around the origin, +z up.
"""

from typing import List, Sequence

import numpy as np

from gnerf_ns.demo.ray_casting import PaintedPart, Points, checker, mix, plain, smooth_step, stripes, value_noise

TOWARDS_SUN = np.array([0.5, -0.6, 1.1])

WHITE = np.array([0.95, 0.94, 0.90])
RED = np.array([0.85, 0.15, 0.12])
GROUND = -0.41
"""Height of the island's top."""


def build_island() -> List[PaintedPart]:
    """Every part of the island."""
    return [_rock(), *_lighthouse(), *_cottage(), *_trees(), *_jetty(), _boat()]


def _rock() -> PaintedPart:
    """The ground: a disk with an uneven coast and layered cliffs."""
    import trimesh

    mesh = trimesh.creation.cylinder(radius=0.765, height=0.24, sections=72)
    mesh = mesh.subdivide().subdivide()
    x, y, z = mesh.vertices.T
    azimuth = np.arctan2(y, x)
    coast = 0.92 + 0.05 * np.sin(3.0 * azimuth + 0.5) + 0.03 * np.sin(7.0 * azimuth)
    narrower_below = np.where(z < 0.0, 0.88, 1.0)
    mesh.vertices = np.stack([x * coast * narrower_below, y * coast * narrower_below, z], axis=-1)
    mesh.apply_translation([0.0, 0.0, GROUND - 0.12])

    def paint(points: Points, normals: Points) -> Points:
        grain = value_noise(points, frequency=9.0)[:, None]
        grass = mix(np.array([0.20, 0.50, 0.16]), np.array([0.55, 0.70, 0.25]), grain)
        sand = mix(np.array([0.88, 0.74, 0.45]), np.array([0.96, 0.87, 0.62]), grain)
        # A beach in the south-east, a path from the cottage to the lighthouse.
        beach = smooth_step((points[:, :1] - points[:, 1:2]) * 0.7 + 0.25 * (grain - 0.5), 0.38, 0.42)
        path = smooth_step(np.abs(points[:, 1:2] - 0.12 * np.sin(6.0 * points[:, :1]) + 0.02), 0.07, 0.05)
        top = mix(mix(grass, sand, beach), np.array([0.62, 0.48, 0.36]) * (0.8 + 0.4 * grain), path * (1.0 - beach))
        strata = stripes(points[:, 2] + 0.03 * value_noise(points, frequency=4.0), period=0.09)
        cliff = mix(np.array([0.40, 0.27, 0.20]), np.array([0.66, 0.50, 0.36]), strata[:, None])
        return np.where(normals[:, 2:] > 0.5, top, cliff * (0.75 + 0.5 * grain))

    return PaintedPart(mesh, paint, np.zeros(3))


def _lighthouse() -> List[PaintedPart]:
    """A tapered tower with a spiral stripe, a gallery, a lantern and a blue cap."""
    import trimesh

    foot = np.array([-0.32, 0.18, GROUND])
    tower = trimesh.creation.cylinder(radius=0.24, height=0.86, sections=64)
    tower = tower.subdivide().subdivide()
    tower.vertices[:, 2] += 0.43
    tower.vertices[:, :2] *= (1.0 - 0.40 * tower.vertices[:, 2:] / 0.86).clip(min=0.0)
    tower.apply_translation(foot)

    def paint_tower(points: Points, normals: Points) -> Points:
        azimuth = np.arctan2(points[:, 1], points[:, 0])
        spiral = stripes(points[:, 2] + 0.14 * azimuth / np.pi, period=0.28)[:, None]
        color = mix(WHITE, RED, spiral)
        # A door to the east, windows that climb around the tower.
        door = (np.abs(azimuth) < 0.42) & (points[:, 2] < 0.2)
        climbing = (azimuth / (2.0 * np.pi)) % 1.0
        window = (np.abs((climbing * 3.0) % 1.0 - 0.5) < 0.12) & (np.abs(points[:, 2] - 0.32 - 0.38 * climbing) < 0.06)
        color[door] = [0.20, 0.32, 0.55]
        color[window] = [0.10, 0.12, 0.20]
        return color

    top = foot + np.array([0.0, 0.0, 0.86])
    gallery = trimesh.creation.cylinder(radius=0.21, height=0.05, sections=48)
    lantern = trimesh.creation.cylinder(radius=0.11, height=0.18, sections=32)
    cap = trimesh.creation.cone(radius=0.17, height=0.20, sections=48)
    gallery.apply_translation(top)
    lantern.apply_translation(top + [0.0, 0.0, 0.11])
    cap.apply_translation(top + [0.0, 0.0, 0.19])

    def paint_lantern(points: Points, normals: Points) -> Points:
        bars = stripes(np.arctan2(points[:, 1], points[:, 0]) / np.pi, period=0.5)[:, None]
        return mix(np.array([1.0, 0.86, 0.30]), np.array([0.98, 0.62, 0.10]), bars)

    def paint_cap(points: Points, normals: Points) -> Points:
        sectors = stripes(np.arctan2(points[:, 1], points[:, 0]) / np.pi, period=1.0)[:, None]
        return mix(np.array([0.10, 0.20, 0.55]), np.array([0.15, 0.60, 0.75]), sectors)

    return [
        PaintedPart(tower, paint_tower, foot),
        PaintedPart(gallery, plain(np.array([0.22, 0.22, 0.26])), top),
        PaintedPart(lantern, paint_lantern, top),
        PaintedPart(cap, paint_cap, top),
    ]


def _cottage() -> List[PaintedPart]:
    """A house with four different walls, two different roof slopes, and a chimney."""
    import trimesh

    center = np.array([0.36, -0.14, GROUND])
    turn = np.asarray(trimesh.transformations.rotation_matrix(np.radians(25.0), [0.0, 0.0, 1.0]))
    into_house = turn[:3, :3].T
    walls = trimesh.creation.box([0.46, 0.36, 0.32])
    walls.apply_translation([0.0, 0.0, 0.16])
    roof = trimesh.Trimesh(
        vertices=[[x, y, 0.32] for x in (-0.27, 0.27) for y in (-0.23, 0.23)] + [[-0.27, 0.0, 0.58], [0.27, 0.0, 0.58]]
    )
    roof = roof.convex_hull
    chimney = trimesh.creation.box([0.09, 0.09, 0.26])
    chimney.apply_translation([-0.14, 0.11, 0.52])

    def paint_walls(points: Points, normals: Points) -> Points:
        points, normals = points @ into_house.T, normals @ into_house.T
        checks = checker(points, size=0.08)[:, None]
        bricks = stripes(points[:, 2], period=0.08)[:, None]
        east = mix(np.array([0.25, 0.45, 0.85]), WHITE, checks)
        west = mix(np.array([0.95, 0.75, 0.15]), np.array([0.55, 0.25, 0.60]), bricks)
        north = mix(np.array([0.90, 0.55, 0.60]), WHITE, stripes(points[:, 0], period=0.1)[:, None])
        south = mix(np.array([0.80, 0.78, 0.70]), np.array([0.30, 0.62, 0.45]), bricks)
        along_x = np.where(normals[:, :1] > 0.0, east, west)
        along_y = np.where(normals[:, 1:2] > 0.0, north, south)
        color = np.where(np.abs(normals[:, :1]) > 0.5, along_x, along_y)
        front = normals[:, 1] < -0.5
        door = front & (np.abs(points[:, 0] + 0.1) < 0.06) & (points[:, 2] < 0.22)
        window = front & (np.abs(points[:, 0] - 0.1) < 0.06) & (np.abs(points[:, 2] - 0.18) < 0.05)
        color[door] = [0.45, 0.15, 0.10]
        color[window] = [0.98, 0.92, 0.55]
        return color

    def paint_roof(points: Points, normals: Points) -> Points:
        points, normals = points @ into_house.T, normals @ into_house.T
        tiles = checker(points * [1.0, 1.0, 0.0] + [0.0, 0.0, 0.01], size=0.075)[:, None]
        north = mix(np.array([0.86, 0.42, 0.12]), np.array([0.70, 0.26, 0.08]), tiles)
        south = mix(np.array([0.42, 0.20, 0.50]), np.array([0.62, 0.36, 0.70]), tiles)
        return np.where(normals[:, 1:2] > 0.0, north, south)

    for part in (walls, roof, chimney):
        part.apply_transform(turn)
        part.apply_translation(center)
    return [
        PaintedPart(walls, paint_walls, center),
        PaintedPart(roof, paint_roof, center),
        PaintedPart(chimney, plain(np.array([0.60, 0.20, 0.15])), center),
    ]


def _trees() -> List[PaintedPart]:
    """Two firs of different size and one round tree, all on the north side."""
    import trimesh

    parts: List[PaintedPart] = []

    def add(crown: "trimesh.Trimesh", position: Sequence[float], height: float, dark: Sequence[float]) -> None:
        foot = np.array([*position, GROUND])
        trunk = trimesh.creation.cylinder(radius=0.035, height=height, sections=16)
        trunk.apply_translation(foot + [0.0, 0.0, height / 2.0])
        crown.apply_translation(foot + [0.0, 0.0, height])

        def paint(points: Points, normals: Points) -> Points:
            leaves = value_noise(points, frequency=16.0)[:, None]
            return mix(np.array(dark), np.array(dark) * 1.5 + [0.12, 0.12, 0.02], leaves)

        parts.append(PaintedPart(trunk, plain(np.array([0.36, 0.22, 0.12])), foot))
        parts.append(PaintedPart(crown, paint, foot))

    add(trimesh.creation.cone(radius=0.17, height=0.50, sections=40), (0.18, 0.49), 0.10, [0.05, 0.30, 0.18])
    add(trimesh.creation.cone(radius=0.13, height=0.34, sections=40), (0.40, 0.39), 0.08, [0.10, 0.36, 0.10])
    add(trimesh.creation.icosphere(subdivisions=3, radius=0.15), (-0.10, 0.57), 0.26, [0.62, 0.26, 0.08])
    return parts


def _jetty() -> List[PaintedPart]:
    """A striped jetty on posts in the south-west."""
    import trimesh

    center = np.array([-0.36, -0.45, GROUND + 0.06])
    turn = trimesh.transformations.rotation_matrix(np.radians(50.0), [0.0, 0.0, 1.0])
    deck = trimesh.creation.box([0.50, 0.16, 0.03])
    posts = [trimesh.creation.cylinder(radius=0.018, height=0.16, sections=12) for _ in range(6)]
    for number, post in enumerate(posts):
        post.apply_translation([0.2 * (number // 2 - 1), 0.14 * (number % 2) - 0.07, 0.0])
    for part in (deck, *posts):
        part.apply_transform(turn)
        part.apply_translation(center)

    def paint_deck(points: Points, normals: Points) -> Points:
        planks = stripes((points @ turn[:3, :3])[:, 0], period=0.1)[:, None]
        return mix(np.array([0.75, 0.58, 0.38]), np.array([0.48, 0.33, 0.20]), planks)

    turquoise = plain(np.array([0.25, 0.85, 0.85]))
    return [PaintedPart(deck, paint_deck, center), *(PaintedPart(post, turquoise, center) for post in posts)]


def _boat() -> PaintedPart:
    """An upturned rowing boat on the beach."""
    import trimesh

    center = np.array([0.18, -0.53, GROUND])
    hull = trimesh.creation.icosphere(subdivisions=4, radius=1.0)
    hull.apply_scale([0.22, 0.09, 0.10])
    hull.apply_transform(trimesh.transformations.rotation_matrix(np.radians(-15.0), [0.0, 0.0, 1.0]))
    hull.apply_translation(center)

    def paint(points: Points, normals: Points) -> Points:
        band = stripes(points[:, 2], period=0.066)[:, None]
        return mix(np.array([0.10, 0.55, 0.55]), np.array([0.98, 0.98, 0.92]), band)

    return PaintedPart(hull, paint, center)
