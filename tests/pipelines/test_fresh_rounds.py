"""Photographs are looked up in fields that have never known them."""

from pathlib import Path
from typing import Any

import torch
from tiny_run import SCHEDULE, build_trainer, trainer_config

from gnerf_ns.model_components.phase_schedule import PhaseScheduleConfig


def test_a_fresh_round_begins_with_a_field_that_knows_nothing(tiny_scene: Path, tmp_path: Path, monkeypatch):
    rounds = {"fresh_leave_out_rounds": 3, "fresh_leave_out_steps": 2}
    config = trainer_config(tiny_scene, tmp_path, max_num_iterations=12)
    config.pipeline.schedule = PhaseScheduleConfig(**{**SCHEDULE, **rounds})
    trainer = build_trainer(config)
    pipeline, schedule = trainer.pipeline, trainer.pipeline.schedule
    tables, knew, momenta = [], [], []
    forget, render = pipeline.model.forget, pipeline.model.render
    look_up, count = pipeline.leave_out.look_up, 0

    def looking_up() -> None:
        knew.append(float(pipeline.model.radiance.field.hash_encoding.hash_table.abs().max()))
        look_up()

    def forgetting() -> None:
        forget()
        tables.append(pipeline.model.radiance.field.hash_encoding.hash_table.detach().clone())

    def rendering(rays: Any) -> Any:
        nonlocal count
        if len(tables) > count:
            count = len(tables)
            optimizers = trainer.optimizers.optimizers.values()
            momenta.append(sum(len(optimizer.state) for optimizer in optimizers))
        return render(rays)

    monkeypatch.setattr(pipeline.model, "forget", forgetting)
    monkeypatch.setattr(pipeline.model, "render", rendering)
    monkeypatch.setattr(pipeline.leave_out, "look_up", looking_up)
    trainer.train()
    assert schedule.phase_b_start == schedule.phase_a_end + 6
    assert len(tables) == 3 and momenta == [0, 0, 0]
    assert all(float(table.abs().max()) <= 1.01e-3 for table in tables), "as drawn"
    assert not torch.equal(tables[0], tables[1]), "another draw"
    assert len(knew) == 3 and min(knew) > 1.01e-3, "photographs are looked up before the field forgets"
