"""Against COLMAP, a user's first choice: how many of the same images get a pose, and how good it is.

    python benchmarks/against_colmap.py --data LEGO --sides 100 200

Needs `colmap` on the path (`apt-get install colmap`). COLMAP runs with its defaults (exhaustive matching, one shared
pinhole camera of the true focal length), on the CPU, on images laid over white; its largest model counts.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import torch
import tyro
from degraded_images import read_rgba, shrink
from jaxtyping import Float
from nerfstudio.data.utils.colmap_parsing_utils import read_images_binary
from PIL import Image
from torch import Tensor
from training import Cost, machine, run, table_head, table_row, train_and_evaluate

from gnerf_ns.cameras.alignment import pose_errors

COLUMNS = ["px", "what", "images with a pose", "of them under 5°", "median °", "wall s", "CPU s"]


@dataclass
class Arguments:
    """What to compare on."""

    data: Path
    """Folder with transforms_train.json (Blender layout); its poses are used to measure errors."""
    sides: Tuple[int, ...] = (100, 200)
    """Sizes of the images, in pixels."""
    seed: int = 0
    """Of our runs."""
    output: Optional[Path] = None
    """Where everything goes; a temporary folder by default."""


def main(arguments: Arguments) -> None:
    """Print a markdown table, two rows for each size."""
    if shutil.which("colmap") is None:
        raise SystemExit("There is no colmap on the path; install it, for example with apt-get install colmap.")
    output = arguments.output or Path(tempfile.mkdtemp(prefix="gnerf-ns-"))
    output.mkdir(parents=True, exist_ok=True)
    print(f"{machine()}; seed {arguments.seed}; everything in {output}\n\n{table_head(COLUMNS)}", flush=True)
    layout = json.loads((arguments.data / "transforms_train.json").read_text())
    truth = poses_by_name(layout)
    for side in arguments.sides:
        folder = output / f"colmap-{side}"
        images = folder / "images"
        images.mkdir(parents=True)
        for frame in layout["frames"]:
            path = arguments.data / f"{frame['file_path']}.png"
            write_over_white(read_rgba(path), side, images / path.name)
        focal = 0.5 * side / math.tan(layout["camera_angle_x"] / 2.0)
        poses, cost = colmap_poses(folder, focal, side)
        print(table_row(row(side, "COLMAP", poses, truth, cost)), flush=True)

        sizes = ["--pipeline.datamanager.max-image-side", str(side)]
        sizes += ["--pipeline.schedule.phase-b-image-side", "24", str(side)]
        training = train_and_evaluate(arguments.data, "gnerf-ns", arguments.seed, output, f"gnerf-ns-{side}", sizes)
        written = json.loads((training.folder / "estimated_poses" / "transforms.json").read_text())
        print(table_row(row(side, "gnerf-ns", poses_by_name(written), truth, training.cost)), flush=True)


def poses_by_name(layout: Dict[str, Any]) -> Dict[str, Float[Tensor, "3 4"]]:
    """camera_to_worlds of a transforms.json, by file name without its ending."""
    return {Path(frame["file_path"]).stem: torch.tensor(frame["transform_matrix"])[:3] for frame in layout["frames"]}


def row(side: int, what: str, poses: Dict[str, Tensor], truth: Dict[str, Tensor], cost: Cost) -> List[str]:
    """One row of the table."""
    cells = [str(side), what, f"{len(poses)} of {len(truth)}"]
    if len(poses) < 3:  # too few to align
        cells += ["-", "-"]
    else:
        names = sorted(poses)
        errors = pose_errors(torch.stack([poses[n] for n in names]), torch.stack([truth[n] for n in names]))
        under_5deg = int((errors.rotation_deg < 5.0).sum())
        cells += [str(under_5deg), f"{float(errors.rotation_deg.median()):.3f}"]
    return [*cells, f"{cost.wall_s:.0f}", f"{cost.cpu_s:.0f}"]


def write_over_white(image: Float[np.ndarray, "height width 4"], side: int, path: Path) -> None:
    """Area-averaged to a square."""
    over_white = image[..., :3] * image[..., 3:] + 1.0 - image[..., 3:]
    resized = np.stack([shrink(channel, side) for channel in over_white.transpose(2, 0, 1)], axis=-1)
    Image.fromarray(np.round(resized.clip(0.0, 1.0) * 255.0).astype(np.uint8)).save(path)


def colmap_poses(folder: Path, focal: float, side: int) -> Tuple[Dict[str, Float[Tensor, "3 4"]], Cost]:
    """camera_to_worlds (OpenGL axes) by name of COLMAP's largest model, and what it took in all."""
    database, sparse = folder / "database.db", folder / "sparse"
    sparse.mkdir()
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    options = {
        "feature_extractor": [
            *("--image_path", str(folder / "images"), "--ImageReader.single_camera", "1"),
            *("--ImageReader.camera_model", "PINHOLE"),
            *("--ImageReader.camera_params", f"{focal},{focal},{side / 2},{side / 2}"),
            *("--SiftExtraction.use_gpu", "0"),
        ],
        "exhaustive_matcher": ["--SiftMatching.use_gpu", "0"],
        "mapper": ["--image_path", str(folder / "images"), "--output_path", str(sparse)],
    }
    costs = [
        # The mapper fails where no two images start a model.
        run(["colmap", name, "--database_path", str(database), *more], folder / f"{name}.log", name == "mapper")
        for name, more in options.items()
    ]
    total = Cost(sum(c.wall_s for c in costs), sum(c.cpu_s for c in costs), max(c.peak_gb for c in costs))
    models = [read_images_binary(model / "images.bin") for model in sparse.iterdir()]
    largest = max(models, key=len, default={})
    poses = {}
    for image in largest.values():
        rotation = torch.from_numpy(image.qvec2rotmat()).float().T
        position = -rotation @ torch.from_numpy(image.tvec).float()
        opengl = rotation * torch.tensor([1.0, -1.0, -1.0])  # COLMAP's cameras look along +z, y down
        poses[Path(image.name).stem] = torch.cat([opengl, position[:, None]], dim=1)
    return poses, total


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments)))
