"""What an objective last compared, to look at."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

COLUMNS = 12
"""Pictures that are kept and shown side by side."""

SMALLEST_SHOWN_SIDE = 64
"""Smaller pictures are enlarged by a whole factor to at least this many pixels."""


@dataclass(frozen=True)
class ComparedPictures:
    """Photographs, or patches of them, and renderings of the same size. They carry no gradients."""

    title: str
    """What is seen."""
    photographed: Float[Tensor, "columns 3 height width"]
    """Colours in [0, 1]."""
    rendered: Float[Tensor, "columns 3 height width"]
    """Colours, of about that range."""

    def grid(self) -> Float[Tensor, "grid_height grid_width 3"]:
        """The photographs in one row above the renderings in another; values in [0, 1]."""
        from torchvision.utils import make_grid

        pictures = torch.cat([self.photographed, self.rendered]).detach().float().cpu().clamp(0.0, 1.0)
        factor = -(-SMALLEST_SHOWN_SIDE // max(pictures.shape[-2:]))
        enlarged = pictures.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)
        return make_grid(enlarged, nrow=len(self.photographed), padding=2, pad_value=0.5).permute(1, 2, 0)
