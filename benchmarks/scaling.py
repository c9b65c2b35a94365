"""How the time to a median rotation error of 1 degree grows with the images: more of them, and larger ones.

    python benchmarks/scaling.py --output FOLDER

Images are of our own island, so that there can be thousands; the extra rounds that few of them get are left out, and
runs are stopped some time after 1 degree, of schedules and fields as images of their size have them. Options that it
does not know go to `ns-train`. Writes images and runs into the folder, a table to the terminal, and a plot beside it
(`scaling.png`).
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import matplotlib
import tyro
from matplotlib.axes import Axes
from training import machine, seconds, table_head, table_row, train_and_evaluate

from gnerf_ns.demo.scene import ProceduralSceneConfig, render_procedural_scene

matplotlib.use("Agg")

COLUMNS = [
    "images",
    "px",
    "to 5° s",
    "to 1° s",
    "median °",
    "under 5°",
    "train s",
    "train CPU s",
    "peak GiB",
    "images GiB",
]

HELD_OUT = 8
"""Images, besides those that are trained on."""


@dataclass
class Arguments:
    """What to run."""

    output: Path
    """Where images and runs go."""
    counts: Tuple[int, ...] = (25, 50, 100, 400, 1000, 2000)
    """Numbers of training images, at `side` pixels."""
    sides: Tuple[int, ...] = (50, 100, 200, 400)
    """Sizes in pixels, of `count` training images."""
    count: int = 100
    """Training images where the size changes."""
    side: int = 100
    """Pixels where the number changes."""
    seed: int = 0
    """Of all runs."""
    stop_after: int = 600
    """Steps of each run: 1 degree is reached long before the schedule's end."""


def main(arguments: Arguments, options: List[str]) -> None:
    """Run every combination once, with further options of `ns-train`, print a table and save the plot."""
    arguments.output.mkdir(parents=True, exist_ok=True)
    print(f"{machine()}; seed {arguments.seed}\n\n{table_head(COLUMNS)}", flush=True)
    cases = [(count, arguments.side) for count in arguments.counts]
    cases += [(arguments.count, side) for side in arguments.sides if (arguments.count, side) not in cases]
    to_1deg: Dict[Tuple[int, int], Optional[float]] = {}
    for count, side in cases:
        images = arguments.output / f"images-{count}-{side}"
        if not images.exists():
            render_procedural_scene(images, ProceduralSceneConfig(num_train=count, num_test=HELD_OUT, image_side=side))
        sizes = ["--pipeline.datamanager.max-image-side", str(side)]
        sizes += ["--pipeline.schedule.phase-b-image-side", "24", str(side)]
        sizes += ["--pipeline.schedule.phase-a-attempts", "1"]
        sizes += ["--pipeline.schedule.leave-out-rounds", "0", "--max-num-iterations", str(arguments.stop_after)]
        sizes += options
        name = f"run-{count}-{side}"
        training = train_and_evaluate(images, "gnerf-ns", arguments.seed, arguments.output, name, sizes)
        to_1deg[count, side] = training.seconds_to(1.0)
        row = [
            str(count),
            str(side),
            seconds(training.seconds_to(5.0)),
            seconds(to_1deg[count, side]),
            f"{training.metrics['rotation_error_deg_median']:.2f}",
            f"{training.metrics['rotation_under_5deg']:.0%}",
            f"{training.cost.wall_s:.0f}",
            f"{training.cost.cpu_s:.0f}",
            f"{training.cost.peak_gb:.1f}",
            f"{4 * (count + HELD_OUT) * side**2 / 2**30:.2f}",
        ]
        print(table_row(row), flush=True)
    plot(arguments, to_1deg)


def plot(arguments: Arguments, to_1deg: Dict[Tuple[int, int], Optional[float]]) -> None:
    """Seconds to 1 degree over the number of images and over their size, with the line of linear growth."""
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.0, 3.6), layout="constrained")
    panels: List[Tuple[Axes, List[int], List[Tuple[int, int]], str]] = [
        (left, list(arguments.counts), [(n, arguments.side) for n in arguments.counts], "images"),
        (right, list(arguments.sides), [(arguments.count, side) for side in arguments.sides], "pixels a side"),
    ]
    for axes, values, cases, label in panels:
        times = [to_1deg[case] or math.nan for case in cases]
        axes.plot(values, times, "o-", label="measured")
        first = next((row for row, seconds in enumerate(times) if math.isfinite(seconds)), None)
        if first is not None:
            slope = times[first] / values[first]
            axes.plot(values[first:], [slope * value for value in values[first:]], ":", label="linear")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(values, [str(value) for value in values])
        axes.set_xticks([], minor=True)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_yticks([20, 50, 100, 200, 500, 1000, 2000])
        axes.set_yticks([], minor=True)
        axes.set_xlabel(label)
        axes.set_ylabel("seconds to a median of 1°")
        axes.legend()
    figure.savefig(arguments.output / "scaling.png", dpi=120)


if __name__ == "__main__":
    sys.exit(main(*tyro.cli(Arguments, return_unknown_args=True)))
