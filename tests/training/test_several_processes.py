"""Two processes that train one run: the same poses and field on both after every step, and half of the work each."""

from pathlib import Path
from typing import Any

import pytest
import torch
from run_of_two import differing, run_config, train, work
from tiny_run import pipeline_config
from torch import distributed

from gnerf_ns.utils.errors import InputError


@pytest.mark.skipif(not distributed.is_available(), reason="torch without processes")
def test_two_processes_train_one_run(tiny_scene: Path, tmp_path: Path):
    torch.multiprocessing.get_context("forkserver").set_forkserver_preload(["gnerf_ns.training.trainer"])
    start: Any = torch.multiprocessing.start_processes  # type: ignore[attr-defined]
    arguments = (str(tiny_scene), str(tmp_path))
    processes = start(work, args=arguments, nprocs=2, join=False, start_method="forkserver")
    alone = train(0, 1, tiny_scene, tmp_path)
    while not processes.join():
        pass
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert differing(first["states"], second["states"]) == []
    assert len(first["states"]) == len(alone["states"])
    last = first["states"][-1]
    assert all(bool(value.isfinite().all()) for value in last.values() if value.is_floating_point())
    assert any(not torch.equal(last[name], first["states"][0][name]) for name in last if "radiance" in name)
    for each in (first, second):
        assert each["rays"] < 0.6 * alone["rays"], "poses are looked up together"
    # The first process alone writes; what it has written is a run like any other.
    resumed = run_config(tiny_scene, tmp_path / "resumed")
    resumed.load_dir = next((tmp_path / "runs-2").glob("**/nerfstudio_models"))
    torch.manual_seed(0)
    trainer = resumed.setup(local_rank=0, world_size=1)
    trainer.setup()
    state = trainer.pipeline.state_dict()
    assert all(torch.equal(state[name], value) for name, value in last.items())


def test_what_processes_cannot_do_together_is_refused_before_anything_is_read(tmp_path: Path):
    with pytest.raises(InputError, match="2 processes, which do not train adversaries together; use 1, or gnerf-ns"):
        pipeline_config(tmp_path / "nowhere", "adversarial").setup(device="cpu", world_size=2)
