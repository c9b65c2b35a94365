"""COLMAP's model of the cameras in a transforms.json: sparse/0, which most programs that begin with poses read.

Pixel centers lie at half-integers in both. Camera axes differ: COLMAP's are OpenCV's, y down and z forward. The world
stays nerfstudio's.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
from pathlib import Path, PurePath
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from gnerf_ns.export.surface_points import SurfacePoints

PARAMETERS = {
    "SIMPLE_PINHOLE": ("fl_x", "cx", "cy"),
    "PINHOLE": ("fl_x", "fl_y", "cx", "cy"),
    "OPENCV": ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "p1", "p2"),
    "FULL_OPENCV": ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "p1", "p2", "k3"),
    "OPENCV_FISHEYE": ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "k3", "k4"),
}
"""Of COLMAP's camera models, as a transforms.json calls them. Those that FULL_OPENCV has besides divide, and are 0."""
NUM_PARAMETERS = {name: len(names) for name, names in PARAMETERS.items()} | {"FULL_OPENCV": 12}
"""How many of them COLMAP has."""
SAME_FOCAL = 1e-6
"""Relative difference of horizontal and vertical focal lengths that comes from rounding."""


def camera_model(meta: Mapping[str, Any]) -> Optional[str]:
    """COLMAP's name of the simplest camera model that all cameras of a transforms.json have; None if there is none.

    It is one for all, as nerfstudio demands. Nothing that is not 0 is left out: Inria's 3DGS reads the first two alone,
    and has images undistorted before.

    Args:
        meta: as `load_transforms_json` gives it, each frame with its own intrinsics.
    """
    frames = meta["frames"]

    def has(*names: str) -> bool:
        return any(frame.get(name, 0.0) != 0.0 for frame in frames for name in names)

    if meta["camera_model"] == "OPENCV_FISHEYE":
        return None if has("p1", "p2") else "OPENCV_FISHEYE"
    if meta["camera_model"] != "OPENCV" or has("k4"):
        return None
    if has("k3"):
        return "FULL_OPENCV"
    if has("k1", "k2", "p1", "p2"):
        return "OPENCV"
    is_square = all(abs(frame["fl_x"] - frame["fl_y"]) <= SAME_FOCAL * frame["fl_x"] for frame in frames)
    return "SIMPLE_PINHOLE" if is_square else "PINHOLE"


def write_colmap_model(
    folder: Path, model: str, frames: Sequence[Mapping[str, Any]], names: Sequence[str], points: SurfacePoints
) -> None:
    """Write cameras, images and points in COLMAP's binary format. Image n has the id n + 1.

    Each point is observed once, in the image that it was found in, where that camera sees it.

    Args:
        folder: which gets the files, in place of those that it has.
        model: from `camera_model`.
        frames: entries of the transforms.json.
        names: of the images.
        points: seen in frames of their indices.
    """
    pycolmap = _pycolmap()
    reconstruction = pycolmap.Reconstruction()
    camera_ids: Dict[Tuple[float, ...], int] = {}
    for index, (frame, name) in enumerate(zip(frames, names, strict=True)):
        lens = (frame["w"], frame["h"], *(frame.get(key, 0.0) for key in PARAMETERS[model]))
        if lens not in camera_ids:
            camera_ids[lens] = len(camera_ids) + 1
            parameters = np.zeros(NUM_PARAMETERS[model])
            parameters[: len(PARAMETERS[model])] = lens[2:]
            camera = pycolmap.Camera(
                model=model, width=frame["w"], height=frame["h"], params=parameters, camera_id=camera_ids[lens]
            )
            reconstruction.add_camera_with_trivial_rig(camera)
        camera = reconstruction.cameras[camera_ids[lens]]
        pose = pycolmap.Rigid3d(_world_to_camera(np.array(frame["transform_matrix"])))
        seen = np.flatnonzero(points.image_indices.numpy() == index)
        positions = points.positions.numpy()[seen].astype(np.float64)
        keypoints = np.asarray(camera.img_from_cam(pose * positions)).reshape(-1, 2)
        image = pycolmap.Image(name=name, keypoints=keypoints, camera_id=camera.camera_id, image_id=index + 1)
        reconstruction.add_image_with_trivial_frame(image, pose)
        for number, (position, color) in enumerate(zip(positions, points.colors.numpy()[seen], strict=True)):
            track = pycolmap.Track([pycolmap.TrackElement(index + 1, number)])
            reconstruction.add_point3D(position, track, color)
    new = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    reconstruction.write_binary(new)
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)


def _pycolmap() -> Any:
    """The module; once imported, it would have SIGTERM print a trace of the stack, and a training ends as before."""
    before = signal.getsignal(signal.SIGTERM)
    import pycolmap

    if threading.current_thread() is threading.main_thread():  # no other may
        signal.signal(signal.SIGTERM, before)
    return pycolmap


def _world_to_camera(camera_to_world: np.ndarray) -> np.ndarray:
    """[3, 4] in COLMAP's axes, of a 4x4 matrix in nerfstudio's (y up, looking along -z)."""
    rotation = (camera_to_world[:3, :3] * np.array([1.0, -1.0, -1.0])).T
    return np.concatenate([rotation, -rotation @ camera_to_world[:3, 3:]], axis=1)


def image_names(files: Sequence[PurePath]) -> List[str]:
    """Names of image files within the folder that holds them all, subfolders included.

    On Windows they may be on several drives, and no folder holds them all: then the drive is the first folder.
    """
    paths = [Path(os.path.abspath(file)) for file in files]
    try:
        folder = os.path.commonpath([path.parent for path in paths])
    except ValueError:
        return [Path(path.drive.strip(":\\"), *path.parts[1:]).as_posix() for path in paths]
    return [path.relative_to(folder).as_posix() for path in paths]
