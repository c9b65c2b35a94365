"""One run by several processes on CPUs, as `--machine.num-devices` does on GPUs, against one process alone.

    python benchmarks/several_processes.py --data LEGO --output FOLDER

Each process has its share of the rays and of phase A's poses, so that all together have what one alone has; they meet
through gloo in place of NCCL. Matches are left out, so that poses have to be found. A thread each.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Tuple

import torch
import tyro
from nerfstudio.utils import comms
from torch import distributed
from training import machine, run, table_head, table_row

from gnerf_ns.demo.command import trainer_config

COLUMNS = ["processes", "median °", "max °", "psnr", "psnr_aligned", "train s"]


@dataclass
class Arguments:
    """What to train on."""

    data: Path
    """Folder of images."""
    output: Path
    """Where runs go."""
    seed: int = 0
    """Of all."""
    counts: Tuple[int, ...] = (1, 2)
    """Numbers of processes, one run each."""


def main(arguments: Arguments) -> None:
    """Train, evaluate and print a markdown table."""
    print(f"{machine()}; seed {arguments.seed}\n\n{table_head(COLUMNS)}", flush=True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for count in arguments.counts:
        began = time.monotonic()
        meeting = arguments.output / f"meeting-{os.getpid()}-{count}"
        start: Any = torch.multiprocessing.start_processes  # type: ignore[attr-defined]
        start(train, args=(count, arguments, meeting), nprocs=count, start_method="spawn")
        seconds = time.monotonic() - began
        results = arguments.output / f"{count}.json"
        config = arguments.output / f"of-{count}" / "gnerf-ns" / "run" / "config.yml"
        log = arguments.output / f"{count}-eval.log"
        run(["ns-eval", "--load-config", str(config), "--output-path", str(results)], log)
        figures = json.loads(results.read_text())["results"]
        names = ("rotation_error_deg_median", "rotation_error_deg_max", "psnr", "psnr_aligned")
        print(table_row([str(count), *(f"{figures[name]:.2f}" for name in names), f"{seconds:.0f}"]), flush=True)


def train(rank: int, count: int, arguments: Arguments, meeting: Path) -> None:
    """One of the processes, as nerfstudio's launch starts it."""
    torch.set_num_threads(1)
    if count > 1:
        distributed.init_process_group("gloo", init_method=f"file://{meeting}", world_size=count, rank=rank)
        comms.LOCAL_PROCESS_GROUP = distributed.new_group(list(range(count)))
    torch.manual_seed(arguments.seed + rank)
    config: Any = trainer_config("gnerf-ns")
    config.data = config.pipeline.datamanager.data = arguments.data
    config.output_dir, config.experiment_name, config.timestamp = arguments.output, f"of-{count}", "run"
    config.vis, config.machine.seed, config.pipeline.matching = "tensorboard", arguments.seed, "off"
    config.pipeline.photometric.rays_per_step //= count
    config.pipeline.transport.num_poses //= count
    if rank == 0:
        config.save_config()
    trainer = config.setup(local_rank=rank, world_size=count)
    trainer.setup()
    trainer.train()
    if count > 1:
        comms.synchronize()
        distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments)))
