"""Random changes of patches that a discriminator must not learn by heart, differentiable in the patches.

The idea is DiffAugment's (Zhao et al. 2020, arXiv 2006.10738): few photographs make a discriminator memorise them, so
real and rendered patches alike pass through the same random changes, and gradients flow back through these.
"""

from dataclasses import dataclass
from typing import Optional

import torch
from jaxtyping import Bool, Float
from torch import Tensor

CUTOUT_COLOUR = 0.5
"""Mid-grey, the zero of colours in [-1, 1], which is what the discriminator sees."""


@dataclass
class AugmentationConfig:
    """How strongly, and how often, patches are changed; the defaults are the released GNeRF's."""

    probability: float = 0.5
    """Share of the patches that are changed at all."""
    brightness: float = 0.25
    """Largest colour added or taken away, colours being in [0, 1]."""
    saturation: float = 1.0
    """Saturation is multiplied by 1 ± this at most."""
    contrast: float = 0.5
    """Contrast is multiplied by 1 ± this at most."""
    cutout: float = 0.5
    """Side of the grey square laid over a patch, as a share of the patch's side; 0 for none."""


def augment_patches(
    patches: Float[Tensor, "batch channels height width"],
    config: AugmentationConfig,
    generator: Optional[torch.Generator] = None,
) -> Float[Tensor, "batch channels height width"]:
    """Change brightness, saturation and contrast of some patches, and lay a grey square over each of those.

    Args:
        patches: colours in [0, 1]. Channels after the third (opacity) keep their values outside the square.
        config: how strongly, how often.
        generator: source of randomness, on the patches' device; torch's own if None.

    Returns:
        New patches; values may leave [0, 1].
    """
    batch, _, height, width = patches.shape
    uniform = torch.rand(batch, 6, 1, 1, 1, generator=generator, device=patches.device, dtype=patches.dtype)
    brightness, saturation, contrast, row, column, chance = uniform.unbind(dim=1)
    colours = jitter_colours(
        patches[:, :3],
        config.brightness * (2 * brightness - 1),
        1 + config.saturation * (2 * saturation - 1),
        1 + config.contrast * (2 * contrast - 1),
    )
    changed = torch.cat([colours, patches[:, 3:]], dim=1)
    hidden = cutout_mask(height, width, config.cutout, row[:, 0, 0, 0], column[:, 0, 0, 0])
    changed = torch.where(hidden[:, None], changed.new_tensor(CUTOUT_COLOUR), changed)
    return torch.where(chance < config.probability, changed, patches)


def jitter_colours(
    patches: Float[Tensor, "batch channels height width"],
    brightness: Float[Tensor, "batch 1 1 1"],
    saturation: Float[Tensor, "batch 1 1 1"],
    contrast: Float[Tensor, "batch 1 1 1"],
) -> Float[Tensor, "batch channels height width"]:
    """Brighten, then stretch each pixel's colours about its grey, then all of them about the patch's mean.

    Args:
        patches: colours.
        brightness: added to every colour.
        saturation: factor; 0 makes a patch grey.
        contrast: factor; 0 makes a patch uniform.
    """
    patches = patches + brightness
    grey = patches.mean(dim=1, keepdim=True)
    patches = grey + saturation * (patches - grey)
    mean = patches.mean(dim=(1, 2, 3), keepdim=True)
    return mean + contrast * (patches - mean)


def cutout_mask(
    height: int, width: int, share: float, rows: Float[Tensor, "batch"], columns: Float[Tensor, "batch"]
) -> Bool[Tensor, "batch {height} {width}"]:
    """Where a rectangle lies over each patch; it may hang over the patch's edge.

    Args:
        height: of a patch, in pixels.
        width: of a patch, in pixels.
        share: of the patch's sides that the rectangle's sides are.
        rows: the rectangles' centres, as a share of the height, in [0, 1].
        columns: likewise, of the width.

    Returns:
        True under the rectangle.
    """
    row_centres = (torch.arange(height, device=rows.device) + 0.5) / height
    column_centres = (torch.arange(width, device=columns.device) + 0.5) / width
    in_rows = (row_centres - rows[:, None]).abs() < share / 2
    in_columns = (column_centres - columns[:, None]).abs() < share / 2
    return in_rows[:, :, None] & in_columns[:, None, :]
