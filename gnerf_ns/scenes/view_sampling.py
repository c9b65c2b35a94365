"""From scenes to what training takes: which views, cropped, mirrored, and in the first context camera's frame.

Sampling and augmentation follow NoPoSplat (Ye et al., ICLR 2025, arXiv 2410.24207), but for unordered images and for
principal points, which are honored here.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Dict, Iterator, Mapping, NamedTuple, Optional, Protocol, Sequence, Tuple, Union, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from gnerf_ns.cameras.scene_frame import axes_meet_at
from gnerf_ns.cameras.viewing_rays import pixel_rays
from gnerf_ns.data.images import ImageSize
from gnerf_ns.scenes.scene_data import (
    Scene,
    SceneCameras,
    SceneGroup,
    SceneKind,
    SceneWithDepths,
    UnusableScene,
    check_scene,
)
from gnerf_ns.utils.console import remark
from gnerf_ns.utils.errors import InputError

STEPS_PER_GROUP = 64
"""An example of a batch stays with one group of scenes, one chunk, for so many steps: opening one takes a second."""

DRAWS_PER_GROUP, MAX_DRAWS = 10, 200
"""After so many scenes in a row that cannot be used, another group is drawn, and after so many, training ends."""

SURVEYED = 200
"""Scenes that are looked at before training, to tell what is passed over; of more, whole groups spread over all."""

SMALLEST_BASELINE = 1e-3
"""Of the scene's cameras' largest distance from the first context camera: two context cameras that are nearer to each
other are at one place, and no unit of length follows from them."""

_GRID = 16
"""Points along each side of an image by which two frames without an order are compared."""

_FIRST_FRAMES = 8
"""So many frames are tried as the first context view of images without an order."""

_NEAREST_WALL, _FARTHEST_WALL = 0.1, 100.0
"""What cameras look at is so far away, in units of their mean distance from their center."""


# Which views


class ChosenViews(NamedTuple):
    """Frames of one scene."""

    context: Tuple[int, ...]
    """Those that the network sees; the first and the last are the farthest apart."""
    target: Tuple[int, ...]
    """Those that it is to render; a frame may be there twice."""


@runtime_checkable
class PairRule(Protocol):
    """How views of a scene are chosen."""

    def choose(
        self, cameras: SceneCameras, num_context: int, num_targets: int, step: int, generator: np.random.Generator
    ) -> ChosenViews:
        """Draw views.

        Args:
            cameras: of all frames.
            num_context: 2 or more.
            num_targets: 0 or more.
            step: of the training.
            generator: the only source of chance.

        Raises:
            UnusableScene: the scene has no such views.
        """
        ...

    @property
    def growth_steps(self) -> int:
        """After so many steps the rule stays as it is."""
        ...


@dataclass(frozen=True)
class GapRule:
    """For videos: the frames between the first and the last context view are counted.

    Their number is uniform between two bounds that grow linearly with the step. Targets are uniform between the two,
    both included; further context views are others, in order.
    """

    first_gaps: Tuple[int, int]
    """Least and most frames from the first context view to the last, at step 0."""
    last_gaps: Tuple[int, int]
    """Likewise, from `growth_steps` on."""
    growth_steps: int = 9375
    """After so many steps the bounds stay; NoPoSplat's number, half of its training."""

    def choose(
        self, cameras: SceneCameras, num_context: int, num_targets: int, step: int, generator: np.random.Generator
    ) -> ChosenViews:
        """See `PairRule.choose`."""
        count = len(cameras.camera_to_worlds)
        share = min(step / max(1, self.growth_steps), 1.0)
        least, most = (
            round(first + share * (last - first)) for first, last in zip(self.first_gaps, self.last_gaps, strict=True)
        )
        least = max(least, num_context - 1)
        most = min(max(most, least), count - 1)
        if least > most:
            raise UnusableScene("too few frames")
        gap = int(generator.integers(least, most + 1))
        left = int(generator.integers(0, count - gap))
        between = sorted(generator.choice(np.arange(left + 1, left + gap), num_context - 2, replace=False).tolist())
        target = generator.integers(left, left + gap + 1, num_targets)
        return ChosenViews((left, *between, left + gap), tuple(target.tolist()))


@dataclass(frozen=True)
class OverlapRule:
    """For images in any order: pairs of about a wished overlap, which is guessed from the cameras alone.

    The wish is uniform between two bounds that move linearly with the step. The lower one is kept to; where all images
    overlap more than is wished, those with the least overlap are a pair. Targets and further context views are those
    that have no less overlap with either end, and are no farther from it, than the ends are from each other; targets
    may be the ends themselves.
    """

    first_overlaps: Tuple[float, float] = (0.6, 0.9)
    """Least and most overlap (`likely_overlap`) of the first context view and the last, at step 0."""
    last_overlaps: Tuple[float, float] = (0.25, 0.8)
    """Likewise, from `growth_steps` on."""
    growth_steps: int = 9375
    """After so many steps the bounds stay; NoPoSplat's number, half of its training."""

    def choose(
        self, cameras: SceneCameras, num_context: int, num_targets: int, step: int, generator: np.random.Generator
    ) -> ChosenViews:
        """See `PairRule.choose`."""
        count = len(cameras.camera_to_worlds)
        if count < num_context:
            raise UnusableScene("too few frames")
        share = min(step / max(1, self.growth_steps), 1.0)
        least, most = (
            first + share * (last - first) for first, last in zip(self.first_overlaps, self.last_overlaps, strict=True)
        )
        wished, positions = generator.uniform(least, most), cameras.camera_to_worlds[:, :, 3]
        for first in generator.permutation(count)[:_FIRST_FRAMES].tolist():
            with_first = likely_overlap(cameras, first)
            with_first[first] = np.inf  # neither its own partner nor too far from itself
            candidates = np.flatnonzero(with_first >= least)
            if len(candidates) < 2:  # itself is one
                continue
            last = int(candidates[np.abs(with_first[candidates] - wished).argmin()])
            with_last = likely_overlap(cameras, last)
            with_last[last] = np.inf
            apart = torch.linalg.vector_norm(positions - positions[[first, last], None], dim=-1).amax(dim=0).numpy()
            between = np.flatnonzero(
                (np.minimum(with_first, with_last) >= with_first[last] - 1e-9) & (apart <= apart[last] * (1 + 1e-9))
            )
            others = between[(between != first) & (between != last)]
            if len(others) < num_context - 2:
                continue
            further = generator.choice(others, num_context - 2, replace=False).tolist()
            target = generator.choice(between, num_targets)
            return ChosenViews((first, *further, last), tuple(target.tolist()))
        raise UnusableScene("no two images that overlap as much as is wished")


def likely_overlap(cameras: SceneCameras, frame: int) -> Float[np.ndarray, "frames"]:
    """How much one frame has in common with each frame, guessed from the cameras, from 0 to 1.

    Each camera is taken to see a wall at right angles to its axis, as far away as the point that all cameras look at
    (where that is in front of it, else as the cameras are apart). The overlap of two is the share of one's wall that
    the other sees, the smaller of both ways, times the cosine between their axes: surfaces that face the one camera are
    seen aslant, or from behind, by the other.
    """
    intrinsics, poses = cameras.intrinsics.double(), cameras.camera_to_worlds
    positions, axes = poses[:, :, 3], poses[:, :, 2]
    opengl = poses * poses.new_tensor([1.0, -1.0, -1.0, 1.0])
    spread = torch.linalg.vector_norm(positions - positions.mean(dim=0), dim=-1).mean()
    depths = ((axes_meet_at(opengl) - positions) * axes).sum(dim=-1)
    depths = torch.where((depths > _NEAREST_WALL * spread) & (depths < _FARTHEST_WALL * spread), depths, spread)
    steps = (torch.arange(_GRID, dtype=torch.float64) + 0.5) / _GRID
    pixels = torch.stack([*torch.meshgrid(steps, steps, indexing="xy"), torch.ones(_GRID, _GRID)], dim=-1).reshape(
        -1, 3
    )
    walls = depths[:, None, None] * (pixels.double() @ intrinsics.inverse().mT)
    points = walls @ poses[:, :, :3].mT + positions[:, None]
    seen_there = _share_inside(points[frame][None], intrinsics, poses)
    seen_here = _share_inside(points, intrinsics[frame][None], poses[frame][None])
    return (torch.minimum(seen_there, seen_here) * (axes @ axes[frame]).clamp(min=0.0)).numpy()


def _share_inside(
    points: Float[Tensor, "#frames points 3"],
    intrinsics: Float[Tensor, "#frames 3 3"],
    camera_to_worlds: Float[Tensor, "#frames 3 4"],
) -> Float[Tensor, "frames"]:
    """Of points, those that are in front of a camera and project into its picture."""
    in_camera = (points - camera_to_worlds[:, None, :, 3]) @ camera_to_worlds[:, :, :3]
    pixels = in_camera @ intrinsics.mT
    shares = pixels[..., :2] / pixels[..., 2:].clamp(min=1e-9)
    inside = (shares >= 0.0) & (shares <= 1.0)
    return (inside.all(dim=-1) & (pixels[..., 2] > 0.0)).double().mean(dim=-1)


PAIR_RULES: Mapping[SceneKind, PairRule] = {
    "re10k": GapRule((25, 25), (45, 90)),
    "dl3dv": GapRule((5, 7), (8, 22)),
    "unordered": OverlapRule(),
    "made": GapRule((2, 8), (2, 8)),
}
"""By the kind of a scene: the first two as NoPoSplat is trained (re10k is ACID's as well), the last for
`made_scenes` with the frames of those to train on. Near views would be no easier to learn from: they are far from
everything, in units of their distance."""


# Views as training takes them


@dataclass(frozen=True)
class Views:
    """Images of one size with their cameras."""

    images: Float[Tensor, "*batch views 3 height width"]
    """RGB in 0..1."""
    intrinsics: Float[Tensor, "*batch views 3 3"]
    """Pinhole matrices, the first row divided by the image's width and the second by its height."""
    camera_to_worlds: Float[Tensor, "*batch views 3 4"]
    """Poses with OpenCV's axes."""

    def to(self, device: Union[torch.device, str]) -> Views:
        """The same on another device."""
        return Views(**{each.name: getattr(self, each.name).to(device) for each in fields(self)})


@dataclass(frozen=True)
class Example:
    """What the network sees and what it is to render; the world is the first context camera's frame.

    The unit is the distance between the first and the last context camera.
    """

    context: Views
    target: Views
    points: Optional[Float[Tensor, "*batch views height width 3"]] = None
    """What the pixels of the context views show; None where it is not asked for (`ExampleConfig.point_steps`)."""

    def to(self, device: Union[torch.device, str]) -> Example:
        """The same on another device."""
        points = None if self.points is None else self.points.to(device)
        return Example(self.context.to(device), self.target.to(device), points)


def stacked(examples: Sequence[Example]) -> Example:
    """One example with a batch dimension; all of them have points, or none has."""
    context, target = (
        Views(**{each.name: torch.stack([getattr(one, each.name) for one in views]) for each in fields(Views)})
        for views in ([example.context for example in examples], [example.target for example in examples])
    )
    points = [example.points for example in examples if example.points is not None]
    return Example(context, target, torch.stack(points) if points else None)


def make_example(
    scene: Scene, views: ChosenViews, size: ImageSize, flip: bool = False, with_points: bool = False
) -> Example:
    """Read views and bring them to a size and to the first context camera's frame.

    Args:
        scene: that they are of.
        views: which frames.
        size: of the example's images, in pixels.
        flip: mirror the world, left to right.
        with_points: tell what the context views' pixels show; of scenes with depths, whose images are of that size.

    Raises:
        UnusableScene: there is no such frame, an image cannot be decoded, or the first and the last context camera are
            at one place.
    """
    poses = scene.cameras.camera_to_worlds
    if not all(0 <= frame < len(poses) for frame in (*views.context, *views.target)):
        raise UnusableScene("frames that it does not have")
    context_poses, target_poses = in_first_frame(poses, views)
    read: Dict[int, Tuple[Tensor, Tensor]] = {}
    for frame in {*views.context, *views.target}:
        pixels, intrinsics = covered_and_cropped(scene.image(frame), scene.cameras.intrinsics[frame], size)
        read[frame] = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255.0, intrinsics

    def gathered(frames: Tuple[int, ...], camera_to_worlds: Float[Tensor, "views 3 4"]) -> Views:
        if not frames:
            images, intrinsics = torch.zeros(0, 3, size.height, size.width), torch.zeros(0, 3, 3)
        else:
            columns = zip(*(read[frame] for frame in frames), strict=True)
            images, intrinsics = (torch.stack(column) for column in columns)
        found = Views(images, intrinsics, camera_to_worlds.float())
        return mirrored(found) if flip else found

    context, target = gathered(views.context, context_poses), gathered(views.target, target_poses)
    return Example(context, target, _points(scene, views, flip) if with_points else None)


def _points(scene: Scene, views: ChosenViews, flip: bool) -> Float[Tensor, "context height width 3"]:
    """What the pixels of the context views show, in an example's frame and unit."""
    assert isinstance(scene, SceneWithDepths)
    context_poses, _ = in_first_frame(scene.cameras.camera_to_worlds, views)
    positions = scene.cameras.camera_to_worlds[:, :, 3]
    baseline = torch.linalg.vector_norm(positions[views.context[-1]] - positions[views.context[0]])
    depths = torch.stack([scene.depth(frame) for frame in views.context]) / baseline
    rays = pixel_rays(scene.cameras.intrinsics[list(views.context)].double(), *depths.shape[1:]).movedim(1, -1)
    in_camera = rays / rays[..., 2:] * depths[..., None]
    points = (in_camera.flatten(1, 2) @ context_poses[:, :, :3].mT + context_poses[:, None, :, 3]).view_as(rays)
    return (points.flip(-2) * points.new_tensor([-1.0, 1.0, 1.0]) if flip else points).float()


def in_first_frame(
    camera_to_worlds: Float[Tensor, "frames 3 4"], views: ChosenViews
) -> Tuple[Float[Tensor, "context 3 4"], Float[Tensor, "targets 3 4"]]:
    """Poses of context and target views in the frame and unit of an example.

    Args:
        camera_to_worlds: of all frames of the scene, in any frame and unit.
        views: which of them.

    Raises:
        UnusableScene: the first and the last context camera are at one place.
    """
    first, last = camera_to_worlds[views.context[0]], camera_to_worlds[views.context[-1]]
    baseline = torch.linalg.vector_norm(last[:, 3] - first[:, 3])
    extent = torch.linalg.vector_norm(camera_to_worlds[:, :, 3] - first[:, 3], dim=-1).max()
    if not bool(baseline > SMALLEST_BASELINE * extent):
        raise UnusableScene("two context cameras at one place")
    rotations = first[:, :3].mT @ camera_to_worlds[:, :, :3]
    positions = (camera_to_worlds[:, :, 3] - first[:, 3]) @ first[:, :3] / baseline
    moved = torch.cat([rotations, positions[..., None]], dim=-1)
    return moved[list(views.context)], moved[list(views.target)]


def covered_and_cropped(
    image: UInt8[np.ndarray, "in_height in_width 3"], intrinsics: Float[Tensor, "3 3"], size: ImageSize
) -> Tuple[UInt8[np.ndarray, "height width 3"], Float[Tensor, "3 3"]]:
    """The largest window in the middle of an image that has the proportions of a size, resampled to it by Lanczos.

    Args:
        image: RGB.
        intrinsics: of the whole image, normalized.
        size: of the result.

    Returns:
        The window and its normalized intrinsics.
    """
    height, width = image.shape[:2]
    scale = max(size.width / width, size.height / height)
    # Fractional, so that the middle stays the middle whatever the sizes.
    window = torch.tensor([size.width / scale / width, size.height / scale / height], dtype=torch.float64).clamp(max=1)
    corner = (1.0 - window) / 2.0
    adjusted = intrinsics.double().clone()
    adjusted[:2, 2] -= corner
    adjusted[:2] /= window[:, None]
    if (width, height) == size:
        return image, intrinsics.float()
    sides = torch.tensor([width, height])
    box = torch.cat([corner * sides, (corner + window) * sides]).tolist()
    resampled = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS, box=tuple(box))
    return np.array(resampled), adjusted.float()


def mirrored(views: Views) -> Views:
    """The same views of the mirrored world: pictures are flipped, and a pose E becomes D E D, D = diag(-1, 1, 1, 1)."""
    intrinsics = views.intrinsics.clone()
    intrinsics[..., 0, 2] = 1.0 - intrinsics[..., 0, 2]
    signs = views.camera_to_worlds.new_tensor([[1.0, -1.0, -1.0, -1.0], [-1.0, 1.0, 1.0, 1.0], [-1.0, 1.0, 1.0, 1.0]])
    return Views(views.images.flip(-1), intrinsics, views.camera_to_worlds * signs)


# Training


@dataclass(frozen=True)
class ExampleConfig:
    """What examples are like."""

    size: ImageSize = field(default_factory=lambda: ImageSize(256, 256))
    """Of their images, in pixels."""
    num_context: int = 2
    """Views that the network sees."""
    num_targets: int = 4
    """Views that it is to render."""
    rules: Mapping[SceneKind, PairRule] = field(default_factory=lambda: PAIR_RULES)
    """How views are chosen."""
    flip_probability: float = 0.5
    """Share of examples that are mirrored."""
    with_points: bool = False
    """Whether examples tell what the pixels of their context views show. Scenes have to have depths."""
    point_steps: int = 0
    """Examples of so many first steps have no targets: there is nothing to learn from but points."""
    steps_per_scene: int = 1
    """An example of a batch stays with one scene, but with other views of it, for so many steps."""


class TrainingExamples(IterableDataset[Example]):
    """Batches without end, one for each step.

    Example i of step s depends on the seed, s and i alone. So the batches of several processes together are the batch
    of one process, and those of several workers of a data loader (with `batch_size=None`, since these are batches) come
    in order: each makes whole batches, in turn.

    Attributes:
        first_step: where iterating begins.
    """

    def __init__(
        self,
        groups: Sequence[SceneGroup],
        config: ExampleConfig,
        batch_size: int,
        seed: int = 0,
        first_step: int = 0,
        rank: int = 0,
    ) -> None:
        """
        Args:
            groups: of scenes; each scene is as likely as any other.
            config: what examples are like.
            batch_size: examples a step, of this process.
            seed: not negative.
            first_step: where training goes on.
            rank: number of this process, of several that each have `batch_size` examples a step.

        Raises:
            InputError: none of the scenes looked at can be used.
        """
        survey(groups, config)
        self._groups, self._config, self._batch_size = groups, config, batch_size
        self._seed, self.first_step, self._rank = seed, first_step, rank
        self._shares = np.cumsum([len(group.keys) for group in groups]) / sum(len(group.keys) for group in groups)

    def __iter__(self) -> Iterator[Example]:
        worker = get_worker_info()
        offset, stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        step = self.first_step + offset
        while True:
            yield self.batch(step)
            step += stride

    def batch(self, step: int) -> Example:
        """This process's examples of a step, stacked."""
        first = self._rank * self._batch_size
        return stacked([self.example(step, index) for index in range(first, first + self._batch_size)])

    def example(self, step: int, index: int) -> Example:
        """One of all processes' examples of a step.

        Raises:
            InputError: many scenes in a row cannot be used.
        """
        # Each index changes its group, and its scene, at another step, so that files are not opened all at once. The
        # fourth number, which is not 0, makes each a stream of its own.
        block = (step + index) // STEPS_PER_GROUP
        group = self._group(np.random.default_rng([self._seed, block, index, 1]))
        visit = (step + index) // self._config.steps_per_scene
        scene_generator = np.random.default_rng([self._seed, visit, index, 2])
        generator = np.random.default_rng([self._seed, step, index])
        passed_over: Counter[str] = Counter()
        for draw in range(MAX_DRAWS):
            if draw and draw % DRAWS_PER_GROUP == 0:
                group = self._group(generator)
            keys = scene_generator if draw == 0 else generator
            key = group.keys[int(keys.integers(len(group.keys)))]
            try:
                return self._drawn(group, key, step, generator)
            except UnusableScene as error:
                passed_over[error.reason] += 1
        raise InputError(
            f"At step {step}, {MAX_DRAWS} scenes in a row could not be used ({group.name} is one of "
            f"their places; {_listed(passed_over)}); give others, or choose views by other rules."
        )

    def _group(self, generator: np.random.Generator) -> SceneGroup:
        """One of them, as likely as it has scenes."""
        return self._groups[int(np.searchsorted(self._shares, generator.random(), side="right"))]

    def _drawn(self, group: SceneGroup, key: str, step: int, generator: np.random.Generator) -> Example:
        scene, config = group.scene(key), self._config
        check_scene(scene, config.size)
        num_targets = 0 if step < config.point_steps else config.num_targets
        views = config.rules[group.kind].choose(scene.cameras, config.num_context, num_targets, step, generator)
        flip = bool(generator.random() < config.flip_probability)
        return make_example(scene, views, config.size, flip, config.with_points)


def survey(groups: Sequence[SceneGroup], config: ExampleConfig) -> None:
    """Look at up to about `SURVEYED` scenes, and say once how many of them are passed over and why.

    Raises:
        InputError: all of them are.
    """
    looked_at, passed_over, detail = 0, Counter[str](), ""
    generator = np.random.default_rng(0)
    for number in generator.permutation(len(groups)):
        group = groups[number]
        rule = config.rules[group.kind]
        for index in generator.permutation(len(group.keys))[:SURVEYED]:
            looked_at += 1
            try:
                scene = group.scene(group.keys[index])
                check_scene(scene, config.size)
                views = rule.choose(scene.cameras, config.num_context, config.num_targets, rule.growth_steps, generator)
                in_first_frame(scene.cameras.camera_to_worlds, views)
            except UnusableScene as error:
                passed_over[error.reason] += 1
                detail = detail or error.detail
        if looked_at >= SURVEYED:
            break
    names = groups[0].name if len(groups) == 1 else f"{groups[0].name} and {len(groups) - 1} more"
    reasons = f"{_listed(passed_over)}{detail and f'; {detail}'}"
    if sum(passed_over.values()) == looked_at:
        raise InputError(f"None of {looked_at} scenes of {names} can be used ({reasons.rstrip('.')}); give others.")
    if passed_over:
        remark(f"{sum(passed_over.values())} of {looked_at} scenes looked at in {names} are passed over: {reasons}.")


def _listed(reasons: Counter[str]) -> str:
    return ", ".join(f"{count} for {reason}" for reason, count in reasons.most_common())
