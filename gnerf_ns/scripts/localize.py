"""`gnerf-localize`: where new pictures were taken, by any trained nerfstudio model."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, List, Optional

import torch
import tyro
from nerfstudio.utils.rich_utils import CONSOLE

from gnerf_ns.engine.growth import Growth, GrowthConfig, grow_run
from gnerf_ns.errors import InputError
from gnerf_ns.localization.localizer import LocalizerConfig, localize_in_scene
from gnerf_ns.localization.new_photographs import read_new_photographs
from gnerf_ns.localization.refinement_rounds import Localization
from gnerf_ns.localization.trained_run import load_run
from gnerf_ns.localization.trained_scene import TrainedScene
from gnerf_ns.scripts.localization_report import write_report
from gnerf_ns.scripts.progress import progress_display

NOT_ALL_LOCALISED = 3
"""Exit status where some picture was not localised; 1 is a mistake in what was asked for, 2 in how."""

MIN_IMAGE_SIDE = 16
"""What hypotheses are first compared at, in pixels."""

MAX_IMAGE_SIDE = 400
"""Pictures are not read larger than this without being asked for, in pixels."""


@dataclass
class Localize:
    """Finds the cameras of new pictures and writes them as a transforms.json, in the frame of the training data."""

    load_config: Path
    """config.yml of a trained run."""
    images: Path
    """A picture, a folder of them, or a transforms.json that lists them (with rough poses for --init given)."""
    output: Path = Path("poses.json")
    """The transforms.json to write; pictures go into a folder of the same name without the ending."""
    max_image_side: Optional[int] = None
    """Longest side that pictures are brought to, in pixels; as large as the training pictures, but at most 400, if
    None."""
    fov_deg: Optional[float] = None
    """Field of view along their longer side, in degrees, where neither a transforms.json nor EXIF data tell; that of
    the training pictures if None."""
    seed: int = 42
    """Of everything that is drawn at random."""
    localizer: Annotated[LocalizerConfig, tyro.conf.arg(name="")] = field(default_factory=LocalizerConfig)
    """Where to begin, and how to go on."""

    grow: bool = False
    """Train a copy of the run on with the localised pictures among its own, and keep it unless held-out pictures come
    out worse. It stands beside the run, which stays as it is."""
    growth: GrowthConfig = field(default_factory=GrowthConfig)
    """Which pictures that takes, and for how long."""

    def main(self) -> bool:
        """Do it; whether every picture was localised."""
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
        pictures = read_new_photographs(self.images, fov_deg, side, scene.field.device, scene.focal_factor)
        found: List[Optional[Localization]] = [None] * len(pictures)
        with progress_display() as progress:
            task = progress.add_task("Localising", total=len(pictures))
            for indices, photographs in pictures.groups:
                given = pictures.given_poses
                given = None if given is None else scene.world.to_field(given[indices]).to(scene.field.device)
                results = localize_in_scene(
                    scene, photographs, self.localizer, given, lambda count: progress.advance(task, count)
                )
                for index, result in zip(indices.tolist(), results, strict=True):
                    found[index] = result
        done = [each for each in found if each is not None]
        _say(write_report(self.output, folder, scene, pictures, done))
        if self.grow:
            _say(_growth_report(grow_run(run_config, self.output, self.growth)))
        return all(each.converged for each in done)


def _growth_report(growth: Optional[Growth]) -> List[str]:
    if growth is None:
        reasons = "none is sure enough, or none of their cameras is level and looks at the origin, as this run's do"
        return [f"No picture can be trained on ({reasons}); the run stays as it is."]
    line = f"Held-out PSNR {growth.psnr_before:.2f} dB before, {growth.psnr_after:.2f} dB after training with "
    line += f"{growth.num_added} pictures more"
    if growth.folder is None:
        return [f"{line}: worse, so that the run stays as it is."]
    return [f"{line}. The new run:", f"  {growth.folder / 'config.yml'}"]


def _say(lines: List[str]) -> None:
    CONSOLE.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def entrypoint() -> None:
    """Console command."""
    if not tyro.cli(Localize, description=__doc__).main():
        sys.exit(NOT_ALL_LOCALISED)
