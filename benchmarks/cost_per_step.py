"""What one training step costs: gnerf-ns against GNeRF's published configuration (`gnerf-ns-paper`), in CPU-seconds.

    python benchmarks/cost_per_step.py --data LEGO

Steps are the trainer's own, backward pass and optimizers included, on one machine in one run; ours does not count the
six looks-up of poses between them, each of which takes as long as some dozens of steps. The published schedule has
48,000 steps (an iteration of AB counting twice), ours 1,700.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Tuple

import torch
import tyro
from training import machine, table_head, table_row

from gnerf_ns.demo.command import trainer_config

COLUMNS = [
    "method",
    "phase",
    "steps measured",
    "wall s a step",
    "CPU s a step",
    "steps in all",
    "CPU hours of steps",
]


@dataclass
class Arguments:
    """What to measure on."""

    data: Path
    """Folder of images."""
    steps: int = 20
    """Steps of gnerf-ns that are measured in each phase, after three that are not."""
    paper_steps: int = 1
    """Likewise of gnerf-ns-paper, where none goes before; a step takes many minutes on a CPU."""


def main(arguments: Arguments) -> None:
    """Print a markdown table."""
    print(f"{machine()}\n\n{table_head(COLUMNS)}", flush=True)
    # A process of its own for each: how the allocator deals with freed memory is one choice for a whole process.
    for method, steps, warm_up in (("gnerf-ns", arguments.steps, 3), ("gnerf-ns-paper", arguments.paper_steps, 0)):
        process = multiprocessing.get_context("spawn").Process(
            target=print_rows, args=(method, arguments.data, steps, warm_up)
        )
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"{method} ended with exit status {process.exitcode}.")


def print_rows(method: str, data: Path, steps: int, warm_up: int) -> None:
    """Print one row for each phase of a method."""
    trainer = build_trainer(method, data)
    schedule = trainer.pipeline.schedule
    in_ab = schedule.interleaved_steps // 2
    # From the middle of a phase on, where nothing is looked up.
    phases = {
        "A": (schedule.phase_a_steps // 2, schedule.phase_a_steps + in_ab),
        "B": (schedule.phase_a_end + schedule.phase_b_steps // 2, schedule.phase_b_steps + in_ab),
    }
    for phase, (first, in_all) in phases.items():
        for step in range(first, first + warm_up):
            trainer.train_iteration(step)
        wall_s, cpu_s = measure(trainer, first + warm_up, steps)
        cells = [method, phase, str(steps), f"{wall_s:.2f}", f"{cpu_s:.2f}", str(in_all)]
        print(table_row([*cells, f"{cpu_s * in_all / 3600:.2f}"]), flush=True)


def build_trainer(method: str, data: Path) -> Any:
    """What `ns-train` builds, without viewer and logs."""
    config: Any = trainer_config(method)
    config.data = config.pipeline.datamanager.data = data
    config.output_dir = Path(tempfile.mkdtemp(prefix="gnerf-ns-"))
    torch.manual_seed(config.machine.seed)
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    trainer.pipeline.train()
    return trainer


def measure(trainer: Any, first: int, steps: int) -> Tuple[float, float]:
    """Mean wall and CPU time of a step, in seconds."""
    wall, cpu = time.monotonic(), time.process_time()
    for step in range(first, first + steps):
        trainer.train_iteration(step)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.monotonic() - wall) / steps, (time.process_time() - cpu) / steps


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments)))
