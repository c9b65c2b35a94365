"""`gnerf-localize`: where new images were taken, by any trained nerfstudio model."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, List, Optional

import torch
import tyro
from nerfstudio.utils.rich_utils import CONSOLE

from gnerf_ns.data.dataset import MIN_IMAGE_SIDE
from gnerf_ns.localize.growth import Growth, GrowthConfig, grow_run
from gnerf_ns.localize.localizer import LocalizerConfig, localize_in_scene
from gnerf_ns.localize.new_images import check_path, read_new_images
from gnerf_ns.localize.report import write_report
from gnerf_ns.localize.scene import TrainedScene, load_run
from gnerf_ns.pose_search.refinement import Localization
from gnerf_ns.utils.console import progress_display
from gnerf_ns.utils.errors import InputError

NOT_ALL_LOCALIZED = 3
"""Exit status where some image was not localized; 1 is for bad input, 2 for options that cannot be parsed."""

MAX_IMAGE_SIDE = 400
"""Default limit of the longest side of images, in pixels."""


@dataclass
class Localize:
    """Find the cameras of new images and write them as a transforms.json, in the frame of the training data."""

    load_config: Path
    """config.yml of a trained run."""
    images: Path
    """An image, a folder of them, or a transforms.json that lists them (with rough poses for --init given)."""
    output: Path = Path("poses.json")
    """The transforms.json to write; comparisons and a plot go into a folder of the same name without the ending."""
    max_image_side: Optional[int] = None
    """Longest side that images are brought to, in pixels. None: that of the training images, but at most 400."""
    fov_deg: Optional[float] = None
    """Field of view along the longer side of the images, in degrees. Where it is given, it counts, whatever a
    transforms.json or EXIF data say; None: these, else the field of view that the run has learned."""
    seed: int = 42
    """Seed of the random numbers."""
    localizer: Annotated[LocalizerConfig, tyro.conf.arg(name="")] = field(default_factory=LocalizerConfig)
    """How hypotheses are made and refined."""

    grow: bool = False
    """Continue the training of a copy of the run with the localized images added, and keep it unless held-out images
    come out worse. It is written beside the run, which stays as it is."""
    growth: GrowthConfig = field(default_factory=GrowthConfig)
    """Which images are added, and how long is trained."""

    def main(self) -> bool:
        """Run; return True if every image was localized.

        Raises:
            InputError: an option, the run or the images cannot be used.
        """
        if self.output.suffix != ".json":
            raise InputError(f"--output {self.output} does not end in .json; give the transforms.json to write.")
        folder = self.output.with_suffix("")
        if self.max_image_side is not None and self.max_image_side < MIN_IMAGE_SIDE:
            raise InputError(
                f"--max-image-side {self.max_image_side} is too small to tell poses; give at least {MIN_IMAGE_SIDE}."
            )
        for path in (self.output, folder):
            if path.exists():
                raise InputError(f"{path} exists already; give another --output, or remove it.")
        check_path(self.images)
        run_config, pipeline = load_run(self.load_config)
        if self.grow:
            self._check_place(run_config)
        scene = TrainedScene.of(pipeline)
        torch.manual_seed(self.seed)
        side = (
            max(MIN_IMAGE_SIDE, min(MAX_IMAGE_SIDE, scene.image_side))
            if self.max_image_side is None
            else self.max_image_side
        )
        images = read_new_images(self.images, scene.lens, side, scene.renderer.device, self.fov_deg)
        found: List[Optional[Localization]] = [None] * len(images)
        with progress_display() as progress:
            task = progress.add_task("Localizing", total=len(images))
            for indices, image_set in images.groups:
                given = images.given_poses
                given = None if given is None else scene.world.to_field(given[indices]).to(scene.renderer.device)
                results = localize_in_scene(
                    scene, image_set, self.localizer, given, lambda count: progress.advance(task, count)
                )
                for index, result in zip(indices.tolist(), results, strict=True):
                    found[index] = result
        done = [each for each in found if each is not None]
        _say(write_report(self.output, folder, scene, images, done))
        if self.grow:
            _say(_growth_report(grow_run(run_config, self.output, self.growth)))
        return all(each.converged for each in done) and not images.skipped

    def _check_place(self, run_config: Any) -> None:
        run = self.load_config.resolve().parent
        if run_config.get_base_dir().resolve() != run:
            raise InputError(
                f"--grow writes a new run beside {run}, and nerfstudio looks for one of {run_config.method_name} in a "
                f"folder of that name; move the run to {run.parent / run_config.method_name / run.name}."
            )


def _growth_report(growth: Optional[Growth]) -> List[str]:
    if growth is None:
        reasons = "no pose is certain enough, or no camera is level and looks at the origin, as those of this run do"
        return [f"No image can be added to the training ({reasons}); the run stays as it is."]
    line = f"Held-out PSNR {growth.psnr_before:.2f} dB before, {growth.psnr_after:.2f} dB after training with "
    line += f"{growth.num_added} more images"
    if growth.folder is None:
        return [f"{line}: worse, so that the run stays as it is."]
    return [f"{line}. The new run:", f"  {growth.folder / 'config.yml'}"]


def _say(lines: List[str]) -> None:
    CONSOLE.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def entrypoint() -> None:
    """Console command."""
    if not tyro.cli(Localize, description=__doc__).main():
        sys.exit(NOT_ALL_LOCALIZED)
