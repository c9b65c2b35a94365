"""Ray casting of painted meshes on the CPU, and patterns to paint them with."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, Sequence

import numpy as np
from jaxtyping import Float, UInt8

if TYPE_CHECKING:
    from trimesh import Trimesh

Points = Float[np.ndarray, "points 3"]

Paint = Callable[[Points, Points], Points]
"""Maps points and outward unit normals, both in the part's own frame, to RGB colors in [0, 1]."""

AMBIENT = 0.46
SKY = 0.18
SUN = 0.46
"""Shares of the light that comes from everywhere, from above, and from the sun."""

SHADOW_OFFSET = 1e-3
"""Distance between a surface and the start of its shadow rays, in scene units, so that it does not shadow itself."""


@dataclass
class PaintedPart:
    """A closed mesh with a colored surface."""

    mesh: "Trimesh"
    """The mesh in the world's frame."""
    paint: Paint
    """Colors of the surface."""
    origin: Float[np.ndarray, "3"]
    """Origin of the part's own frame, whose axes are parallel to the world's."""


class RayCaster:
    """Renders painted parts in sunlight, with shadows and ambient light.

    Attributes:
        parts: the parts.
        bounding_radius: radius of the smallest sphere around the origin that contains them, in scene units.
    """

    def __init__(self, parts: Sequence[PaintedPart], towards_sun: Float[np.ndarray, "3"]) -> None:
        import trimesh

        self.parts = list(parts)
        mesh = trimesh.util.concatenate([part.mesh for part in self.parts])
        assert isinstance(mesh, trimesh.Trimesh)
        self._caster = mesh.ray
        self._corners = np.asarray(mesh.triangles[:, 0])
        self._normals = np.asarray(mesh.face_normals)
        self._part_of_triangle = np.repeat(np.arange(len(self.parts)), [len(part.mesh.faces) for part in self.parts])
        self._towards_sun = towards_sun / np.linalg.norm(towards_sun)
        self.bounding_radius = float(np.linalg.norm(mesh.vertices, axis=1).max())

    def render(
        self, camera_to_world: Float[np.ndarray, "3 4"], fov_rad: float, side: int, samples_per_side: int
    ) -> UInt8[np.ndarray, "side side 4"]:
        """Render a square image with straight (not premultiplied) alpha.

        Args:
            camera_to_world: pose with OpenGL axes (x right, y up, z backward).
            fov_rad: field of view, in radians.
            side: side of the image, in pixels.
            samples_per_side: rays along each side of a pixel; a pixel is the mean of their square.
        """
        count = side * samples_per_side
        across = ((np.arange(count) + 0.5) / count * 2.0 - 1.0) * np.tan(fov_rad / 2.0)
        directions = np.stack([*np.meshgrid(across, -across), -np.ones((count, count))], axis=-1).reshape(-1, 3)
        directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
        directions = directions @ camera_to_world[:, :3].T
        origin = camera_to_world[:, 3]

        # Rays that miss the bounding sphere hit nothing.
        along = directions @ origin
        candidates = np.flatnonzero(along**2 >= origin @ origin - self.bounding_radius**2)
        premultiplied = np.zeros((len(directions), 4))
        premultiplied[candidates] = self._radiance(origin, directions[candidates])

        premultiplied = premultiplied.reshape(side, samples_per_side, side, samples_per_side, 4).mean(axis=(1, 3))
        alpha = premultiplied[..., 3:]
        color = premultiplied[..., :3] / np.maximum(alpha, 1e-6)
        return np.round(np.concatenate([color, alpha], axis=-1).clip(0.0, 1.0) * 255.0).astype(np.uint8)

    def _radiance(
        self, origin: Float[np.ndarray, "3"], directions: Float[np.ndarray, "rays 3"]
    ) -> Float[np.ndarray, "rays 4"]:
        """RGB and opacity along rays; all zero for rays that hit nothing."""
        triangles = self._caster.intersects_first(np.broadcast_to(origin, directions.shape), directions)
        hits = triangles >= 0
        triangles, directions = triangles[hits], directions[hits]
        normals = self._normals[triangles]
        distances = np.sum((self._corners[triangles] - origin) * normals, axis=-1) / np.sum(
            directions * normals, axis=-1
        )
        points = origin + distances[:, None] * directions

        light = AMBIENT + SKY * (normals[:, 2] + 1.0) / 2.0 + SUN * self._sunlight(points, normals)
        colors = np.zeros((len(points), 3))
        for number, part in enumerate(self.parts):
            own = self._part_of_triangle[triangles] == number
            if own.any():
                colors[own] = part.paint(points[own] - part.origin, normals[own])
        radiance = np.zeros((len(hits), 4))
        radiance[hits, :3], radiance[hits, 3] = (colors * light[:, None]).clip(0.0, 1.0), 1.0
        return radiance

    def _sunlight(
        self, points: Float[np.ndarray, "points 3"], normals: Float[np.ndarray, "points 3"]
    ) -> Float[np.ndarray, "points"]:
        """Lambert's cosine, or 0 in shadow."""
        cosines = (normals @ self._towards_sun).clip(min=0.0)
        lit = np.flatnonzero(cosines > 0.0)
        starts = points[lit] + SHADOW_OFFSET * normals[lit]
        hidden = self._caster.intersects_any(starts, np.broadcast_to(self._towards_sun, starts.shape))
        cosines[lit[hidden]] = 0.0
        return cosines


def plain(color: Float[np.ndarray, "3"]) -> Paint:
    """One color everywhere."""
    return lambda points, normals: np.broadcast_to(color, points.shape).copy()


def mix(
    first: Float[np.ndarray, "*#points 3"],
    second: Float[np.ndarray, "*#points 3"],
    share: Float[np.ndarray, "points 1"],
) -> Points:
    """``first`` where ``share`` is 0, ``second`` where it is 1."""
    return first + (second - first) * share


def stripes(coordinate: Float[np.ndarray, "points"], period: float) -> Float[np.ndarray, "points"]:
    """Alternately 0 and 1, each over half a period."""
    return np.floor(coordinate / period * 2.0) % 2.0


def checker(points: Points, size: float) -> Float[np.ndarray, "points"]:
    """Alternately 0 and 1 on the cubes of a grid."""
    # The shift keeps flat faces at round coordinates away from the borders of the cubes.
    return np.floor((points + 1.234e-3) / size).sum(axis=-1) % 2.0


def smooth_step(
    value: Float[np.ndarray, "points 1"], from_value: float, to_value: float
) -> Float[np.ndarray, "points 1"]:
    """0 at ``from_value`` and before, 1 at ``to_value`` and beyond, smooth in between."""
    share = ((value - from_value) / (to_value - from_value)).clip(0.0, 1.0)
    return share * share * (3.0 - 2.0 * share)


def value_noise(points: Points, frequency: float) -> Float[np.ndarray, "points"]:
    """Smooth noise in [0, 1]: fixed random values on a lattice, interpolated trilinearly.

    Args:
        points: positions, in scene units.
        frequency: cells of the lattice per unit.
    """
    from scipy.ndimage import map_coordinates

    lattice = np.random.default_rng(7).random((32, 32, 32))
    coordinates = (points.T * frequency) % 32.0
    return map_coordinates(lattice, coordinates, order=1, mode="grid-wrap")
