"""Several processes: the same parameters, and the gradients of all their scenes together."""

from pathlib import Path
from typing import Any, Dict

import pytest
import torch
from process_of_two import gradients, work
from tiny_noposplat import build_pipeline, pipeline_config
from torch import Tensor, distributed


@pytest.mark.skipif(not distributed.is_available(), reason="torch without processes")
def test_two_processes_learn_as_one_with_twice_the_scenes(tmp_path: Path):
    # Both are forks of a process that has imported, once, what takes longest.
    torch.multiprocessing.get_context("forkserver").set_forkserver_preload(["gnerf_ns.noposplat.trainer"])
    start: Any = torch.multiprocessing.start_processes  # type: ignore[attr-defined]
    processes = start(work, args=(str(tmp_path),), nprocs=2, join=False, start_method="forkserver")
    alone = gradients(build_pipeline(pipeline_config(batch_size=2, point_steps=1)))
    while not processes.join():
        pass
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert first.keys() == second.keys() == alone.keys()
    for name, value in alone.items():
        if name.startswith("loss"):
            assert first[name] != second[name]  # of different scenes
            assert float((first[name] + second[name]) / 2) == pytest.approx(float(value), rel=1e-5)
        else:
            assert torch.equal(first[name], second[name]), name
            scale = float(_largest(value, name, alone))
            torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-5 * scale, msg=name)


def _largest(value: Tensor, name: str, values: Dict[str, Tensor]) -> Tensor:
    """Of all of its kind: small gradients are sums of large ones."""
    kind = name.rsplit(" ", 1)[0]
    return torch.stack(
        [other.abs().max() for key, other in values.items() if key.startswith(kind) and other.numel()]
    ).max()
