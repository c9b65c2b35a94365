"""A multi-resolution hash grid's look-up (Instant NGP, section 3) and its gradients, compiled for the CPU by numba.

The arithmetic is that of nerfstudio's torch `HashEncoding`, in one pass over the samples. In torch, each of a cell's
eight corners costs half a dozen temporary tensors, and moving these through memory took four fifths of a training step.

All arrays are C-contiguous: positions [samples, 3] in [0, 1], table [levels * size, features], scalings [levels] (cells
per side), features and their gradients [samples, levels * features]; size is a power of two.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit, prange

# No annotations and no run-time shape checks here: numba compiles for the types of the arguments, float32 or float64.

SECOND_PRIME = np.int64(2654435761)
THIRD_PRIME = np.int64(805459861)
SAMPLES_PER_TASK = 4096


@njit(cache=True)
@no_type_check
def _cell(positions, sample, scale, offset, mask):
    """Table rows of the eight corners of a sample's cell, x slowest, and the sample's position within the cell."""
    x, y, z = positions[sample, 0] * scale, positions[sample, 1] * scale, positions[sample, 2] * scale
    floor_x, floor_y, floor_z = np.floor(x), np.floor(y), np.floor(z)
    x0, x1 = np.int64(floor_x), np.int64(np.ceil(x))
    y0, y1 = np.int64(floor_y) * SECOND_PRIME, np.int64(np.ceil(y)) * SECOND_PRIME
    z0, z1 = np.int64(floor_z) * THIRD_PRIME, np.int64(np.ceil(z)) * THIRD_PRIME
    rows = (
        ((x0 ^ y0 ^ z0) & mask) + offset,
        ((x0 ^ y0 ^ z1) & mask) + offset,
        ((x0 ^ y1 ^ z0) & mask) + offset,
        ((x0 ^ y1 ^ z1) & mask) + offset,
        ((x1 ^ y0 ^ z0) & mask) + offset,
        ((x1 ^ y0 ^ z1) & mask) + offset,
        ((x1 ^ y1 ^ z0) & mask) + offset,
        ((x1 ^ y1 ^ z1) & mask) + offset,
    )
    return rows, x - floor_x, y - floor_y, z - floor_z


@njit(cache=True)
@no_type_check
def _lerp(start, end, weight):
    return start + (end - start) * weight


@njit(parallel=True, cache=True, nogil=True)
@no_type_check
def look_up(positions, table, scalings, size, features):
    """Write the trilinearly interpolated features of all samples into `features`."""
    num_samples, num_levels, num_features = positions.shape[0], scalings.shape[0], table.shape[1]
    tasks_per_level = (num_samples + SAMPLES_PER_TASK - 1) // SAMPLES_PER_TASK
    for task in prange(num_levels * tasks_per_level):
        level, part = task // tasks_per_level, task % tasks_per_level
        for sample in range(part * SAMPLES_PER_TASK, min(num_samples, (part + 1) * SAMPLES_PER_TASK)):
            rows, x, y, z = _cell(positions, sample, scalings[level], level * size, size - 1)
            for feature in range(num_features):
                y0z0 = _lerp(table[rows[0], feature], table[rows[4], feature], x)
                y0z1 = _lerp(table[rows[1], feature], table[rows[5], feature], x)
                y1z0 = _lerp(table[rows[2], feature], table[rows[6], feature], x)
                y1z1 = _lerp(table[rows[3], feature], table[rows[7], feature], x)
                features[sample, level * num_features + feature] = _lerp(_lerp(y0z0, y1z0, y), _lerp(y0z1, y1z1, y), z)


@njit(parallel=True, cache=True, nogil=True)
@no_type_check
def add_table_gradients(positions, scalings, size, feature_gradients, table_gradients):
    """Add the gradients of all table entries. Each level is one thread's, so that no two add to the same entry."""
    num_features = table_gradients.shape[1]
    one = scalings.dtype.type(1)
    for level in prange(scalings.shape[0]):
        for sample in range(positions.shape[0]):
            rows, x, y, z = _cell(positions, sample, scalings[level], level * size, size - 1)
            y0z0, y0z1, y1z0, y1z1 = (one - y) * (one - z), (one - y) * z, y * (one - z), y * z
            for feature in range(num_features):
                at_x1 = feature_gradients[sample, level * num_features + feature] * x
                at_x0 = feature_gradients[sample, level * num_features + feature] * (one - x)
                table_gradients[rows[0], feature] += at_x0 * y0z0
                table_gradients[rows[1], feature] += at_x0 * y0z1
                table_gradients[rows[2], feature] += at_x0 * y1z0
                table_gradients[rows[3], feature] += at_x0 * y1z1
                table_gradients[rows[4], feature] += at_x1 * y0z0
                table_gradients[rows[5], feature] += at_x1 * y0z1
                table_gradients[rows[6], feature] += at_x1 * y1z0
                table_gradients[rows[7], feature] += at_x1 * y1z1


@njit(parallel=True, cache=True, nogil=True)
@no_type_check
def add_position_gradients(positions, table, scalings, size, feature_gradients, position_gradients):
    """Add the gradients of all positions; within a cell, a feature is linear along each axis."""
    num_features = table.shape[1]
    for sample in prange(positions.shape[0]):
        for level in range(scalings.shape[0]):
            rows, x, y, z = _cell(positions, sample, scalings[level], level * size, size - 1)
            for feature in range(num_features):
                gradient = feature_gradients[sample, level * num_features + feature] * scalings[level]
                c000, c001 = table[rows[0], feature], table[rows[1], feature]
                c010, c011 = table[rows[2], feature], table[rows[3], feature]
                c100, c101 = table[rows[4], feature], table[rows[5], feature]
                c110, c111 = table[rows[6], feature], table[rows[7], feature]
                along_x = _lerp(_lerp(c100 - c000, c110 - c010, y), _lerp(c101 - c001, c111 - c011, y), z)
                along_y = _lerp(_lerp(c010 - c000, c110 - c100, x), _lerp(c011 - c001, c111 - c101, x), z)
                along_z = _lerp(_lerp(c001 - c000, c101 - c100, x), _lerp(c011 - c010, c111 - c110, x), y)
                position_gradients[sample, 0] += gradient * along_x
                position_gradients[sample, 1] += gradient * along_y
                position_gradients[sample, 2] += gradient * along_z
