"""Train a method on several seeds, evaluate each run, and print one table.

    python benchmarks/seeds.py --data FOLDER --method gnerf-ns --seeds 0 1 2

Every run is `ns-train` and `ns-eval` in processes of their own, so that wall time, CPU time and peak memory are those
that a user sees, start-up included. Runs one after the other: two trainings at once would measure each other. Options
that it does not know go to `ns-train`. "To 5°" is when the median rotation error fell below that for good; the plot
beside the runs (`seeds.png`) has it over time.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import matplotlib
import tyro
from training import Training, machine, seconds, table_head, table_row, train_and_evaluate

matplotlib.use("Agg")

COLUMNS = ["seed", "median °", "max °", "under 5°", "mirrored", "psnr", "psnr_aligned", "ssim", "to 5° s", "to 1° s"]
COLUMNS += ["to 0.2° s", "train s", "train CPU s", "peak GiB", "eval s"]


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


def main(arguments: Arguments, options: List[str]) -> None:
    """Run all seeds, with further options of `ns-train`, print a markdown table and save the plot."""
    output = arguments.output or Path(tempfile.mkdtemp(prefix="gnerf-ns-"))
    output.mkdir(parents=True, exist_ok=True)
    print(f"{machine()}; runs and logs in {output}\n\n{table_head(COLUMNS)}", flush=True)
    trainings: Dict[int, Training] = {}
    for seed in arguments.seeds:
        name = f"{arguments.method}-{seed}"
        training = train_and_evaluate(arguments.data, arguments.method, seed, output, name, options)
        trainings[seed] = training
        metrics, cost = training.metrics, training.cost
        row = [
            str(seed),
            f"{metrics['rotation_error_deg_median']:.2f}",
            f"{metrics['rotation_error_deg_max']:.2f}",
            f"{metrics['rotation_under_5deg']:.0%}",
            "yes" if metrics["mirrored"] else "no",
            f"{metrics['psnr']:.2f}",
            f"{metrics['psnr_aligned']:.2f}",
            f"{metrics['ssim']:.3f}",
            *(seconds(training.seconds_to(degrees)) for degrees in (5.0, 1.0, 0.2)),
            f"{cost.wall_s:.0f}",
            f"{cost.cpu_s:.0f}",
            f"{cost.peak_gb:.1f}",
            f"{training.evaluation_cost.wall_s:.0f}",
        ]
        print(table_row(row), flush=True)
    plot(trainings, f"{arguments.method} on {arguments.data.name}; {machine()}", output / "seeds.png")


def plot(trainings: Dict[int, Training], title: str, path: Path) -> None:
    """Median rotation error over the time since the command was started, a line for each seed."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.0, 3.6), layout="constrained")
    for seed, training in trainings.items():
        events = training.history("Train Poses/rotation_error_deg_median")
        times = [event.wall_time - training.started for event in events]
        axes.plot(times, [event.value for event in events], label=f"seed {seed}", linewidth=1.2)
    for degrees in (5.0, 1.0, 0.2):
        axes.axhline(degrees, color="0.6", linestyle=":", linewidth=0.8)
    axes.set_yscale("log")
    axes.set_yticks([50, 20, 5, 1, 0.2], ["50°", "20°", "5°", "1°", "0.2°"])
    axes.set_xlabel("seconds since the start of ns-train")
    axes.set_ylabel("median rotation error")
    axes.set_title(title, fontsize=9)
    axes.legend(fontsize=7, ncols=2)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main(*tyro.cli(Arguments, return_unknown_args=True)))
