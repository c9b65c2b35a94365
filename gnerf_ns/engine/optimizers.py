"""Optimizers with options that nerfstudio's configs lack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Tuple

from nerfstudio.engine.optimizers import AdamOptimizerConfig


@dataclass
class QuickAdamOptimizerConfig(AdamOptimizerConfig):
    """Adam for runs of hundreds of steps, whose second moment must not remember a thousand."""

    eps: float = 1e-15
    """Added to the denominator; entries of a hash grid have tiny gradients."""
    betas: Tuple[float, float] = (0.9, 0.99)
    """Decay rates of the first and second moment."""
    fused: bool = True
    """One pass over the parameters in place of a dozen; a hash grid has a million of them."""
