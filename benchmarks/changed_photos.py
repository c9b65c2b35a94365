"""Photographs made harder: writes a set with fewer of them, with spoiled ones, without masks or with rough poses.

    python benchmarks/changed_photos.py --data FOX --output FOLDER --spoiled 27

Everything random follows from `--seed`. The lens that the set gives is kept. Of a folder in the Blender layout, the
training images are taken.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional

import cv2
import numpy as np
import tyro
from jaxtyping import Float, UInt8


@dataclass
class Arguments:
    """What to do to a set, in this order."""

    data: Path
    """Folder with images and their poses, and masks if there are any."""
    output: Path
    """Folder to write; it must not exist."""
    count: Optional[int] = None
    """Keep so many images, evenly in the order of their names; None for all."""
    without_masks: bool = False
    """Leave out the masks."""
    spoiled: int = 0
    """So many images, chosen at random, are spoiled: by motion blur, defocus and noise in turn."""
    rotation_noise_deg: float = 0.0
    """Poses are turned about a random axis by an angle of this standard deviation, in degrees."""
    distance_noise: float = 0.0
    """Positions are moved by Gaussian noise of this standard deviation, in units of the cameras' median distance from
    their center."""
    outliers: float = 0.0
    """This share of the poses is replaced by those of other images."""
    seed: int = 0
    """Of everything random."""


def main(arguments: Arguments) -> None:
    """Write the set."""
    generator = np.random.default_rng(arguments.seed)
    layout = read_layout(arguments.data)
    frames: List[Dict[str, Any]] = sorted(layout["frames"], key=lambda frame: frame["file_path"])
    if arguments.count is not None:
        frames = [frames[row] for row in np.linspace(0, len(frames) - 1, arguments.count).round().astype(int)]
    spoiled = generator.choice(len(frames), arguments.spoiled, replace=False).tolist()
    arguments.output.mkdir(parents=True)
    for row, frame in enumerate(frames):
        copy(arguments.data, arguments.output, frame["file_path"])
        if row in spoiled:
            path = str(arguments.output / frame["file_path"])
            image = cv2.imread(path)
            assert image is not None
            cv2.imwrite(path, spoil(image, spoiled.index(row), generator))
        if arguments.without_masks:
            frame.pop("mask_path", None)
        elif "mask_path" in frame:
            copy(arguments.data, arguments.output, frame["mask_path"])
    poses = np.array([frame["transform_matrix"] for frame in frames])
    for frame, pose in zip(frames, rough(poses, arguments, generator), strict=True):
        frame["transform_matrix"] = pose.tolist()
    (arguments.output / "transforms.json").write_text(json.dumps({**layout, "frames": frames}, indent=1))


def read_layout(folder: Path) -> Dict[str, Any]:
    """What the transforms.json of a set says; its files have their endings.

    Raises:
        SystemExit: there is none.
    """
    path = folder / "transforms.json"
    if path.exists():
        return json.loads(path.read_text())
    path = folder / "transforms_train.json"
    if not path.exists():
        raise SystemExit(f"{folder} has no transforms.json.")
    layout = json.loads(path.read_text())
    for frame in layout["frames"]:
        frame["file_path"] += ".png"
    return layout


def copy(source: Path, target: Path, name: str) -> None:
    """Copy a file to where it was."""
    (target / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / name, target / name)


def spoil(
    image: UInt8[np.ndarray, "height width 3"], kind: int, generator: np.random.Generator
) -> UInt8[np.ndarray, "height width 3"]:
    """As a hasty photograph comes out; sizes are relative to the width, so that they suit all sets."""
    width = image.shape[1]
    if kind % 3 == 0:  # the hand moved
        length = max(3, round(0.05 * width))
        angle = generator.uniform(0.0, math.pi)
        kernel = np.zeros((length, length))
        reach = 0.5 * length * np.array([math.cos(angle), math.sin(angle)])
        ends = [tuple(int(value) for value in np.round(0.5 * (length - 1) + side * reach)) for side in (-1, 1)]
        cv2.line(kernel, ends[0], ends[1], (1.0,))
        return cv2.filter2D(image, -1, kernel / kernel.sum()).astype(np.uint8)
    if kind % 3 == 1:  # the lens was focused elsewhere
        radius = max(1, round(0.015 * width))
        disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)).astype(np.float64)
        return cv2.filter2D(image, -1, disk / disk.sum()).astype(np.uint8)
    noisy = image + generator.normal(0.0, 40.0, image.shape)  # it was dark
    return noisy.round().clip(0, 255).astype(np.uint8)


def rough(
    poses: Float[np.ndarray, "n 4 4"], arguments: Arguments, generator: np.random.Generator
) -> Float[np.ndarray, "n 4 4"]:
    """Poses as a phone's sensors know them."""
    count = len(poses)
    positions = poses[:, :3, 3]
    distance = float(np.median(np.linalg.norm(positions - positions.mean(axis=0), axis=1)))
    found = poses.copy()
    for row in range(count):
        axis = generator.normal(size=3)
        angle = math.radians(arguments.rotation_noise_deg) * generator.normal()
        turn, _ = cv2.Rodrigues(angle * axis / np.linalg.norm(axis))
        found[row, :3, :3] = turn @ poses[row, :3, :3]
    found[:, :3, 3] += arguments.distance_noise * distance * generator.normal(size=(count, 3))
    chosen = generator.choice(count, round(arguments.outliers * count), replace=False)
    found[chosen] = poses[(chosen + count // 2) % count]
    return found


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments)))
