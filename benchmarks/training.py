"""What benchmarks share: one training and its evaluation, as a user would run them, and what they cost."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

RENDERINGS = "renderings"
"""Folder of a run where `ns-eval` puts held-out images, each beside what the field shows."""


@dataclass
class Cost:
    """What a command took."""

    wall_s: float
    """Wall time in seconds."""
    cpu_s: float
    """CPU time of the process and its children, in seconds."""
    peak_gb: float
    """Largest resident set, in GiB."""


@dataclass
class Training:
    """A run of `ns-train`, and what `ns-eval` says of it."""

    folder: Path
    """Where config.yml, checkpoints, poses and TensorBoard's events are."""
    metrics: Dict[str, float]
    """Of `ns-eval`."""
    cost: Cost
    """Of `ns-train`, start-up included."""
    evaluation_cost: Cost
    """Of `ns-eval`."""
    started: float
    """When `ns-train` was started, in seconds since the epoch."""

    def history(self, name: str) -> List[Any]:
        """TensorBoard's scalars of that name, each with ``step``, ``wall_time`` and ``value``."""
        return EventAccumulator(str(self.folder), {"scalars": 0}).Reload().Scalars(name)

    def seconds_to(self, degrees: float) -> Optional[float]:
        """Seconds from the start until the median rotation error was below so many degrees for good; None if never.

        As exact as the log, which has it every 50 steps.
        """
        reached = None
        for event in self.history("Train Poses/rotation_error_deg_median"):
            if event.value >= degrees:
                reached = None
            elif reached is None:
                reached = event.wall_time - self.started
        return reached


def run(command: Sequence[str], log: Path, may_fail: bool = False) -> Cost:
    """Run a command to its end; its output goes to a file.

    Raises:
        SystemExit: it failed, and must not; the sentence names the log.
    """
    start = time.monotonic()
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0 and not may_fail:
        raise SystemExit(f"{command[0]} ended with exit code {process.returncode}; see {log}.")
    return Cost(time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20)


def train_and_evaluate(
    data: Path,
    method: str,
    seed: int,
    output: Path,
    name: str,
    options: Sequence[str] = (),
    program: Sequence[str] = ("ns-train",),
) -> Training:
    """`ns-train` and `ns-eval`, in processes of their own.

    Args:
        data: folder of images.
        method: the method's name.
        seed: of the run.
        output: folder for runs and logs.
        name: of the run, unique in that folder.
        options: further ones of `ns-train`.
        program: `ns-train`, or one that takes its arguments.
    """
    command = [*program, method, "--data", str(data), "--output-dir", str(output), "--experiment-name", name]
    command += ["--timestamp", "run", "--machine.seed", str(seed), "--vis", "tensorboard", *options]
    started = time.time()
    # A run whose poses are wrong ends with a status of its own, and is measured like others.
    cost = run(command, output / f"{name}-train.log", may_fail=True)
    folder, results = output / name / method / "run", output / f"{name}.json"
    evaluate = ["ns-eval", "--load-config", str(folder / "config.yml"), "--output-path", str(results)]
    evaluate += ["--render-output-path", str(folder / RENDERINGS)]
    evaluation_cost = run(evaluate, output / f"{name}-eval.log")
    return Training(folder, json.loads(results.read_text())["results"], cost, evaluation_cost, started)


def machine() -> str:
    """The machine and the day, for the line above a table."""
    return f"{platform.machine()}, {os.cpu_count()} cores, {date.today().isoformat()}"


def table_row(cells: Sequence[str]) -> str:
    """A row of a markdown table."""
    return f"| {' | '.join(cells)} |"


def table_head(columns: Sequence[str]) -> str:
    """The first two rows."""
    return f"{table_row(columns)}\n|{' --- |' * len(columns)}"


def seconds(value: Optional[float]) -> str:
    """A cell."""
    return "never" if value is None else f"{value:.0f}"
