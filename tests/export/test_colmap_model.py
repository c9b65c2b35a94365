"""COLMAP's own projection against nerfstudio's rays."""

import ntpath
import signal
import subprocess
import sys
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import pycolmap
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from PIL import ExifTags, Image

from gnerf_ns.cameras.pose_prior import PosePriorConfig
from gnerf_ns.data.transforms_json import load_transforms_json
from gnerf_ns.data.transforms_writer import FileFrames, write_transforms_json
from gnerf_ns.export import colmap_model
from gnerf_ns.export.colmap_model import camera_model, image_names, write_colmap_model
from gnerf_ns.export.surface_points import SurfacePoints

POSES = PosePriorConfig("dtu").resolve().sample(3, 2.8, "cpu", torch.Generator().manual_seed(0))
WIDTH, HEIGHT = 60, 40
PIXELS = torch.tensor([[0.5, 0.5], [59.5, 0.5], [20.5, 31.5], [30.0, 20.0]])
"""x and y."""
LENSES: Dict[str, Tuple[Tuple[float, ...], float, CameraType]] = {
    "SIMPLE_PINHOLE": ((0.0,) * 6, 1.0, CameraType.PERSPECTIVE),
    "PINHOLE": ((0.0,) * 6, 1.1, CameraType.PERSPECTIVE),
    "OPENCV": ((0.05, -0.02, 0.0, 0.0, 0.01, -0.02), 1.1, CameraType.PERSPECTIVE),
    "FULL_OPENCV": ((0.05, -0.02, 0.01, 0.0, 0.01, -0.02), 1.1, CameraType.PERSPECTIVE),
    "OPENCV_FISHEYE": ((0.05, -0.02, 0.01, -0.01, 0.0, 0.0), 1.1, CameraType.FISHEYE),
}
"""Distortion, vertical focal length over the horizontal one, and type, of which that is the simplest model."""


def some_cameras(distortion: Tuple[float, ...], aspect: float, camera_type: CameraType) -> Cameras:
    focal = torch.tensor([50.0, 50.0, 56.0])
    return Cameras(
        POSES,
        focal,
        aspect * focal,
        31.0,
        18.5,
        WIDTH,
        HEIGHT,
        distortion_params=torch.tensor([distortion]).expand(3, 6),
        camera_type=camera_type,
    )


def files_of(folder: Path, orientation: Optional[int] = None) -> List[Path]:
    folder.mkdir()
    paths = [folder / f"{index}.png" for index in range(3)]
    for path in paths:
        exif = Image.Exif()
        if orientation is not None:
            exif[ExifTags.Base.Orientation] = orientation
        size = (WIDTH, HEIGHT) if orientation in (None, 3) else (HEIGHT, WIDTH)
        Image.new("RGB", size).save(path, exif=exif)
    return paths


@pytest.mark.parametrize("orientation", [None, 3, 6])
@pytest.mark.parametrize("model", LENSES)
def test_colmap_sees_points_where_nerfstudios_rays_begin(tmp_path: Path, model: str, orientation: Optional[int]):
    cameras, files = some_cameras(*LENSES[model]), files_of(tmp_path / "images", orientation)
    write_transforms_json(tmp_path / "transforms.json", {"train": FileFrames(cameras, files)})
    meta = load_transforms_json(tmp_path / "transforms.json")
    assert camera_model(meta) == model

    image_indices = torch.tensor([2, 0, 1]).repeat_interleave(len(PIXELS))
    rays = cameras.generate_rays(image_indices[:, None], coords=PIXELS.flip(1).repeat(3, 1))
    positions = rays.origins + 3.0 * rays.directions
    colors = torch.arange(36, dtype=torch.uint8).view(12, 3)
    points = SurfacePoints(positions, colors, image_indices)
    write_colmap_model(tmp_path / "sparse" / "0", model, meta["frames"], image_names(files), points)

    found = pycolmap.Reconstruction(tmp_path / "sparse" / "0")
    assert found.num_reg_images() == 3 and found.num_cameras() == 2, "two have the same lens"
    assert [found.images[index + 1].name for index in range(3)] == ["0.png", "1.png", "2.png"]
    assert {camera.model_name for camera in found.cameras.values()} == {model}
    turned = {
        None: PIXELS,
        3: torch.tensor([WIDTH, HEIGHT]) - PIXELS,
        6: torch.stack([PIXELS[:, 1], WIDTH - PIXELS[:, 0]], dim=-1),  # as stored
    }[orientation]
    assert found.num_points3D() == 12
    for point in found.points3D.values():
        (row,) = np.flatnonzero((colors.numpy() == point.color).all(axis=1))
        np.testing.assert_allclose(point.xyz, positions[row].numpy(), atol=1e-6)
        image = found.images[int(image_indices[row]) + 1]
        expected = turned[row % len(PIXELS)].numpy()
        np.testing.assert_allclose(np.asarray(image.project_point(point.xyz)), expected, atol=0.02)
        (seen,) = point.track.elements
        assert seen.image_id == image.image_id
        np.testing.assert_allclose(image.points2D[seen.point2D_idx].xy, expected, atol=0.02)


@pytest.mark.parametrize(
    ("distortion", "camera_type"),
    [
        ((0.0, 0.0, 0.0, 0.01, 0.0, 0.0), CameraType.PERSPECTIVE),
        ((0.0, 0.0, 0.0, 0.0, 0.01, 0.0), CameraType.FISHEYE),
        ((0.0,) * 6, CameraType.EQUIRECTANGULAR),
    ],
)
def test_what_colmap_has_no_camera_for(tmp_path: Path, distortion: Any, camera_type: CameraType):
    files = files_of(tmp_path / "images")
    frames = FileFrames(some_cameras(distortion, 1.0, camera_type), files)
    write_transforms_json(tmp_path / "transforms.json", {"train": frames})
    assert camera_model(load_transforms_json(tmp_path / "transforms.json")) is None


def test_images_are_named_within_the_folder_of_all(tmp_path: Path):
    assert image_names([tmp_path / "a" / "x.png", tmp_path / "b" / "c" / "x.png"]) == ["a/x.png", "b/c/x.png"]
    assert image_names([tmp_path / "a" / "x.png", tmp_path / "a" / "y.png"]) == ["x.png", "y.png"]
    assert image_names([tmp_path / "a" / "x.png"]) == ["x.png"]


def test_names_of_images_on_several_drives(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(colmap_model, "os", SimpleNamespace(path=ntpath))
    monkeypatch.setattr(colmap_model, "Path", PureWindowsPath)
    files = [PureWindowsPath(r"C:\runs\up right\x.png"), PureWindowsPath(r"D:\data\x.png")]
    assert image_names(files) == ["C/runs/up right/x.png", "D/data/x.png"]
    assert image_names(files[1:]) == ["x.png"]


def test_a_program_is_terminated_as_before():
    code = (
        "import os, signal\n"
        "from gnerf_ns.export.colmap_model import _pycolmap\n"
        "_pycolmap()\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    ended = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGTERM and "Aborted" not in ended.stderr
