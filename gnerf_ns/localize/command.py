"""`gnerf-localize`: where new images were taken, by any trained nerfstudio model."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, List, Optional

import torch
import tyro
from nerfstudio.utils.rich_utils import CONSOLE

from gnerf_ns.localize.growth import Growth, GrowthConfig, grow_run
from gnerf_ns.localize.localizer import LocalizerConfig, localize_in_scene
from gnerf_ns.localize.new_images import read_new_images
from gnerf_ns.localize.report import write_report
from gnerf_ns.localize.scene import TrainedScene, load_run
from gnerf_ns.pose_search.refinement import Localization
from gnerf_ns.utils.console import progress_display
from gnerf_ns.utils.errors import InputError

NOT_ALL_LOCALIZED = 3
"""Exit status where some image was not localized; 1 is a mistake in what was asked for, 2 in how."""

MIN_IMAGE_SIDE = 16
"""What hypotheses are first compared at, in pixels."""

MAX_IMAGE_SIDE = 400
"""Images are not read larger than this without being asked for, in pixels."""


@dataclass
class Localize:
    """Finds the cameras of new images and writes them as a transforms.json, in the frame of the training data."""

    load_config: Path
    """config.yml of a trained run."""
    images: Path
    """An image, a folder of them, or a transforms.json that lists them (with rough poses for --init given)."""
    output: Path = Path("poses.json")
    """The transforms.json to write; images go into a folder of the same name without the ending."""
    max_image_side: Optional[int] = None
    """Longest side that images are brought to, in pixels; as large as the training images, but at most 400, if
    None."""
    fov_deg: Optional[float] = None
    """Field of view along their longer side, in degrees, where neither a transforms.json nor EXIF data tell; that of
    the training images if None."""
    seed: int = 42
    """Of everything that is drawn at random."""
    localizer: Annotated[LocalizerConfig, tyro.conf.arg(name="")] = field(default_factory=LocalizerConfig)
    """Where to begin, and how to go on."""

    grow: bool = False
    """Train a copy of the run on with the localized images among its own, and keep it unless held-out images come
    out worse. It stands beside the run, which stays as it is."""
    growth: GrowthConfig = field(default_factory=GrowthConfig)
    """Which images that takes, and for how long."""

    def main(self) -> bool:
        """Do it; whether every image was localized."""
        if self.output.suffix != ".json":
            raise InputError(f"--output {self.output} does not end in .json; give the transforms.json to write.")
        folder = self.output.with_suffix("")
        if self.max_image_side is not None and self.max_image_side < MIN_IMAGE_SIDE:
            raise InputError(
                f"--max-image-side {self.max_image_side} leaves too little to see; give at least {MIN_IMAGE_SIDE}."
            )
        for path in (self.output, folder):
            if path.exists():
                raise InputError(f"{path} exists already; give another --output, or remove it.")
        run_config, pipeline = load_run(self.load_config)
        scene = TrainedScene.of(pipeline)
        torch.manual_seed(self.seed)
        side = min(MAX_IMAGE_SIDE, scene.image_side) if self.max_image_side is None else self.max_image_side
        fov_deg = scene.fov_deg if self.fov_deg is None else self.fov_deg
        images = read_new_images(self.images, fov_deg, side, scene.field.device, scene.focal_scale)
        found: List[Optional[Localization]] = [None] * len(images)
        with progress_display() as progress:
            task = progress.add_task("Localizing", total=len(images))
            for indices, image_set in images.groups:
                given = images.given_poses
                given = None if given is None else scene.world.to_field(given[indices]).to(scene.field.device)
                results = localize_in_scene(
                    scene, image_set, self.localizer, given, lambda count: progress.advance(task, count)
                )
                for index, result in zip(indices.tolist(), results, strict=True):
                    found[index] = result
        done = [each for each in found if each is not None]
        _say(write_report(self.output, folder, scene, images, done))
        if self.grow:
            _say(_growth_report(grow_run(run_config, self.output, self.growth)))
        return all(each.converged for each in done)


def _growth_report(growth: Optional[Growth]) -> List[str]:
    if growth is None:
        reasons = "none is sure enough, or none of their cameras is level and looks at the origin, as this run's do"
        return [f"No image can be trained on ({reasons}); the run stays as it is."]
    line = f"Held-out PSNR {growth.psnr_before:.2f} dB before, {growth.psnr_after:.2f} dB after training with "
    line += f"{growth.num_added} images more"
    if growth.folder is None:
        return [f"{line}: worse, so that the run stays as it is."]
    return [f"{line}. The new run:", f"  {growth.folder / 'config.yml'}"]


def _say(lines: List[str]) -> None:
    CONSOLE.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def entrypoint() -> None:
    """Console command."""
    if not tyro.cli(Localize, description=__doc__).main():
        sys.exit(NOT_ALL_LOCALIZED)
