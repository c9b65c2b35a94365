"""Folders of small made-up images."""

import json
import math
from pathlib import Path
from typing import Callable, List

import numpy as np
import pytest
from PIL import Image

from gnerf_ns.utils.console import remark


def image(index: int, width: int, height: int, channels: int = 3) -> np.ndarray:
    """Noise that differs from image to image; with four channels, a disc of it on a transparent ground."""
    pixels = np.random.default_rng(index).integers(0, 256, (height, width, channels), dtype=np.uint8)
    if channels == 4:
        rows, columns = np.mgrid[:height, :width]
        inside = np.hypot(rows - height / 2 + 0.5, columns - width / 2 + 0.5) < min(width, height) / 3
        pixels[..., 3] = 255 * inside
    return pixels


def pose_on_ring(index: int, count: int, radius: float = 4.0) -> List[List[float]]:
    """4x4 camera_to_world of a level camera on a circle, looking at the origin."""
    angle = 2 * math.pi * index / count
    cosine, sine = math.cos(angle), math.sin(angle)
    return [
        [-sine, 0.0, cosine, radius * cosine],
        [cosine, 0.0, sine, radius * sine],
        [0.0, 1.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 1.0],
    ]


@pytest.fixture(autouse=True)
def nothing_said_yet() -> None:
    """Each test sees all remarks, which are printed once."""
    remark.cache_clear()


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[..., Path]:
    """Builds a bare folder of images."""

    def build(count: int = 10, width: int = 32, height: int = 24, channels: int = 3, suffix: str = ".png") -> Path:
        folder = tmp_path / "images"
        folder.mkdir()
        for index in range(count):
            Image.fromarray(image(index, width, height, channels)).save(folder / f"view_{index:02d}{suffix}")
        return folder

    return build


@pytest.fixture
def blender_folder(tmp_path: Path) -> Path:
    """Blender layout: 8 training, 3 validation and 4 test views, 32x32 RGBA, poses on circles of differing radius."""
    folder = tmp_path / "blender"
    for split, count, radius in (("train", 8, 4.0), ("val", 3, 5.0), ("test", 4, 6.0)):
        (folder / split).mkdir(parents=True)
        frames = []
        for index in range(count):
            Image.fromarray(image(index, 32, 32, 4)).save(folder / split / f"r_{index}.png")
            pose = pose_on_ring(index, count, radius)
            frames.append({"file_path": f"./{split}/r_{index}", "transform_matrix": pose})
        (folder / f"transforms_{split}.json").write_text(json.dumps({"camera_angle_x": 0.7, "frames": frames}))
    return folder


@pytest.fixture
def nerfstudio_folder(tmp_path: Path) -> Path:
    """nerfstudio layout: 16 JPEG views of 30x40, one camera with distortion and an off-center principal point."""
    folder = tmp_path / "nerfstudio"
    (folder / "images").mkdir(parents=True)
    frames = []
    for index in range(16):
        Image.fromarray(image(index, 30, 40)).save(folder / "images" / f"{index:04d}.jpg")
        frames.append({"file_path": f"images/{index:04d}.jpg", "transform_matrix": pose_on_ring(index, 16)})
    shared = {"fl_x": 50.0, "fl_y": 51.0, "cx": 14.0, "cy": 21.0, "w": 30, "h": 40, "k1": 0.05, "p2": 0.001}
    meta = {**shared, "camera_model": "OPENCV", "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(meta))
    return folder
