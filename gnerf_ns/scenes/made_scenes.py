"""Scenes made by seed: textured solids in a room or in the open, filmed along a path, with exact depths.

For training a small network, for benchmarks and for tests. Scenes of another kind, with shapes and textures that the
first has not, tell whether what was learned on the first holds elsewhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Dict, List, Literal, Tuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from gnerf_ns.data.images import ImageSize
from gnerf_ns.scenes.scene_data import SceneCameras, SceneKind

MadeKind = Literal["balls-and-boxes", "other-solids"]
"""What is in a scene: balls and boxes in a square room or on a plane; or cylinders and octahedra in a round room, with
other textures."""

FIRST_TRAINING_SEED = 10_000
"""Scenes with lower seeds are held out; figures are for the first hundred."""

NUM_FRAMES, NUM_TRAINING_FRAMES = 48, 13
"""Of each scene; and of one to train on, where the same path has fewer: they are drawn once and used several times."""

_SCENES_KEPT = 32
"""So many scenes are kept with the frames that were drawn of them: training comes back to them."""

_SHAPES: Dict[MadeKind, Tuple[str, ...]] = {
    "balls-and-boxes": ("ball", "box"),
    "other-solids": ("cylinder", "octahedron"),
}
_TEXTURES: Dict[MadeKind, Tuple[str, ...]] = {
    "balls-and-boxes": ("checker", "stripes", "clouds", "spots", "patches"),
    "other-solids": ("bricks", "cells", "rings"),
}

_NUM_SOLIDS = (6, 12)
"""Least and most in a scene, besides its walls."""
_SOLID_SIZES = (0.2, 0.65)
"""Half the length of a solid along each of its axes."""
_REACH = 2.2
"""Solids stand within this distance of the middle of the scene."""
_CLEARANCE = 0.4
"""Between a camera and what it films: the box-shaped walls, or a ball around a solid."""
_FOV_DEG = (45.0, 80.0)
"""Along the image's longer side. One lens a scene."""
_CENTER_SHIFT = 0.02
"""By how much a principal point may be off the middle, as a share of the image's sides."""


@dataclass(frozen=True)
class _Solids:
    """What a scene consists of; see `ray_kernels`. The world's z axis points up."""

    shapes: Int[np.ndarray, "solids"]
    seen_from_within: Bool[np.ndarray, "solids"]
    to_local: Float[np.ndarray, "solids 3 4"]
    textures: Int[np.ndarray, "solids"]
    to_texture: Float[np.ndarray, "solids 3 4"]
    salts: Int[np.ndarray, "solids"]
    colors: Float[np.ndarray, "solids 3 3"]
    sun: Float[np.ndarray, "3"]


class MadeScene:
    """One scene; its images are drawn when they are first asked for, in a few milliseconds at 64 pixels.

    Attributes:
        size: of the images, in pixels.
        cameras: of all frames; the room is some 10 units wide.
    """

    def __init__(
        self, seed: int, kind: MadeKind, size: ImageSize, num_frames: int = NUM_FRAMES, samples_per_side: int = 2
    ) -> None:
        """
        Args:
            seed: what it is made from.
            kind: what is in it.
            size: of the images, in pixels.
            num_frames: along the path, at equal steps.
            samples_per_side: rays along each side of a pixel; a pixel is the mean of their square.
        """
        self.size, self._samples = size, samples_per_side
        generator = np.random.default_rng([seed, list(_SHAPES).index(kind)])
        room = _Room(generator, kind)
        self._camera_to_worlds = _path(generator, room, num_frames)
        self._lens = _lens(generator, size)
        self.cameras = _cameras(self._lens, size, self._camera_to_worlds)
        self._solids = _solids(generator, kind, room, self._camera_to_worlds[:, :, 3])
        self._images: Dict[int, UInt8[np.ndarray, "height width 3"]] = {}
        self._depths: Dict[int, Float[Tensor, "height width"]] = {}

    def image(self, frame: int) -> UInt8[np.ndarray, "height width 3"]:
        """See `Scene.image`."""
        if frame not in self._images:
            self._images[frame] = self._draw(frame)
        return self._images[frame]

    def depth(self, frame: int) -> Float[Tensor, "height width"]:
        """Exact depth along the axis at each pixel's center, in units of the cameras."""
        if frame not in self._depths:
            self._depths[frame] = self._draw_depth(frame)
        return self._depths[frame]

    def _draw(self, frame: int) -> UInt8[np.ndarray, "height width 3"]:
        from gnerf_ns.scenes import ray_kernels  # numba takes a second

        image, solids = np.empty((self.size.height, self.size.width, 3)), self._solids
        ray_kernels.draw_colors(
            self._camera_to_worlds[frame],
            self._lens,
            solids.shapes,
            solids.seen_from_within,
            solids.to_local,
            solids.textures,
            solids.to_texture,
            solids.salts,
            solids.colors,
            solids.sun,
            self._samples,
            image,
        )
        return (255.0 * image).round().astype(np.uint8)

    def _draw_depth(self, frame: int) -> Float[Tensor, "height width"]:
        from gnerf_ns.scenes import ray_kernels

        depths, solids = np.empty((self.size.height, self.size.width)), self._solids
        ray_kernels.draw_depths(
            self._camera_to_worlds[frame],
            self._lens,
            solids.shapes,
            solids.seen_from_within,
            solids.to_local,
            depths,
        )
        return torch.from_numpy(depths)


class MadeScenes:
    """Scenes of consecutive seeds: a `SceneGroup`."""

    kind: SceneKind = "made"

    def __init__(self, seeds: range, kind: MadeKind, size: ImageSize, num_frames: int = NUM_FRAMES) -> None:
        """
        Args:
            seeds: `range(100)` for what is held out; for training, from `FIRST_TRAINING_SEED`.
            kind: what is in the scenes.
            size: of the images, in pixels.
            num_frames: of each scene.
        """
        self.name, self.keys = f"made scenes ({kind})", [str(seed) for seed in seeds]
        self._kind: MadeKind = kind
        self._size, self._num_frames = size, num_frames

    def scene(self, key: str) -> MadeScene:
        """See `SceneGroup.scene`."""
        return _made(int(key), self._kind, self._size, self._num_frames)


@lru_cache(_SCENES_KEPT)
def _made(seed: int, kind: MadeKind, size: ImageSize, num_frames: int) -> MadeScene:
    return MadeScene(seed, kind, size, num_frames)


class _Room:
    """Where the solids stand: walls, or a plane under the sky."""

    def __init__(self, generator: np.random.Generator, kind: MadeKind) -> None:
        self.is_round = kind == "other-solids"
        self.is_open = not self.is_round and generator.random() < 0.4
        self.half_width = generator.uniform(9.0, 14.0) if self.is_open else generator.uniform(3.6, 5.5)
        self.height = 2.0 * self.half_width if self.is_open else generator.uniform(3.0, 4.5)

    def walls(self) -> List[Tuple[str, Float[np.ndarray, "3"], Float[np.ndarray, "3"]]]:
        """Shape, center and half sides of the solids whose far sides are seen."""
        wide, high = self.half_width, self.height
        around = np.array([wide, wide, high / 2])
        if self.is_open:
            # The plane is the floor of a box that reaches beyond the sky.
            return [
                ("ball", np.zeros(3), np.full(3, wide)),
                ("box", np.array([0.0, 0.0, 2.0 * wide]), np.array([3.0 * wide, 3.0 * wide, 2.0 * wide])),
            ]
        if self.is_round:
            flat = np.array([2.0 * wide, 2.0 * wide, high / 2])
            tall = np.array([wide, wide, 2.0 * high])
            return [("cylinder", np.array([0.0, 0.0, high / 2]), flat), ("cylinder", np.zeros(3), tall)]
        # Floor and ceiling, and two pairs of walls, each with a texture of its own.
        middle = np.array([0.0, 0.0, high / 2])
        return [("box", middle, np.where(np.arange(3) == axis, around, 4.0 * around)) for axis in range(3)]


def _path(generator: np.random.Generator, room: _Room, num_frames: int) -> Float[np.ndarray, "frames 3 4"]:
    """Camera_to_worlds of all frames: round what stands in the middle, or past it, with a hand that is not quite calm.

    Between the first frame and the last, the camera goes 1 to 6 units.
    """
    shares = np.linspace(-0.5, 0.5, num_frames)
    farthest = min(4.5, room.half_width - _CLEARANCE)
    azimuth = generator.uniform(0.0, 2.0 * math.pi)
    distance = generator.uniform(2.4, farthest)
    height = generator.uniform(0.4, min(3.0, room.height - 0.6))
    aim = np.array([*generator.uniform(-0.6, 0.6, 2), generator.uniform(0.3, 1.1)])
    if generator.random() < 0.6:
        azimuths = azimuth + math.radians(generator.choice([-1.0, 1.0]) * generator.uniform(30.0, 150.0)) * shares
        distances = distance * np.exp(generator.uniform(-0.5, 0.5) * shares)
        positions = np.stack(
            [distances * np.cos(azimuths), distances * np.sin(azimuths), np.full_like(shares, height)], -1
        )
    else:
        middle = distance * np.array([math.cos(azimuth), math.sin(azimuth), 0.0]) + np.array([0.0, 0.0, height])
        course = generator.normal(size=3) * np.array([1.0, 1.0, 0.4])
        positions = middle + generator.uniform(1.5, 5.0) * shares[:, None] * course / np.linalg.norm(course)
    positions[:, 2] += generator.uniform(-1.2, 1.2) * shares
    positions += _unsteady(generator, 0.05, num_frames)
    across = np.linalg.norm(positions[:, :2], axis=1)
    positions[:, :2] *= np.minimum(1.0, farthest / across)[:, None]
    positions[:, 2] = positions[:, 2].clip(0.25, room.height - 0.3)
    aims = (
        aim
        + generator.uniform(-1.2, 1.2, 3) * np.array([1.0, 1.0, 0.5]) * shares[:, None]
        + _unsteady(generator, 0.04, num_frames)
    )
    forward = aims - positions
    forward /= np.linalg.norm(forward, axis=1, keepdims=True)
    rolls = math.radians(generator.uniform(-8.0, 8.0)) + _unsteady(generator, 0.03, num_frames)[:, 0]
    upright = np.stack([np.zeros_like(rolls), np.zeros_like(rolls), np.ones_like(rolls)], axis=1)
    right = np.cross(forward, upright)
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    down = np.cross(forward, right)
    cosines, sines = np.cos(rolls)[:, None], np.sin(rolls)[:, None]
    axes = [cosines * right + sines * down, cosines * down - sines * right, forward, positions]
    return np.ascontiguousarray(np.stack(axes, axis=-1))


def _unsteady(generator: np.random.Generator, size: float, num_frames: int) -> Float[np.ndarray, "frames 3"]:
    """Slow, smooth waves of about that size."""
    times = np.linspace(0.0, 2.0 * math.pi, num_frames)[:, None]
    waves = [np.sin(generator.uniform(1.0, 4.0, 3) * times + generator.uniform(0.0, 6.3, 3)) for _ in range(2)]
    return size * (waves[0] + waves[1]) / 2.0


def _lens(generator: np.random.Generator, size: ImageSize) -> Float[np.ndarray, "4"]:
    """Focal lengths and principal point, in pixels."""
    focal = max(size) / 2.0 / math.tan(math.radians(generator.uniform(*_FOV_DEG)) / 2.0)
    pixel_aspect = generator.uniform(0.97, 1.03)
    center = (0.5 + generator.uniform(-_CENTER_SHIFT, _CENTER_SHIFT, 2)) * np.array(size)
    return np.array([focal, focal * pixel_aspect, *center])


def _cameras(
    lens: Float[np.ndarray, "4"], size: ImageSize, camera_to_worlds: Float[np.ndarray, "frames 3 4"]
) -> SceneCameras:
    matrix = np.array([[lens[0], 0.0, lens[2]], [0.0, lens[1], lens[3]], [0.0, 0.0, 1.0]])
    normalized = torch.from_numpy(matrix / np.array([[size.width], [size.height], [1.0]])).float()
    return SceneCameras(normalized.repeat(len(camera_to_worlds), 1, 1), torch.from_numpy(camera_to_worlds))


def _solids(
    generator: np.random.Generator, kind: MadeKind, room: _Room, positions: Float[np.ndarray, "frames 3"]
) -> _Solids:
    """The room, and solids that stand in it out of the cameras' way."""
    from gnerf_ns.scenes.ray_kernels import SHAPES, TEXTURES

    walls = room.walls()
    placed = [(SHAPES.index(shape), center, np.diag(sides)) for shape, center, sides in walls]
    wished = int(generator.integers(_NUM_SOLIDS[0], _NUM_SOLIDS[1] + 1))
    while len(placed) < len(walls) + wished:
        sides = generator.uniform(*_SOLID_SIZES, 3)
        shape = SHAPES.index(str(generator.choice(_SHAPES[kind])))
        if SHAPES[shape] == "ball":
            sides[:] = sides[0]
        elif SHAPES[shape] == "octahedron":
            sides *= 1.4
        radius = float(sides[0] if SHAPES[shape] == "ball" else np.linalg.norm(sides))
        azimuth, distance = generator.uniform(0.0, 2.0 * math.pi), _REACH * math.sqrt(generator.random())
        height = sides[2] if generator.random() < 0.6 else generator.uniform(0.0, 2.2)
        center = np.array([distance * math.cos(azimuth), distance * math.sin(azimuth), height])
        if np.linalg.norm(positions - center, axis=1).min() < radius + _CLEARANCE:
            continue
        turn = _turn(generator, upright=bool(height == sides[2]))
        placed.append((shape, center, turn * sides))
    count = len(placed)
    to_local, to_texture = np.empty((count, 3, 4)), np.empty((count, 3, 4))
    for row, (_, center, axes) in enumerate(placed):
        inverse = np.linalg.inv(axes)
        to_local[row] = np.concatenate([inverse, -inverse @ center[:, None]], axis=1)
        # A cell of the texture is a tenth of what is seen of a wall, and smaller on solids, which are nearer.
        cells = generator.uniform(0.9, 2.0) if row < len(walls) else generator.uniform(2.5, 6.0)
        if room.is_open and row < len(walls):
            cells = generator.uniform(0.25, 0.5) if row == 0 else generator.uniform(0.7, 1.6)
        turn = _turn(generator, upright=bool(generator.random() < 0.5))
        to_texture[row] = np.concatenate([cells * turn, generator.uniform(0.0, 50.0, (3, 1))], axis=1)
    sun = generator.normal(size=3)
    sun[2] = abs(sun[2]) + 0.3
    return _Solids(
        shapes=np.array([shape for shape, _, _ in placed], dtype=np.int64),
        seen_from_within=np.arange(count) < len(walls),
        to_local=to_local,
        textures=np.array([TEXTURES.index(str(generator.choice(_TEXTURES[kind]))) for _ in placed], dtype=np.int64),
        to_texture=to_texture,
        salts=generator.integers(0, 2**16, count),
        colors=generator.random((count, 3, 3)) ** 0.8,
        sun=sun / np.linalg.norm(sun),
    )


def _turn(generator: np.random.Generator, upright: bool) -> Float[np.ndarray, "3 3"]:
    """A random rotation, about the z axis only if it is to stay upright."""
    from scipy.spatial.transform import Rotation

    if upright:
        return Rotation.from_euler("z", generator.uniform(0.0, 2.0 * math.pi)).as_matrix()
    return Rotation.from_quat(generator.normal(size=4)).as_matrix()
