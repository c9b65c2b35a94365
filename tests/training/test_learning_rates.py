"""Learning rates: what follows a run's phases, what falls step by step, and what reaches torch and checkpoints."""

import io
from itertools import pairwise
from typing import Any, List, Tuple

import pytest
import torch
from torch.optim.lr_scheduler import LRScheduler

from gnerf_ns.training.learning_rates import (
    PhaseSchedulerConfig,
    QuickAdamOptimizerConfig,
    StepDecaySchedulerConfig,
    following,
)
from gnerf_ns.training.schedule import PhaseScheduleConfig, Schedule

HALVED = StepDecaySchedulerConfig(milestones=(4, 10), factor=0.5)


def schedule_of(**lengths: Any) -> Schedule:
    """For as many images as have one attempt and no rounds between the phases."""
    return Schedule.of(PhaseScheduleConfig(**lengths), 100, 100)


SCHEDULE = schedule_of(phase_a_steps=8, interleaved_steps=2, phase_b_steps=20)
PHASES = PhaseSchedulerConfig(first_factor=0.5, last_factor=0.05)


Built = Tuple[LRScheduler, torch.optim.Optimizer]


def build(config: Any, schedule: Schedule = SCHEDULE) -> Built:
    """A scheduler and its optimizer, built as nerfstudio does."""
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=0.02)
    bound = following({"group": {"optimizer": None, "scheduler": config}}, lambda: schedule)["group"]["scheduler"]
    return bound.setup().get_scheduler(optimizer, 0.02), optimizer


def rates(built: Built, steps: int) -> List[float]:
    """Of some more steps."""
    (scheduler, optimizer), values = built, []
    for _ in range(steps):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values


# Rates that follow the phases


def test_rates_hold_in_phase_a_and_decay_in_phase_b():
    values = rates(build(PHASES), 60)
    assert values[:10] == [0.02] * 10
    assert values[10] == pytest.approx(0.01)
    assert values[20] == pytest.approx(0.02 * (0.5 * 0.05) ** 0.5)
    assert values[30:] == pytest.approx([0.001] * 30)
    assert all(after < before for before, after in pairwise(values[10:31]))


def test_rates_may_fall_over_the_second_half_of_phase_a():
    config = PhaseSchedulerConfig(phase_a_last_factor=0.25, first_factor=0.5, last_factor=0.05)
    values = rates(build(config), 12)
    assert values[:5] == [0.02] * 5
    assert values[6] == pytest.approx(0.01)
    assert values[8:10] == pytest.approx([0.005] * 2)
    assert values[10] == pytest.approx(0.01)


def test_without_phase_b_the_rate_stays():
    config = PhaseSchedulerConfig(last_factor=0.1)
    assert rates(build(config, schedule_of(phase_a_steps=5, phase_b_steps=0)), 6) == [0.02] * 6


def test_the_rate_changes_between_the_phases():
    schedule = schedule_of(phase_a_steps=8, phase_b_steps=20)
    values = rates(build(PHASES, schedule), 10)
    assert values[:8] == [0.02] * 8
    assert values[8] == pytest.approx(0.01)
    assert values[9] < 0.01


def test_rates_begin_anew_with_the_schedule_and_end_where_they_would_have():
    present = [SCHEDULE]
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=0.02)
    configs = following({"group": {"optimizer": None, "scheduler": PHASES}}, lambda: present[0])
    (factor,) = configs["group"]["scheduler"].setup().get_scheduler(optimizer, 0.02).lr_lambdas
    assert factor(11) < 0.5
    present[0] = SCHEDULE.begun_anew(11)
    assert [factor(step) for step in (11, 20)] == [1.0, 1.0]
    assert factor(21) == pytest.approx(0.5) and factor(22) < 0.5
    assert factor(29) > 0.05 and factor(30) == pytest.approx(0.05)
    assert [PHASES.factor(present[0], step) for step in (11, 21)] == [factor(11), factor(21)]


def test_only_rates_that_follow_the_phases_are_bound_to_the_schedule():
    optimizers = {name: {"optimizer": object(), "scheduler": HALVED} for name in ("fields", "poses")}
    optimizers["discriminator"] = {"optimizer": object(), "scheduler": None}
    assert following(optimizers, lambda: SCHEDULE) == optimizers


# Rates that fall step by step


def test_rates_are_halved_at_milestones():
    assert rates(build(HALVED), 13) == pytest.approx([0.02] * 4 + [0.01] * 6 + [0.005] * 3)


def test_without_milestones_the_rate_stays():
    assert rates(build(StepDecaySchedulerConfig()), 5) == [0.02] * 5


def test_even_milestones_give_torch_s_own_rates():
    ours = rates(build(StepDecaySchedulerConfig(milestones=(3, 6, 9))), 12)
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=0.02)
    theirs = rates((torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.5), optimizer), 12)
    assert ours == pytest.approx(theirs)


# Checkpoints


@pytest.mark.parametrize("config", [PHASES, HALVED], ids=["phases", "halved"])
def test_checkpoints_hold_plain_numbers_and_a_resumed_run_goes_on_where_it_was(config: Any):
    undisturbed = rates(build(config), 40)
    scheduler, optimizer = build(config)
    rates((scheduler, optimizer), 17)
    checkpoint = io.BytesIO()
    torch.save({"scheduler": scheduler.state_dict(), "optimizer": optimizer.state_dict()}, checkpoint)
    checkpoint.seek(0)
    state = torch.load(checkpoint, weights_only=True)
    kept = [item for value in state["scheduler"].values() for item in (value if isinstance(value, list) else [value])]
    assert {type(item) for item in kept} <= {int, float, bool, str, type(None)}
    assert type(optimizer.param_groups[0]["lr"]) is float
    resumed, resumed_optimizer = build(config)
    resumed.load_state_dict(state["scheduler"])
    resumed_optimizer.load_state_dict(state["optimizer"])
    assert rates((resumed, resumed_optimizer), 23) == pytest.approx(undisturbed[17:])


# Optimizers


def test_options_of_the_optimizer_reach_torch():
    config = QuickAdamOptimizerConfig(lr=3e-3, eps=1e-7, betas=(0.8, 0.95), weight_decay=0.1, fused=False)
    optimizer = config.setup(params=[torch.nn.Parameter(torch.zeros(1))])
    assert type(optimizer) is torch.optim.Adam
    options = {"lr": 3e-3, "eps": 1e-7, "betas": (0.8, 0.95), "weight_decay": 0.1, "fused": False}
    assert {name: optimizer.param_groups[0][name] for name in options} == options


def test_entries_with_tiny_gradients_move_as_fast_as_others():
    """A hash grid's are far below Adam's usual epsilon."""
    table = torch.nn.Parameter(torch.zeros(2))
    optimizer = QuickAdamOptimizerConfig(lr=0.01).setup(params=[table])
    for _ in range(20):
        table.grad = torch.tensor([1e-3, 1e-10])
        optimizer.step()
    torch.testing.assert_close(table.detach(), torch.tensor([-0.2, -0.2]), atol=1e-3, rtol=0.0)


def test_known_poses_are_held_while_the_field_is_young():
    config = PhaseSchedulerConfig(last_factor=0.1, known_hold=(0.05, 0.25), matched_factor=0.5)
    settings = PhaseScheduleConfig(phase_a_steps=10, phase_b_steps=40)
    matched, rough, unknown = (
        Schedule.of(each, 50, 100)
        for each in (settings.with_known_poses("matched"), settings.with_known_poses("rough"), settings)
    )
    assert [config.factor(matched, step) for step in (0, 9)] == [0.0, 0.0]
    assert config.factor(matched, 10) == pytest.approx(0.5 * 0.1**0.25)
    assert config.factor(matched, 40) == pytest.approx(0.05)
    assert config.factor(rough, 1) == 0.0 and config.factor(rough, 40) == pytest.approx(0.1)
    assert config.factor(unknown, 10) == 1.0


@pytest.mark.parametrize("is_of_poses", [True, False])
def test_poses_of_few_images_learn_faster(is_of_poses: bool):
    config = PhaseSchedulerConfig(last_factor=0.1, is_of_poses=is_of_poses)
    few, many = (Schedule.of(PhaseScheduleConfig(phase_a_steps=10), count, 100) for count in (30, 31))
    boost = 4.0 if is_of_poses else 1.0
    assert [config.factor(few, step) for step in (9, few.phase_a_end)] == [1.0, boost]
    assert config.factor(few, few.phase_a_end + few.phase_b_steps) == pytest.approx(0.1 * boost)
    assert config.factor(many, many.phase_a_end) == 1.0
