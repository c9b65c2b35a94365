import json
import math
from pathlib import Path

import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from gnerf_ns.runs.curves import CURVES, STEPS_PER_POINT, Curves


def some() -> Curves:
    curves = Curves()
    for step in range(3 * STEPS_PER_POINT):
        metrics = {"psnr": torch.tensor(20.0 + step)} if step >= STEPS_PER_POINT else {"phase_b": 0.0}
        curves.add(step, torch.tensor(1.0 / (1 + step), requires_grad=True), metrics)
    return curves


def test_every_tenth_step_is_kept():
    curves = some()
    assert curves.steps == [0, STEPS_PER_POINT, 2 * STEPS_PER_POINT]
    assert curves.loss == pytest.approx([1.0, 1.0 / 11.0, 1.0 / 21.0])
    assert math.isnan(curves.psnr[0]) and curves.psnr[1:] == [30.0, 40.0]


def test_they_come_back_from_the_folder(tmp_path: Path):
    curves = some()
    curves.loss[1] = math.inf
    curves.write(tmp_path)
    json.loads((tmp_path / CURVES).read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    read = Curves.of_run(tmp_path)
    assert read.steps == curves.steps
    assert [math.isnan(value) for value in (*read.loss, *read.psnr)] == [False, True, False, True, False, False]
    assert read.psnr[1:] == [30.0, 40.0]


def test_a_resumed_run_has_the_steps_before():
    assert some().before(2 * STEPS_PER_POINT).steps == [0, STEPS_PER_POINT]
    assert some().before(0) == Curves()


@pytest.mark.parametrize("content", ["", "[]", '{"step": [1]}', '{"step": [1, 2], "loss": [1], "psnr": [1]}'])
def test_what_cannot_be_read_is_no_curve(tmp_path: Path, content: str):
    (tmp_path / CURVES).write_text(content)
    assert Curves.of_run(tmp_path) == Curves()
    assert Curves.of_run(tmp_path / "nowhere") == Curves()


def test_event_files_are_read_where_nothing_else_was_kept(tmp_path: Path):
    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(0, 40, 10):
            writer.add_scalar("Train Loss", 1.0 / (1 + step), step)
            if step >= 20:
                writer.add_scalar("Train Metrics Dict/psnr", 10.0 + step, step)
    curves = Curves.of_run(tmp_path)
    assert curves.steps == [0, 10, 20, 30]
    assert curves.loss == pytest.approx([1.0, 1.0 / 11.0, 1.0 / 21.0, 1.0 / 31.0])
    assert math.isnan(curves.psnr[1]) and curves.psnr[2:] == [30.0, 40.0]
    some().write(tmp_path)
    assert len(Curves.of_run(tmp_path).steps) == 3, "the run's own"
