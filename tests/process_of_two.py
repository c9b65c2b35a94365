"""One of two processes that train together: a module of its own, which the other process can import."""

from pathlib import Path
from typing import Any, Dict
from unittest.mock import patch

import torch
from nerfstudio.pipelines import base_pipeline
from tiny_noposplat import SEED, pipeline_config
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from gnerf_ns.noposplat import datamanager

STEPS = (0, 1)
"""One of points, one of images."""


def gradients(pipeline: Any) -> Dict[str, Any]:
    """Losses and gradients of both steps, and the parameters after a step along them."""
    found: Dict[str, Any] = {}
    for module in pipeline.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # which is of each process's own
    parameters = dict(pipeline.model.network.named_parameters())
    for step in STEPS:
        pipeline.zero_grad()
        _, losses, _ = pipeline.get_train_loss_dict(step)
        loss = sum(losses.values(), torch.zeros(()))
        loss.backward()
        found[f"loss {step}"] = loss.detach()
        for name, value in parameters.items():
            found[f"gradient {step} {name}"] = torch.zeros(()) if value.grad is None else value.grad.clone()
        with torch.no_grad():
            for value in parameters.values():
                if value.grad is not None:
                    value -= 0.1 * value.grad
    found.update({f"parameter {name}": value.detach() for name, value in parameters.items()})
    return found


def work(rank: int, folder: str) -> None:
    """One of two processes, as nerfstudio's launch starts it, but for gloo in place of NCCL."""
    torch.set_num_threads(1)
    datamanager.NUM_MADE_SCENES = 12
    path = Path(folder)
    distributed.init_process_group("gloo", init_method=f"file://{path / 'meeting'}", world_size=2, rank=rank)
    torch.manual_seed(SEED + rank)  # as nerfstudio does: processes begin with different weights

    class OnCPU(DistributedDataParallel):
        def __init__(self, model: nn.Module, device_ids: Any, **options: Any) -> None:
            super().__init__(model, **options)

    with (
        patch.object(base_pipeline, "DDP", OnCPU),
        patch.object(distributed, "barrier", lambda device_ids: None),
    ):
        pipeline = pipeline_config(batch_size=1, point_steps=1).setup(device="cpu", world_size=2, local_rank=rank)
        pipeline.model.begin()
        torch.save(gradients(pipeline), path / f"{rank}.pt")
    distributed.destroy_process_group()
