"""Hash-grid encoding whose finer levels are switched on as training proceeds."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from gnerf_ns.field_components.compiled_hash_encoding import CompiledHashEncoding


class CoarseToFineHashEncoding(CompiledHashEncoding):
    """A `HashEncoding` with a smooth low-pass window over its levels (BARF, ICCV 2021, eq. 14).

    Coarse levels give pose gradients a wide basin; fine levels sharpen the field later. The torch implementation does
    not evaluate levels whose weight is zero, which is most of its cost early in training.
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        # Plain attributes of the parent; the full lists are kept so that a window can be cut out of them.
        self._all_scalings = self.scalings
        self._all_hash_offsets = self.hash_offset
        self._level_weights = torch.ones(self.num_levels)

    def set_active_levels(self, active_levels: float) -> None:
        """Switch on the first `active_levels` levels.

        Args:
            active_levels: number of levels in [1, num_levels]; a fractional part fades the next level in.
        """
        progress = (active_levels - torch.arange(self.num_levels)).clamp(0.0, 1.0)
        self._level_weights = 0.5 * (1.0 - torch.cos(progress * torch.pi))
        num_evaluated = max(1, int((self._level_weights > 0).sum()))
        self.scalings = self._all_scalings[:num_evaluated]
        self.hash_offset = self._all_hash_offsets[:num_evaluated]

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
