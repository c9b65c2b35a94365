"""Poses of a set of images as somebody finds them who knows COLMAP well; `real_photos.py` compares them with ours.

    python benchmarks/colmap_expert.py --data SET --output poses.json

The lens is the set's own and stays as it is; features are looked for on images of twice the size, with domain-size
pooling and affine shapes, inside of masks alone; all pairs are matched, guided; where the mapper with its defaults
leaves out images, it is asked again with looser criteria, and the model with most images counts. On the CPU.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np
import pycolmap
import tyro
from changed_photos import read_layout
from PIL import Image


@dataclass
class Arguments:
    """What to find poses of."""

    data: Path
    """Folder with a transforms.json, or in the Blender layout, whose training images are taken."""
    output: Path
    """Where poses go: camera_to_worlds, in nerfstudio's axes, by `file_path`."""
    seed: int = 0
    """Of the mapper and of RANSAC."""


def main(arguments: Arguments) -> None:
    """Write the poses of COLMAP's largest model."""
    pycolmap.set_random_seed(arguments.seed)
    layout = read_layout(arguments.data)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lay_out(arguments.data, layout, folder)
        extract_and_match(layout, folder, arguments.seed)
        models: List[Any] = []
        for is_loose in (False, True):
            found = pycolmap.incremental_mapping(
                folder / "database.db", folder / "images", folder, mapper_options(is_loose, arguments.seed)
            )
            models += found.values()
            if any(model.num_reg_images() == len(layout["frames"]) for model in models):
                break
    poses: Dict[str, Any] = {}
    if models:
        largest = max(models, key=lambda model: model.num_reg_images())
        for image_id in largest.reg_image_ids():
            image = largest.images[image_id]
            world_to_camera = np.asarray(image.cam_from_world().matrix())
            rotation = world_to_camera[:, :3].T
            position = -rotation @ world_to_camera[:, 3:]
            opengl = rotation * np.array([1.0, -1.0, -1.0])  # COLMAP's cameras look along +z, y down
            poses[layout["frames"][int(Path(image.name).stem)]["file_path"]] = np.hstack([opengl, position]).tolist()
    arguments.output.write_text(json.dumps(poses, indent=1))


def lay_out(source: Path, layout: Dict[str, Any], folder: Path) -> None:
    """Images over white, and masks, under numbers."""
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    for number, frame in enumerate(layout["frames"]):
        image = Image.open(source / frame["file_path"]).convert("RGBA")
        shown = Image.new("RGB", image.size, "white")
        shown.paste(image, mask=image.getchannel("A"))
        shown.save(folder / "images" / f"{number:04d}.png")
        mask = image.getchannel("A")
        if "mask_path" in frame:
            mask = Image.open(source / frame["mask_path"]).convert("L").resize(image.size)
        inside = (np.asarray(mask) > 127) * np.uint8(255)
        Image.fromarray(inside).save(folder / "masks" / f"{number:04d}.png.png")
        frame.setdefault("w", layout.get("w", image.width))
        frame.setdefault("h", layout.get("h", image.height))


def extract_and_match(layout: Dict[str, Any], folder: Path, seed: int) -> None:
    """Fill the database; images of one lens share a camera."""
    extraction = pycolmap.FeatureExtractionOptions()
    extraction.use_gpu = False
    extraction.sift.estimate_affine_shape = extraction.sift.domain_size_pooling = True
    of_lens: Dict[Tuple[float, ...], List[str]] = {}
    for number, frame in enumerate(layout["frames"]):
        of_lens.setdefault(lens({**layout, **frame}), []).append(f"{number:04d}.png")
    for parameters, names in of_lens.items():
        reader = pycolmap.ImageReaderOptions()
        reader.camera_model, reader.mask_path = "OPENCV", folder / "masks"
        reader.camera_params = ",".join(map(repr, parameters))
        pycolmap.extract_features(
            folder / "database.db",
            folder / "images",
            image_names=names,
            camera_mode=pycolmap.CameraMode.SINGLE,
            reader_options=reader,
            extraction_options=extraction,
            device=pycolmap.Device.cpu,
        )
    matching = pycolmap.FeatureMatchingOptions()
    matching.use_gpu, matching.guided_matching = False, True
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = seed
    pycolmap.match_exhaustive(
        folder / "database.db",
        matching_options=matching,
        verification_options=verification,
        device=pycolmap.Device.cpu,
    )


def lens(said: Dict[str, Any]) -> Tuple[float, ...]:
    """Parameters of COLMAP's model OPENCV, of what a transforms.json says of an image."""
    focal = said.get("fl_x") or 0.5 * said["w"] / math.tan(0.5 * said["camera_angle_x"])
    center = said.get("cx", 0.5 * said["w"]), said.get("cy", 0.5 * said["h"])
    return focal, said.get("fl_y") or focal, *center, *(said.get(key, 0.0) for key in ("k1", "k2", "p1", "p2"))


def mapper_options(is_loose: bool, seed: int) -> Any:
    """The defaults with the known lens, or what COLMAP's FAQ names for images that are left out."""
    options = pycolmap.IncrementalPipelineOptions()
    options.random_seed, options.extract_colors = seed, False
    options.ba_refine_focal_length = options.ba_refine_extra_params = False
    options.mapper.abs_pose_refine_focal_length = options.mapper.abs_pose_refine_extra_params = False
    if is_loose:
        options.min_num_matches, options.min_model_size = 10, 3
        options.mapper.abs_pose_min_num_inliers, options.mapper.abs_pose_min_inlier_ratio = 15, 0.15
        options.mapper.init_min_num_inliers, options.mapper.init_min_tri_angle = 30, 4.0
    return options


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments)))
