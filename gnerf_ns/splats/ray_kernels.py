"""Which Gaussians single rays meet, found by code that numba compiles for the CPU."""

from __future__ import annotations

import math
from typing import no_type_check

from numba import njit

from gnerf_ns.splats.tile_kernels import MAX_ALPHA, MIN_ALPHA, MIN_TRANSMITTANCE, _clipped, _reach

# No annotations and no run-time shape checks here: numba compiles for the types of the arguments, float32 or float64.


@njit(cache=True, nogil=True)
@no_type_check
def list_pairs(
    centers, covariances, opacities, order, points, starts, rays, cell, columns, transmittances, counts, pairs, total
):
    """Write all pairs of a ray and a Gaussian that it shows, front to back, by the rules of `tile_kernels`.

    Args:
        centers: of the Gaussians [n, 2], in pixels.
        covariances: xx, xy, yy [n, 3], in pixels squared.
        opacities: [n].
        order: the Gaussians to look at, front to back [m].
        points: where rays meet the image [rays, 2], in pixels, none negative.
        starts: where the rays of each cell of a grid over the image begin in `rays`, row by row [cells + 1].
        rays: indices of rays, cell by cell.
        cell: side of a cell, in pixels.
        columns: cells of a row.
        transmittances: [rays], ones before; 0 for a ray that was closed.
        counts: Gaussians of each ray [rays], zeros before.
        pairs: ray, Gaussian, and its place on the ray [capacity, 3]; pairs beyond that are counted, but not written.
        total: number of pairs [1].
    """
    rows = (len(starts) - 1) // columns
    found = 0
    for i in order:
        reach = _reach(opacities[i])
        xx, xy, yy = float(covariances[i, 0]), float(covariances[i, 1]), float(covariances[i, 2])
        determinant = xx * yy - xy * xy
        if not (determinant > 0 and reach > 0):
            continue
        half_x, half_y = math.sqrt(reach * xx), math.sqrt(reach * yy)
        first_column = _clipped((centers[i, 0] - half_x) / cell, columns)
        last_column = _clipped((centers[i, 0] + half_x) / cell + 1, columns)
        first_row = _clipped((centers[i, 1] - half_y) / cell, rows)
        last_row = _clipped((centers[i, 1] + half_y) / cell + 1, rows)
        for row in range(first_row, last_row):
            for entry in range(starts[row * columns + first_column], starts[row * columns + last_column]):
                ray = rays[entry]
                before = transmittances[ray]
                if before == 0:
                    continue
                x, y = centers[i, 0] - points[ray, 0], centers[i, 1] - points[ray, 1]
                power = -(yy * x * x - 2 * xy * x * y + xx * y * y) / (2 * determinant)
                alpha = min(opacities[i] * math.exp(min(power, 0.0)), MAX_ALPHA)
                if alpha < MIN_ALPHA:
                    continue
                after = before * (1 - alpha)
                if after < MIN_TRANSMITTANCE:
                    transmittances[ray] = 0
                    continue
                transmittances[ray] = after
                if found < len(pairs):
                    pairs[found, 0], pairs[found, 1], pairs[found, 2] = ray, i, counts[ray]
                counts[ray] += 1
                found += 1
    total[0] = found
