"""A multi-resolution hash grid's look-up (Instant NGP, section 3) and its gradients, compiled for the CPU by numba.

The arithmetic is that of nerfstudio's torch `HashEncoding`, in one pass over the samples of each level, whose table
then stays in the cache. In torch, each of a cell's eight corners costs half a dozen temporary tensors, and moving these
through memory took four fifths of a training step.

All arrays are C-contiguous: positions [samples, 3] in [0, 1], table [levels * size, features], scalings [levels] (cells
per side), features and their gradients [levels * features, samples], jacobian [levels * features, 3, samples]; size is
a power of two. Of per_level, any tuple, the length alone counts, which numba knows when it compiles: it is the number
of features of a level, over which loops are then unrolled (twice as fast).
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit, prange

# No annotations and no run-time shape checks here: numba compiles for the types of the arguments, float32 or float64.

SECOND_PRIME = np.uint32(2654435761)
THIRD_PRIME = np.uint32(805459861)
SAMPLES_PER_TASK = 4096
SAMPLES_PER_BLOCK = 64
"""Corners are hashed for so many samples at once, in vector instructions, before any of them is looked up."""

FUSED = {"contract"}
"""Multiplications and additions may be one instruction."""


@njit(cache=True, fastmath=FUSED, inline="always")
@no_type_check
def _find_cells(positions, first, count, scale, mask, rows, within):
    """Write the table rows of the eight corners of samples' cells, x slowest, and where in the cells they are.

    Only the last bits of a hash are used, which are the same in 32 bits as in 64.
    """
    for sample in range(count):
        x = positions[first + sample, 0] * scale
        y = positions[first + sample, 1] * scale
        z = positions[first + sample, 2] * scale
        floor_x, floor_y, floor_z = np.floor(x), np.floor(y), np.floor(z)
        x0, y0, z0 = np.uint32(np.int32(floor_x)), np.uint32(np.int32(floor_y)), np.uint32(np.int32(floor_z))
        # Rounded up: on a corner, the same one.
        x1, y1, z1 = x0 + np.uint32(x > floor_x), y0 + np.uint32(y > floor_y), z0 + np.uint32(z > floor_z)
        y0, y1, z0, z1 = y0 * SECOND_PRIME, y1 * SECOND_PRIME, z0 * THIRD_PRIME, z1 * THIRD_PRIME
        y0z0, y0z1, y1z0, y1z1 = y0 ^ z0, y0 ^ z1, y1 ^ z0, y1 ^ z1
        rows[0, sample], rows[1, sample] = (x0 ^ y0z0) & mask, (x0 ^ y0z1) & mask
        rows[2, sample], rows[3, sample] = (x0 ^ y1z0) & mask, (x0 ^ y1z1) & mask
        rows[4, sample], rows[5, sample] = (x1 ^ y0z0) & mask, (x1 ^ y0z1) & mask
        rows[6, sample], rows[7, sample] = (x1 ^ y1z0) & mask, (x1 ^ y1z1) & mask
        within[0, sample], within[1, sample], within[2, sample] = x - floor_x, y - floor_y, z - floor_z


@njit(parallel=True, cache=True, nogil=True, fastmath=FUSED)
@no_type_check
def look_up(positions, table, scalings, size, per_level, features, jacobian):
    """Write the trilinearly interpolated features of all samples, and how they change with the positions.

    A jacobian of no levels is not written: shape [0, 3, 0].
    """
    num_samples, num_levels, num_features = positions.shape[0], scalings.shape[0], len(per_level)
    tasks_per_level = (num_samples + SAMPLES_PER_TASK - 1) // SAMPLES_PER_TASK
    has_jacobian = jacobian.shape[0] > 0
    for task in prange(num_levels * tasks_per_level):
        level, part = task // tasks_per_level, task % tasks_per_level
        rows = np.empty((8, SAMPLES_PER_BLOCK), np.uint32)
        within = np.empty((3, SAMPLES_PER_BLOCK), positions.dtype)
        scale, entries = scalings[level], table[level * size : (level + 1) * size]
        end = min(num_samples, (part + 1) * SAMPLES_PER_TASK)
        for first in range(part * SAMPLES_PER_TASK, end, SAMPLES_PER_BLOCK):
            count = min(SAMPLES_PER_BLOCK, end - first)
            _find_cells(positions, first, count, scale, np.uint32(size - 1), rows, within)
            for sample in range(count):
                x, y, z = within[0, sample], within[1, sample], within[2, sample]
                for feature in range(num_features):
                    c000, c001 = entries[rows[0, sample], feature], entries[rows[1, sample], feature]
                    c010, c011 = entries[rows[2, sample], feature], entries[rows[3, sample], feature]
                    # Within a cell, a feature is linear along each axis.
                    x00 = entries[rows[4, sample], feature] - c000
                    x01 = entries[rows[5, sample], feature] - c001
                    x10 = entries[rows[6, sample], feature] - c010
                    x11 = entries[rows[7, sample], feature] - c011
                    at_y0z0, at_y0z1, at_y1z0, at_y1z1 = c000 + x00 * x, c001 + x01 * x, c010 + x10 * x, c011 + x11 * x
                    y_at_z0, y_at_z1 = at_y1z0 - at_y0z0, at_y1z1 - at_y0z1
                    at_z0, at_z1 = at_y0z0 + y_at_z0 * y, at_y0z1 + y_at_z1 * y
                    column = level * num_features + feature
                    features[column, first + sample] = at_z0 + (at_z1 - at_z0) * z
                    if has_jacobian:
                        x_at_z0, x_at_z1 = x00 + (x10 - x00) * y, x01 + (x11 - x01) * y
                        jacobian[column, 0, first + sample] = scale * (x_at_z0 + (x_at_z1 - x_at_z0) * z)
                        jacobian[column, 1, first + sample] = scale * (y_at_z0 + (y_at_z1 - y_at_z0) * z)
                        jacobian[column, 2, first + sample] = scale * (at_z1 - at_z0)


@njit(parallel=True, cache=True, nogil=True, fastmath=FUSED)
@no_type_check
def add_table_gradients(positions, scalings, size, per_level, feature_gradients, table_gradients):
    """Add the gradients of all table entries. Each level is one thread's, so that no two add to the same entry."""
    num_samples, num_features, one = positions.shape[0], len(per_level), positions.dtype.type(1)
    for level in prange(scalings.shape[0]):
        rows = np.empty((8, SAMPLES_PER_BLOCK), np.uint32)
        within = np.empty((3, SAMPLES_PER_BLOCK), positions.dtype)
        weights = np.empty((8, SAMPLES_PER_BLOCK), positions.dtype)
        scale, entries = scalings[level], table_gradients[level * size : (level + 1) * size]
        for first in range(0, num_samples, SAMPLES_PER_BLOCK):
            count = min(SAMPLES_PER_BLOCK, num_samples - first)
            _find_cells(positions, first, count, scale, np.uint32(size - 1), rows, within)
            for sample in range(count):
                x, y, z = within[0, sample], within[1, sample], within[2, sample]
                y0z0, y0z1, y1z0, y1z1 = (one - y) * (one - z), (one - y) * z, y * (one - z), y * z
                weights[0, sample], weights[1, sample] = (one - x) * y0z0, (one - x) * y0z1
                weights[2, sample], weights[3, sample] = (one - x) * y1z0, (one - x) * y1z1
                weights[4, sample], weights[5, sample] = x * y0z0, x * y0z1
                weights[6, sample], weights[7, sample] = x * y1z0, x * y1z1
            for sample in range(count):
                for corner in range(8):
                    row, weight = rows[corner, sample], weights[corner, sample]
                    for feature in range(num_features):
                        gradient = feature_gradients[level * num_features + feature, first + sample]
                        entries[row, feature] += weight * gradient


@njit(parallel=True, cache=True, nogil=True, fastmath=FUSED)
@no_type_check
def add_position_gradients(jacobian, feature_gradients, position_gradients):
    """Add the gradients of all positions."""
    num_samples = feature_gradients.shape[1]
    for part in prange((num_samples + SAMPLES_PER_TASK - 1) // SAMPLES_PER_TASK):
        end = min(num_samples, (part + 1) * SAMPLES_PER_TASK)
        for first in range(part * SAMPLES_PER_TASK, end, SAMPLES_PER_BLOCK):
            for column in range(jacobian.shape[0]):
                for sample in range(first, min(end, first + SAMPLES_PER_BLOCK)):
                    gradient = feature_gradients[column, sample]
                    position_gradients[sample, 0] += gradient * jacobian[column, 0, sample]
                    position_gradients[sample, 1] += gradient * jacobian[column, 1, sample]
                    position_gradients[sample, 2] += gradient * jacobian[column, 2, sample]
