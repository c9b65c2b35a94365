"""Photographs with and without a room around them: one table of how well their cameras are found.

    python benchmarks/real_photos.py --data FOLDER_OF_SETS --output FOLDER

Every set is a folder of images, with masks where there are any; a transforms.json in it gives the lens, and poses that
are used for evaluation only. Each is trained on and evaluated as a user would, one after the other. A second call goes
on with what the first has not finished.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Tuple

import tyro
from training import machine, table_head, table_row, train_and_evaluate

COLUMNS = ["set", "trained on", "median °", "max °", "under 5°", "psnr", "psnr_aligned", "train s", "train CPU s"]


@dataclass
class Arguments:
    """What to run."""

    data: Path
    """Folder of sets."""
    output: Path
    """Where runs and results go."""
    sets: Tuple[str, ...] = ()
    """Names of the sets; all by default."""
    options: Tuple[str, ...] = ()
    """Further ones of `ns-train`."""
    seed: int = 0
    """Of all runs."""


def main(arguments: Arguments) -> None:
    """Run what is not in the results yet, and print all of them as a markdown table."""
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "results.json"
    results: Dict[str, Dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    folders = sorted(folder for folder in arguments.data.iterdir() if (folder / "images").is_dir())
    print(f"{machine()}; seed {arguments.seed}\n\n{table_head(COLUMNS)}", flush=True)
    for name in arguments.sets or tuple(folder.name for folder in folders):
        if name not in results:
            results[name] = measure(arguments, name)
            path.write_text(json.dumps(results, indent=1))
        print(table_row(cells(name, results[name])), flush=True)


def measure(arguments: Arguments, name: str) -> Dict[str, Any]:
    """Train and evaluate: what `ns-eval` says, how many poses there are, and the time."""
    training = train_and_evaluate(
        arguments.data / name, "gnerf-ns", arguments.seed, arguments.output, name, arguments.options
    )
    frames = json.loads((training.folder / "estimated_poses" / "transforms.json").read_text())["frames"]
    cost = training.cost
    return {**training.metrics, "posed": len(frames), "wall_s": cost.wall_s, "cpu_s": cost.cpu_s}


def cells(name: str, result: Dict[str, Any]) -> List[str]:
    """A row; what needs reference poses is left empty where there are none."""

    def figure(key: str, style: str) -> str:
        return format(result[key], style) if key in result else ""

    return [
        name,
        str(result["posed"]),
        figure("rotation_error_deg_median", ".2f"),
        figure("rotation_error_deg_max", ".2f"),
        figure("rotation_under_5deg", ".0%"),
        figure("psnr", ".2f"),
        figure("psnr_aligned", ".2f"),
        figure("wall_s", ".0f"),
        figure("cpu_s", ".0f"),
    ]


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments)))
