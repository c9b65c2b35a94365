"""Does a run get better by images that are localized in it? Train on half of the images, localize the others, go on.

    python benchmarks/growing.py --data LEGO --output FOLDER --methods nerfacto gnerf-ns

Every second training image is trained on, by nerfacto with its true pose and by ours without; the others are localized
without a pose. `psnr` is of the test images; `without them` is after the same number of further steps on the old images
alone. What is in the folder already, a run or the poses found in it, is not made again.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Tuple

import torch
import tyro
from training import machine, run, table_head, table_row
from true_poses import nerfacto_config, train

from gnerf_ns.localize.command import Localize
from gnerf_ns.localize.growth import GrowthConfig, grow_run, train_further
from gnerf_ns.localize.scene import load_run

COLUMNS = ["method", "trained on", "localized", "added", "steps"]
COLUMNS += ["psnr before", "without them", "with them", "localizing s", "growing s"]


@dataclass
class Arguments:
    """Which runs to grow, and how."""

    data: Path
    """Folder in the Blender layout."""
    output: Path
    """Where runs go."""
    methods: Tuple[str, ...] = ("nerfacto", "gnerf-ns")
    """nerfacto, and methods of ours."""
    seed: int = 0
    """Seed of all random numbers."""
    steps: Optional[int] = None
    """As in GrowthConfig."""


def main(arguments: Arguments) -> None:
    """Print a markdown table."""
    half, new_images = split(arguments.data.resolve(), arguments.output.resolve())
    rows = []
    for method in arguments.methods:
        folder = arguments.output.resolve() / "half" / method / "run"
        if not (folder / "nerfstudio_models").is_dir():
            train_half(method, half, arguments)
        poses = folder.parent / "poses.json"
        began = time.monotonic()
        torch.manual_seed(arguments.seed)
        if not poses.is_file():
            Localize(folder / "config.yml", new_images, poses).main()
        localized = time.monotonic()
        meta = json.loads(poses.read_text())
        frames = [frame["localization"] for frame in meta["frames"]]
        config, growth_config = load_run(folder / "config.yml")[0], GrowthConfig(steps=arguments.steps)
        growth = grow_run(config, poses, growth_config)
        assert growth is not None, "not one image was accepted"
        grown = time.monotonic()
        control = train_further(config, {**meta, "frames": []}, growth_config)
        num_half = len(json.loads((half / "transforms_train.json").read_text())["frames"])
        cells = [method, str(num_half), str(sum(frame["converged"] for frame in frames)), str(growth.num_added)]
        cells += [str(growth.num_steps)]
        cells += [f"{psnr:.2f}" for psnr in (growth.psnr_before, control.psnr_after, growth.psnr_after)]
        rows.append(table_row([*cells, f"{localized - began:.0f}", f"{grown - localized:.0f}"]))
        print(rows[-1], flush=True)
    print(f"\n{machine()}; seed {arguments.seed}\n\n{table_head(COLUMNS)}")
    print("\n".join(rows))


def split(data: Path, output: Path) -> Tuple[Path, Path]:
    """A folder with every second training image and all held-out ones, and a list of the other training images."""
    half, new_images = output / "data" / "half", output / "data" / "new.json"
    half.mkdir(parents=True, exist_ok=True)
    for name in ("train", "test", "val"):
        layout = json.loads((data / f"transforms_{name}.json").read_text())
        for frame in layout["frames"]:
            frame["file_path"] = str(data / frame["file_path"])
        frames = layout["frames"]
        if name == "train":
            new_images.write_text(json.dumps({**layout, "frames": frames[1::2]}))
            frames = frames[::2]
        (half / f"transforms_{name}.json").write_text(json.dumps({**layout, "frames": frames}))
    return half, new_images


def train_half(method: str, half: Path, arguments: Arguments) -> None:
    """As a user would, where the method is ours."""
    if method == "nerfacto":
        config = nerfacto_config(half)
        config.output_dir, config.experiment_name = arguments.output.resolve(), "half"
        train(config, arguments.seed)
        return
    command = ["ns-train", method, "--data", str(half), "--output-dir", str(arguments.output.resolve())]
    command += ["--experiment-name", "half", "--timestamp", "run", "--machine.seed", str(arguments.seed)]
    run([*command, "--vis", "tensorboard"], arguments.output / f"{method}-train.log")


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments)))
