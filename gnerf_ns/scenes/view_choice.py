"""Which views of a scene make an example: by the frames between them, or by what they have in common.

Gaps and how they grow are NoPoSplat's (Ye et al., ICLR 2025, arXiv 2410.24207); the rule for unordered images is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping, NamedTuple, Protocol, Tuple, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gnerf_ns.cameras.scene_frame import axes_meet_at
from gnerf_ns.scenes.scene_data import SceneCameras, SceneKind, UnusableScene

_GRID = 16
"""Points along each side of an image by which two frames without an order are compared."""

_FIRST_FRAMES = 8
"""So many frames are tried as the first context view of images without an order."""

_NEAREST_WALL, _FARTHEST_WALL = 0.1, 100.0
"""What cameras look at is so far away, in units of their mean distance from their center."""


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
