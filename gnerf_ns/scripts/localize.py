"""`gnerf-localize`: where new pictures were taken, by any trained nerfstudio model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, List, Optional

import torch
import tyro
from nerfstudio.pipelines.base_pipeline import Pipeline
from nerfstudio.utils.rich_utils import CONSOLE

from gnerf_ns.errors import InputError
from gnerf_ns.localization.localizer import LocalizerConfig, localize_in_scene
from gnerf_ns.localization.new_photographs import read_new_photographs
from gnerf_ns.localization.refinement_rounds import Localization
from gnerf_ns.localization.trained_scene import TrainedScene
from gnerf_ns.scripts.localization_report import write_report
from gnerf_ns.scripts.progress import progress_display

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

    def main(self) -> None:
        """Do it."""
        if self.output.suffix != ".json":
            raise InputError(f"--output {self.output} does not end in .json; give the transforms.json to write.")
        folder = self.output.with_suffix("")
        for path in (self.output, folder):
            if path.exists():
                raise InputError(f"{path} exists already; give another --output, or remove it.")
        scene = TrainedScene.of(load_pipeline(self.load_config))
        torch.manual_seed(self.seed)
        side = self.max_image_side or min(MAX_IMAGE_SIDE, scene.image_side)
        pictures = read_new_photographs(self.images, self.fov_deg or scene.fov_deg, side, scene.field.device)
        found: List[Optional[Localization]] = [None] * len(pictures)
        with progress_display() as progress:
            task = progress.add_task("Localising", total=len(pictures))
            for indices, photographs in pictures.groups:
                given = pictures.given_poses
                given = None if given is None else scene.in_field_frame(given[indices])
                results = localize_in_scene(
                    scene, photographs, self.localizer, given, lambda count: progress.advance(task, count)
                )
                for index, result in zip(indices.tolist(), results, strict=True):
                    found[index] = result
        lines = write_report(self.output, folder, scene, pictures, [each for each in found if each is not None])
        CONSOLE.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def load_pipeline(load_config: Path) -> Pipeline:
    """A trained pipeline of any method, ready to render.

    Raises:
        InputError: the run cannot be found.
    """
    # Imports every installed method.
    from nerfstudio.utils.eval_utils import eval_setup

    if not load_config.is_file():
        raise InputError(f"There is no file {load_config}; give --load-config the config.yml of a trained run.")
    run = load_config.resolve().parent
    if not any((run / "nerfstudio_models").glob("step-*.ckpt")):
        raise InputError(f"{run / 'nerfstudio_models'} holds no checkpoint; train the run first.")

    def where_it_lies_now(config: Any) -> Any:
        # Saved paths of nerfstudio's own methods hold only from the folder in which training was started.
        if run.parts[-3:] == (config.experiment_name, config.method_name, config.timestamp):
            config.output_dir = run.parents[2]
        return config

    return eval_setup(load_config, test_mode="inference", update_config_callback=where_it_lies_now)[1]


def entrypoint() -> None:
    """Console command."""
    tyro.cli(Localize, description=__doc__).main()
