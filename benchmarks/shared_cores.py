"""How much longer a run takes beside other programs that keep cores busy.

    python benchmarks/shared_cores.py --output FOLDER --busy 0 1 2 --data LEGO

One run of `ns-train gnerf-ns` after the other: alone, beside one busy process, beside two; of `gnerf-demo` where there
is no `--data`. With several `--python`, those of environments with other versions installed, these take turns, so that
all see the same machine.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Tuple

import tyro
from training import machine, run, table_head, table_row


@dataclass
class Arguments:
    """What to run."""

    data: Optional[Path] = None
    """Folder of images to train on; without, it is the demo that runs."""
    output: Optional[Path] = None
    """Where the runs go; a temporary folder by default."""
    busy: Tuple[int, ...] = (0, 1, 2)
    """Numbers of busy processes beside the run, one run each."""
    python: Tuple[Path, ...] = (Path(sys.executable),)
    """Python of each environment that is measured; its `gnerf-demo` lies beside it."""


def main(arguments: Arguments) -> None:
    """Run everything and print a markdown table."""
    output = arguments.output or Path(tempfile.mkdtemp(prefix="gnerf-ns-"))
    output.mkdir(parents=True, exist_ok=True)
    columns = ["environment", "busy", "wall s", "CPU s"]
    print(f"{machine()}; runs and logs in {output}\n\n{table_head(columns)}", flush=True)
    for busy in arguments.busy:
        for number, python in enumerate(arguments.python):
            name = f"run-{number}-beside-{busy}"
            others: List[subprocess.Popen] = [
                subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)
            ]
            try:
                command = [str(python.parent / "gnerf-demo")]
                if arguments.data is not None:
                    command = [str(python.parent / "ns-train"), "gnerf-ns", "--data", str(arguments.data)]
                    command += ["--vis", "tensorboard"]
                command += ["--output-dir", str(output / name)]
                cost = run(command, output / f"{name}.log")
            finally:
                for other in others:
                    other.kill()
            row = [python.parent.parent.name, str(busy), f"{cost.wall_s:.0f}", f"{cost.cpu_s:.0f}"]
            print(table_row(row), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
