"""`gnerf-export-poses`: a run's cameras, with copies of its images, in the format of another program."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import tyro
from nerfstudio.utils.rich_utils import CONSOLE

from gnerf_ns.export.folders import POSES_FOLDER, TRANSFORMS, Format, export_results
from gnerf_ns.utils.errors import InputError


@dataclass
class ExportPoses:
    """Write a run's images with their estimated cameras into a folder that can be moved anywhere."""

    load_config: Path
    """config.yml of a run of gnerf-ns."""
    format: Format
    """colmap: images/ and sparse/0/, for 3D Gaussian splatting, gsplat and importers of Blender; nerfstudio:
    transforms.json with surface points for splatfacto; instant-ngp: transforms.json with one lens; blender: the layout
    of NeRF's synthetic scenes."""
    output: Path
    """The folder to write; it must not exist."""
    images: Optional[Path] = None
    """The folder where the images are by now, if they were moved and the run does not find them."""

    def main(self) -> None:
        """Run.

        Raises:
            InputError: there is no such run, or it has no estimated poses; see also `export_results`.
        """
        if not self.load_config.is_file():
            raise InputError(f"There is no file {self.load_config}; give --load-config the config.yml of a run.")
        results = self.load_config.resolve().parent / POSES_FOLDER
        if not (results / TRANSFORMS).is_file():
            raise InputError(
                f"There are no estimated poses beside {self.load_config}: gnerf-ns writes them with its first "
                "checkpoint, and other methods estimate none (what they were given, ns-export cameras writes)."
            )
        copied = export_results(results, self.output, self.format, self.images)
        CONSOLE.print(
            f"{copied.num_images} images with their cameras, {copied.num_bytes / 1e6:.1f} MB: {self.output}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def entrypoint() -> None:
    """Console command."""
    tyro.cli(ExportPoses, description=__doc__).main()
