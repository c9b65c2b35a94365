"""A run's results as files: beside its checkpoints, and as folders of their own in the formats of other programs.

What lies beside a checkpoint can be moved with the run's folder, with or without the images: it has hard links to them,
which take no room (hundreds of photographs are gigabytes, and a run is made of them again and again), and names
everything relative to itself. Where file systems have no such links, or images are on another one, it names them where
they are. What `export_results` writes can be moved to any machine: images are copied into it, and nothing in it names
anything outside.

In every format, cameras are those of the pixels as stored, as nearly all programs ignore EXIF orientation; only images
that EXIF calls mirrored, which no camera takes, were turned upright by `write_transforms_json`.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Callable, Dict, List, Literal, Mapping, NamedTuple, Optional, Sequence

import numpy as np
from PIL import Image

from gnerf_ns.data.images import ImageSize, decoding, read_image
from gnerf_ns.data.mask_pixels import read_mask
from gnerf_ns.data.transforms_json import SPLIT_KEYS, load_transforms_json
from gnerf_ns.data.transforms_writer import FileFrames, write_transforms_json
from gnerf_ns.export.colmap_model import camera_model, image_names, write_colmap_model
from gnerf_ns.export.surface_points import SurfacePoints
from gnerf_ns.utils.console import remark
from gnerf_ns.utils.errors import InputError

Format = Literal["colmap", "nerfstudio", "instant-ngp", "blender"]

POSES_FOLDER = "estimated_poses"
"""In a run's folder, beside that of checkpoints: nerfstudio takes every file in the latter for a checkpoint."""
TRANSFORMS, POINTS, MODEL = "transforms.json", "points.ply", "sparse/0"
"""Names that nerfstudio's and COLMAP's readers look for, or are told in the first."""
IMAGES, MASKS = "images", "masks"
"""Folders of copies, or of links."""

SAME_LENS = 1e-3
"""Relative difference up to which lenses differ by rounding; of distortion, the absolute one."""
MIDDLE_PX = 0.5
"""A principal point so near to the middle of the image, in pixels, counts as there."""
NGP_SCALE, NGP_LARGEST = 0.33, 128
"""What instant-ngp scales positions by, and the largest cube that it takes."""
NGP_INSIDE = 0.99
"""Share of the surface points that are inside this cube: far ones would make it coarse."""
DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")


# Beside checkpoints


def write_results(folder: Path, splits: Mapping[str, FileFrames], points: SurfacePoints) -> None:
    """Write transforms.json, points.ply and sparse/0, each in place of what is there.

    nerfstudio's methods train on the folder (``--data FOLDER``), splatfacto from its points. Programs that read
    sparse/0 want the folder of the images, too, within which it names them: the smallest that holds them all. Where
    COLMAP has no such camera (a panorama, a lens with k4), there is no sparse/0, and a remark says so.

    Args:
        folder: where to; it is made if need be.
        splits: as for `write_transforms_json`; that of the images which the points were seen in goes first.
        points: in the frame of the cameras.

    Raises:
        InputError: as `write_transforms_json`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    points.write(folder / POINTS)
    write_transforms_json(folder / TRANSFORMS, linked(splits, folder), {"ply_file_path": POINTS})
    meta = load_transforms_json(folder / TRANSFORMS)
    model = camera_model(meta)
    if model is None:
        shutil.rmtree(folder / MODEL, ignore_errors=True)
        remark(f"{folder} gets no {MODEL}: COLMAP has no camera like {meta['camera_model']} with these distortions.")
        return
    names = image_names([folder / frame["file_path"] for frame in meta["frames"]])
    write_colmap_model(folder / MODEL, model, meta["frames"], names, points)


def linked(splits: Mapping[str, FileFrames], folder: Path) -> Mapping[str, FileFrames]:
    """Images with hard links in place of the files, to be named in a transforms.json that moves with them.

    Args:
        splits: as for `write_transforms_json`.
        folder: which gets ``images/`` and ``masks/`` with the links, and nothing else in them.

    Returns:
        The same with links; as it is where none can be made.
    """
    images = [file for split in splits.values() for file in split.image_filenames]
    masks = [file for split in splits.values() for file in split.mask_filenames or []]
    try:
        links = {**_links(images, folder / IMAGES), **_links(masks, folder / MASKS)}
    except OSError:
        return splits
    return {
        name: replace(
            split,
            image_filenames=[links[file] for file in split.image_filenames],
            mask_filenames=None if split.mask_filenames is None else [links[file] for file in split.mask_filenames],
            orientations={links[file]: value for file, value in split.orientations.items() if file in links},
        )
        for name, split in splits.items()
    }


def _links(files: Sequence[Path], folder: Path) -> Dict[Path, Path]:
    """A hard link in a folder to each of some files, under the name that it has in the smallest that holds them all."""
    links = {file: folder / name for file, name in zip(files, image_names(files), strict=True)} if files else {}
    for file, link in links.items():
        if link.exists() and link.samefile(file):
            continue
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        os.link(file.resolve(), link)
    for other in {path for path in folder.rglob("*") if path.is_file()} - set(links.values()):
        other.unlink()  # of an earlier checkpoint, when there were no held-out images
    return links


# Folders of their own


class Copied(NamedTuple):
    """What was copied."""

    num_images: int
    """How many images."""
    num_bytes: int
    """Of everything."""


def export_results(results: Path, output: Path, format: Format, images: Optional[Path] = None) -> Copied:
    """Copy results and their images into a folder that names nothing outside: there whole, or not at all.

    - colmap: ``images/``, ``sparse/0/``, and ``masks/``. Held-out images are those of ``test_list.txt``, for
      nerfstudio's dataparser; others hold out whichever they do.
    - nerfstudio: ``images/``, ``transforms.json`` with its lists of the splits, ``points.ply`` and ``masks/``.
    - instant-ngp: ``images/``, ``transforms.json`` with one lens for all images, and ``masks/``; no split, as it has
      none.
    - blender: ``images/`` as PNG files, masks being alpha, ``transforms_train.json`` and, of held-out images (of all,
      if none is), ``transforms_val.json`` and ``transforms_test.json``; ``points.ply``.

    Args:
        results: what `write_results` has written.
        output: which must not exist.
        format: of which program.
        images: folder where the images are by now, those in subfolders included, if they are not where they were; masks
            are where they lay beside it. None for where they were.

    Raises:
        InputError: results or images are missing or cannot be read, the format cannot hold the cameras, or there is no
            room.
    """
    listed = results / TRANSFORMS
    meta = load_transforms_json(listed)
    files = [results / frame["file_path"] for frame in meta["frames"]]
    names = image_names(files)
    if images is not None:
        meta = _with_images_in(images, meta, results, files[0].parents[len(PurePosixPath(names[0]).parts) - 1])
        files = [Path(frame["file_path"]) for frame in meta["frames"]]
    masks = [results / frame["mask_path"] for frame in meta["frames"] if "mask_path" in frame]
    gone = [file for file in [*files, *masks] if not file.is_file()]
    if gone:
        raise InputError(
            f"{listed} lists {gone[0]}, which is not there (any more); put it back, or give --images the folder "
            "where the images are by now."
        )
    if output.exists():
        raise InputError(f"{output} exists already; give another --output, or remove it.")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as beside:
            partial = Path(beside) / output.name
            partial.mkdir()
            _WRITERS[format](_Results(results, meta, files, names), partial)
            num_bytes = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
            partial.rename(output)
    except OSError as error:
        raise InputError(f"{output} cannot be written ({error.strerror or error}); give another --output.") from error
    return Copied(len(files), num_bytes)


def _with_images_in(images: Path, meta: Mapping[str, Any], results: Path, before: Path) -> Dict[str, Any]:
    """The entries of a transforms.json in `results` whose images, with their masks, were in the folder `before`."""

    def now(name: str) -> str:
        return os.path.abspath(images / os.path.relpath(results / name, before))

    paths = ("file_path", "mask_path")
    frames = [{key: now(value) if key in paths else value for key, value in frame.items()} for frame in meta["frames"]]
    return {**meta, **{key: [now(name) for name in meta[key]] for key in SPLIT_KEYS if key in meta}, "frames": frames}


class _Results(NamedTuple):
    """What there is to copy."""

    folder: Path
    meta: Dict[str, Any]
    files: List[Path]
    """Of the images."""
    names: List[str]
    """They are named so in the folder of copies."""

    @property
    def png_names(self) -> List[str]:
        """Other names, with which all end in .png."""
        short = [PurePosixPath(name).with_suffix(".png").as_posix() for name in self.names]
        return short if len(set(short)) == len(short) else [f"{name}.png" for name in self.names]

    def mask(self, index: int) -> Optional[Path]:
        """Of an image, if there are masks."""
        name = self.meta["frames"][index].get("mask_path")
        return None if name is None else self.folder / name

    def split(self, key: str) -> List[int]:
        """Indices of the images that are named there; of all, where nothing is held out."""
        frames = self.meta["frames"]
        names = set(self.meta.get(key, [frame["file_path"] for frame in frames]))
        return [index for index, frame in enumerate(frames) if frame["file_path"] in names]


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _copy_images(results: _Results, folder: Path) -> None:
    """Images as they are, and masks as PNG files."""
    for index, (file, name, png_name) in enumerate(zip(results.files, results.names, results.png_names, strict=True)):
        _copy(file, folder / IMAGES / name)
        mask = results.mask(index)
        if mask is None:
            continue
        target = folder / MASKS / png_name
        if mask.suffix.lower() == ".png":
            _copy(mask, target)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with decoding(mask) as image:
            image.save(target, exif=image.getexif())


def _copied_frames(results: _Results, *kept: str) -> List[Dict[str, Any]]:
    """The frames with the names of copies, and those of their further entries that are wanted."""
    frames = []
    for frame, name, png_name in zip(results.meta["frames"], results.names, results.png_names, strict=True):
        masked = {"mask_path": f"{MASKS}/{png_name}"} if "mask_path" in frame else {}
        frames.append({"file_path": f"{IMAGES}/{name}", **masked, **{key: frame[key] for key in kept if key in frame}})
    return frames


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def _write_colmap(results: _Results, folder: Path) -> None:
    model = results.folder / MODEL
    if not model.is_dir():
        raise InputError(
            f"{results.folder} has no {MODEL}: COLMAP has no such camera, or the run is an older one (ns-train with "
            "--load-dir writes it); use --format nerfstudio."
        )
    shutil.copytree(model, folder / MODEL)
    _copy_images(results, folder)
    for split, key in zip(("train", "val", "test"), SPLIT_KEYS, strict=True):
        if key in results.meta:
            chosen = [results.names[index] for index in results.split(key)]
            (folder / f"{split}_list.txt").write_text("\n".join(chosen), encoding="utf-8")


def _write_nerfstudio(results: _Results, folder: Path) -> None:
    _copy_images(results, folder)
    shared = {key: value for key, value in results.meta.items() if key not in ("frames", "ply_file_path", *SPLIT_KEYS)}
    entries = {key for frame in results.meta["frames"] for key in frame} - {"file_path", "mask_path"}
    frames = _copied_frames(results, *sorted(entries))
    lists = {
        key: [frames[index]["file_path"] for index in results.split(key)] for key in SPLIT_KEYS if key in results.meta
    }
    _write_json(folder / TRANSFORMS, {**shared, **_copied_points(results, folder), **lists, "frames": frames})


def _copied_points(results: _Results, folder: Path) -> Dict[str, str]:
    """Entry of a transforms.json; runs of older versions have no points."""
    if not (results.folder / POINTS).is_file():
        return {}
    _copy(results.folder / POINTS, folder / POINTS)
    return {"ply_file_path": POINTS}


def _write_instant_ngp(results: _Results, folder: Path) -> None:
    lens = _shared_lens(results, "instant-ngp")
    is_fisheye = results.meta["camera_model"] == "OPENCV_FISHEYE"
    if not is_fisheye and results.meta["camera_model"] != "OPENCV":
        raise InputError("instant-ngp's format has no cameras of this type; use --format nerfstudio.")
    fov = {axis: 2.0 * math.atan(0.5 * lens[side] / lens[f"fl_{axis}"]) for axis, side in (("x", "w"), ("y", "h"))}
    angles = {f"camera_angle_{axis}": angle for axis, angle in fov.items()}
    # nerfstudio takes pixels for square unless it finds y_fov, too.
    angles.update({f"{axis}_fov": math.degrees(angle) for axis, angle in fov.items()})
    shared = {**lens, **angles, "is_fisheye": is_fisheye, "aabb_scale": _aabb_scale(results)}
    _copy_images(results, folder)
    _write_json(folder / TRANSFORMS, {**shared, "frames": _copied_frames(results, "transform_matrix")})


def _aabb_scale(results: _Results) -> int:
    """Side of the cube that instant-ngp fills with its field: a power of two, in which the surface is."""
    import trimesh

    path = results.folder / POINTS
    vertices = np.asarray(trimesh.load(path).vertices) if path.is_file() else np.zeros((0, 3))  # pyright: ignore
    if len(vertices) == 0:
        return 1
    reach = float(np.quantile(np.abs(vertices).max(axis=1), NGP_INSIDE))
    return min(NGP_LARGEST, 2 ** max(0, math.ceil(math.log2(2.0 * NGP_SCALE * reach))))


def _write_blender(results: _Results, folder: Path) -> None:
    lens = _shared_lens(results, "Blender")
    offset = max(abs(lens["cx"] - lens["w"] / 2), abs(lens["cy"] - lens["h"] / 2))
    is_square = abs(lens["fl_x"] - lens["fl_y"]) <= SAME_LENS * lens["fl_x"]
    is_plain = results.meta["camera_model"] == "OPENCV" and max(abs(lens[name]) for name in DISTORTION) <= SAME_LENS
    if not (is_plain and is_square and offset <= MIDDLE_PX):
        raise InputError(
            "Blender's format has only pinhole cameras that look along the middle of the image; use --format "
            "nerfstudio, which holds these lenses as they are."
        )
    for index, (file, name) in enumerate(zip(results.files, results.png_names, strict=True)):
        pixels, mask = read_image(file, orientation=1), results.mask(index)
        if mask is not None:
            alpha = read_mask(mask, ImageSize(pixels.shape[1], pixels.shape[0]), orientation=1)
            if pixels.shape[-1] == 4:
                alpha = (pixels[..., 3].astype(np.uint16) * alpha // 255).astype(np.uint8)
            pixels = np.concatenate([pixels[..., :3], alpha[..., None]], axis=-1)
        target = folder / IMAGES / name
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(target)
    angle = 2.0 * math.atan(0.5 * lens["w"] / lens["fl_x"])
    for split, key in zip(("train", "val", "test"), SPLIT_KEYS, strict=True):
        frames = [
            {
                "file_path": f"./{IMAGES}/{results.png_names[index].removesuffix('.png')}",
                "transform_matrix": results.meta["frames"][index]["transform_matrix"],
            }
            for index in results.split(key)
        ]
        _write_json(folder / f"transforms_{split}.json", {"camera_angle_x": angle, "frames": frames})
    _copied_points(results, folder)


def _shared_lens(results: _Results, program: str) -> Dict[str, float]:
    """The one lens of all images.

    Raises:
        InputError: they have several.
    """
    keys = ("w", "h", "fl_x", "fl_y", "cx", "cy", *DISTORTION)
    lenses = np.array([[frame.get(key, 0.0) for key in keys] for frame in results.meta["frames"]], dtype=np.float64)
    other = ~np.isclose(lenses, lenses[0], rtol=SAME_LENS, atol=SAME_LENS).all(axis=1)
    if other.any():
        names = [results.files[index].name for index in (0, int(other.argmax()))]
        raise InputError(
            f"{program}'s format has one lens and size for all images, but those of {names[0]} and {names[1]} differ; "
            "use --format nerfstudio or colmap."
        )
    return {key: results.meta["frames"][0].get(key, 0.0) for key in keys}


_WRITERS: Dict[str, Callable[[_Results, Path], None]] = {
    "colmap": _write_colmap,
    "nerfstudio": _write_nerfstudio,
    "instant-ngp": _write_instant_ngp,
    "blender": _write_blender,
}
