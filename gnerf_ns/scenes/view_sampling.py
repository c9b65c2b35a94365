"""From scenes to what training takes: views cropped, mirrored, and in the first context camera's frame.

This follows NoPoSplat (Ye et al., ICLR 2025, arXiv 2410.24207), but for principal points, which are honored here.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Dict, Iterator, Mapping, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from gnerf_ns.cameras.viewing_rays import pixel_rays
from gnerf_ns.data.images import ImageSize
from gnerf_ns.scenes.scene_data import (
    Scene,
    SceneGroup,
    SceneKind,
    SceneWithDepths,
    UnusableScene,
    check_scene,
)
from gnerf_ns.scenes.view_choice import PAIR_RULES, ChosenViews, PairRule
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


# Views of a scene


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
