"""A small MLP of two layers and its gradients, compiled for the CPU by numba.

In torch, what is hidden goes through memory a dozen times in a training step. Here a block of samples goes through both
layers while it is in the cache, and the backward pass computes what is hidden once more instead of reading it.

All arrays are C-contiguous. Features and outputs are [features, samples], so that vector instructions work on
neighboring samples. Sides of weights are padded with zeros to multiples of `TILE`. What is added to the hidden layer
may differ between groups of consecutive samples of equal size, such as those of one ray: [groups, hidden].
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit, prange

# No annotations and no run-time shape checks here: numba compiles for the types of the arguments, float32 or float64.

TILE = 4
"""Rows and columns of a matrix that are multiplied at a time, their products kept in registers."""
SAMPLES_PER_BLOCK = 256
"""As many as let loops over samples pay: with 32, a backward pass took three times as long."""

FUSED = {"contract", "reassoc", "nsz"}
"""Sums may be taken in another order, as vector instructions have to."""


@njit(cache=True, fastmath=FUSED, inline="always")
@no_type_check
def _add_products(weights, inputs, sums):
    """sums += weights @ inputs, for a block of samples."""
    for i in range(0, weights.shape[0], TILE):
        for k in range(0, weights.shape[1], TILE):
            w00, w01, w02, w03 = weights[i, k], weights[i, k + 1], weights[i, k + 2], weights[i, k + 3]
            w10, w11, w12, w13 = weights[i + 1, k], weights[i + 1, k + 1], weights[i + 1, k + 2], weights[i + 1, k + 3]
            w20, w21, w22, w23 = weights[i + 2, k], weights[i + 2, k + 1], weights[i + 2, k + 2], weights[i + 2, k + 3]
            w30, w31, w32, w33 = weights[i + 3, k], weights[i + 3, k + 1], weights[i + 3, k + 2], weights[i + 3, k + 3]
            for s in range(SAMPLES_PER_BLOCK):
                x0, x1, x2, x3 = inputs[k, s], inputs[k + 1, s], inputs[k + 2, s], inputs[k + 3, s]
                sums[i, s] += w00 * x0 + w01 * x1 + w02 * x2 + w03 * x3
                sums[i + 1, s] += w10 * x0 + w11 * x1 + w12 * x2 + w13 * x3
                sums[i + 2, s] += w20 * x0 + w21 * x1 + w22 * x2 + w23 * x3
                sums[i + 3, s] += w30 * x0 + w31 * x1 + w32 * x2 + w33 * x3


@njit(cache=True, fastmath=FUSED, inline="always")
@no_type_check
def _add_outer_products(gradients, inputs, sums):
    """sums += gradients @ inputs.T, over a block of samples."""
    zero = gradients.dtype.type(0)
    for i in range(0, gradients.shape[0], 2):
        for k in range(0, inputs.shape[0], TILE):
            s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = zero
            for s in range(SAMPLES_PER_BLOCK):
                x0, x1, x2, x3 = inputs[k, s], inputs[k + 1, s], inputs[k + 2, s], inputs[k + 3, s]
                g0, g1 = gradients[i, s], gradients[i + 1, s]
                s00, s01, s02, s03 = s00 + g0 * x0, s01 + g0 * x1, s02 + g0 * x2, s03 + g0 * x3
                s10, s11, s12, s13 = s10 + g1 * x0, s11 + g1 * x1, s12 + g1 * x2, s13 + g1 * x3
            sums[i, k], sums[i, k + 1] = sums[i, k] + s00, sums[i, k + 1] + s01
            sums[i, k + 2], sums[i, k + 3] = sums[i, k + 2] + s02, sums[i, k + 3] + s03
            sums[i + 1, k], sums[i + 1, k + 1] = sums[i + 1, k] + s10, sums[i + 1, k + 1] + s11
            sums[i + 1, k + 2], sums[i + 1, k + 3] = sums[i + 1, k + 2] + s12, sums[i + 1, k + 3] + s13


@njit(cache=True, inline="always")
@no_type_check
def _load(array, first, count, block):
    """Copy a block of samples; what is missing of it is 0."""
    for row in range(array.shape[0]):
        for sample in range(count):
            block[row, sample] = array[row, first + sample]
        for sample in range(count, SAMPLES_PER_BLOCK):
            block[row, sample] = 0


@njit(cache=True, fastmath=FUSED, inline="always")
@no_type_check
def _hide(inputs, first, count, weights, biases, per_group, hidden):
    """Write the hidden layer of a block of samples."""
    zero = hidden.dtype.type(0)
    start = first
    while start < first + count:
        group = start // per_group
        end = min(first + count, (group + 1) * per_group)
        for i in range(hidden.shape[0]):
            for sample in range(start - first, end - first):
                hidden[i, sample] = biases[group, i]
        start = end
    for i in range(hidden.shape[0]):
        for sample in range(count, SAMPLES_PER_BLOCK):
            hidden[i, sample] = 0
    _add_products(weights, inputs, hidden)
    for i in range(hidden.shape[0]):
        for sample in range(SAMPLES_PER_BLOCK):
            hidden[i, sample] = max(hidden[i, sample], zero)


@njit(parallel=True, cache=True, nogil=True, fastmath=FUSED)
@no_type_check
def forward(features, weights, biases, last_weights, last_biases, task_ends, outputs):
    """Write outputs: last_weights @ relu(weights @ features + biases) + last_biases.

    A task is a range of whole groups, or a part of the samples where there is but one group.
    """
    num_hidden, num_outputs, per_group = weights.shape[0], outputs.shape[0], features.shape[1] // biases.shape[0]
    for index in prange(len(task_ends)):
        task = np.int64(index)  # an unsigned index beside a signed one would make floats
        inputs = np.zeros((weights.shape[1], SAMPLES_PER_BLOCK), features.dtype)
        hidden = np.empty((num_hidden, SAMPLES_PER_BLOCK), features.dtype)
        results = np.empty((last_weights.shape[0], SAMPLES_PER_BLOCK), features.dtype)
        for first in range(task_ends[task - 1] if task > 0 else 0, task_ends[task], SAMPLES_PER_BLOCK):
            count = min(SAMPLES_PER_BLOCK, task_ends[task] - first)
            _load(features, first, count, inputs)
            _hide(inputs, first, count, weights, biases, per_group, hidden)
            for i in range(last_weights.shape[0]):
                for sample in range(SAMPLES_PER_BLOCK):
                    results[i, sample] = last_biases[i]
            _add_products(last_weights, hidden, results)
            for i in range(num_outputs):
                for sample in range(count):
                    outputs[i, first + sample] = results[i, sample]


@njit(parallel=True, cache=True, nogil=True, fastmath=FUSED)
@no_type_check
def backward(
    features,
    output_gradients,
    weights,
    biases,
    last_weights,
    task_ends,
    feature_gradients,
    weight_gradients,
    bias_gradients,
    last_weight_gradients,
    last_bias_gradients,
):
    """Write what outputs' gradients come to for features, and by task for what all samples share.

    Gradients of biases are added to those of each group; where there is but one group, of each task.
    """
    num_hidden, num_outputs, per_group = (
        weights.shape[0],
        output_gradients.shape[0],
        features.shape[1] // biases.shape[0],
    )
    zero = features.dtype.type(0)
    transposed, last_transposed = np.ascontiguousarray(weights.T), np.ascontiguousarray(last_weights.T)
    for index in prange(len(task_ends)):
        task = np.int64(index)  # an unsigned index beside a signed one would make floats
        inputs = np.zeros((weights.shape[1], SAMPLES_PER_BLOCK), features.dtype)
        of_inputs = np.empty((weights.shape[1], SAMPLES_PER_BLOCK), features.dtype)
        hidden = np.empty((num_hidden, SAMPLES_PER_BLOCK), features.dtype)
        of_hidden = np.empty((num_hidden, SAMPLES_PER_BLOCK), features.dtype)
        of_outputs = np.zeros((last_weights.shape[0], SAMPLES_PER_BLOCK), features.dtype)
        # Sums of the task, in the cache.
        of_weights, of_last_weights = np.zeros_like(weights), np.zeros_like(last_weights)
        for first in range(task_ends[task - 1] if task > 0 else 0, task_ends[task], SAMPLES_PER_BLOCK):
            count = min(SAMPLES_PER_BLOCK, task_ends[task] - first)
            _load(features, first, count, inputs)
            _load(output_gradients, first, count, of_outputs)
            _hide(inputs, first, count, weights, biases, per_group, hidden)
            of_hidden[:] = 0
            _add_products(last_transposed, of_outputs, of_hidden)
            for i in range(num_hidden):
                for sample in range(SAMPLES_PER_BLOCK):
                    of_hidden[i, sample] = of_hidden[i, sample] if hidden[i, sample] > zero else zero
            _add_outer_products(of_outputs, hidden, of_last_weights)
            _add_outer_products(of_hidden, inputs, of_weights)
            for i in range(num_outputs):
                total = last_bias_gradients[task, i]
                for sample in range(SAMPLES_PER_BLOCK):
                    total += of_outputs[i, sample]
                last_bias_gradients[task, i] = total
            start = first
            while start < first + count:
                group = start // per_group
                end = min(first + count, (group + 1) * per_group)
                row = task if biases.shape[0] == 1 else group
                for i in range(num_hidden):
                    total = bias_gradients[row, i]
                    for sample in range(start - first, end - first):
                        total += of_hidden[i, sample]
                    bias_gradients[row, i] = total
                start = end
            of_inputs[:] = 0
            _add_products(transposed, of_hidden, of_inputs)
            for k in range(features.shape[0]):
                for sample in range(count):
                    feature_gradients[k, first + sample] = of_inputs[k, sample]
        weight_gradients[task] = of_weights
        last_weight_gradients[task] = of_last_weights
