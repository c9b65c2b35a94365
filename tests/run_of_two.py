"""One of two processes that train a run together: a module of its own, which the other process can import."""

from pathlib import Path
from typing import Any, Dict, List
from unittest.mock import patch

import torch
from nerfstudio.utils import comms
from tiny_run import SCHEDULE, SEED, trainer_config
from torch import Tensor, distributed

from gnerf_ns.pose_search.image_renderer import ImageRenderer
from gnerf_ns.pose_search.pose_search import BANK_PER_CHUNK
from gnerf_ns.training.schedule import PhaseScheduleConfig
from gnerf_ns.training.trainer import GNeRFTrainerConfig

OF_EACH = ("_loaded_step", "trust", "datamanager", "eval_")
"""Parts of names of what processes may differ in: what is found out at the end, by the first alone."""


def run_config(data: Path, output: Path) -> GNeRFTrainerConfig:
    """Two attempts at phase A, images left out in turn, and misfits."""
    config = trainer_config(data, output, "transport")
    schedule = {**SCHEDULE, "phase_a_attempts": 2, "leave_out_rounds": 2}
    config.pipeline.schedule = PhaseScheduleConfig(**schedule)
    config.pipeline.misfits.cost_ratio = 0.0
    config.pipeline.pose_search.bank_size = 4 * BANK_PER_CHUNK
    config.max_num_iterations = None
    return config


def train(rank: int, count: int, data: Path, folder: Path) -> Dict[str, Any]:
    """Train a run; what is learned after each step, and how many rays were rendered to look poses up."""
    torch.manual_seed(SEED + rank)  # as nerfstudio does: processes begin with different weights
    config = run_config(data, folder / f"runs-{count}")
    if rank == 0:
        config.save_config()
    trainer = config.setup(local_rank=rank, world_size=count)
    trainer.setup()
    pipeline, states, rays = trainer.pipeline, [], [0]
    apply, average = pipeline.pose_updates.apply, pipeline.ranks.average_gradients
    colors = ImageRenderer.colors

    def counted(renderer: ImageRenderer, bundle: Any) -> Tensor:
        rays[0] += len(bundle)
        return colors(renderer, bundle)

    def applied(plan: Any) -> bool:
        with patch.object(ImageRenderer, "colors", counted):
            return apply(plan)

    def noted(parameters: Any) -> None:
        states.append(shared_state(pipeline))
        average(parameters)

    pipeline.pose_updates.apply, pipeline.ranks.average_gradients = applied, noted
    trainer.train()
    states.append(shared_state(pipeline))
    return {"states": states, "rays": rays[0]}


def shared_state(pipeline: Any) -> Dict[str, Tensor]:
    """What must be the same everywhere."""
    state = pipeline.state_dict()
    return {
        name: value.clone()
        for name, value in state.items()
        if isinstance(value, Tensor) and not any(part in name for part in OF_EACH)
    }


def work(rank: int, data: str, folder: str) -> None:
    """One of two processes, as nerfstudio's launch starts it, but for gloo in place of NCCL."""
    torch.set_num_threads(1)
    path = Path(folder)
    distributed.init_process_group("gloo", init_method=f"file://{path / 'meeting'}", world_size=2, rank=rank)
    comms.LOCAL_PROCESS_GROUP = distributed.new_group([0, 1])
    torch.save(train(rank, 2, Path(data), path), path / f"{rank}.pt")
    comms.synchronize()
    distributed.destroy_process_group()


def differing(first: List[Dict[str, Tensor]], second: List[Dict[str, Tensor]]) -> List[str]:
    """Which values differ, and at which step."""
    return [
        f"{step}: {name}"
        for step, (one, other) in enumerate(zip(first, second, strict=True))
        for name in one
        if not torch.equal(one[name], other[name])
    ]
