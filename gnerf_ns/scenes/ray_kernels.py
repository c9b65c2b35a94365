"""Ray casting of convex solids with solid textures, compiled for the CPU by numba: what `made_scenes` are drawn with.

A solid is the image of a unit shape under a linear map. All arrays are C-contiguous and of double precision but where
it is said: `shapes` int64 [solids] (a row of `SHAPES`), `seen_from_within` bool [solids] (rooms, of which the far side
is seen), `to_local` [solids, 3, 4] (from the world to the unit shape), `textures` int64 [solids] (a row of `TEXTURES`),
`to_texture` [solids, 3, 4] (from the world to the texture's lattice of unit cells), `salts` int64 [solids] (random
numbers), `colors` [solids, 3, 3] (RGB in 0..1), `sun` [3] (a unit vector towards it), `camera_to_world` [3, 4] with
OpenCV's axes, `lens` [4] (focal lengths and principal point in pixels).
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

# No annotations and no run-time shape checks here: numba compiles for the types of the arguments.

SHAPES = ("ball", "box", "cylinder", "octahedron")
"""Unit shapes: |p| = 1; |x|, |y|, |z| <= 1; x² + y² <= 1 and |z| <= 1; |x| + |y| + |z| <= 1."""
TEXTURES = ("checker", "stripes", "clouds", "spots", "patches", "bricks", "cells", "rings")
"""Patterns of three colors; see `_weights`."""

_NEAREST = 1e-3
"""What is nearer to a camera is not seen."""
_AMBIENT, _SUN = 0.55, 0.5
"""Shares of the light that comes from everywhere, and from the sun."""
_OCTAHEDRON_AXES = np.array([[1.0, 1.0, 1.0], [1.0, 1.0, -1.0], [1.0, -1.0, 1.0], [-1.0, 1.0, 1.0]])


@njit(cache=True, nogil=True)
@no_type_check
def _mapped(m, x, y, z, w):
    """m (x, y, z, w)."""
    return (
        m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3] * w,
        m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3] * w,
        m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3] * w,
    )


@njit(cache=True, nogil=True)
@no_type_check
def _turned_back(m, x, y, z):
    """The transpose of m's first three columns, times (x, y, z): how normals of a unit shape come to the world."""
    return (
        m[0, 0] * x + m[1, 0] * y + m[2, 0] * z,
        m[0, 1] * x + m[1, 1] * y + m[2, 1] * z,
        m[0, 2] * x + m[1, 2] * y + m[2, 2] * z,
    )


@njit(cache=True, nogil=True)
@no_type_check
def _slab(start, direction, entry, leave):
    """The part of a ray's stretch from `entry` to `leave` where |start + t direction| <= 1."""
    if abs(direction) < 1e-12:
        return (entry, leave) if abs(start) <= 1.0 else (np.inf, -np.inf)
    one, other = (-1.0 - start) / direction, (1.0 - start) / direction
    return max(entry, min(one, other)), min(leave, max(one, other))


@njit(cache=True, nogil=True)
@no_type_check
def _round(a, b, c):
    """Where a t² + 2 b t + c <= 0."""
    if a < 1e-12:
        return (-np.inf, np.inf) if c <= 0.0 else (np.inf, -np.inf)
    root = b * b - a * c
    if root <= 0.0:
        return np.inf, -np.inf
    root = np.sqrt(root)
    return (-b - root) / a, (-b + root) / a


@njit(cache=True, nogil=True)
@no_type_check
def _stretch(shape, x, y, z, u, v, w):
    """From where to where a ray from (x, y, z) along (u, v, w) is inside of a unit shape; empty if it misses it."""
    if shape == 0:
        return _round(u * u + v * v + w * w, x * u + y * v + z * w, x * x + y * y + z * z - 1.0)
    if shape == 1:
        entry, leave = _slab(x, u, -np.inf, np.inf)
        entry, leave = _slab(y, v, entry, leave)
        return _slab(z, w, entry, leave)
    if shape == 2:
        entry, leave = _round(u * u + v * v, x * u + y * v, x * x + y * y - 1.0)
        return _slab(z, w, entry, leave)
    entry, leave = -np.inf, np.inf
    for row in range(4):
        a, b, c = _OCTAHEDRON_AXES[row, 0], _OCTAHEDRON_AXES[row, 1], _OCTAHEDRON_AXES[row, 2]
        entry, leave = _slab(a * x + b * y + c * z, a * u + b * v + c * w, entry, leave)
    return entry, leave


@njit(cache=True, nogil=True)
@no_type_check
def _outward(shape, x, y, z):
    """The normal, of any length, of a unit shape at a point of its surface."""
    if shape == 0:
        return x, y, z
    if shape == 1:
        if abs(x) >= abs(y) and abs(x) >= abs(z):
            return np.sign(x), 0.0, 0.0
        return (0.0, np.sign(y), 0.0) if abs(y) >= abs(z) else (0.0, 0.0, np.sign(z))
    if shape == 2:
        return (x, y, 0.0) if x * x + y * y >= z * z else (0.0, 0.0, np.sign(z))
    return np.sign(x), np.sign(y), np.sign(z)


@njit(cache=True, nogil=True)
@no_type_check
def _first_hit(ray, shapes, seen_from_within, to_local):
    """The solid that a ray (position, direction) meets first, and at which multiple of its direction; -1 for none."""
    nearest, found = np.inf, -1
    for solid in range(shapes.shape[0]):
        x, y, z = _mapped(to_local[solid], ray[0], ray[1], ray[2], 1.0)
        u, v, w = _mapped(to_local[solid], ray[3], ray[4], ray[5], 0.0)
        entry, leave = _stretch(shapes[solid], x, y, z, u, v, w)
        if entry > leave:
            continue
        distance = leave if seen_from_within[solid] else entry
        if _NEAREST < distance < nearest:
            nearest, found = distance, solid
    return found, nearest


@njit(cache=True, nogil=True)
@no_type_check
def _chance(x, y, z, salt):
    """A number from 0 to 1 that looks random, for a cell of a lattice."""
    mixed = (x * 73856093) ^ (y * 19349663) ^ (z * 83492791) ^ (salt * 2654435761)
    mixed &= 0xFFFFFFFF
    mixed = ((mixed ^ (mixed >> 16)) * 0x45D9F3B) & 0xFFFFFFFF
    mixed = ((mixed ^ (mixed >> 16)) * 0x45D9F3B) & 0xFFFFFFFF
    return (mixed ^ (mixed >> 16)) / 4294967295.0


@njit(cache=True, nogil=True)
@no_type_check
def _noise(x, y, z, salt):
    """Random numbers of the lattice, smoothly interpolated."""
    i, j, k = np.int64(np.floor(x)), np.int64(np.floor(y)), np.int64(np.floor(z))
    a, b, c = x - i, y - j, z - k
    a, b, c = a * a * (3.0 - 2.0 * a), b * b * (3.0 - 2.0 * b), c * c * (3.0 - 2.0 * c)
    total = 0.0
    for p in range(2):
        for q in range(2):
            for r in range(2):
                weight = (a if p else 1.0 - a) * (b if q else 1.0 - b) * (c if r else 1.0 - c)
                total += weight * _chance(i + p, j + q, k + r, salt)
    return total


@njit(cache=True, nogil=True)
@no_type_check
def _cell_of_points(x, y, z, salt):
    """Of the one random point in each cell the nearest: its number from 0 to 1, and its distance."""
    i, j, k = np.int64(np.floor(x)), np.int64(np.floor(y)), np.int64(np.floor(z))
    nearest, number = np.inf, 0.0
    for p in range(i - 1, i + 2):
        for q in range(j - 1, j + 2):
            for r in range(k - 1, k + 2):
                dx = p + _chance(p, q, r, salt + 1) - x
                dy = q + _chance(p, q, r, salt + 2) - y
                dz = r + _chance(p, q, r, salt + 3) - z
                distance = dx * dx + dy * dy + dz * dz
                if distance < nearest:
                    nearest, number = distance, _chance(p, q, r, salt)
    return number, np.sqrt(nearest)


@njit(cache=True, nogil=True)
@no_type_check
def _weights(texture, x, y, z, salt):
    """How much a texture has of its second and third color at a point of its lattice; the rest is the first."""
    fine = 0.25 * _noise(3.1 * x, 3.1 * y, 3.1 * z, salt + 9)
    i, j, k = np.int64(np.floor(x)), np.int64(np.floor(y)), np.int64(np.floor(z))
    if texture == 0:  # checker
        return np.float64((i + j + k) & 1), fine
    if texture == 1:  # stripes
        bent = x + 1.2 * _noise(0.7 * x, 0.7 * y, 0.7 * z, salt)
        return np.float64(np.int64(np.floor(1.6 * bent)) & 1), fine
    if texture == 2:  # clouds
        value = 0.6 * _noise(x, y, z, salt) + 0.4 * _noise(2.3 * x, 2.3 * y, 2.3 * z, salt + 1)
        return min(max(3.0 * value - 0.9, 0.0), 1.0), min(max(4.0 * value - 2.4, 0.0), 1.0)
    if texture == 3:  # spots
        number, distance = _cell_of_points(x, y, z, salt)
        return (1.0, number * 0.5) if distance < 0.25 + 0.25 * number else (0.0, fine)
    if texture == 4:  # patches
        return _chance(i, j, k, salt), _chance(i, j, k, salt + 1)
    if texture == 5:  # bricks
        row = np.int64(np.floor(2.0 * z))
        along = x + y + 0.5 * (row & 1)
        brick = np.int64(np.floor(along))
        joint = min(along - brick, 2.0 * z - row)
        return (0.0, 0.8 * _chance(brick, row, 0, salt)) if joint > 0.18 else (1.0, 0.0)
    if texture == 6:  # cells
        number, distance = _cell_of_points(x, y, z, salt)
        return number, min(distance * distance, 1.0) * 0.8
    radius = np.sqrt(x * x + y * y) + 0.8 * _noise(0.9 * x, 0.9 * y, 0.9 * z, salt)  # rings
    return 0.5 + 0.5 * np.sin(7.0 * radius), fine


@njit(cache=True, nogil=True)
@no_type_check
def _set_ray(ray, camera_to_world, lens, x, y):
    """The ray through a point of the image, in pixels; its direction is as long as makes depth along the axis 1."""
    right, down = (x - lens[2]) / lens[0], (y - lens[3]) / lens[1]
    for k in range(3):
        row = camera_to_world[k]
        ray[k], ray[3 + k] = row[3], row[0] * right + row[1] * down + row[2]


@njit(cache=True, nogil=True)
@no_type_check
def draw_depths(camera_to_world, lens, shapes, seen_from_within, to_local, depths):
    """Write the depth along the axis at each pixel's center into `depths` [height, width]; infinite for nothing."""
    ray = np.empty(6)
    for row in range(depths.shape[0]):
        for column in range(depths.shape[1]):
            _set_ray(ray, camera_to_world, lens, column + 0.5, row + 0.5)
            _, depths[row, column] = _first_hit(ray, shapes, seen_from_within, to_local)


@njit(cache=True, nogil=True)
@no_type_check
def draw_colors(
    camera_to_world, lens, shapes, seen_from_within, to_local, textures, to_texture, salts, colors, sun, samples, image
):
    """Write the mean color of samples x samples rays through each pixel into `image` [height, width, 3], in 0..1."""
    ray, share = np.empty(6), 1.0 / (samples * samples)
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            image[row, column] = 0.0
            for sample in range(samples * samples):
                across = (sample % samples + 0.5) / samples
                _set_ray(ray, camera_to_world, lens, column + across, row + (sample // samples + 0.5) / samples)
                solid, distance = _first_hit(ray, shapes, seen_from_within, to_local)
                if solid < 0:
                    continue
                px, py, pz = ray[0] + distance * ray[3], ray[1] + distance * ray[4], ray[2] + distance * ray[5]
                x, y, z = _mapped(to_local[solid], px, py, pz, 1.0)
                u, v, w = _outward(shapes[solid], x, y, z)
                u, v, w = _turned_back(to_local[solid], u, v, w)
                cosine = (u * sun[0] + v * sun[1] + w * sun[2]) / np.sqrt(u * u + v * v + w * w)
                if seen_from_within[solid]:
                    cosine = -cosine
                # Sides away from the sun differ from each other, too.
                light = _AMBIENT + 0.1 * cosine + _SUN * max(cosine, 0.0)
                x, y, z = _mapped(to_texture[solid], px, py, pz, 1.0)
                second, third = _weights(textures[solid], x, y, z, salts[solid])
                for channel in range(3):
                    color = colors[solid, 0, channel] * (1.0 - second) + colors[solid, 1, channel] * second
                    color = color * (1.0 - third) + colors[solid, 2, channel] * third
                    image[row, column, channel] += share * min(max(light * color, 0.0), 1.0)
