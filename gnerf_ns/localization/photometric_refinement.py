"""Poses of photographs by gradient descent on the colour error, with the field frozen (iNeRF; BARF section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Optional

import torch
from torch.nn import functional as F

from gnerf_ns.localization.hypotheses import Hypotheses
from gnerf_ns.localization.pixel_choice import PixelChoice
from gnerf_ns.localization.trained_field import TrainedField
from gnerf_ns.model_components.phase_schedule import geometric


@dataclass
class RefinementConfig:
    """How poses are refined with the field frozen."""

    steps: int = 300
    """Steps of Adam, for all hypotheses together."""
    rays_per_hypothesis: int = 80
    """Random rays of each hypothesis in each step."""
    learning_rate: float = 4e-3
    """Adam's learning rate on poses at the first step, in radians and camera distances."""
    final_learning_rate: float = 1e-4
    """The same at the last step; geometric in between."""
    first_image_side: int = 24
    """Longer side of the photographs at the first step, in pixels; grows geometrically."""
    last_image_side: Optional[int] = None
    """Longer side that they grow to, in pixels; None for full size."""
    growth_fraction: float = 0.6
    """Share of the steps over which the image side grows."""
    robust_width: float = 0.1
    """Colour errors beyond this count by their size and not by their square (Huber)."""
    learn_exposure: bool = False
    """Whether photographs may be brighter or darker than the field, each by a factor of its own."""
    learn_focal_length: bool = False
    """Whether photographs may have other focal lengths than was given."""


def refine_poses(
    config: RefinementConfig,
    field: TrainedField,
    pixels: PixelChoice,
    hypotheses: Hypotheses,
    after_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Refine hypotheses in place; the field is left as it was.

    Args:
        config: steps and rates.
        field: a trained field.
        pixels: of the photographs that the hypotheses are about.
        hypotheses: near enough to the truth for the colour error to lead there.
        after_step: told each step that was made, from 0.
    """
    learned = [*hypotheses.poses.parameters()]
    learned += [hypotheses.log_gains] if config.learn_exposure else []
    learned += [hypotheses.log_focal_factors] if config.learn_focal_length else []
    optimizer = torch.optim.Adam(learned, lr=config.learning_rate)
    photographs = pixels.photographs
    full_side = max(photographs.images.height, photographs.images.width)
    last_side = min(config.last_image_side or full_side, full_side)
    sides = (min(config.first_image_side, last_side), last_side)
    # In training on a GPU, the trainer's mixed precision would let small gradients vanish.
    with field.frozen(), torch.enable_grad(), torch.autocast(field.device.type, enabled=False):
        for step in range(config.steps):
            progress = step / max(1, config.steps - 1)
            optimizer.param_groups[0]["lr"] = geometric((config.learning_rate, config.final_learning_rate), progress)
            side = round(geometric(sides, min(1.0, progress / config.growth_fraction)))
            coords, colours = pixels.draw(hypotheses.which, config.rays_per_hypothesis, side)
            shown = hypotheses.exposed(field.colours(hypotheses.rays(coords, *photographs.size_at(side))))
            optimizer.zero_grad()
            F.huber_loss(shown, colours.flatten(0, 1), delta=config.robust_width).backward()
            optimizer.step()
            after_step(step)
