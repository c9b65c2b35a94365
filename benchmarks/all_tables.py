"""Seeds, harder cases and localization, one after the other: whether a change has cost accuracy.

    python benchmarks/all_tables.py --data LEGO --output FOLDER

Each table is printed and written into the folder (`seeds.md`, `harder_cases.md`, `localization.md`), beside the runs.
On two CPU cores it takes two hours. A second call keeps tables that are whole, and goes on with the harder cases.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import List, Tuple

import tyro

HERE = Path(__file__).resolve().parent


@dataclass
class Arguments:
    """What to run."""

    data: Path
    """Folder in the Blender layout, all three splits."""
    output: Path
    """Where tables and runs go."""
    seeds: Tuple[int, ...] = tuple(range(10))
    """Of the first table; new images are localized in the run of the first of them."""
    jobs: int = 2
    """Number of harder cases that run at a time; seeds, whose wall time is told, have the machine to themselves."""


def main(arguments: Arguments) -> None:
    """Make the tables that are not there yet.

    Raises:
        SystemExit: a benchmark failed.
    """
    data, output = str(arguments.data), arguments.output
    seeds = [str(seed) for seed in arguments.seeds]
    if not (output / "seeds.md").exists():
        shutil.rmtree(output / "seeds", ignore_errors=True)  # half a table, whose runs would be resumed
    tabulate(output, "seeds", ["--data", data, "--seeds", *seeds, "--output", str(output / "seeds")])
    harder = ["--data", data, "--output", str(output / "harder_cases"), "--jobs", str(arguments.jobs)]
    tabulate(output, "harder_cases", harder)
    (config,) = (output / "seeds" / f"gnerf-ns-{seeds[0]}").rglob("config.yml")
    tabulate(output, "localization", ["--data", data, "--load-configs", str(config)])


def tabulate(output: Path, name: str, options: List[str]) -> None:
    """Run a benchmark and keep what it prints; a table that is whole is left as it is.

    Args:
        output: folder of the tables.
        name: of the benchmark.
        options: its own.

    Raises:
        SystemExit: it failed.
    """
    table = output / f"{name}.md"
    if table.exists():
        print(table.read_text(), flush=True)
        return
    output.mkdir(parents=True, exist_ok=True)
    lines: List[str] = []
    command = [sys.executable, "-u", str(HERE / f"{name}.py"), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode != 0:
        raise SystemExit(f"{name}.py ended with exit code {process.returncode}.")
    table.write_text("".join(lines))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments)))
