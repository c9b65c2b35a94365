"""Poses of new images in a trained field: hypotheses are drawn, compared as thumbnails, refined and judged."""

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

from gnerf_ns.cameras.pose_codec import PoseCodec, PoseIncrements
from gnerf_ns.cameras.pose_covariance import free_motions
from gnerf_ns.cameras.rays import CameraDirections, rays_from_poses
from gnerf_ns.data.image_set import ImageSet, ImageStack
from gnerf_ns.localize.scene import TrainedScene
from gnerf_ns.pose_search.hypotheses import Hypotheses, increments_about
from gnerf_ns.pose_search.image_matching import PlainMatching, pairwise_cost, pyramid_features, pyramid_weights
from gnerf_ns.pose_search.image_renderer import ImageRenderer
from gnerf_ns.pose_search.pixel_sampling import PixelChoice
from gnerf_ns.pose_search.pose_search import match_bank
from gnerf_ns.pose_search.precision import color_sigmas
from gnerf_ns.pose_search.refinement import (
    Localization,
    LocalizationConfig,
    localize_images,
    squared_errors,
)
from gnerf_ns.utils.cpu import keep_freed_memory, share_cores
from gnerf_ns.utils.errors import InputError

THUMBNAIL_SIDE = 16
"""Longer side, in pixels, of the images by which hypotheses are chosen."""

MAX_REFERENCES = 24
"""At most so many training images give the error that new images are judged by."""

POOR_FIELD_ERROR = 0.1
"""Root mean square color error of training images above which such a judgement says little: 20 dB."""


@dataclass
class LocalizerConfig:
    """How hypotheses about poses are made and refined."""

    init: Literal["auto", "inversion", "retrieval", "prior", "given"] = "auto"
    """Where hypotheses come from. inversion: around the prediction of the run's inversion network. retrieval: around
    the training cameras whose images look most alike. prior: all around, at the training cameras' distance and
    elevations. given: around poses that come with the images. auto: inversion where the run has such a network, else
    retrieval."""
    num_hypotheses: int = 16
    """Poses of each image that are refined side by side."""
    num_candidates: int = 192
    """Poses of each image rendered as thumbnails in a round; the best of them are kept as hypotheses."""
    candidate_rounds: int = 2
    """Rounds of candidates, each around the best of the round before."""
    candidate_shrinkage: float = 0.4
    """Factor on the spread of candidates from one round to the next."""
    num_retrieved: int = 16
    """Training cameras around which candidates are drawn for `retrieval`."""
    retrieval_spread_deg: float = 20.0
    """Largest rotation of candidates away from a retrieved or predicted camera, in degrees."""
    given_spread_deg: float = 40.0
    """Largest rotation of candidates away from a given pose, in degrees."""
    spread: float = 0.1
    """Largest shift of candidates along each axis, in camera distances."""
    bank_size: int = 500
    """Poses rendered as thumbnails for `prior`, for all images together."""
    retry_error_ratio: Optional[float] = 1.5
    """An image whose squared error exceeds that of training images by this factor is searched again, with hypotheses
    from all around; None for never."""
    negligible_error: float = 0.03
    """Root mean square color error below which it does not matter that training images have less."""
    images_per_batch: int = 8
    """Images refined together; bounds memory."""
    keep_freed_memory: bool = True
    """Have glibc reuse freed memory until the process ends: large networks, as vanilla-nerf's and mipnerf's, render
    1.7 times as fast on a CPU."""
    refinement: LocalizationConfig = field(default_factory=LocalizationConfig)
    """How hypotheses are refined and pruned."""


def localize(
    pipeline: Pipeline,
    images: UInt8[Tensor, "n height width channels"],
    cameras: Cameras,
    config: Optional[LocalizerConfig] = None,
    given_poses: Optional[Float[Tensor, "n 3 4"]] = None,
) -> List[Localization]:
    """Find the poses of images in a trained pipeline.

    Args:
        pipeline: loaded, of any method that renders single rays with gradients; left as it was, except that hash grids
            run compiled code from now on.
        images: RGB, or RGBA with straight alpha.
        cameras: their intrinsics; the poses are ignored.
        config: how; None for the defaults.
        given_poses: rough poses for `init="given"`, in the pipeline's own frame (see `WorldFrame.to_field`).

    Returns:
        One for each image; poses are in the pipeline's frame (`TrainedScene.world` converts them).

    Raises:
        InputError: the method's rays have no gradient; or `init` asks for what is not there.
    """
    scene = TrainedScene.of(pipeline)
    device = scene.renderer.device
    image_set = ImageSet(ImageStack(images.to(device)), CameraDirections(cameras.to(device)))
    return localize_in_scene(scene, image_set, config or LocalizerConfig(), given_poses)


def localize_in_scene(
    scene: TrainedScene,
    image_set: ImageSet,
    config: LocalizerConfig,
    given_poses: Optional[Float[Tensor, "n 3 4"]] = None,
    on_progress: Callable[[int], None] = lambda count: None,
) -> List[Localization]:
    """See `localize`; `on_progress` is called with the number of images that were finished since the last call."""
    if config.keep_freed_memory:
        keep_freed_memory()
    if scene.renderer.device.type == "cpu":
        share_cores()
    check_gradients(scene)
    error = reference_error(scene, config.refinement.comparison_side)
    if error > POOR_FIELD_ERROR**2:
        CONSOLE.print(
            f"[yellow]The run renders its own training images at {-10.0 * math.log10(error):.1f} dB only; poses some "
            "degrees off will count as localized, too. Train it longer."
        )
    reference = max(error, config.negligible_error**2)
    found = _attempt(scene, image_set, config, given_poses, reference, on_progress)
    limit = math.inf if config.retry_error_ratio is None else config.retry_error_ratio * reference
    doubtful = [index for index, localization in enumerate(found) if localization.error**2 > limit]
    if doubtful:
        some = torch.tensor(doubtful, device=scene.renderer.device)
        from_all_around = replace(config, init="prior")
        again = _attempt(scene, image_set[some], from_all_around, None, reference, lambda count: None)
        for index, localization in zip(doubtful, again, strict=True):
            found[index] = found[index].or_better(localization)
    return _with_sigmas(scene, image_set, config, found)


def _with_sigmas(
    scene: TrainedScene, image_set: ImageSet, config: LocalizerConfig, found: List[Localization]
) -> List[Localization]:
    """By the images' colors, and by how sure the cameras are that the field was made with, where that is known."""
    shell, judged = scene.viewing_shell, []
    for some in torch.arange(len(found), device=scene.renderer.device).split(config.images_per_batch):
        poses = torch.stack([found[index].camera_to_world for index in some.tolist()])
        arms = poses[..., 3:] - shell.center[:, None]
        # Turns around the middle of the scene.
        motions = free_motions(torch.cat([poses[..., :3], arms], dim=-1), PoseCodec("free", shell.radius))
        rotations, shifts = color_sigmas(scene.renderer, image_set[some], poses, motions)
        shares = shifts / torch.linalg.vector_norm(arms[..., 0], dim=-1)
        for index, rotation, share in zip(some.tolist(), rotations.tolist(), shares.tolist(), strict=True):
            both = math.hypot(rotation, scene.pose_sigmas[0]), math.hypot(share, scene.pose_sigmas[1])
            judged.append(replace(found[index], rotation_sigma_deg=both[0], translation_sigma_relative=both[1]))
    return judged


def _attempt(
    scene: TrainedScene,
    image_set: ImageSet,
    config: LocalizerConfig,
    given_poses: Optional[Float[Tensor, "n 3 4"]],
    reference: float,
    on_progress: Callable[[int], None],
) -> List[Localization]:
    """One search for each image, with hypotheses of its own."""
    began = time.monotonic()
    starts = starting_poses(scene, image_set, config, given_poses)
    to_begin = (time.monotonic() - began) / max(1, len(image_set))
    make_poses = increments_about(scene.viewing_shell.center)
    found: List[Localization] = []
    for some in torch.arange(len(image_set), device=starts.device).split(config.images_per_batch):
        began = time.monotonic()
        batch = localize_images(config.refinement, scene.renderer, image_set[some], starts[some], make_poses, reference)
        seconds = to_begin + (time.monotonic() - began) / len(some)
        found += [replace(localization, seconds=seconds) for localization in batch]
        on_progress(len(some))
    return found


# Hypotheses


def starting_poses(
    scene: TrainedScene,
    image_set: ImageSet,
    config: LocalizerConfig,
    given_poses: Optional[Float[Tensor, "n 3 4"]] = None,
) -> Float[Tensor, "n hypotheses 3 4"]:
    """Hypotheses of each image, from where the configuration says.

    Raises:
        InputError: there is no inversion network, or there are no given poses, where these were asked for.
    """
    init = config.init
    if init == "auto":
        init = "retrieval" if scene.regress_poses is None else "inversion"
    if init == "prior":
        bank = scene.viewing_shell.all_around(config.bank_size)
        return best_of_bank(scene.renderer, image_set, bank, config.num_hypotheses)
    poses, spread_deg = _rough_poses(scene, image_set, config, init, given_poses)
    for turn in range(config.candidate_rounds):
        each, shrunk = -(-config.num_candidates // poses.shape[1]), config.candidate_shrinkage**turn
        around = perturb_poses(
            poses.flatten(0, 1), scene.viewing_shell.center, each, shrunk * spread_deg, shrunk * config.spread
        )
        candidates = around.flatten(0, 1).unflatten(0, (len(image_set), -1))
        poses = best_candidates(scene.renderer, image_set, candidates, config.num_hypotheses)
    return poses


def _rough_poses(
    scene: TrainedScene,
    image_set: ImageSet,
    config: LocalizerConfig,
    init: str,
    given_poses: Optional[Float[Tensor, "n 3 4"]],
) -> Tuple[Float[Tensor, "n some 3 4"], float]:
    """The poses that candidates are drawn around, and their largest rotation away from these, in degrees."""
    if init == "given":
        if given_poses is None:
            raise InputError(
                "No poses came with the images; give --images a transforms.json in which every frame has a "
                "transform_matrix, or use --init retrieval."
            )
        return given_poses[:, None].to(scene.renderer.device), config.given_spread_deg
    if init == "retrieval":
        alike = retrieved_poses(scene.renderer, image_set, scene.training, scene.camera_to_worlds, config.num_retrieved)
        return alike, config.retrieval_spread_deg
    if scene.regress_poses is None:
        raise InputError("This run has no inversion network; use --init retrieval, or train with gnerf-ns-adversarial.")
    with torch.no_grad():
        return scene.regress_poses(image_set)[:, None], config.retrieval_spread_deg


def retrieved_poses(
    renderer: ImageRenderer,
    image_set: ImageSet,
    training: ImageSet,
    camera_to_worlds: Float[Tensor, "m 3 4"],
    count: int,
) -> Float[Tensor, "n hypotheses 3 4"]:
    """Poses of the training images whose thumbnails are most like each image's (image retrieval), best first.

    Args:
        renderer: tells the background.
        image_set: the images.
        training: the training images.
        camera_to_worlds: their poses.
        count: how many poses of each image, at most.
    """
    sizes = [each.size_at(THUMBNAIL_SIDE, multiple_of=4) for each in (image_set, training)]
    height, width = (max(sides) for sides in zip(*sizes, strict=True))
    background = renderer.background_or_black
    ours, theirs = (
        pyramid_features(_on_canvas(each.resized(*size, background), height, width, background))
        for each, size in zip((image_set, training), sizes, strict=True)
    )
    validity = image_set.validity(*sizes[0])
    if validity is None and sizes[0] != (height, width):
        validity = torch.ones(len(image_set), *sizes[0], device=renderer.device)
    weights = None
    if validity is not None:
        weights = pyramid_weights(_on_canvas(validity[:, None], height, width, validity.new_zeros(1))[:, 0])
    cost = pairwise_cost(ours, theirs, weights)
    return camera_to_worlds[cost.topk(min(count, len(training)), dim=1, largest=False).indices]


def _on_canvas(
    images: Float[Tensor, "n channels in_height in_width"], height: int, width: int, color: Float[Tensor, "channels"]
) -> Float[Tensor, "n channels {height} {width}"]:
    """Images in the middle of a larger canvas of one color."""
    down, across = (height - images.shape[2]) // 2, (width - images.shape[3]) // 2
    color = color.view(-1, 1, 1)
    return torch.nn.functional.pad(images - color, (across, across, down, down)) + color


@torch.no_grad()
def best_of_bank(
    renderer: ImageRenderer, image_set: ImageSet, bank: Float[Tensor, "m 3 4"], count: int
) -> Float[Tensor, "n hypotheses 3 4"]:
    """The poses of a shared bank at which the field looks most like each image, at thumbnail size, best first."""
    matches = match_bank(renderer, image_set, bank, THUMBNAIL_SIDE, PlainMatching(), renderer.background_or_black)
    return bank[matches.cost.topk(min(count, len(bank)), dim=1, largest=False).indices]


def best_candidates(
    renderer: ImageRenderer, image_set: ImageSet, candidates: Float[Tensor, "n candidates 3 4"], count: int
) -> Float[Tensor, "n hypotheses 3 4"]:
    """Likewise of candidates that each image has for itself."""
    indices = torch.arange(len(candidates), device=candidates.device)
    best = [
        best_of_bank(renderer, image_set[index], poses, count)
        for index, poses in zip(indices.split(1), candidates, strict=True)
    ]
    return torch.cat(best)


def perturb_poses(
    camera_to_worlds: Float[Tensor, "n 3 4"],
    center: Float[Tensor, "3"],
    count: int,
    rotation_deg: float,
    translation: float,
) -> Float[Tensor, "n {count} 3 4"]:
    """Each given pose, and random ones around it: rotated about the center, and shifted.

    Args:
        camera_to_worlds: the poses.
        center: center of rotation, in scene units.
        count: number of poses for each, the given one included.
        rotation_deg: largest rotation about a random axis, in degrees.
        translation: largest shift along each axis, in camera distances.
    """
    repeated = camera_to_worlds.repeat_interleave(count, dim=0)
    increments = PoseIncrements(repeated, center)
    axes = torch.nn.functional.normalize(torch.randn(len(repeated), 3, device=repeated.device), dim=-1)
    angles = math.radians(rotation_deg) * torch.rand(len(repeated), 1, device=repeated.device)
    shifts = translation * (2.0 * torch.rand(len(repeated), 3, device=repeated.device) - 1.0)
    tangents = torch.cat([shifts, angles * axes], dim=-1)
    tangents[::count] = 0.0
    increments.tangents.data.copy_(tangents)
    return increments().detach().unflatten(0, (len(camera_to_worlds), count))


# What the field allows


def check_gradients(scene: TrainedScene) -> None:
    """Make sure that poses can be refined in this field.

    Raises:
        InputError: they cannot.
    """
    one = torch.zeros(1, dtype=torch.long, device=scene.renderer.device)
    middle = 0.5 * (2.0 * torch.rand(1, 64, 2, device=scene.renderer.device) - 1.0)
    directions = scene.training.directions.at(one, middle)
    areas = scene.training.directions.pixel_areas(one, directions, 64, 64)
    rays = rays_from_poses(scene.camera_to_worlds[:1], directions, one, areas)
    scene.renderer.check_gradients(rays)


def reference_error(scene: TrainedScene, image_side: int) -> float:
    """Median over training images of their mean squared color error, the longer side brought to a length in pixels."""
    count = len(scene.training)
    chosen = torch.arange(count)[:: -(-count // MAX_REFERENCES)].to(scene.renderer.device)
    image_set, poses = scene.training[chosen], scene.camera_to_worlds[chosen]
    everyone = torch.arange(len(chosen), device=chosen.device)
    hypotheses = Hypotheses(image_set, everyone, poses, increments_about(scene.viewing_shell.center))
    pixels = PixelChoice(image_set, "random", scene.renderer.background)
    return float(squared_errors(scene.renderer, pixels, hypotheses, image_side).median())
