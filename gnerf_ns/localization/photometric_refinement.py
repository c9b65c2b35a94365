"""Poses of photographs by gradient descent on the colour error, with the field frozen (iNeRF; BARF section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import torch
from jaxtyping import Float
from torch import Tensor

from gnerf_ns.cameras.pose_codec import PoseCodec
from gnerf_ns.cameras.pose_table import PoseTable
from gnerf_ns.localization.photographs import Photographs
from gnerf_ns.localization.pixel_rays import sample_pixel_rays
from gnerf_ns.model_components.phase_schedule import geometric
from gnerf_ns.models.gnerf import GNeRFModel


@dataclass
class RefinementConfig:
    """How poses are refined with the field frozen."""

    steps: int = 300
    """Steps of Adam, for all photographs together."""
    rays_per_step: int = 2048
    """Random rays of each step."""
    learning_rate: float = 4e-3
    """Adam's learning rate on pose codes at the first step."""
    final_learning_rate: float = 1e-4
    """The same at the last step; geometric in between."""
    first_image_side: int = 24
    """Longer side of the photographs at the first step, in pixels; grows geometrically."""
    last_image_side: Optional[int] = None
    """Longer side that they grow to, in pixels; None for full size."""
    growth_fraction: float = 0.6
    """Share of the steps over which the image side grows."""


def refine_poses(config: RefinementConfig, model: GNeRFModel, photographs: Photographs, poses: PoseTable) -> None:
    """Refine the poses of photographs in place; the model is left as it was.

    Args:
        config: steps and rates.
        model: a trained model.
        photographs: what the renderings should look like.
        poses: one pose per photograph, near enough to the truth for the colour error to lead there.
    """
    was_training = model.training
    model.eval()
    frozen = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    optimizer = torch.optim.Adam([poses.codes], lr=config.learning_rate)
    full_side = max(photographs.images.height, photographs.images.width)
    last_side = min(config.last_image_side or full_side, full_side)
    sides = (min(config.first_image_side, last_side), last_side)
    try:
        for step in range(config.steps):
            progress = step / max(1, config.steps - 1)
            optimizer.param_groups[0]["lr"] = geometric((config.learning_rate, config.final_learning_rate), progress)
            growth = min(1.0, progress / config.growth_fraction)
            side = geometric(sides, growth)
            rays, colours = sample_pixel_rays(photographs, poses(), config.rays_per_step, round(side))
            optimizer.zero_grad()
            model.get_photometric_loss(model.render(rays), colours).backward()
            optimizer.step()
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
        model.train(was_training)


@torch.enable_grad()
def refined_poses(
    config: RefinementConfig,
    model: GNeRFModel,
    photographs: Photographs,
    camera_to_worlds: Float[Tensor, "n 3 4"],
    codec: PoseCodec,
) -> Float[Tensor, "n 3 4"]:
    """Where `refine_poses` gets to from given poses, one for each photograph, learned as the codec has them."""
    poses = PoseTable(len(camera_to_worlds), codec).to(camera_to_worlds.device)
    poses.assign(torch.arange(len(camera_to_worlds), device=camera_to_worlds.device), camera_to_worlds)
    refine_poses(config, model, photographs, poses)
    return poses().detach()
