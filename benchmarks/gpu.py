"""On a GPU: pictures of 100, 200 and 800 pixels, with and without tiny-cuda-nn and mixed precision, beside nerfacto.

    python benchmarks/gpu.py --data LEGO --output FOLDER

Sized to be done in eight minutes on a large GPU, installation not counted; a row for which `--budget-s` leaves no time
is left out, and the next command goes on with it. What it measures, in this order: the tests that need CUDA; how often
a training step makes the CPU wait for the GPU (`torch.cuda.set_sync_debug_mode`); and whole runs of `ns-train` and
`ns-eval`: wall time, time until the median rotation error was below 1 and 0.2 degrees for good, PSNR, and the GPU
memory in use at most. nerfacto has the true poses and as many rays.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import torch
import tyro
from training import seconds, table_head, table_row, train_and_evaluate
from true_poses import nerfacto_config, train

from gnerf_ns.demo.command import trainer_config

COLUMNS = ["what", "median °", "max °", "psnr", "psnr_aligned", "to 1° s", "to 0.2° s", "train s", "GPU GiB"]
SIDE = ["--pipeline.datamanager.max-image-side"]
IMPLEMENTATION = ["--pipeline.model.radiance.implementation"]
STEPS = 20
"""Steps that are looked at for waiting, after as many that are not."""


@dataclass
class Arguments:
    """What to measure."""

    data: Path
    """Lego in the Blender layout, 800 pixels or what there is."""
    output: Path
    """Where runs and figures go; goes on where it was stopped."""
    sides: Tuple[int, ...] = (100, 200, 800)
    """Longer sides that pictures are brought to."""
    budget_s: float = 480.0
    """After so many seconds nothing new is begun."""
    options: str = ""
    """Further options of ns-train, to try this on a small machine."""
    tests: bool = True
    """Whether the tests that need CUDA are run."""


def main(arguments: Arguments) -> None:
    """Measure what there is time for and print a markdown table."""
    began = time.monotonic()
    arguments.output.mkdir(parents=True, exist_ok=True)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU: the CPU"
    print(f"{device}, torch {torch.__version__}\n", flush=True)
    if arguments.tests and not (arguments.output / "tests.log").exists():
        print(cuda_tests(arguments.output / "tests.log"), flush=True)
    if torch.cuda.is_available():
        print(waits(arguments.data), flush=True)
    print(f"\n{table_head(COLUMNS)}", flush=True)
    for name, options in rows(arguments).items():
        known = arguments.output / f"{name}-row.json"
        if not known.exists():
            if time.monotonic() - began > arguments.budget_s:
                print(f"\n{name} and what follows: no time left; the same command goes on with it.")
                return
            known.write_text(json.dumps(measured(arguments, name, options)))
        print(table_row(json.loads(known.read_text())), flush=True)


def rows(arguments: Arguments) -> Dict[str, Optional[List[str]]]:
    """Names of the runs, and their options of `ns-train`; None for nerfacto's."""
    others = arguments.options.split()
    found: Dict[str, Optional[List[str]]] = {f"{side} px": [*SIDE, str(side), *others] for side in arguments.sides}
    middle = str(arguments.sides[len(arguments.sides) // 2])
    found[f"{middle} px, torch in place of tiny-cuda-nn"] = [*SIDE, middle, *IMPLEMENTATION, "torch", *others]
    found[f"{middle} px, full precision"] = [*SIDE, middle, "--mixed-precision", "False", *others]
    found[f"nerfacto, true poses, {middle} px"] = None
    return found


def measured(arguments: Arguments, name: str, options: Optional[List[str]]) -> List[str]:
    """A row of the table."""
    with GPUMemory() as memory:
        if options is None:
            return [*nerfacto_cells(arguments, name), memory.words()]
        plain = name.replace(" ", "-").replace(",", "")
        training = train_and_evaluate(arguments.data, "gnerf-ns", 0, arguments.output, plain, options)
        figures = training.metrics
        return [
            name,
            f"{figures['rotation_error_deg_median']:.2f}",
            f"{figures['rotation_error_deg_max']:.2f}",
            f"{figures['psnr']:.2f}",
            f"{figures['psnr_aligned']:.2f}",
            *(seconds(training.seconds_to(degrees)) for degrees in (1.0, 0.2)),
            f"{training.cost.wall_s:.0f}",
            memory.words(),
        ]


def nerfacto_cells(arguments: Arguments, name: str) -> List[str]:
    """All but the last cell of nerfacto's row."""
    config = nerfacto_config(arguments.data, True)
    config.output_dir, config.experiment_name = arguments.output, "nerfacto"
    ours: Any = trainer_config("gnerf-ns").pipeline
    num_rays = ours.photometric.rays_per_step * ours.schedule.phase_b_steps
    config.max_num_iterations = max(1, num_rays // config.pipeline.datamanager.train_num_rays_per_batch)
    figures, wall_s, _ = train(config, 0)
    return [name, "", "", f"{figures['psnr']:.2f}", "", "", "", f"{wall_s:.0f}"]


class GPUMemory:
    """The most GPU memory that all programs together had in use while this lasted."""

    def __enter__(self) -> GPUMemory:
        self._most, self._done = 0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while torch.cuda.is_available() and not self._done.wait(0.2):
            free, there = torch.cuda.mem_get_info()
            self._most = max(self._most, there - free)

    def words(self) -> str:
        """In GiB; nothing where there is no GPU."""
        return f"{self._most / 2**30:.1f}" if self._most else ""


def cuda_tests(log: Path) -> str:
    """The last line of pytest's, of the tests with a CUDA mark."""
    with log.open("w") as stream:
        command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-n", "4"]
        subprocess.run(command, cwd=Path(__file__).parents[1], stdout=stream, stderr=subprocess.STDOUT, check=False)
    return f"Tests that need CUDA: {log.read_text().strip().splitlines()[-1]}"


def waits(data: Path) -> str:
    """How often the CPU waits for the GPU in a step of each phase."""
    config: Any = trainer_config("gnerf-ns")
    config.data = config.pipeline.datamanager.data = data
    config.pipeline.matching, config.vis = "off", "tensorboard"
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    schedule, counts = trainer.pipeline.schedule, []
    for first in (schedule.phase_a_steps // 2, schedule.phase_a_end + schedule.phase_b_steps // 2):
        for step in range(first, first + STEPS):
            trainer.train_iteration(step)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            for step in range(first + STEPS, first + 2 * STEPS):
                trainer.train_iteration(step)
            torch.cuda.set_sync_debug_mode("default")
        counts.append(sum("synchroniz" in str(each.message) for each in caught) / STEPS)
    return f"The CPU waits for the GPU {counts[0]:.1f} times in a step of phase A, {counts[1]:.1f} in one of B."


if __name__ == "__main__":
    main(tyro.cli(Arguments))
