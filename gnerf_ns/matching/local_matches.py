"""What local matches tell of images: groups of cameras relative to each other, lenses, points, pairs of points."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Dict, List

import numpy as np
from jaxtyping import Float, Int

_PAIRS, _MISPLACED = "pairs", "misplaced"


@dataclass(frozen=True)
class Component:
    """Images whose cameras are known relative to each other, in a frame and a unit of the component's own."""

    image_indices: Int[np.ndarray, "n"]
    """Which images these are."""
    camera_to_worlds: Float[np.ndarray, "n 3 4"]
    """Their poses, in nerfstudio's axes."""
    focal: Float[np.ndarray, "n 2"]
    """Focal lengths along x and y, in widths of the image."""
    center: Float[np.ndarray, "n 2"]
    """Principal points, as shares of the image's width and height."""
    distortion: Float[np.ndarray, "n 6"]
    """k1, k2, k3, k4, p1, p2, as nerfstudio's cameras have them."""
    points: Float[np.ndarray, "points 3"]
    """Points that images see, of these or of others that were put together with them."""
    seen_by: Int[np.ndarray, "sightings"]
    """Rows of the images above that see a point, once for each time that one is seen."""
    seen_point: Int[np.ndarray, "sightings"]
    """Rows of the points seen there."""
    seen_at: Float[np.ndarray, "sightings 2"]
    """Where, as shares of the image's width and height."""
    error_px: Float[np.ndarray, ""]
    """Mean distance between where points are seen and where they are projected to, in pixels of the matched images."""

    def __len__(self) -> int:
        return len(self.image_indices)

    def of(self, rows: Int[np.ndarray, "k"]) -> Component:
        """Some of the images, with the points and the error of all."""
        new_row = np.full(len(self), -1)
        new_row[rows] = np.arange(len(rows))
        kept = new_row[self.seen_by] >= 0
        return replace(
            self,
            image_indices=self.image_indices[rows],
            camera_to_worlds=self.camera_to_worlds[rows],
            focal=self.focal[rows],
            center=self.center[rows],
            distortion=self.distortion[rows],
            seen_by=new_row[self.seen_by[kept]],
            seen_point=self.seen_point[kept],
            seen_at=self.seen_at[kept],
        )


@dataclass(frozen=True)
class PairMatches:
    """Points of two images that were matched and fit one relative pose of the two cameras."""

    pairs: Int[np.ndarray, "pairs 2"]
    """Pairs of images."""
    ends: Int[np.ndarray, "pairs"]
    """Where the points of each pair end in `points`; they begin where those of the one before end."""
    points: Float[np.ndarray, "matches 4"]
    """x and y in the one image, x and y in the other, as shares of their widths and heights."""

    @property
    def of_pairs(self) -> List[Float[np.ndarray, "_ 4"]]:
        """The points of each pair."""
        return [self.points[start:end] for start, end in pairwise([0, *self.ends.tolist()])]

    @property
    def images(self) -> Int[np.ndarray, "matches 2"]:
        """The two images of each match."""
        return self.pairs.repeat(np.diff(self.ends, prepend=0), axis=0)

    @property
    def coords(self) -> Float[np.ndarray, "matches 2 2"]:
        """Where each match is in its two images, (x, y), -1 and 1 being their edges."""
        return 2.0 * self.points.reshape(-1, 2, 2) - 1.0


@dataclass(frozen=True)
class LocalMatches:
    """All that matching found."""

    components: List[Component]
    """The largest first. No image is in two."""
    matches: PairMatches
    """Verified matches of all pairs."""
    misplaced: Int[np.ndarray, "misplaced"]
    """Images of the largest component whose place is in doubt: few points have placed them, neighbors there have less
    in common with them than neighbors have, or another way of putting images together turns them otherwise. Sides that
    are alike may have been taken for one."""

    def save(self, path: Path) -> None:
        """Write to an .npz file, whole or not at all."""
        arrays: Dict[str, np.ndarray] = {f"{_PAIRS}.{key}": value for key, value in vars(self.matches).items()}
        for number, component in enumerate(self.components):
            arrays.update({f"{number}.{key}": value for key, value in vars(component).items()})
        arrays[_MISPLACED] = self.misplaced
        written = path.with_suffix(".new.npz")
        np.savez(written, **arrays)  # pyright: ignore[reportArgumentType]
        written.replace(path)

    @classmethod
    def load(cls, path: Path) -> LocalMatches:
        """What `save` has written."""
        with np.load(path) as file:
            count = len({key.split(".")[0] for key in file if key.split(".")[0].isdigit()})
            components = [
                Component(**{field.name: file[f"{number}.{field.name}"] for field in fields(Component)})
                for number in range(count)
            ]
            return cls(
                components,
                PairMatches(**{key.name: file[f"{_PAIRS}.{key.name}"] for key in fields(PairMatches)}),
                file[_MISPLACED],
            )
