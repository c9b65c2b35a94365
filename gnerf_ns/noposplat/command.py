"""`gnerf-splat`: a few photos without poses in, a splat and its cameras out, by one pass of a network."""

from __future__ import annotations

import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, List, Optional, Tuple

import torch
import tyro
from nerfstudio.utils.rich_utils import CONSOLE

from gnerf_ns.cameras.plots import save_image
from gnerf_ns.data.dataparser import UnposedDataParserConfig
from gnerf_ns.noposplat.checkpoints import WHERE_WEIGHTS_ARE, load_network, remark_on_resolution
from gnerf_ns.noposplat.demo import WEIGHTS, errors_in_words, holds_demo_photos, write_demo_photos
from gnerf_ns.noposplat.photos import PhotoFiles, Photos, find_photos, read_photos
from gnerf_ns.noposplat.reconstruction import Reconstruction, doubts, num_steps, reconstruct
from gnerf_ns.noposplat.splat_pictures import FILM_FRAMES, comparison, film
from gnerf_ns.noposplat.splat_run import (
    ORIGINALS_FILE,
    POSES_FILE,
    SPLAT_FILE,
    write_original_cameras,
    write_run,
)
from gnerf_ns.utils.console import progress_display, remark
from gnerf_ns.utils.cpu import share_cores
from gnerf_ns.utils.errors import InputError
from gnerf_ns.utils.film import write_film

NO_WEIGHTS, DOUBTFUL = 2, 3
"""Exit statuses where there are no weights, and where photos do not seem to show the same thing; 1 is for other bad
input."""


class NoWeightsError(InputError):
    """There is no checkpoint to make a splat with."""


@dataclass
class Splat:
    """Make a splat of two to twelve photos of one scene, and find their cameras."""

    photos: Annotated[Tuple[Path, ...], tyro.conf.Positional] = ()
    """Photos (two or more files), or one folder of them."""
    checkpoint: Optional[Path] = None
    """Weights of the network: an official checkpoint, or one of ours."""
    output: Path = Path("gnerf-splat-output")
    """Folder to write; it must not exist yet."""
    fov_deg: Optional[float] = None
    """Field of view along the photos' longer side, in degrees. Where it is given, it counts, whatever a transforms.json
    beside the photos or EXIF data say; None: these, else 50 degrees."""
    demo: bool = False
    """Draw two photos of a scene of our own, and use the small network that comes with the package, which knows such
    scenes and nothing else."""

    def main(self) -> bool:
        """Run; return True if nothing speaks against the photos showing the same thing.

        Raises:
            NoWeightsError: there is no checkpoint.
            InputError: the photos, the checkpoint or the output cannot be used.
        """
        if self.demo and self.photos:
            raise InputError("--demo draws its own photos; give none, or leave it out.")
        if not self.demo and not self.photos:
            raise InputError("No photos were given; give two or more files, or one folder of them.")
        checkpoint = self._weights()
        files = find_photos(self._checked_photos(), self.fov_deg)
        network = load_network(checkpoint)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if device.type == "cpu":
            share_cores()
        side = network.config.image_side
        photos = read_photos(files, side, device)
        _say([f"{len(photos)} photos; intrinsics from {files.lens_origin}.", photos.changes()])
        remark_on_resolution(network.config, photos.size.height, photos.size.width)
        for first, second in photos.same():
            remark(
                f"{photos.names[first]} and {photos.names[second]} are the same picture: nothing can be seen from them "
                "together that one alone does not show; give photos from different places."
            )
        self._make_output()
        try:
            with progress_display() as progress:
                task = progress.add_task("Finding the scene", total=num_steps(len(photos)))
                found = reconstruct(network.to(device), photos, lambda: progress.advance(task)).upright()
                doubtful = doubts(found, photos)
                write_run(self.output, found, photos)
                write_original_cameras(self.output, found, files)
                save_image(self.output / "photos.png", comparison(found, photos))
                task = progress.add_task("Filming", total=FILM_FRAMES)
                write_film(self.output / "film.mp4", film(found, photos, lambda: progress.advance(task)))
        except BaseException:  # KeyboardInterrupt, too: half a splat would be in the way of the next attempt
            shutil.rmtree(self.output)
            raise
        errors = errors_in_words(found) if self.demo else []
        _say([*report(found, photos, self.output), *errors, *how_to_train(files, self.output)])
        if doubtful:
            _say([f"The photos do not seem to show the same thing: {'; '.join(doubtful)}."])
        return not doubtful

    def _weights(self) -> Path:
        if self.checkpoint is None and self.demo:
            return WEIGHTS
        if self.checkpoint is None:
            raise NoWeightsError(
                f"A splat needs weights: {WHERE_WEIGHTS_ARE}; download one and name it as --checkpoint. To see what "
                "comes out, try gnerf-splat --demo."
            )
        if not self.checkpoint.is_file():
            raise NoWeightsError(f"There is no file {self.checkpoint}; {WHERE_WEIGHTS_ARE}: download one to there.")
        return self.checkpoint

    def _checked_photos(self) -> Tuple[Path, ...]:
        """Those given or drawn, if the output is such as can be made, as far as that is known before."""
        folder = self.output
        try:
            if folder.exists():
                raise InputError(f"{folder} exists already; give another --output, or remove it.")
            if not self.demo:
                return self.photos
            folder = folder.with_name(f"{folder.name}-photos")
            if folder.exists() and not holds_demo_photos(folder):
                raise InputError(f"{folder} is where the demo's photos go, and holds others; give another --output.")
            return write_demo_photos(folder)
        except OSError as error:  # of names that are too long, too
            raise _cannot_be_made(folder, error) from error

    def _make_output(self) -> None:
        try:
            self.output.mkdir(parents=True)
        except OSError as error:
            raise _cannot_be_made(self.output, error) from error


def _cannot_be_made(folder: Path, error: OSError) -> InputError:
    return InputError(f"{folder} cannot be made ({error.strerror}); give another --output.")


def report(found: Reconstruction, photos: Photos, output: Path) -> List[str]:
    """Lines that say what was found, where it is, and how to see more.

    Args:
        found: what was found.
        photos: the photos.
        output: the folder that was written.
    """
    lines = [f"The scene was made with {photos.names[found.order[0]]} as the first photo."]
    figures = zip(photos.names, found.psnrs(photos).tolist(), found.moves(), strict=True)
    for index, (name, psnr, (angle, distance)) in enumerate(figures):
        line = f"  {name}: shown at {psnr:.1f} dB"
        if index > 0:
            line += f"; turned by {angle:.1f} degrees from {photos.names[0]}, and away from it by {distance:.2f} of "
            line += "the distance to what is seen"
        lines.append(line)
    load = f"--load-config {shlex.quote(str(output / 'config.yml'))}"
    return [
        *lines,
        *(f"  {output / name}" for name in (SPLAT_FILE, POSES_FILE, ORIGINALS_FILE, "photos.png", "film.mp4")),
        "See more:",
        f"  ns-viewer {load}",
        f"  gnerf-localize {load} --images ANOTHER_PHOTO",
    ]


def how_to_train(files: PhotoFiles, output: Path) -> List[str]:
    """Lines that say how `gnerf-ns` goes on from the cameras, with the photos at their own size.

    Args:
        files: the photos.
        output: the folder that was written.
    """
    words = f"ns-train gnerf-ns --data {shlex.quote(str(output / ORIGINALS_FILE))} --pipeline.poses given"
    if not files.is_calibrated:  # what was assumed is not to be kept for having been written down
        words += " --pipeline.focal-length shared"
    count, usual = len(files.frames), UnposedDataParserConfig().min_images
    if count < usual:  # too few to hold some of them out
        words += f" unposed-data --min-images {count} --eval-interval 0"
    return ["Train a radiance field on the photos themselves from there:", f"  {words}"]


def _say(lines: List[str]) -> None:
    CONSOLE.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def entrypoint() -> None:
    """Console command."""
    try:
        is_sure = tyro.cli(Splat, description=__doc__).main()
    except NoWeightsError as error:
        print(error, file=sys.stderr)
        sys.exit(NO_WEIGHTS)
    if not is_sure:
        sys.exit(DOUBTFUL)
