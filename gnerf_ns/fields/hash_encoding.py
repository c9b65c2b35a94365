"""nerfstudio's hash grid, compiled for CPUs and with levels that fade in as training proceeds."""

from __future__ import annotations

from typing import Any, Optional, Tuple

import torch
from jaxtyping import Float
from nerfstudio.field_components.encodings import HashEncoding
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from gnerf_ns.utils.compiled_kernels import run_kernel

KERNELS = "gnerf_ns.fields.hash_grid_kernels"
"""The module of the compiled code."""


class CompiledHashEncoding(HashEncoding):
    """`HashEncoding` whose torch implementation runs compiled code if the table is on the CPU.

    Differentiable once with respect to the table and the positions. With tiny-cuda-nn, or with torch on a GPU, it is
    nerfstudio's own code.
    """

    def pytorch_fwd(self, in_tensor: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch features"]:
        """Features of all levels, concatenated, at positions in [0, 1]."""
        if not self.is_compiled:
            return super().pytorch_fwd(in_tensor)
        features = self.look_up(in_tensor.reshape(-1, 3)).mT
        return features.reshape(*in_tensor.shape[:-1], features.shape[-1])

    @property
    def is_compiled(self) -> bool:
        """Whether `look_up` may be asked: for a table on the CPU."""
        return hasattr(self, "hash_table") and self.hash_table.device.type == "cpu"

    def look_up(self, positions: Float[Tensor, "samples 3"]) -> Float[Tensor, "features samples"]:
        """The same, as `TwoLayers` takes them; of levels in use alone."""
        scalings = self.scalings.to(self.hash_table)  # a single level's are integers
        features = HashGridLookUp.apply(positions, self.hash_table, scalings, self.hash_table_size)
        assert isinstance(features, Tensor)
        return features


class HashGridLookUp(torch.autograd.Function):
    """The compiled look-up as a function that autograd can differentiate."""

    @staticmethod
    def forward(
        ctx: Any,
        positions: Float[Tensor, "samples 3"],
        table: Float[Tensor, "entries features_per_level"],
        scalings: Float[Tensor, "levels"],
        table_size: int,
    ) -> Float[Tensor, "features samples"]:
        """Trilinearly interpolated features, the levels concatenated."""
        positions = positions.to(table.dtype).contiguous()
        per_level, num_features = (0,) * table.shape[1], len(scalings) * table.shape[1]
        features = table.new_empty(num_features, len(positions))
        moves = ctx.needs_input_grad[0]
        jacobian = table.new_empty(num_features, 3, len(positions)) if moves else table.new_empty(0, 3, 0)
        run_kernel(KERNELS, "look_up", positions, table, scalings, table_size, per_level, features, jacobian)
        ctx.save_for_backward(positions, scalings, jacobian)
        ctx.table_size, ctx.per_level, ctx.num_entries = table_size, per_level, len(table)
        return features

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, *feature_gradients: Float[Tensor, "features samples"]
    ) -> Tuple[Optional[Tensor], Optional[Tensor], None, None]:
        """Gradients with respect to positions and table."""
        positions, scalings, jacobian = ctx.saved_tensors
        (gradients,) = feature_gradients
        gradients = gradients.to(positions.dtype).contiguous()
        position_gradients = table_gradients = None
        if ctx.needs_input_grad[0]:
            position_gradients = torch.zeros_like(positions)
            run_kernel(KERNELS, "add_position_gradients", jacobian, gradients, position_gradients)
        if ctx.needs_input_grad[1]:
            table_gradients = positions.new_zeros(ctx.num_entries, len(ctx.per_level))
            shared = scalings, ctx.table_size, ctx.per_level, gradients
            run_kernel(KERNELS, "add_table_gradients", positions, *shared, table_gradients)
        return position_gradients, table_gradients, None, None


def use_compiled_hash_grids(model: nn.Module) -> None:
    """Let nerfstudio's torch hash grids run the compiled code on a CPU: the same values, several times faster."""
    for module in model.modules():
        if type(module) is HashEncoding and hasattr(module, "hash_table"):
            module.__class__ = CompiledHashEncoding


class CoarseToFineHashEncoding(CompiledHashEncoding):
    """A `HashEncoding` with a smooth low-pass window over its levels (BARF, ICCV 2021, eq. 14).

    Coarse levels widen the basin of convergence of the poses; fine levels add detail later. The torch implementation
    skips levels whose weight is zero, which saves most of its cost early in training.
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        # The parent reads `scalings` and `hash_offset`; `set_active_levels` cuts them from these full lists.
        self._all_scalings = self.scalings
        self._all_hash_offsets = self.hash_offset
        self._level_weights = torch.ones(self.num_levels)

    def set_active_levels(self, active_levels: float) -> None:
        """Enable the first `active_levels` levels.

        Args:
            active_levels: number of levels in [1, num_levels]; a fractional part fades the next level in.
        """
        progress = (active_levels - torch.arange(self.num_levels)).clamp(0.0, 1.0)
        self._level_weights = 0.5 * (1.0 - torch.cos(progress * torch.pi))
        num_evaluated = max(1, int((self._level_weights > 0).sum()))
        self.scalings = self._all_scalings[:num_evaluated]
        self.hash_offset = self._all_hash_offsets[:num_evaluated]

    @property
    def feature_weights(self) -> Float[Tensor, "features"]:
        """By which features of the levels in use are multiplied."""
        weights = self._level_weights[: len(self.scalings)].repeat_interleave(self.features_per_level)
        return weights.to(self.hash_table)

    def forward(self, in_tensor: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch features"]:
        """Encode positions.

        Args:
            in_tensor: positions in [0, 1].

        Returns:
            Features of all levels; those of inactive levels are zero.
        """
        features = super().forward(in_tensor)
        weights = self._level_weights.to(features).repeat_interleave(self.features_per_level)
        features = features * weights[: features.shape[-1]]
        return F.pad(features, (0, self.get_out_dim() - features.shape[-1]))
