"""Which views of which scenes figures are for, by how much the context views overlap."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Dict, Literal, Mapping, Optional, Sequence, Tuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gnerf_ns.scenes.made_scenes import NUM_FRAMES, MadeScene, MadeScenes
from gnerf_ns.scenes.scene_data import SceneCameras, SceneGroup, UnusableScene, check_scene
from gnerf_ns.scenes.view_choice import ChosenViews
from gnerf_ns.scenes.view_sampling import ExampleConfig, in_first_frame
from gnerf_ns.scenes.visibility import seen_at
from gnerf_ns.utils.errors import InputError

OverlapClass = Literal["small", "medium", "large"]

OVERLAP_CLASSES: Mapping[OverlapClass, Tuple[float, float]] = {
    "small": (0.05, 0.3),
    "medium": (0.3, 0.55),
    "large": (0.55, 0.8),
}
"""Bounds of the overlap of the two context views (NoPoSplat, section 4.1); the upper ones are included."""

SAME_DEPTH = 0.03
"""A point is seen in another view, rather than hidden there, if it is not behind what is by more than this share of
its depth."""

_MOST_DRAWS = 200

_TARGETS_DRAWN = 12
"""For a scene, at least: some are drawn twice, or are those that the network sees."""


@dataclass(frozen=True)
class EvaluationViews:
    """Views of one scene that figures are for."""

    context: Tuple[int, ...]
    """Frames that the network sees."""
    target: Tuple[int, ...]
    """Frames that it is to render."""
    overlap: Optional[float] = None
    """Of the context views, 0 to 1; None if it is not known."""

    @property
    def views(self) -> ChosenViews:
        """The frames."""
        return ChosenViews(self.context, self.target)


EvaluationSet = Mapping[str, EvaluationViews]
"""By the key of the scene."""


def overlap_class(overlap: Optional[float]) -> Optional[OverlapClass]:
    """The class of an overlap; None where it is unknown, or outside of all classes."""
    if overlap is None or overlap < OVERLAP_CLASSES["small"][0]:
        return None
    return next((name for name, (_, most) in OVERLAP_CLASSES.items() if overlap <= most), None)


# Files


def read_evaluation_set(path: Path) -> Dict[str, EvaluationViews]:
    """An index file of pixelSplat's and NoPoSplat's kind: scene to `context`, `target` and, perhaps, `overlap`.

    Scenes that it gives null are left out, and an overlap below 0 is unknown.

    Raises:
        InputError: it cannot be read or is no such file.
    """
    try:
        index = json.loads(path.read_bytes())
        return {
            key: EvaluationViews(
                tuple(int(frame) for frame in entry["context"]),
                tuple(int(frame) for frame in entry["target"]),
                float(entry["overlap"]) if entry.get("overlap", -1.0) >= 0.0 else None,
            )
            for key, entry in index.items()
            if entry is not None
        }
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is no index from scenes to context and target frames ({error!r}); correct it."
        ) from error


def write_evaluation_set(path: Path, chosen: EvaluationSet) -> None:
    """Write such a file."""
    index = {
        key: {
            "context": list(views.context),
            "target": list(views.target),
            "overlap": -1.0 if views.overlap is None else views.overlap,
        }
        for key, views in chosen.items()
    }
    path.write_text(json.dumps(index, indent=1))


# Choosing views


def drawn_evaluation_set(groups: Sequence[SceneGroup], config: ExampleConfig, count: int) -> Dict[str, EvaluationViews]:
    """Views of up to so many scenes, as training chooses them in its end, where there is no index file.

    But targets are distinct, and none is a context view, so that there may be fewer. They are always the same. Scenes
    that cannot be used are left out, and so are those without such a target. Overlaps are not known.
    """
    chosen: Dict[str, EvaluationViews] = {}
    generator = np.random.default_rng(0)
    for number in generator.permutation(len(groups)):
        group = groups[number]
        rule = config.rules[group.kind]
        for index in generator.permutation(len(group.keys)):
            if len(chosen) == count:
                return chosen
            key = group.keys[index]
            try:
                scene = group.scene(key)
                check_scene(scene, config.size)
                drawn = max(config.num_targets, _TARGETS_DRAWN)
                views = rule.choose(scene.cameras, config.num_context, drawn, rule.growth_steps, generator)
                in_first_frame(scene.cameras.camera_to_worlds, views)
            except UnusableScene:
                continue
            targets = tuple(dict.fromkeys(frame for frame in views.target if frame not in views.context))
            if targets:
                chosen[key] = EvaluationViews(views.context, targets[: config.num_targets])
    return chosen


def made_evaluation_set(scenes: MadeScenes, num_targets: int = 3) -> Dict[str, EvaluationViews]:
    """Views of made scenes, one pair of context views each, with overlaps of the three classes in turn.

    Where a scene has no pair of the class whose turn it is, it has one of another. Targets are distinct frames between
    the two.
    """
    chosen: Dict[str, EvaluationViews] = {}
    for number, key in enumerate(scenes.keys):
        wished = tuple(OVERLAP_CLASSES)[number % len(OVERLAP_CLASSES)]
        views = _views_of_class(scenes.scene(key), wished, num_targets, np.random.default_rng([number, 1]))
        if views is not None:
            chosen[key] = views
    return chosen


def _views_of_class(
    scene: MadeScene, wished: OverlapClass, num_targets: int, generator: np.random.Generator
) -> Optional[EvaluationViews]:
    depth = cache(scene.depth)
    found: Optional[EvaluationViews] = None
    for _ in range(_MOST_DRAWS):
        gap = int(generator.integers(num_targets + 1, NUM_FRAMES))
        left = int(generator.integers(0, NUM_FRAMES - gap))
        pair = [left, left + gap]
        cameras = SceneCameras(*(column[pair] for column in scene.cameras))
        overlap = depth_overlap(torch.stack([depth(frame) for frame in pair]), cameras)
        if overlap_class(overlap) == wished or (found is None and overlap_class(overlap) is not None):
            between = generator.choice(np.arange(left + 1, left + gap), num_targets, replace=False)
            found = EvaluationViews((left, left + gap), tuple(sorted(between.tolist())), overlap)
        if overlap_class(overlap) == wished:
            break
    return found


def depth_overlap(depths: Float[Tensor, "2 height width"], cameras: SceneCameras) -> float:
    """The share of one image's pixels whose points are seen in the other, the smaller of both ways.

    Args:
        depths: along the axes, at the centers of pixels, in units of the cameras.
        cameras: of the two.
    """
    there = share_seen(depths, cameras)
    back = share_seen(depths.flip(0), SceneCameras(*(column.flip(0) for column in cameras)))
    return float(torch.minimum(there, back))


def share_seen(depths: Float[Tensor, "2 height width"], cameras: SceneCameras) -> Float[Tensor, ""]:
    """The share of the first image's pixels whose points are in the second's picture, and not hidden there.

    Args:
        depths: as of `depth_overlap`.
        cameras: likewise.
    """
    height, width = depths.shape[1:]
    rows, columns = (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width
    grid = torch.stack([*torch.meshgrid(columns, rows, indexing="xy"), torch.ones(height, width)], dim=-1).double()
    first, second = cameras.camera_to_worlds
    directions = grid @ cameras.intrinsics[0].double().inverse().mT
    points = (directions * depths[0, ..., None]).flatten(0, 1) @ first[:, :3].mT + first[:, 3]
    in_second = (points - second[:, 3]) @ second[:, :3]
    seen, _, _ = seen_at(in_second, cameras.intrinsics[1].double(), depths[1], SAME_DEPTH)
    return seen.double().mean()
