"""Where were these pictures taken? Of a trained model of any nerfstudio method (iNeRF)."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import Callable, List, Literal, Optional, Tuple

import torch
from jaxtyping import Float, UInt8
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.pipelines.base_pipeline import Pipeline
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from gnerf_ns.cameras.rays import CameraDirections, rays_from_poses
from gnerf_ns.data.image_stack import ImageStack
from gnerf_ns.errors import InputError
from gnerf_ns.freed_memory import keep_freed_memory
from gnerf_ns.localization.hypotheses import Hypotheses, increments_about
from gnerf_ns.localization.photographs import Photographs
from gnerf_ns.localization.pixel_choice import PixelChoice
from gnerf_ns.localization.refinement_rounds import (
    Localization,
    LocalizationConfig,
    localize_photographs,
    squared_errors,
)
from gnerf_ns.localization.starting_poses import best_of, best_of_bank, disturbed, poses_of_alike
from gnerf_ns.localization.trained_scene import TrainedScene

MAX_REFERENCES = 24
"""Training pictures by whose errors those of new ones are judged."""

POOR_FIELD_ERROR = 0.1
"""Root mean square colour error of training pictures from which on such a judgement says little: 20 dB."""


@dataclass
class LocalizerConfig:
    """Where to begin, and how to go on."""

    init: Literal["auto", "inversion", "retrieval", "prior", "given"] = "auto"
    """Where hypotheses come from. inversion: around what the run's inversion network says. retrieval: around the
    training cameras whose pictures look most alike. prior: all around, at the training cameras' distance and
    elevations. given: around poses that come with the pictures. auto: inversion where the run has such a network, else
    retrieval."""
    num_hypotheses: int = 16
    """Poses of each picture that are refined side by side."""
    num_candidates: int = 192
    """Poses rendered as thumbnails in a round, the best of which become hypotheses."""
    candidate_rounds: int = 2
    """Rounds of them, each around the best of the round before."""
    candidate_shrinkage: float = 0.4
    """How much less far candidates of a round are from those of the round before."""
    num_retrieved: int = 16
    """Training cameras around which these are drawn for `retrieval`."""
    retrieval_spread_deg: float = 20.0
    """How far candidates are turned away from a retrieved or regressed camera at most, in degrees."""
    given_spread_deg: float = 40.0
    """Likewise from a given one."""
    spread: float = 0.1
    """How far candidates are shifted along each axis at most, in camera distances."""
    bank_size: int = 500
    """Poses rendered as thumbnails for `prior`, for all pictures together."""
    retry_error_ratio: Optional[float] = 1.5
    """A picture whose squared error is more than so many times that of training pictures is looked up again, with
    hypotheses from all around; None for never."""
    negligible_error: float = 0.03
    """Root mean square colour error up to which it does not matter that training pictures have less."""
    images_per_batch: int = 8
    """Pictures refined together; bounds memory."""
    keep_freed_memory: bool = True
    """Have glibc reuse freed memory, for as long as the process lasts: large networks, as vanilla-nerf's and mipnerf's,
    render 1.7 times as fast on a CPU."""
    refinement: LocalizationConfig = field(default_factory=LocalizationConfig)
    """How hypotheses are refined and pruned."""


def localize(
    pipeline: Pipeline,
    images: UInt8[Tensor, "n height width channels"],
    cameras: Cameras,
    config: Optional[LocalizerConfig] = None,
    given_poses: Optional[Float[Tensor, "n 3 4"]] = None,
) -> List[Localization]:
    """Find the poses of pictures in a trained pipeline.

    Args:
        pipeline: loaded, of any method that renders single rays with gradients in them; left as it was, but
            for hash grids that run compiled code from now on.
        images: RGB, or RGBA with straight alpha.
        cameras: their intrinsics; the poses are not looked at.
        config: how; the defaults if None.
        given_poses: rough poses to begin from, in the pipeline's own frame (see `WorldFrame.to_field`).

    Returns:
        One for each picture; poses are in the pipeline's frame (`TrainedScene.world` leads out of it).

    Raises:
        InputError: the method's rays carry no gradient; or `init` asks for what is not there.
    """
    scene = TrainedScene.of(pipeline)
    device = scene.field.device
    photographs = Photographs(ImageStack(images.to(device)), CameraDirections(cameras.to(device)))
    return localize_in_scene(scene, photographs, config or LocalizerConfig(), given_poses)


def localize_in_scene(
    scene: TrainedScene,
    photographs: Photographs,
    config: LocalizerConfig,
    given_poses: Optional[Float[Tensor, "n 3 4"]] = None,
    on_progress: Callable[[int], None] = lambda count: None,
) -> List[Localization]:
    """See `localize`; tells `on_progress` how many more photographs are done."""
    if config.keep_freed_memory:
        keep_freed_memory()
    check_gradients(scene)
    error = reference_error(scene, config.refinement.comparison_side)
    if error > POOR_FIELD_ERROR**2:
        CONSOLE.print(
            f"[yellow]The run shows its own training pictures at {-10.0 * math.log10(error):.1f} dB only; poses some "
            "degrees off will count as localised, too. Train it longer."
        )
    reference = max(error, config.negligible_error**2)
    found = _attempt(scene, photographs, config, given_poses, reference, on_progress)
    limit = math.inf if config.retry_error_ratio is None else config.retry_error_ratio * reference
    doubtful = [index for index, localization in enumerate(found) if localization.error**2 > limit]
    if doubtful:
        some = torch.tensor(doubtful, device=scene.field.device)
        from_all_around = replace(config, init="prior")
        again = _attempt(scene, photographs[some], from_all_around, None, reference, lambda count: None)
        for index, localization in zip(doubtful, again, strict=True):
            found[index] = found[index].or_better(localization)
    return found


def _attempt(
    scene: TrainedScene,
    photographs: Photographs,
    config: LocalizerConfig,
    given_poses: Optional[Float[Tensor, "n 3 4"]],
    reference: float,
    on_progress: Callable[[int], None],
) -> List[Localization]:
    """One search for each photograph, with hypotheses of its own."""
    began = time.monotonic()
    starts = starting_poses(scene, photographs, config, given_poses)
    to_begin = (time.monotonic() - began) / max(1, len(photographs))
    make_poses = increments_about(scene.surroundings.centre)
    found: List[Localization] = []
    for some in torch.arange(len(photographs), device=starts.device).split(config.images_per_batch):
        began = time.monotonic()
        batch = localize_photographs(
            config.refinement, scene.field, photographs[some], starts[some], make_poses, reference
        )
        seconds = to_begin + (time.monotonic() - began) / len(some)
        found += [replace(localization, seconds=seconds) for localization in batch]
        on_progress(len(some))
    return found


def starting_poses(
    scene: TrainedScene,
    photographs: Photographs,
    config: LocalizerConfig,
    given_poses: Optional[Float[Tensor, "n 3 4"]] = None,
) -> Float[Tensor, "n hypotheses 3 4"]:
    """Hypotheses of each picture, from where the configuration says.

    Raises:
        InputError: there is no inversion network, or there are no given poses, where these were asked for.
    """
    init = config.init
    if init == "auto":
        init = "retrieval" if scene.regress_poses is None else "inversion"
    if init == "prior":
        bank = scene.surroundings.all_around(config.bank_size)
        return best_of_bank(scene.field, photographs, bank, config.num_hypotheses)
    poses, spread_deg = _rough_poses(scene, photographs, config, init, given_poses)
    for turn in range(config.candidate_rounds):
        each, shrunk = -(-config.num_candidates // poses.shape[1]), config.candidate_shrinkage**turn
        around = disturbed(
            poses.flatten(0, 1), scene.surroundings.centre, each, shrunk * spread_deg, shrunk * config.spread
        )
        candidates = around.flatten(0, 1).unflatten(0, (len(photographs), -1))
        poses = best_of(scene.field, photographs, candidates, config.num_hypotheses)
    return poses


def _rough_poses(
    scene: TrainedScene,
    photographs: Photographs,
    config: LocalizerConfig,
    init: str,
    given_poses: Optional[Float[Tensor, "n 3 4"]],
) -> Tuple[Float[Tensor, "n some 3 4"], float]:
    """What candidates are drawn around, and how far from it, in degrees."""
    if init == "given":
        if given_poses is None:
            raise InputError(
                "No poses came with the pictures; give --images a transforms.json in which every frame has a "
                "transform_matrix, or use --init retrieval."
            )
        return given_poses[:, None].to(scene.field.device), config.given_spread_deg
    if init == "retrieval":
        alike = poses_of_alike(scene.field, photographs, scene.training, scene.camera_to_worlds, config.num_retrieved)
        return alike, config.retrieval_spread_deg
    if scene.regress_poses is None:
        raise InputError("This run has no inversion network; use --init retrieval, or train with gnerf-ns-adversarial.")
    with torch.no_grad():
        return scene.regress_poses(photographs)[:, None], config.retrieval_spread_deg


def check_gradients(scene: TrainedScene) -> None:
    """Make sure that poses can be found in this field.

    Raises:
        InputError: they cannot.
    """
    one = torch.zeros(1, dtype=torch.long, device=scene.field.device)
    middle = 0.5 * (2.0 * torch.rand(1, 64, 2, device=scene.field.device) - 1.0)
    directions = scene.training.directions
    rays = rays_from_poses(
        scene.camera_to_worlds[:1], directions.at(one, middle), one, directions.pixel_areas(one, 64, 64)
    )
    scene.field.check_gradients(rays)


def reference_error(scene: TrainedScene, image_side: int) -> float:
    """Median over training pictures of the mean squared colour error at their poses."""
    count = len(scene.training)
    chosen = torch.arange(count)[:: -(-count // MAX_REFERENCES)].to(scene.field.device)
    photographs, poses = scene.training[chosen], scene.camera_to_worlds[chosen]
    everyone = torch.arange(len(chosen), device=chosen.device)
    hypotheses = Hypotheses(photographs, everyone, poses, increments_about(scene.surroundings.centre))
    pixels = PixelChoice(photographs, "random", scene.field.background)
    return float(squared_errors(scene.field, pixels, hypotheses, image_side).median())
