"""Where rays pass through cells that are not empty, compiled for the CPU by numba.

All arrays are C-contiguous: origins and directions [rays, 3], nears and fars [rays], occupied [cells, cells, cells]
over the cube from -1 to 1, x slowest.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit, prange

# No annotations and no run-time shape checks here: numba compiles for the types of the arguments.

RAYS_PER_TASK = 512


@njit(cache=True, inline="always")
@no_type_check
def _is_occupied(origins, directions, ray, distance, occupied):
    side = occupied.shape[0]
    x = np.int64((origins[ray, 0] + distance * directions[ray, 0] + 1.0) * 0.5 * side)
    y = np.int64((origins[ray, 1] + distance * directions[ray, 1] + 1.0) * 0.5 * side)
    z = np.int64((origins[ray, 2] + distance * directions[ray, 2] + 1.0) * 0.5 * side)
    last = side - 1
    return occupied[min(max(x, 0), last), min(max(y, 0), last), min(max(z, 0), last)]


@njit(parallel=True, cache=True, nogil=True)
@no_type_check
def narrow(origins, directions, nears, fars, occupied, step, first, last):
    """Write the distances between which a ray's occupied cells lie; where it has none, the near plane twice."""
    num_rays = origins.shape[0]
    for task in prange((num_rays + RAYS_PER_TASK - 1) // RAYS_PER_TASK):
        for ray in range(task * RAYS_PER_TASK, min(num_rays, (task + 1) * RAYS_PER_TASK)):
            near, far = nears[ray], fars[ray]
            first[ray], last[ray] = near, near
            count = np.int64((far - near) / step) + 1
            begin = 0
            while begin < count and not _is_occupied(origins, directions, ray, near + begin * step, occupied):
                begin += 1
            if begin == count:
                continue
            end = count
            while not _is_occupied(origins, directions, ray, near + end * step, occupied) and end > begin:
                end -= 1
            first[ray] = max(near, near + (begin - 1) * step)
            last[ray] = min(far, near + (end + 1) * step)
