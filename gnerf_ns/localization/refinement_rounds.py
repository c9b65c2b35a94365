"""Where photographs were taken: hypotheses refined side by side in a trained field, and pruned to the best."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import List, Optional

import roma
import torch
from jaxtyping import Float
from torch import Tensor

from gnerf_ns.localization.hypotheses import Hypotheses, MakePoses
from gnerf_ns.localization.photographs import Photographs
from gnerf_ns.localization.photometric_refinement import RefinementConfig, refine_poses
from gnerf_ns.localization.pixel_choice import PixelChoice, RaySelection
from gnerf_ns.localization.trained_field import TrainedField

PATH_INTERVAL = 10
"""Steps between the recorded poses of a path."""

LEAST_VARIANCE = 1e-5
"""A photograph whose colours vary less, in units of their whole range, shows nothing."""

RAYS_PER_CHUNK = 32768
"""Rays rendered at a time where hypotheses are compared; bounds memory."""


@dataclass
class LocalizationConfig:
    """How poses are found in a trained field."""

    survivors: int = 4
    """Hypotheses of each photograph that are left after the first refinement; after the second, it is one."""
    first: RefinementConfig = field(
        default_factory=lambda: RefinementConfig(
            steps=100,
            rays_per_hypothesis=24,
            learning_rate=1e-2,
            final_learning_rate=3e-3,
            first_image_side=16,
            last_image_side=32,
        )
    )
    """Refinement of all hypotheses. Many steps with few rays get further than few steps with many."""
    second: RefinementConfig = field(
        default_factory=lambda: RefinementConfig(
            steps=100, rays_per_hypothesis=48, learning_rate=6e-3, final_learning_rate=1e-3, last_image_side=64
        )
    )
    """Refinement of those that survive it."""
    last: RefinementConfig = field(default_factory=RefinementConfig)
    """Refinement of the best."""
    ray_selection: RaySelection = "interest"
    """interest: pixels near keypoints (iNeRF section 3.3), or all where there are few; importance: those where the
    picture changes; random: all alike."""
    comparison_side: int = 64
    """Longer side of the renderings by which hypotheses are told apart, in pixels; smaller where a refinement has only
    seen smaller pictures. Single rays through pixels of a sharp field are noise beside a photograph that was shrunk
    much: at 32 pixels, a pose some degrees off may pass for right."""
    max_error_ratio: float = 4.0
    """A photograph is localised if its squared colour error is at most so many times that of training images."""
    min_explained_share: float = 0.5
    """And if the rendering explains at least this share of the photograph's own variance."""
    agreement_deg: float = 5.0
    """Hypotheses agree with the pose found if they differ from it by less, in degrees, after the second refinement."""


@dataclass(frozen=True)
class Localization:
    """What was found out about one photograph."""

    camera_to_world: Float[Tensor, "3 4"]
    """Its pose, in the field's frame."""
    error: float
    """Root mean square colour error of the rendering there, at `comparison_side`."""
    explained_share: float
    """Share of the variance of the photograph's colours that the rendering explains; 1 is all, 0 is no more than one
    colour would."""
    num_hypotheses: int
    """How many there were to begin with."""
    num_agreeing: int
    """How many of those that survived the first refinement came to the same rotation in the second."""
    converged: bool
    """Whether this may be believed."""
    exposure_gain: float
    """How much brighter the photograph is than the field; 1 where that was not learned."""
    focal_factor: float
    """How much longer its focal length is than was given; 1 where that was not learned."""
    path: Float[Tensor, "steps 3 4"]
    """Poses of the hypothesis that won, from its first to the last, every `PATH_INTERVAL` steps."""
    num_rays: int
    """Rays that were rendered with gradients."""
    seconds: float = 0.0
    """How long it took, hypotheses included; shared evenly among photographs that were refined together."""

    def or_better(self, other: Localization) -> Localization:
        """This or another attempt at the same photograph, whichever fits better, at the cost of both."""
        better = other if other.error < self.error else self
        num_rays, seconds = self.num_rays + other.num_rays, self.seconds + other.seconds
        return replace(better, num_rays=num_rays, seconds=seconds)


def localize_photographs(
    config: LocalizationConfig,
    field: TrainedField,
    photographs: Photographs,
    starts: Float[Tensor, "n hypotheses 3 4"],
    make_poses: MakePoses,
    reference_error: Optional[float] = None,
) -> List[Localization]:
    """Refine several poses of each photograph together and keep the best.

    Args:
        config: how.
        field: a trained field; left as it was.
        photographs: what to find the cameras of.
        starts: poses of each to begin with.
        make_poses: what is learned of a pose.
        reference_error: mean squared colour error of training images, by which `converged` is judged; None: by the
            explained share alone.
    """
    count, per_photograph = starts.shape[:2]
    which = torch.arange(count, device=starts.device).repeat_interleave(per_photograph)
    pixels = PixelChoice(photographs, config.ray_selection, field.background)
    hypotheses = Hypotheses(photographs, which, starts.flatten(0, 1), make_poses)
    paths = starts.flatten(0, 1)[:, None]
    num_rays, survived, errors = 0, hypotheses, starts.new_zeros(len(hypotheses))
    rounds = ((config.first, config.survivors), (config.second, 1), (config.last, 1))
    for number, (refinement, survivors) in enumerate(rounds):
        survived = hypotheses if number == 1 else survived
        paths = torch.cat([paths, _refine(refinement, field, pixels, hypotheses)], dim=1)
        num_rays += refinement.steps * refinement.rays_per_hypothesis * len(hypotheses) // count
        side = min(config.comparison_side, refinement.last_image_side or config.comparison_side)
        errors = squared_errors(field, pixels, hypotheses, side)
        kept = _best(errors, count, survivors)
        hypotheses, paths, errors = hypotheses.kept(kept), paths[kept], errors[kept]

    poses = hypotheses.poses().detach()
    gains, factors = hypotheses.log_gains.detach().exp(), hypotheses.log_focal_factors.detach().exp()
    # A picture of one colour tells nothing of where it is from.
    variances = _variances(pixels, config.comparison_side)
    explained = torch.where(variances > LEAST_VARIANCE, 1.0 - errors / variances.clamp_min(LEAST_VARIANCE), 0.0)
    turns = roma.rotmat_geodesic_distance(survived.poses().detach()[..., :3], poses[survived.which][..., :3])
    agreeing = (turns.rad2deg() < config.agreement_deg).view(count, -1).sum(dim=1)
    limit = float("inf") if reference_error is None else config.max_error_ratio * reference_error
    return [
        Localization(
            camera_to_world=poses[index],
            error=float(errors[index].sqrt()),
            explained_share=float(explained[index]),
            num_hypotheses=per_photograph,
            num_agreeing=int(agreeing[index]),
            converged=bool(errors[index] <= limit and explained[index] >= config.min_explained_share),
            exposure_gain=float(gains[index]),
            focal_factor=float(factors[index]),
            path=paths[index],
            num_rays=num_rays,
        )
        for index in range(count)
    ]


@torch.no_grad()
def squared_errors(
    field: TrainedField, pixels: PixelChoice, hypotheses: Hypotheses, image_side: int
) -> Float[Tensor, "hypotheses"]:
    """Mean squared colour error of whole pictures, brought to a longer side in pixels, at each hypothesis."""
    coords, colours, counts = pixels.all_at(image_side)
    height, width = pixels.photographs.size_at(image_side)
    per_chunk = max(1, RAYS_PER_CHUNK // len(coords))
    errors = []
    with field.frozen():
        for chunk in torch.arange(len(hypotheses), device=coords.device).split(per_chunk):
            some = hypotheses.kept(chunk)
            rays = some.rays(coords.expand(len(chunk), -1, -1), height, width)
            shown = some.exposed(field.colours(rays)).view(len(chunk), -1, 3)
            difference = (shown - colours[some.which]).square().mean(dim=-1)
            errors.append((counts[some.which] * difference).sum(dim=1))
    return torch.cat(errors)


def _refine(
    config: RefinementConfig, field: TrainedField, pixels: PixelChoice, hypotheses: Hypotheses
) -> Float[Tensor, "hypotheses steps 3 4"]:
    """Refine in place; the poses along the way."""
    path: List[Tensor] = []

    def record(step: int) -> None:
        if step % PATH_INTERVAL == PATH_INTERVAL - 1 or step == config.steps - 1:
            path.append(hypotheses.poses().detach())

    refine_poses(config, field, pixels, hypotheses, record)
    return torch.stack(path, dim=1) if path else hypotheses.poses().detach()[:, None, :, :][:, :0]


def _best(errors: Float[Tensor, "hypotheses"], count: int, survivors: int) -> Tensor:
    """Indices of the best few hypotheses of each photograph."""
    by_photograph = errors.view(count, -1)
    few = min(survivors, by_photograph.shape[1])
    chosen = by_photograph.topk(few, dim=1, largest=False).indices
    first = torch.arange(count, device=errors.device)[:, None] * by_photograph.shape[1]
    return (first + chosen).flatten()


def _variances(pixels: PixelChoice, image_side: int) -> Float[Tensor, "n"]:
    """Of each photograph's colours around their mean."""
    _, colours, counts = pixels.all_at(image_side)
    means = (counts[:, :, None] * colours).sum(dim=1, keepdim=True)
    return (counts[:, :, None] * (colours - means).square()).sum(dim=1).mean(dim=1)
