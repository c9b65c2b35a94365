"""Gaussians projected to an image are blended in tiles, forward and backward, compiled for the CPU by numba.

After Kerbl et al., SIGGRAPH 2023, section 6. What differs from a GPU's code: the Gaussians are put in order of depth
once and dealt out to the tiles in that order; of each row of a tile, only the pixels within a Gaussian's ellipse are
visited; and a tile writes the gradients of its entries to places of their own, which are then summed in a fixed order.
No two threads write to the same place, and results do not depend on their number.

All arrays are C-contiguous, and floating-point ones of one type unless it is said: centers [n, 2] in pixels, those of
pixels being whole numbers; covariances [n, 3] (xx, xy, yy) in pixels squared; conics [n, 3], their inverses, float64;
opacities [n]; features [n, 4], what is blended; order [m], the Gaussians to draw, front to back. A tile's entries are
Gaussians in that order: `entries` has those of all tiles, tile after tile, and `starts` where each one's begin.
"""

from __future__ import annotations

import math
from typing import no_type_check

import numpy as np
from numba import njit, prange

# No annotations and no run-time shape checks here: numba compiles for the types of the arguments, float32 or float64.

TILE = 16
"""Side of a tile in pixels. It is part of the rules: which pixels a Gaussian reaches is decided by whole tiles."""
CUT_DEVIATIONS = 3.0
"""A Gaussian reaches the tiles that it touches within so many standard deviations,"""
MIN_EIGENVALUE_SPREAD = 0.1
"""of its longer axis, whose variance is computed with at least this number under the root."""
MAX_ALPHA = 0.99
"""Nothing hides what is behind it entirely: the gradient divides by 1 - alpha."""
MIN_ALPHA = 1.0 / 255.0
"""Less than one level of an 8-bit image is left out."""
MIN_TRANSMITTANCE = 1e-4
"""A pixel is closed before the Gaussian that would let less of the background through."""
SPAN_MARGIN = 1e-3
"""By how much the ellipses are widened within which pixels are visited, so that rounding leaves none out. What counts
is a pixel's alpha."""


@njit(cache=True)
@no_type_check
def _clipped(value, limit):
    """A whole number from 0 to `limit`; 0 for what is no number."""
    if value >= limit:
        return limit
    if value > 0:
        return np.int64(value)
    return 0


@njit(cache=True)
@no_type_check
def _reach(opacity):
    """Squared distance, in standard deviations, at which alpha falls below `MIN_ALPHA`; -1 if it is nowhere above."""
    return 2 * math.log(opacity / MIN_ALPHA) * (1 + SPAN_MARGIN) + SPAN_MARGIN if opacity >= MIN_ALPHA else -1.0


@njit(parallel=True, cache=True, nogil=True)
@no_type_check
def find_tiles(centers, covariances, opacities, width, height, conics, reaches, rectangles):
    """Write the inverse covariances, the `_reach` of each Gaussian, and the tiles that it touches.

    Rectangles [n, 4] are first and last column (excluded), first and last row (excluded); all zero if there is none.
    """
    columns, rows = (width + TILE - 1) // TILE, (height + TILE - 1) // TILE
    for i in prange(centers.shape[0]):
        # The difference of two large numbers where a Gaussian is long and thin.
        xx, xy, yy = np.float64(covariances[i, 0]), np.float64(covariances[i, 1]), np.float64(covariances[i, 2])
        determinant = xx * yy - xy * xy
        reach = _reach(opacities[i])
        rectangles[i] = 0
        if not (determinant > 0 and reach > 0):
            continue
        conics[i, 0], conics[i, 1], conics[i, 2] = yy / determinant, -xy / determinant, xx / determinant
        reaches[i] = reach
        mean = (xx + yy) / 2
        variance = mean + math.sqrt(max(MIN_EIGENVALUE_SPREAD, mean * mean - determinant))
        radius = math.ceil(CUT_DEVIATIONS * math.sqrt(variance))
        x, y = centers[i, 0], centers[i, 1]
        # The official rectangle, less the tiles that the ellipse does not come near.
        half_x, half_y = math.sqrt(reach * xx) + 1, math.sqrt(reach * yy) + 1
        rectangles[i, 0] = _clipped(max((x - radius) / TILE, (x - half_x) / TILE), columns)
        rectangles[i, 1] = _clipped(min((x + radius + TILE - 1) / TILE, (x + half_x) / TILE + 1), columns)
        rectangles[i, 2] = _clipped(max((y - radius) / TILE, (y - half_y) / TILE), rows)
        rectangles[i, 3] = _clipped(min((y + radius + TILE - 1) / TILE, (y + half_y) / TILE + 1), rows)


@njit(cache=True, nogil=True)
@no_type_check
def count_entries(rectangles, order, columns, starts):
    """Write where each tile's entries begin, and as the last number how many there are; `starts` are zeros before."""
    for i in order:
        for row in range(rectangles[i, 2], rectangles[i, 3]):
            for column in range(rectangles[i, 0], rectangles[i, 1]):
                starts[row * columns + column + 1] += 1
    for tile in range(len(starts) - 1):
        starts[tile + 1] += starts[tile]


@njit(cache=True, nogil=True)
@no_type_check
def list_entries(rectangles, order, columns, starts, entries):
    """Write the Gaussians of all tiles, each tile's front to back."""
    free = starts.copy()
    for i in order:
        for row in range(rectangles[i, 2], rectangles[i, 3]):
            for column in range(rectangles[i, 0], rectangles[i, 1]):
                tile = row * columns + column
                entries[free[tile]] = i
                free[tile] += 1


@njit(cache=True)
@no_type_check
def _within(middle, half, first, last):
    """Which of the numbers from `first` to `last` (excluded) are no farther than `half` from the middle."""
    count = last - first
    return (
        first + _clipped(math.ceil(middle - half - first), count),
        first + _clipped(math.floor(middle + half - first) + 1, count),
    )


@njit(cache=True)
@no_type_check
def _columns_of_row(center, conic, reach, variance_y, row, first, last):
    """Columns of a row, from `first` to `last` (excluded), that are within a Gaussian's ellipse."""
    y = center[1] - row
    rest = reach - y * y / variance_y
    if not rest >= 0:
        return first, first
    return _within(center[0] + conic[1] * y / conic[0], math.sqrt(rest / conic[0]), first, last)


@njit(parallel=True, cache=True, nogil=True)
@no_type_check
def blend(centers, covariances, conics, reaches, opacities, features, starts, entries, blended, transmittances, ends):
    """Blend all tiles, front to back.

    Writes blended features [height, width, 4], sum of T_i alpha_i f_i; transmittances [height, width], the product of
    all 1 - alpha_i; and ends [height, width], the entry of the tile before which a pixel was closed.
    """
    height, width = transmittances.shape
    columns = (width + TILE - 1) // TILE
    one = centers.dtype.type(1)
    max_alpha, min_alpha = centers.dtype.type(MAX_ALPHA), centers.dtype.type(MIN_ALPHA)
    for tile in prange(len(starts) - 1):
        left, top = tile % columns * TILE, tile // columns * TILE
        right, bottom = min(left + TILE, width), min(top + TILE, height)
        blended[top:bottom, left:right] = 0
        transmittances[top:bottom, left:right] = 1
        ends[top:bottom, left:right] = starts[tile + 1]
        open_pixels = (right - left) * (bottom - top)
        for entry in range(starts[tile], starts[tile + 1]):
            if open_pixels == 0:
                break
            i = entries[entry]
            center, conic, feature = centers[i], conics[i], features[i]
            reach, variance_y = reaches[i], covariances[i, 2]
            first_row, last_row = _within(center[1], math.sqrt(reach * variance_y), top, bottom)
            for row in range(first_row, last_row):
                first, last = _columns_of_row(center, conic, reach, variance_y, row, left, right)
                y = center[1] - row
                for column in range(first, last):
                    if ends[row, column] <= entry:
                        continue
                    x = center[0] - column
                    power = -(conic[0] * x * x + conic[2] * y * y) / 2 - conic[1] * x * y
                    alpha = min(opacities[i] * math.exp(power), max_alpha)
                    if power > 0 or alpha < min_alpha:
                        continue
                    before = transmittances[row, column]
                    after = before * (one - alpha)
                    if after < MIN_TRANSMITTANCE:
                        ends[row, column] = entry
                        open_pixels -= 1
                        continue
                    weight = before * alpha
                    for k in range(4):
                        blended[row, column, k] += weight * feature[k]
                    transmittances[row, column] = after


@njit(parallel=True, cache=True, nogil=True)
@no_type_check
def blend_backward(
    centers,
    covariances,
    conics,
    reaches,
    opacities,
    features,
    starts,
    entries,
    transmittances,
    ends,
    blended_gradients,
    transmittance_gradients,
    entry_gradients,
):
    """Write the gradients of all entries [entries, 10], back to front; they are zeros before.

    In the order of the columns: center (2), conic (3, where the middle one counts twice in the form), opacity,
    features (4). With v_i, by how much the loss grows with a Gaussian's weight w_i = T_i alpha_i, that of alpha_i is
    T_i v_i - (sum over all behind of w_j v_j) / (1 - alpha_i). It is zero where alpha is at its limit.
    """
    height, width = transmittances.shape
    columns = (width + TILE - 1) // TILE
    one = centers.dtype.type(1)
    max_alpha, min_alpha = centers.dtype.type(MAX_ALPHA), centers.dtype.type(MIN_ALPHA)
    for tile in prange(len(starts) - 1):
        left, top = tile % columns * TILE, tile // columns * TILE
        right, bottom = min(left + TILE, width), min(top + TILE, height)
        behind = np.zeros((TILE, TILE), dtype=centers.dtype)
        through = transmittances[top:bottom, left:right].copy()
        for entry in range(ends[top:bottom, left:right].max() - 1, starts[tile] - 1, -1):
            i = entries[entry]
            center, conic, feature, gradients = centers[i], conics[i], features[i], entry_gradients[entry]
            reach, variance_y = reaches[i], covariances[i, 2]
            first_row, last_row = _within(center[1], math.sqrt(reach * variance_y), top, bottom)
            for row in range(first_row, last_row):
                first, last = _columns_of_row(center, conic, reach, variance_y, row, left, right)
                y = center[1] - row
                for column in range(first, last):
                    if ends[row, column] <= entry:
                        continue
                    x = center[0] - column
                    power = -(conic[0] * x * x + conic[2] * y * y) / 2 - conic[1] * x * y
                    falloff = math.exp(power)
                    unlimited = opacities[i] * falloff
                    alpha = min(unlimited, max_alpha)
                    if power > 0 or alpha < min_alpha:
                        continue
                    before = through[row - top, column - left] / (one - alpha)
                    through[row - top, column - left] = before
                    weight = before * alpha
                    value = -transmittance_gradients[row, column]
                    for k in range(4):
                        value += blended_gradients[row, column, k] * feature[k]
                        gradients[6 + k] += weight * blended_gradients[row, column, k]
                    of_alpha = before * value - behind[row - top, column - left] / (one - alpha)
                    behind[row - top, column - left] += weight * value
                    if unlimited > max_alpha:
                        continue
                    gradients[5] += falloff * of_alpha
                    of_power = alpha * of_alpha
                    gradients[0] -= of_power * (conic[0] * x + conic[1] * y)
                    gradients[1] -= of_power * (conic[1] * x + conic[2] * y)
                    gradients[2] -= of_power * x * x / 2
                    gradients[3] -= of_power * x * y
                    gradients[4] -= of_power * y * y / 2


@njit(cache=True, nogil=True)
@no_type_check
def add_up(entries, entry_gradients, conics, gradients):
    """Write the gradients of all Gaussians [n, 10], in the order of `blend_backward`, but of covariances instead of
    conics; they are zeros before."""
    for entry in range(len(entries)):
        for k in range(10):
            gradients[entries[entry], k] += entry_gradients[entry, k]
    for i in range(len(gradients)):
        # As matrices: the gradient in S of what has the gradient G in its inverse K is -K G K.
        a, b, c = conics[i, 0], conics[i, 1], conics[i, 2]
        of_a, of_b, of_c = gradients[i, 2], gradients[i, 3], gradients[i, 4]
        gradients[i, 2] = -(a * a * of_a + a * b * of_b + b * b * of_c)
        gradients[i, 3] = -(2 * a * b * of_a + (a * c + b * b) * of_b + 2 * b * c * of_c)
        gradients[i, 4] = -(b * b * of_a + b * c * of_b + c * c * of_c)
