"""Against nerfacto with the true poses: what not knowing the poses costs in image quality.

    python benchmarks/against_nerfacto.py --data LEGO --side 200

Both train on the same images, for the same number of rays of images (ours needs phase A's besides), on the same
machine. nerfacto has the options that its documentation gives for synthetic images, no appearance embedding (it is
blank in evaluation), and the sizes of our field, which a CPU can bear (`--full-size`: its own). Its hash grids are our
compiled ones where there is no GPU: the same values, several times as fast. Its times are without start-up. `psnr` is
the mean over the held-out images: nerfacto's at their true poses, ours at estimated ones (`psnr`) and at the true
ones moved into our frame (`psnr_aligned`).
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import tyro
from PIL import Image
from training import machine, table_head, table_row, train_and_evaluate
from true_poses import nerfacto_config, train

from gnerf_ns.data.datamanager import CPU_IMAGE_SIDE
from gnerf_ns.demo.command import trainer_config

COLUMNS = ["what", "poses", "psnr", "psnr_aligned", "ssim", "median °", "max °", "train s", "train CPU s"]


@dataclass
class Arguments:
    """What to compare on."""

    data: Path
    """Folder in the Blender layout, all three splits."""
    side: int = 200
    """Size of the files' images, in pixels."""
    phase_b_steps: int = 4000
    """Steps of our phase B; nerfacto gets as many rays."""
    full_size: bool = False
    """Give nerfacto the field and the samples of its defaults, not ours."""
    seed: int = 0
    """Of both."""
    output: Optional[Path] = None
    """Where the runs go; a temporary folder by default."""


def main(arguments: Arguments) -> None:
    """Train both and print a markdown table."""
    layout = json.loads((arguments.data / "transforms_train.json").read_text())
    size = Image.open(arguments.data / f"{layout['frames'][0]['file_path']}.png").size
    if size != (arguments.side, arguments.side):
        raise SystemExit(f"The files are {size[0]}x{size[1]}; make smaller ones with degraded_images.py.")
    output = arguments.output or Path(tempfile.mkdtemp(prefix="gnerf-ns-"))
    output.mkdir(parents=True, exist_ok=True)
    print(f"{machine()}; seed {arguments.seed}; runs in {output}\n\n{table_head(COLUMNS)}", flush=True)
    options = ["--pipeline.datamanager.max-image-side", str(arguments.side)]
    options += ["--pipeline.schedule.phase-b-image-side", "24", str(arguments.side)]
    options += ["--pipeline.schedule.phase-b-steps", str(arguments.phase_b_steps)]
    training = train_and_evaluate(arguments.data, "gnerf-ns", arguments.seed, output, "pose-free", options)
    figures, cost = training.metrics, training.cost
    cells = ["gnerf-ns", "none", f"{figures['psnr']:.2f}", f"{figures['psnr_aligned']:.2f}", f"{figures['ssim']:.3f}"]
    cells += [f"{figures['rotation_error_deg_median']:.2f}", f"{figures['rotation_error_deg_max']:.2f}"]
    print(table_row([*cells, f"{cost.wall_s:.0f}", f"{cost.cpu_s:.0f}"]), flush=True)

    config = nerfacto_config(arguments.data, arguments.full_size, arguments.side / CPU_IMAGE_SIDE)
    config.output_dir, config.experiment_name = output, "nerfacto"
    ours: Any = trainer_config("gnerf-ns")
    num_rays = arguments.phase_b_steps * ours.pipeline.photometric.rays_per_step
    config.max_num_iterations = math.ceil(num_rays / config.pipeline.datamanager.train_num_rays_per_batch)
    theirs, wall_s, cpu_s = train(config, arguments.seed)
    cells = ["nerfacto", "true", f"{theirs['psnr']:.2f}", "", f"{theirs['ssim']:.3f}", "", ""]
    print(table_row([*cells, f"{wall_s:.0f}", f"{cpu_s:.0f}"]), flush=True)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments)))
