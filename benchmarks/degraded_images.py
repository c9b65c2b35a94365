"""Fewer, worse and paler images of a scene: writes a folder in the Blender layout from another one.

    python benchmarks/degraded_images.py --data LEGO --output FOLDER --views 12 --noise 0.1

Held-out images are degraded likewise, but keep their number. Everything random follows from `--seed`.
"""

from __future__ import annotations

import io
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np
import tyro
from jaxtyping import Float
from PIL import Image


@dataclass
class Arguments:
    """What to do to the images, in this order."""

    data: Path
    """Folder with transforms_train.json and transforms_test.json (Blender layout)."""
    output: Path
    """Folder to write; it must not exist."""
    views: Optional[int] = None
    """Keep so many training images, chosen at random; None for all."""
    image_side: Optional[int] = None
    """Area-average to this side, in pixels; None for the files' size."""
    pale: float = 0.0
    """Colors are moved by this share towards white, as pale things before a white ground are."""
    silhouettes: bool = False
    """White where the object is, black elsewhere: all that is left is the outline."""
    noise: Optional[float] = None
    """Standard deviation of Gaussian noise on images laid over white, in units of the full range."""
    jpeg_quality: Optional[int] = None
    """Compress images laid over white as JPEG of this quality (1 to 95)."""
    focal_scale: float = 1.0
    """The focal length that is written is so many times the true one."""
    seed: int = 0
    """Of the choice of images and of the noise."""


def main(arguments: Arguments) -> None:
    """Write the folder."""
    arguments.output.mkdir(parents=True)
    generator = np.random.default_rng(arguments.seed)
    for split in ("train", "test"):
        layout = json.loads((arguments.data / f"transforms_{split}.json").read_text())
        frames: List[Dict[str, Any]] = layout["frames"]
        if split == "train" and arguments.views is not None:
            chosen = sorted(generator.choice(len(frames), arguments.views, replace=False).tolist())
            frames = [frames[index] for index in chosen]
        for index, frame in enumerate(frames):
            image = read_rgba(arguments.data / f"{frame['file_path']}.png")
            name = f"{split}/{index:04d}"
            write(arguments.output / name, image, arguments, generator)
            frame["file_path"] = f"./{name}"
        tangent = math.tan(layout["camera_angle_x"] / 2.0) / arguments.focal_scale
        written = json.dumps({"camera_angle_x": 2.0 * math.atan(tangent), "frames": frames}, indent=1)
        for name in ("test", "val") if split == "test" else ("train",):
            (arguments.output / f"transforms_{name}.json").write_text(written)


def read_rgba(path: Path) -> Float[np.ndarray, "height width 4"]:
    """Straight alpha, in [0, 1]."""
    return np.asarray(Image.open(path).convert("RGBA"), dtype=np.float64) / 255.0


def write(
    path: Path, image: Float[np.ndarray, "height width 4"], arguments: Arguments, generator: np.random.Generator
) -> None:
    """Degrade one image and save it as PNG (a JPEG's pixels too: the layout knows no other format)."""
    alpha = image[..., 3:]
    if arguments.image_side is not None:
        premultiplied = np.concatenate([image[..., :3] * alpha, alpha], axis=-1)
        resized = np.stack([shrink(channel, arguments.image_side) for channel in premultiplied.transpose(2, 0, 1)], -1)
        alpha = resized[..., 3:]
        image = np.concatenate([resized[..., :3] / np.maximum(alpha, 1e-6), alpha], axis=-1)
    if arguments.pale:
        image = np.concatenate([image[..., :3] + arguments.pale * (1.0 - image[..., :3]), alpha], axis=-1)
    if arguments.silhouettes:
        image = np.repeat(alpha, 3, axis=-1)
    elif arguments.noise is not None or arguments.jpeg_quality is not None:
        image = image[..., :3] * alpha + 1.0 - alpha
    if arguments.noise is not None:
        image = image + arguments.noise * generator.standard_normal(image.shape)
    file = Image.fromarray(np.round(image.clip(0.0, 1.0) * 255.0).astype(np.uint8))
    if arguments.jpeg_quality is not None:
        buffer = io.BytesIO()
        file.save(buffer, "JPEG", quality=arguments.jpeg_quality)
        file = Image.open(buffer)
    path.parent.mkdir(exist_ok=True)
    file.save(path.with_name(f"{path.name}.png"))


def shrink(channel: Float[np.ndarray, "height width"], side: int) -> Float[np.ndarray, "side side"]:
    """Area-averaged to a square."""
    return np.asarray(Image.fromarray(channel.astype(np.float32)).resize((side, side), Image.Resampling.BOX))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments)))
