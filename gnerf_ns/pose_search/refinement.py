"""Poses by gradient descent on the color error, the field frozen: hypotheses refined side by side, and pruned."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Callable, List, Optional

import roma
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from gnerf_ns.data.image_set import ImageSet
from gnerf_ns.pose_search.doubt import (
    FLAGGED_PROBABILITY,
    alternative_probabilities,
    are_elsewhere,
    wrong_probability,
)
from gnerf_ns.pose_search.hypotheses import Hypotheses, MakePoses
from gnerf_ns.pose_search.image_renderer import ImageRenderer
from gnerf_ns.pose_search.pixel_sampling import PixelChoice, RaySelection
from gnerf_ns.utils.annealing import geometric
from gnerf_ns.utils.fair_lock import give_way


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
    """Longer side of the images at the first step, in pixels; grows geometrically."""
    last_image_side: Optional[int] = None
    """Longer side that they grow to, in pixels; None for full size."""
    growth_fraction: float = 0.6
    """Share of the steps over which the image side grows."""
    robust_width: float = 0.1
    """Color errors beyond this count by their size and not by their square (Huber)."""
    learn_exposure: bool = False
    """Whether images may be brighter or darker than the field, each by a factor of its own."""
    learn_focal_length: bool = False
    """Whether images may have other focal lengths than was given."""


def refine_poses(
    config: RefinementConfig,
    field: ImageRenderer,
    pixels: PixelChoice,
    hypotheses: Hypotheses,
    after_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Refine hypotheses in place; the field is left as it was.

    Args:
        config: steps and rates.
        field: a trained field.
        pixels: of the images that the hypotheses are about.
        hypotheses: near enough to the truth for the color error to lead there.
        after_step: told each step that was made, from 0.
    """
    learned = [*hypotheses.poses.parameters()]
    learned += [hypotheses.log_gains] if config.learn_exposure else []
    learned += [hypotheses.log_focal_scales] if config.learn_focal_length else []
    optimizer = torch.optim.Adam(learned, lr=config.learning_rate)
    image_set = pixels.image_set
    full_side = max(image_set.images.height, image_set.images.width)
    last_side = min(config.last_image_side or full_side, full_side)
    sides = (min(config.first_image_side, last_side), last_side)
    # In training on a GPU, the trainer's mixed precision would let small gradients vanish.
    with field.frozen(), torch.enable_grad(), torch.autocast(field.device.type, enabled=False):
        for step in range(config.steps):
            give_way()
            progress = step / max(1, config.steps - 1)
            optimizer.param_groups[0]["lr"] = geometric((config.learning_rate, config.final_learning_rate), progress)
            side = round(geometric(sides, min(1.0, progress / config.growth_fraction)))
            coords, colors = pixels.draw(hypotheses.image_indices, config.rays_per_hypothesis, side)
            shown = hypotheses.apply_exposure(field.colors(hypotheses.rays(coords, *image_set.size_at(side))))
            optimizer.zero_grad()
            # Not into learned focal lengths, which the rays depend on, too.
            F.huber_loss(shown, colors.flatten(0, 1), delta=config.robust_width).backward(inputs=learned)
            optimizer.step()
            after_step(step)


PATH_INTERVAL = 10
"""Steps between the recorded poses of a path."""

LEAST_VARIANCE = 1e-5
"""An image whose colors vary less, in units of their whole range, shows nothing."""

RAYS_PER_CHUNK = 32768
"""Rays rendered at a time where hypotheses are compared; bounds memory."""


@dataclass
class LocalizationConfig:
    """How poses are found in a trained field."""

    survivors: int = 4
    """Hypotheses of each image that are left after the first refinement; after the second, it is one."""
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
    image changes; random: all alike."""
    comparison_side: int = 64
    """Longer side of the renderings by which hypotheses are told apart, in pixels; smaller where a refinement has only
    seen smaller images. Single rays through pixels of a sharp field are noise beside an image that was shrunk
    much: at 32 pixels, a pose some degrees off may pass for right."""
    max_error_ratio: float = 4.0
    """An image is localized if its squared color error is at most so many times that of training images."""
    min_explained_variance: float = 0.5
    """And if the rendering explains at least this share of the image's own variance."""
    agreement_deg: float = 5.0
    """Hypotheses agree with the pose found if they differ from it by less, in degrees, after the second refinement."""


@dataclass(frozen=True)
class Localization:
    """What was found out about one image."""

    camera_to_world: Float[Tensor, "3 4"]
    """Its pose, in the field's frame."""
    error: float
    """Root mean square color error of the rendering there, at `comparison_side`."""
    explained_variance: float
    """Share of the variance of the image's colors that the rendering explains; 1 is all, 0 is no more than one
    color would."""
    num_hypotheses: int
    """How many there were to begin with."""
    num_agreeing: int
    """How many of those that survived the first refinement came to the same rotation in the second."""
    converged: bool
    """Whether this may be believed."""
    exposure_gain: float
    """How much brighter the image is than the field; 1 where that was not learned."""
    focal_scale: float
    """How much longer its focal length is than was given; 1 where that was not learned."""
    path: Float[Tensor, "steps 3 4"]
    """Poses of the hypothesis that won, from its first to the last, every `PATH_INTERVAL` steps."""
    num_rays: int
    """Rays that were rendered with gradients."""
    alternative_probability: float = math.nan
    """That the image was taken from somewhere quite different, by the hypotheses that ended elsewhere; NaN where there
    were none."""
    rotation_sigma_deg: float = math.nan
    """Root mean square of the angle by which the pose may be turned where it is, in degrees; NaN where unknown."""
    translation_sigma_relative: float = math.nan
    """Of the distance by which it may be shifted, as a share of that from the middle of the scene; NaN likewise."""
    seconds: float = 0.0
    """How long it took, hypotheses included; shared evenly among images that were refined together."""

    @property
    def is_flagged(self) -> bool:
        """Whether it is not to be trusted without a look."""
        probability = wrong_probability(self.rotation_sigma_deg, self.alternative_probability)
        return not self.converged or probability > FLAGGED_PROBABILITY

    def or_better(self, other: Localization) -> Localization:
        """This or another attempt at the same image, whichever fits better, at the cost of both."""
        better, worse = (other, self) if other.error < self.error else (self, other)
        num_rays, seconds = self.num_rays + other.num_rays, self.seconds + other.seconds
        least, greater = (torch.tensor([each.error**2]) for each in (better, worse))
        probability = better.alternative_probability
        if bool(are_elsewhere(worse.camera_to_world, better.camera_to_world)):
            between = float(alternative_probabilities(least, greater, torch.zeros(1)))
            probability = between if math.isnan(probability) else max(probability, between)
        return replace(better, alternative_probability=probability, num_rays=num_rays, seconds=seconds)


def localize_images(
    config: LocalizationConfig,
    field: ImageRenderer,
    image_set: ImageSet,
    starts: Float[Tensor, "n hypotheses 3 4"],
    make_poses: MakePoses,
    reference_error: Optional[float] = None,
) -> List[Localization]:
    """Refine several poses of each image together and keep the best.

    Args:
        config: how.
        field: a trained field; left as it was.
        image_set: what to find the cameras of.
        starts: poses of each to begin with.
        make_poses: what is learned of a pose.
        reference_error: mean squared color error of training images, by which `converged` is judged; None: by the
            explained share alone.
    """
    count, per_image = starts.shape[:2]
    image_indices = torch.arange(count, device=starts.device).repeat_interleave(per_image)
    pixels = PixelChoice(image_set, config.ray_selection, field.background)
    hypotheses = Hypotheses(image_set, image_indices, starts.flatten(0, 1), make_poses)
    paths = starts.flatten(0, 1)[:, None]
    num_rays, survived, errors = 0, hypotheses, starts.new_zeros(len(hypotheses))
    elsewhere = starts.new_full((count,), torch.nan)
    rounds = ((config.first, config.survivors), (config.second, 1), (config.last, 1))
    for number, (refinement, survivors) in enumerate(rounds):
        survived = hypotheses if number == 1 else survived
        paths = torch.cat([paths, _refine(refinement, field, pixels, hypotheses)], dim=1)
        num_rays += refinement.steps * refinement.rays_per_hypothesis * len(hypotheses) // count
        side = min(config.comparison_side, refinement.last_image_side or config.comparison_side)
        errors = squared_errors(field, pixels, hypotheses, side)
        elsewhere = _elsewhere(hypotheses.poses().detach(), errors, elsewhere)
        kept = _best(errors, count, survivors)
        hypotheses, paths, errors = hypotheses.select(kept), paths[kept], errors[kept]

    poses = hypotheses.poses().detach()
    probabilities = alternative_probabilities(errors, elsewhere, torch.zeros_like(errors))
    gains, factors = hypotheses.log_gains.detach().exp(), hypotheses.log_focal_scales.detach().exp()
    # An image of one color tells nothing of where it is from.
    variances = _variances(pixels, config.comparison_side)
    explained = torch.where(variances > LEAST_VARIANCE, 1.0 - errors / variances.clamp_min(LEAST_VARIANCE), 0.0)
    turns = roma.rotmat_geodesic_distance(survived.poses().detach()[..., :3], poses[survived.image_indices][..., :3])
    agreeing = (turns.rad2deg() < config.agreement_deg).view(count, -1).sum(dim=1)
    limit = float("inf") if reference_error is None else config.max_error_ratio * reference_error
    return [
        Localization(
            camera_to_world=poses[index],
            error=float(errors[index].sqrt()),
            explained_variance=float(explained[index]),
            num_hypotheses=per_image,
            num_agreeing=int(agreeing[index]),
            converged=bool(errors[index] <= limit and explained[index] >= config.min_explained_variance),
            exposure_gain=float(gains[index]),
            focal_scale=float(factors[index]),
            path=paths[index],
            num_rays=num_rays,
            alternative_probability=float(probabilities[index]),
        )
        for index in range(count)
    ]


@torch.no_grad()
def squared_errors(
    field: ImageRenderer, pixels: PixelChoice, hypotheses: Hypotheses, image_side: int
) -> Float[Tensor, "hypotheses"]:
    """Mean squared color error of whole images, brought to a longer side in pixels, at each hypothesis."""
    coords, colors, counts = pixels.all_at(image_side)
    height, width = pixels.image_set.size_at(image_side)
    per_chunk = max(1, RAYS_PER_CHUNK // len(coords))
    errors = []
    with field.frozen():
        for chunk in torch.arange(len(hypotheses), device=coords.device).split(per_chunk):
            give_way()
            some = hypotheses.select(chunk)
            rays = some.rays(coords.expand(len(chunk), -1, -1), height, width)
            shown = some.apply_exposure(field.colors(rays)).view(len(chunk), -1, 3)
            difference = (shown - colors[some.image_indices]).square().mean(dim=-1)
            errors.append((counts[some.image_indices] * difference).sum(dim=1))
    return torch.cat(errors)


def _refine(
    config: RefinementConfig, field: ImageRenderer, pixels: PixelChoice, hypotheses: Hypotheses
) -> Float[Tensor, "hypotheses steps 3 4"]:
    """Refine in place; the poses along the way."""
    path: List[Tensor] = []

    def record(step: int) -> None:
        if step % PATH_INTERVAL == PATH_INTERVAL - 1 or step == config.steps - 1:
            path.append(hypotheses.poses().detach())

    refine_poses(config, field, pixels, hypotheses, record)
    return torch.stack(path, dim=1) if path else hypotheses.poses().detach()[:, None, :, :][:, :0]


def _best(errors: Float[Tensor, "hypotheses"], count: int, survivors: int) -> Tensor:
    """Indices of the best few hypotheses of each image."""
    by_image = errors.view(count, -1)
    few = min(survivors, by_image.shape[1])
    chosen = by_image.topk(few, dim=1, largest=False).indices
    first = torch.arange(count, device=errors.device)[:, None] * by_image.shape[1]
    return (first + chosen).flatten()


def _elsewhere(
    camera_to_worlds: Float[Tensor, "hypotheses 3 4"],
    errors: Float[Tensor, "hypotheses"],
    before: Float[Tensor, "n"],
) -> Float[Tensor, "n"]:
    """Squared color errors at the best hypothesis that is quite another one than the best of all; as before where there
    is none any more.

    Args:
        camera_to_worlds: all hypotheses, as many for each image.
        errors: squared color errors there.
        before: the same before the last refinement; NaN where there was none.
    """
    poses, by_image = camera_to_worlds.unflatten(0, (len(before), -1)), errors.view(len(before), -1)
    best = by_image.argmin(dim=1)
    chosen = poses[torch.arange(len(before), device=best.device), best]
    are_others = are_elsewhere(poses, chosen[:, None].expand_as(poses))
    others = torch.where(are_others, by_image, torch.inf).amin(dim=1)
    return torch.where(are_others.any(dim=1), others, before)


def _variances(pixels: PixelChoice, image_side: int) -> Float[Tensor, "n"]:
    """Of each image's colors around their mean."""
    _, colors, counts = pixels.all_at(image_side)
    means = (counts[:, :, None] * colors).sum(dim=1, keepdim=True)
    return (counts[:, :, None] * (colors - means).square()).sum(dim=1).mean(dim=1)
