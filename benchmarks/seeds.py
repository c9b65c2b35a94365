"""Train a method on several seeds, evaluate each run, and print one table; "A" is how phase A ended.

    python benchmarks/seeds.py --data FOLDER --method gnerf-ns --seeds 0 1 2

Options that it does not know go to `ns-train`.

Every run is `ns-train` and `ns-eval` in processes of their own, so that wall time, CPU time and peak memory are those
that a user sees, start-up included. Runs one after the other: two trainings at once would measure each other.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Tuple

import tyro
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


@dataclass
class Arguments:
    """What to run."""

    data: Path
    """Folder of images, as for `ns-train --data`."""
    method: str = "gnerf-ns"
    """Name of the method."""
    seeds: Tuple[int, ...] = (0, 1, 2)
    """Seeds, one run each."""
    output: Optional[Path] = None
    """Where the runs go; a temporary folder by default."""


@dataclass
class Cost:
    """What a command took."""

    wall_s: float
    """Wall time in seconds."""
    cpu_s: float
    """CPU time of the process and its children, in seconds."""
    peak_gb: float
    """Largest resident set, in GiB."""


def run(command: List[str], log: Path) -> Cost:
    """Run a command to its end; its output goes to a file.

    Raises:
        SystemExit: it failed; the sentence names the log.
    """
    start = time.monotonic()
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{command[0]} ended with exit code {process.returncode}; see {log}.")
    return Cost(time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20)


def after_phase_a(run_folder: Path, start: float) -> Tuple[float, float]:
    """How training stood when every pose had been looked up at the end of phase A.

    Args:
        run_folder: where config.yml and the TensorBoard events are.
        start: when the command was started, in seconds since the epoch.

    Returns:
        The share of the training cameras whose rotation was less than 20 degrees off, and the seconds from the start.
    """
    config = yaml.load((run_folder / "config.yml").read_text(), Loader=yaml.Loader)  # as nerfstudio does
    events = EventAccumulator(str(run_folder)).Reload().Scalars("Train Poses/rotation_under_20deg")
    event = next(event for event in events if event.step >= config.pipeline.schedule.phase_a_steps)
    return event.value, event.wall_time - start


def main(arguments: Arguments, options: List[str]) -> None:
    """Run all seeds, with further options of `ns-train`, and print a markdown table."""
    output = arguments.output or Path(tempfile.mkdtemp(prefix="gnerf-ns-"))
    output.mkdir(parents=True, exist_ok=True)
    print(f"{platform.machine()}, {os.cpu_count()} cores; runs and logs in {output}\n")
    columns = ["seed", "A: under 20°", "A: s", "median °", "max °", "under 5°", "mirrored", "psnr", "psnr_aligned"]
    columns += ["ssim", "train s", "train CPU s", "peak GiB", "eval s"]
    print("| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns), flush=True)
    for seed in arguments.seeds:
        name = f"{arguments.method}-{seed}"
        train = ["ns-train", arguments.method, "--data", str(arguments.data), "--output-dir", str(output)]
        train += ["--experiment-name", name, "--timestamp", "run", "--machine.seed", str(seed)]
        start = time.time()
        trained = run([*train, "--vis", "tensorboard", *options], output / f"{name}-train.log")
        results = output / f"{name}.json"
        run_folder = output / name / arguments.method / "run"
        under_20deg, seconds = after_phase_a(run_folder, start)
        evaluated = run(
            ["ns-eval", "--load-config", str(run_folder / "config.yml"), "--output-path", str(results)],
            output / f"{name}-eval.log",
        )
        metrics = json.loads(results.read_text())["results"]
        row = [
            str(seed),
            f"{under_20deg:.0%}",
            f"{seconds:.0f}",
            f"{metrics['rotation_error_deg_median']:.2f}",
            f"{metrics['rotation_error_deg_max']:.2f}",
            f"{metrics['rotation_under_5deg']:.0%}",
            "yes" if metrics["mirrored"] else "no",
            f"{metrics['psnr']:.2f}",
            f"{metrics['psnr_aligned']:.2f}",
            f"{metrics['ssim']:.3f}",
            f"{trained.wall_s:.0f}",
            f"{trained.cpu_s:.0f}",
            f"{trained.peak_gb:.1f}",
            f"{evaluated.wall_s:.0f}",
        ]
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    sys.exit(main(*tyro.cli(Arguments, return_unknown_args=True)))
