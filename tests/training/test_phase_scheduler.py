import io
from itertools import pairwise
from typing import Any

import pytest
import torch

from gnerf_ns.training.learning_rates import PhaseSchedulerConfig
from gnerf_ns.training.schedule import PhaseScheduleConfig

SCHEDULE = PhaseScheduleConfig(phase_a_steps=8, interleaved_steps=2, phase_b_steps=20)


def following(schedule: PhaseScheduleConfig, **factors: Any) -> PhaseSchedulerConfig:
    config = PhaseSchedulerConfig(**factors)
    config.schedule = schedule
    return config


CONFIG = following(SCHEDULE, first_factor=0.5, last_factor=0.05)


def rates(config: PhaseSchedulerConfig, steps: int, lr: float = 0.02):
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = config.setup().get_scheduler(optimizer, lr)
    values = []
    for _ in range(steps):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values, scheduler, optimizer


def test_rates_at_stated_steps():
    values, _, _ = rates(CONFIG, 60)
    assert values[:10] == [0.02] * 10
    assert values[10] == pytest.approx(0.01)
    assert values[20] == pytest.approx(0.02 * (0.5 * 0.05) ** 0.5)
    assert values[30:] == pytest.approx([0.001] * 30)
    assert all(after < before for before, after in pairwise(values[10:31]))


def test_rates_may_fall_over_the_second_half_of_phase_a():
    config = following(SCHEDULE, phase_a_last_factor=0.25, first_factor=0.5, last_factor=0.05)
    values, _, _ = rates(config, 12)
    assert values[:5] == [0.02] * 5
    assert values[6] == pytest.approx(0.01)
    assert values[8:10] == pytest.approx([0.005] * 2)
    assert values[10] == pytest.approx(0.01)


def test_without_phase_b_the_rate_stays():
    values, _, _ = rates(following(PhaseScheduleConfig(phase_a_steps=5, phase_b_steps=0), last_factor=0.1), 6)
    assert values == [0.02] * 6


def test_the_rate_holds_between_the_phases():
    schedule = PhaseScheduleConfig(phase_a_steps=8, phase_b_steps=20, leave_out_rounds=2, leave_out_steps=2)
    config = following(schedule, first_factor=0.5, last_factor=0.05)
    values, _, _ = rates(config, 14)
    assert values[:8] == [0.02] * 8
    assert values[8:13] == pytest.approx([0.01] * 5)
    assert values[13] < 0.01


def test_rates_begin_anew_with_the_schedule_and_end_where_they_would_have():
    schedule = PhaseScheduleConfig(phase_a_steps=8, interleaved_steps=2, phase_b_steps=20)
    scheduler = following(schedule, first_factor=0.5, last_factor=0.05).setup()
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=0.02)
    values = scheduler.get_scheduler(optimizer, 0.02).lr_lambdas[0]
    assert values(11) < 0.5
    schedule.begin_anew(11)
    assert [values(step) for step in (11, 20)] == [1.0, 1.0]
    assert values(21) == pytest.approx(0.5) and values(22) < 0.5
    assert values(29) > 0.05 and values(30) == pytest.approx(0.05)


def test_without_a_schedule_there_are_no_rates():
    with pytest.raises(ValueError, match="schedule"):
        rates(PhaseSchedulerConfig(), 1)


def test_checkpoints_hold_python_numbers_only():
    _, scheduler, optimizer = rates(CONFIG, 25)

    def leaves(value):
        if isinstance(value, dict):
            return [leaf for item in value.values() for leaf in leaves(item)]
        if isinstance(value, (list, tuple)):
            return [leaf for item in value for leaf in leaves(item)]
        return [value]

    state = {"scheduler": scheduler.state_dict(), "lr": optimizer.param_groups[0]["lr"]}
    assert {type(leaf) for leaf in leaves(state)} <= {int, float, bool, str, type(None)}
    checkpoint = io.BytesIO()
    torch.save(state, checkpoint)
    checkpoint.seek(0)
    assert torch.load(checkpoint, weights_only=True) == state


def test_a_resumed_schedule_goes_on_where_it_was():
    undisturbed, _, _ = rates(CONFIG, 40)
    _, scheduler, optimizer = rates(CONFIG, 17)
    saved = scheduler.state_dict(), optimizer.state_dict()
    _, resumed, resumed_optimizer = rates(CONFIG, 0)
    resumed.load_state_dict(saved[0])
    resumed_optimizer.load_state_dict(saved[1])
    for expected in undisturbed[17:]:
        assert resumed_optimizer.param_groups[0]["lr"] == pytest.approx(expected)
        resumed_optimizer.step()
        resumed.step()
