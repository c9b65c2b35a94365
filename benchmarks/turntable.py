"""How well poses of an object on a turntable agree with its one axis, whoever found them: no reference is needed.

    python benchmarks/turntable.py --poses TRANSFORMS.json COLMAP.json

The camera stands still and the object turns. So, seen from the object, all cameras are turned about one axis, and their
centers lie on one circle about it. Prints by how many degrees the cameras depart from the axis that fits them best,
and by how many percent of its radius from the circle, root mean square and largest. Files are nerfstudio's
transforms.json, or what `colmap_expert.py` writes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Tuple

import numpy as np
import tyro
from jaxtyping import Float
from training import table_head, table_row

COLUMNS = ["poses", "images", "axis °", "largest °", "radius %", "height %"]
ROUNDS = 100
"""Of fitting the axis as cameras and as the object see it, in turn."""


@dataclass
class Arguments:
    """What to compare."""

    poses: Tuple[Path, ...]
    """Files of poses."""


def main(arguments: Arguments) -> None:
    """Print a markdown table."""
    print(table_head(COLUMNS))
    for path in arguments.poses:
        poses = read(path)
        axis = turning_axis(poses[:, :, :3])
        degrees = departures_deg(poses[:, :, :3], axis)
        radius, height = departures_from_circle(poses[:, :, 3], axis)
        figures = (np.sqrt(np.mean(degrees**2)), degrees.max(), 100 * radius, 100 * height)
        print(table_row([str(path), str(len(poses)), *(f"{figure:.2f}" for figure in figures)]))


def read(path: Path) -> Float[np.ndarray, "n 3 4"]:
    """camera_to_worlds of a file."""
    content = json.loads(path.read_text())
    poses = [frame["transform_matrix"] for frame in content["frames"]] if "frames" in content else content.values()
    return np.array(list(poses), dtype=np.float64)[:, :3]


def turning_axis(rotations: Float[np.ndarray, "n 3 3"]) -> Float[np.ndarray, "3"]:
    """The direction in the world that all cameras see as nearly alike as can be: least squares, by turns."""
    world = np.linalg.svd(rotations.mean(axis=0))[0][:, 0]
    for _ in range(ROUNDS):
        seen = _unit((rotations.swapaxes(1, 2) @ world).mean(axis=0))
        world = _unit((rotations @ seen).mean(axis=0))
    return world


def departures_deg(rotations: Float[np.ndarray, "n 3 3"], axis: Float[np.ndarray, "3"]) -> Float[np.ndarray, "n"]:
    """By how many degrees each camera sees the axis away from where they see it on average."""
    seen = rotations.swapaxes(1, 2) @ axis
    return np.degrees(np.arccos(np.clip(seen @ _unit(seen.mean(axis=0)), -1.0, 1.0)))


def departures_from_circle(centers: Float[np.ndarray, "n 3"], axis: Float[np.ndarray, "3"]) -> Tuple[float, float]:
    """Root mean square of what centers depart from a circle about an axis, outwards and along it; its radius is 1."""
    heights = centers @ axis
    across = np.linalg.svd(axis[None])[2][1:]
    plane = centers @ across.T
    middle_and_rest = np.linalg.lstsq(np.c_[2 * plane, np.ones(len(plane))], (plane**2).sum(axis=1), rcond=None)[0]
    middle = middle_and_rest[:2]
    radii = np.linalg.norm(plane - middle, axis=1)
    return float(radii.std() / radii.mean()), float(heights.std() / radii.mean())


def _unit(vector: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
    return vector / np.linalg.norm(vector)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
