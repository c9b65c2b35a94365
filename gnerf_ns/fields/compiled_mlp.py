"""nerfstudio's small MLPs, compiled for CPUs."""

from __future__ import annotations

from typing import Any, Iterable, NamedTuple, Optional, Tuple, cast

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.field_components.mlp import MLP
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from gnerf_ns.utils.compiled_kernels import run_kernel

KERNELS = "gnerf_ns.fields.mlp_kernels"
"""The module of the compiled code."""

TILE = 4
"""The kernels' own: sides of weights are multiples of it."""
SAMPLES_PER_TASK = 2048
"""About so many go to a thread at a time; sums over tasks do not depend on the number of threads."""


class TwoLayers(NamedTuple):
    """An MLP with one hidden layer, rectified linear units and no activation of its outputs."""

    weights: Float[Tensor, "hidden features"]
    """Of the hidden layer."""
    biases: Float[Tensor, "groups hidden"]
    """What is added to it, which may differ between groups of consecutive samples of equal size (those of a ray)."""
    last_weights: Float[Tensor, "outputs hidden"]
    """Of the outputs."""
    last_biases: Float[Tensor, "outputs"]
    """What is added to these."""

    @classmethod
    def of(cls, mlp: MLP) -> Optional[TwoLayers]:
        """Those of nerfstudio's MLP; None where it is another kind of MLP, is not on the CPU, or is tiny-cuda-nn's."""
        layers = mlp.layers if isinstance(getattr(mlp, "layers", None), nn.ModuleList) else []
        if mlp.tcnn_encoding is not None or len(layers) != 2 or mlp._skip_connections:
            return None
        hidden, last = cast(Iterable[nn.Linear], layers)
        if hidden.weight.device.type != "cpu" or not isinstance(mlp.activation, nn.ReLU):
            return None
        return cls(hidden.weight, hidden.bias[None], last.weight, last.bias)

    def __call__(self, features: Float[Tensor, "features samples"]) -> Float[Tensor, "outputs samples"]:
        """Outputs, before an activation, of samples that lie side by side in memory.

        Differentiable once with respect to features, weights and biases.
        """
        # Under mixed precision, what came before may be of another type.
        weights, biases, last_weights, last_biases = (value.to(features.dtype) for value in self)
        if features.shape[1] == 0:
            return last_weights @ (weights @ features)
        num_outputs = len(last_weights)
        padded = F.pad(weights, (0, -weights.shape[1] % TILE, 0, -len(weights) % TILE))
        last_padded = F.pad(last_weights, (0, -len(weights) % TILE, 0, -num_outputs % TILE))
        outputs = _TwoLayers.apply(
            features,
            padded,
            F.pad(biases, (0, -len(weights) % TILE)).contiguous(),
            last_padded,
            F.pad(last_biases, (0, -num_outputs % TILE)),
            num_outputs,
        )
        assert isinstance(outputs, Tensor)
        return outputs


class _TwoLayers(torch.autograd.Function):
    """The compiled MLP as a function that autograd can differentiate; sides of its weights are multiples of `TILE`."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Float[Tensor, "features samples"],
        weights: Float[Tensor, "hidden padded_features"],
        biases: Float[Tensor, "groups hidden"],
        last_weights: Float[Tensor, "padded_outputs hidden"],
        last_biases: Float[Tensor, "padded_outputs"],
        num_outputs: int,
    ) -> Float[Tensor, "outputs samples"]:
        features = features.contiguous()
        ctx.save_for_backward(features, weights, biases, last_weights)
        outputs = features.new_empty(num_outputs, features.shape[1])
        ends = _task_ends(features.shape[1], len(biases))
        run_kernel(KERNELS, "forward", features, weights, biases, last_weights, last_biases, ends, outputs)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, *output_gradients: Float[Tensor, "outputs samples"]
    ) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor, None]:
        features, weights, biases, last_weights = ctx.saved_tensors
        (gradients,) = output_gradients
        ends, num_groups = _task_ends(features.shape[1], len(biases)), len(biases)
        of_features = torch.empty_like(features)
        of_weights = weights.new_empty(len(ends), *weights.shape)
        of_biases = weights.new_zeros(len(ends) if num_groups == 1 else num_groups, len(weights))
        of_last_weights = weights.new_empty(len(ends), *last_weights.shape)
        of_last_biases = weights.new_zeros(len(ends), len(last_weights))
        sums = of_features, of_weights, of_biases, of_last_weights, of_last_biases
        gradients = gradients.to(features.dtype).contiguous()
        run_kernel(KERNELS, "backward", features, gradients, weights, biases, last_weights, ends, *sums)
        of_biases = of_biases.sum(dim=0, keepdim=True) if num_groups == 1 else of_biases
        return (
            of_features,
            of_weights.sum(dim=0),
            of_biases,
            of_last_weights.sum(dim=0),
            of_last_biases.sum(dim=0),
            None,
        )


def _task_ends(num_samples: int, num_groups: int) -> np.ndarray:
    """Where each task's samples end: whole groups, unless there is but one."""
    per_group = 1 if num_groups == 1 else num_samples // num_groups
    step = per_group * max(1, SAMPLES_PER_TASK // max(1, per_group))
    return np.minimum(np.arange(step, num_samples + step, step), num_samples)
