"""Local matches of a run's images: they are laid out for pycolmap, which works on them in a child process."""

from __future__ import annotations

import importlib.util
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
from nerfstudio.cameras.cameras import CameraType
from PIL import Image

from gnerf_ns.data.dataset import UnposedDataset
from gnerf_ns.data.images import ImageSize, read_image
from gnerf_ns.data.intrinsics import Intrinsics
from gnerf_ns.data.mask_pixels import read_mask
from gnerf_ns.matching.job import IMAGES, MASKS, RESULT, CameraGroup, Job, image_name
from gnerf_ns.matching.local_matches import LocalMatches
from gnerf_ns.utils.console import remark, stage_display

MAX_SIDE = 1000
"""Images are matched at most this large, in pixels; more costs time and finds little."""
NO_PROGRESS_S, NO_PROGRESS_S_PER_IMAGE = 150.0, 0.3
"""A child that has not said anything for so long, in seconds, and for so much more with each image, is taken to hang;
it says nothing while it adjusts all cameras together."""
_OPAQUE = 128
"""Of 255; pixels that are less opaque are not matched."""


@dataclass(frozen=True)
class MatchedImages:
    """What is known of images that are to be matched."""

    files: Sequence[Path]
    """The images."""
    masks: Optional[Sequence[Path]]
    """Their masks, if there are any."""
    orientations: Mapping[Path, int]
    """EXIF orientations to turn images and masks by."""
    lenses: Sequence[Intrinsics]
    """Their lenses."""
    is_lens_known: bool
    """Whether the lenses were measured: else they are found anew."""
    has_focal_guess: bool = False
    """Whether focal lengths that were not measured are worth beginning with."""

    @classmethod
    def of(cls, datasets: Sequence[UnposedDataset], is_lens_known: bool, has_focal_guess: bool) -> MatchedImages:
        """All images of some datasets, one after the other."""
        masks = [mask for dataset in datasets for mask in dataset.mask_filenames or []]
        return cls(
            [file for dataset in datasets for file in dataset.image_filenames],
            masks or None,
            {file: orientation for dataset in datasets for file, orientation in dataset.orientations.items()},
            [Intrinsics.of_camera(each.file_cameras, index) for each in datasets for index in range(len(each))],
            is_lens_known,
            has_focal_guess,
        )

    def __len__(self) -> int:
        return len(self.files)


class NoMatches(Exception):
    """Why there are none, in words that follow "No local matches:"."""


def match_images(images: MatchedImages, seed: int = 0) -> Optional[LocalMatches]:
    """Match images with each other; says in a line how far that led.

    Args:
        images: what to match.
        seed: of pycolmap's random numbers.

    Returns:
        What was found; None where nothing could be done, with a remark that says why.
    """
    try:
        with (
            tempfile.TemporaryDirectory(prefix="gnerf-ns-matching-") as name,
            stage_display(f"Matching {len(images)} images") as show,
        ):
            return _match(images, seed, Path(name), show)
    except NoMatches as reason:
        remark(f"No local matches: {reason}. Poses are found from what images look like as a whole.")
        return None


def _match(images: MatchedImages, seed: int, folder: Path, show: Callable[[str, int, int], None]) -> LocalMatches:
    if importlib.util.find_spec("pycolmap") is None:
        raise NoMatches("pycolmap is not installed (pip install pycolmap)")
    if any(lens.camera_type == CameraType.EQUIRECTANGULAR for lens in images.lenses):
        raise NoMatches("pycolmap does not know equirectangular images")
    sizes, has_masks = _lay_out(images, folder, show)
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    groups = camera_groups(images, sizes)
    by_name = sorted(range(len(images)), key=lambda index: images.files[index])
    Job(len(images), groups, has_masks, by_name, threads, seed % 2**31).write(folder)
    program = [sys.executable, "-m", "gnerf_ns.matching.reconstruction", str(folder)]
    try:
        run_child(program, folder, NO_PROGRESS_S + NO_PROGRESS_S_PER_IMAGE * len(images), show)
    except NoMatches as reason:
        if not (folder / RESULT).exists():
            raise
        remark(f"Matching did not finish: {reason}. What it had found by then is used.")
    return LocalMatches.load(folder / RESULT)


def _lay_out(
    images: MatchedImages, folder: Path, show: Callable[[str, int, int], None]
) -> Tuple[List[ImageSize], bool]:
    """Write upright, shrunk images and what is to be matched of them; their sizes, and whether that is not all."""
    (folder / IMAGES).mkdir()
    (folder / MASKS).mkdir()
    sizes, has_masks = [], False
    for index, file in enumerate(images.files):
        show("reading", index, len(images))
        pixels = read_image(file, max_side=MAX_SIDE, orientation=images.orientations.get(file))
        size = ImageSize(pixels.shape[1], pixels.shape[0])
        opacity = pixels[..., 3] if pixels.shape[-1] == 4 else np.full(pixels.shape[:2], 255, dtype=np.uint8)
        shown = Image.new("RGB", size, "white")  # what invisible pixels hold is nothing to match
        shown.paste(Image.fromarray(pixels[..., :3]), mask=Image.fromarray(opacity))
        if images.masks is not None:
            mask = images.masks[index]
            opacity = np.minimum(opacity, read_mask(mask, size, orientation=images.orientations.get(mask)))
        shown.convert("L").save(folder / IMAGES / image_name(index), compress_level=1)
        inside = (opacity >= _OPAQUE) * np.uint8(255)
        has_masks |= not bool(inside.all())
        Image.fromarray(inside).save(folder / MASKS / f"{image_name(index)}.png", compress_level=1)
        sizes.append(size)
    return sizes, has_masks


def camera_groups(images: MatchedImages, sizes: Sequence[ImageSize]) -> List[CameraGroup]:
    """Images by lens: known ones by their figures, unknown ones by the images' size.

    Args:
        images: with their lenses.
        sizes: of the images as matched, in pixels.
    """
    groups: Dict[Tuple[ImageSize, str, Tuple[float, ...]], List[int]] = defaultdict(list)
    for index, size in enumerate(sizes):
        groups[(size, *_colmap_lens(images, images.lenses[index].at_size(size)))].append(index)
    return [
        CameraGroup(indices, model, list(parameters), images.is_lens_known)
        for (_, model, parameters), indices in groups.items()
    ]


def _colmap_lens(images: MatchedImages, lens: Intrinsics) -> Tuple[str, Tuple[float, ...]]:
    """COLMAP's model and parameters of a lens, at the size that the image is matched at."""
    k1, k2, k3, k4, p1, p2 = lens.distortion
    if lens.camera_type == CameraType.FISHEYE:
        return "OPENCV_FISHEYE", (*lens.focal, *lens.center, k1, k2, k3, k4)
    if not images.is_lens_known:
        return "SIMPLE_RADIAL", (lens.focal[0], *lens.center, 0.0) if images.has_focal_guess else ()
    if not any(lens.distortion):
        return "PINHOLE", (*lens.focal, *lens.center)
    if k4:
        raise NoMatches("pycolmap does not know lenses with k4")
    if k3:
        return "FULL_OPENCV", (*lens.focal, *lens.center, k1, k2, p1, p2, k3, 0.0, 0.0, 0.0)
    return "OPENCV", (*lens.focal, *lens.center, k1, k2, p1, p2)


def run_child(
    command: Sequence[str], folder: Path, no_progress_s: float, show: Callable[[str, int, int], None]
) -> None:
    """Run a program that says on standard output how far it is: a stage, how many are done, and of how many.

    Args:
        command: the program and its arguments.
        folder: where it runs.
        no_progress_s: it is stopped after so many seconds without a line.
        show: is told each of them.

    Raises:
        NoMatches: it could not be run, ended with an error, or made no progress.
    """
    log = folder / "log.txt"
    with log.open("w") as errors:
        try:
            child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=folder)
        except OSError as error:
            raise NoMatches(f"the process could not be started ({error})") from error
        lines: "queue.Queue[Optional[str]]" = queue.Queue()

        def listen() -> None:
            assert child.stdout is not None
            for line in child.stdout:
                lines.put(line)
            lines.put(None)

        threading.Thread(target=listen, daemon=True).start()
        try:
            while True:
                line = lines.get(timeout=no_progress_s)
                if line is None:
                    break
                words = line.split()
                if len(words) == 3 and words[1].isdigit() and words[2].isdigit():
                    show(words[0].replace("-", " "), int(words[1]), int(words[2]))
            status = child.wait(timeout=no_progress_s)
        except (queue.Empty, subprocess.TimeoutExpired):
            raise NoMatches(f"pycolmap made no progress for {no_progress_s:.0f} s and was stopped") from None
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
    if status != 0:
        said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        how = f"by signal {-status}" if status < 0 else f"with status {status}"
        raise NoMatches(f"pycolmap ended {how}" + (f" ({said[-1].strip()[:200]})" if said else ""))
