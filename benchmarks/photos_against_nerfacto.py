"""Against nerfacto with the reference poses, on photographs with a room around them: what not knowing poses costs.

    python benchmarks/photos_against_nerfacto.py --data FOLDER_OF_SETS --sets fox270 llff_fern --output FOLDER

Both train on the same small copies of the images, for the same number of rays, one after the other, and are measured
on every eighth image; ours at the poses that it has estimated. nerfacto has its defaults but for its camera optimizer,
since held-out images are rendered at the reference poses, for its appearance embedding, which held-out images have
none of (with it, 17.9 dB on the fox in place of 21.1), and for learning rates that decay over all of its steps; and the
sizes of our field, which a CPU can bear (`--full-size`: its own). Its hash
grids are our compiled ones where there is no GPU: the same values, several times as fast.
"""

from __future__ import annotations

import copy
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Tuple

import tyro
from changed_photos import read_layout
from nerfstudio.configs.method_configs import method_configs
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image
from training import machine, table_head, table_row, train_and_evaluate
from true_poses import as_large_as_ours, train

from gnerf_ns.demo.command import trainer_config

COLUMNS = ["set", "what", "poses", "psnr", "ssim", "median °", "max °", "train s", "train CPU s"]
HELD_OUT_EVERY = 8


@dataclass
class Arguments:
    """What to compare on."""

    data: Path
    """Folder of sets, each with a transforms.json."""
    output: Path
    """Where images, runs and logs go."""
    sets: Tuple[str, ...] = ("fox270", "phone_plush", "llff_fern")
    """Names of the sets."""
    side: int = 240
    """Longer side of the copies, in pixels."""
    full_size: bool = False
    """Give nerfacto the field and the samples of its defaults, not ours."""
    seed: int = 0
    """Of both."""


def main(arguments: Arguments) -> None:
    """Train both on each set and print a markdown table."""
    print(f"{machine()}; seed {arguments.seed}\n\n{table_head(COLUMNS)}", flush=True)
    for name in arguments.sets:
        data = arguments.output / "images" / name
        if not data.exists():
            write_small(arguments.data / name, data, arguments.side)
        ours = train_and_evaluate(data, "gnerf-ns", arguments.seed, arguments.output, name)
        figures = ours.metrics
        cells = [f"{figures[key]:.{digits}f}" for key, digits in (("psnr", 2), ("ssim", 3))]
        cells += [f"{figures[f'rotation_error_deg_{key}']:.2f}" for key in ("median", "max")]
        cells += [f"{ours.cost.wall_s:.0f}", f"{ours.cost.cpu_s:.0f}"]
        print(table_row([name, "gnerf-ns", "none", *cells]), flush=True)

        config = nerfacto_config(data, arguments.full_size)
        config.output_dir, config.experiment_name = arguments.output, f"{name}-nerfacto"
        theirs, wall_s, cpu_s = train(config, arguments.seed)
        cells = [f"{theirs['psnr']:.2f}", f"{theirs['ssim']:.3f}", "", "", f"{wall_s:.0f}", f"{cpu_s:.0f}"]
        print(table_row([name, "nerfacto", "reference", *cells]), flush=True)


def nerfacto_config(data: Path, full_size: bool) -> Any:
    """nerfacto for photographs, with as many rays as our phase B has."""
    config: Any = copy.deepcopy(method_configs["nerfacto"])
    config.data, config.timestamp, config.vis = data, "run", "tensorboard"
    config.machine.device_type, config.mixed_precision = "cpu", False
    config.steps_per_eval_batch = config.steps_per_eval_image = config.steps_per_eval_all_images = 10**9
    config.pipeline.datamanager = VanillaDataManagerConfig(
        dataparser=NerfstudioDataParserConfig(data=data, downscale_factor=1), train_num_rays_per_batch=4096
    )
    config.pipeline.model.camera_optimizer.mode = "off"
    config.pipeline.model.use_appearance_embedding = False
    if not full_size:
        as_large_as_ours(config.pipeline.model, in_a_room=True)
    ours: Any = trainer_config("gnerf-ns").pipeline
    config.max_num_iterations = math.ceil(ours.schedule.phase_b_steps * ours.photometric.rays_per_step / 4096)
    return config


def write_small(source: Path, target: Path, side: int) -> None:
    """Shrink a set's images, and say which are held out."""
    layout = read_layout(source)
    frames: List[Dict[str, Any]] = sorted(layout["frames"], key=lambda frame: frame["file_path"])
    factors = set()
    for frame in frames:
        image = Image.open(source / frame["file_path"]).convert("RGB")
        factor = side / max(image.size)
        small = image.resize((round(factor * image.width), round(factor * image.height)), Image.Resampling.BOX)
        frame["file_path"] = str(Path(frame["file_path"]).with_suffix(".png"))
        (target / frame["file_path"]).parent.mkdir(parents=True, exist_ok=True)
        small.save(target / frame["file_path"])
        factors.add((small.width / image.width, small.height / image.height))
        scale_lens(frame, small.width / image.width, small.height / image.height)
    if len(factors) > 1:
        raise SystemExit(f"{source} has images of several sizes.")
    scale_lens(layout, *factors.pop())
    held_out = [frame["file_path"] for frame in frames[::HELD_OUT_EVERY]]
    rest = [frame["file_path"] for frame in frames if frame["file_path"] not in held_out]
    written = {**layout, "frames": frames, "train_filenames": rest, "val_filenames": held_out}
    (target / "transforms.json").write_text(json.dumps({**written, "test_filenames": held_out}, indent=1))


def scale_lens(lens: Dict[str, Any], along_x: float, along_y: float) -> None:
    """Scale what is said in pixels."""
    for keys, factor in ((("fl_x", "cx"), along_x), (("fl_y", "cy"), along_y)):
        lens.update({key: lens[key] * factor for key in keys if key in lens})
    lens.update({key: round(lens[key] * factor) for key, factor in (("w", along_x), ("h", along_y)) if key in lens})


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments)))
