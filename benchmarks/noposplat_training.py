"""Trains noposplat-tiny in several processes on the CPUs of one machine, which nerfstudio's launcher does on GPUs only.

python benchmarks/noposplat_training.py --output-dir outputs --num-processes 2

Each process has `--pipeline.datamanager.batch-size` scenes a step, and one thread. The network is then in
OUTPUT_DIR/made-scenes/noposplat-tiny/TIME/network.safetensors. So were the weights trained that come with this package.
"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any, Optional
from unittest.mock import patch

import torch
import tyro
from nerfstudio.pipelines import base_pipeline
from nerfstudio.scripts.train import train_loop
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from gnerf_ns.method_configs.noposplat import noposplat_tiny  # pyright: ignore[reportMissingImports]
from gnerf_ns.noposplat.trainer import NoPoSplatTrainerConfig


class OnCPU(DistributedDataParallel):
    """As nerfstudio makes it, but not on a GPU."""

    def __init__(self, model: nn.Module, device_ids: Any, **options: Any) -> None:
        super().__init__(model, **options)


def work(rank: int, config: NoPoSplatTrainerConfig, num_processes: int, meeting: str) -> None:
    """One of the processes.

    Args:
        rank: which.
        config: the same for all.
        num_processes: of all.
        meeting: a file by which they find each other; it does not exist yet.
    """
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", world_size=num_processes, rank=rank)
    with (
        patch.object(base_pipeline, "DDP", OnCPU),
        patch.object(distributed, "barrier", lambda device_ids: None),
    ):
        train_loop(rank, num_processes, config)
    distributed.destroy_process_group()


def main(
    output_dir: Path,
    num_processes: int = 2,
    seed: int = 0,
    max_num_iterations: Optional[int] = None,
    load_dir: Optional[Path] = None,
) -> None:
    """Train.

    Args:
        output_dir: where runs are written.
        num_processes: as many as there are cores to spare.
        seed: of weights, scenes and views.
        max_num_iterations: steps; None: the method's own number.
        load_dir: folder of checkpoints to go on from; None to begin.
    """
    config = copy.deepcopy(noposplat_tiny.config)
    assert isinstance(config, NoPoSplatTrainerConfig)
    config.output_dir, config.vis = output_dir, "tensorboard"
    config.machine.seed = config.pipeline.datamanager.seed = seed
    config.max_num_iterations = max_num_iterations or config.max_num_iterations
    config.load_dir = load_dir
    config.set_timestamp()
    config.print_to_terminal()
    config.save_config()
    with tempfile.TemporaryDirectory() as folder:
        arguments = config, num_processes, str(Path(folder) / "meeting")
        torch.multiprocessing.spawn(work, args=arguments, nprocs=num_processes)  # type: ignore[attr-defined]


if __name__ == "__main__":
    tyro.cli(main)
