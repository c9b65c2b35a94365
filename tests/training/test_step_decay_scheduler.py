import io

import pytest
import torch

from gnerf_ns.training.learning_rates import StepDecaySchedulerConfig

CONFIG = StepDecaySchedulerConfig(milestones=(4, 10), factor=0.5)


def build(config: StepDecaySchedulerConfig):
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=0.02)
    return config.setup().get_scheduler(optimizer, 0.02), optimizer


def rates(scheduler, optimizer, steps: int):
    values = []
    for _ in range(steps):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values


def test_rates_at_stated_steps():
    assert rates(*build(CONFIG), 13) == pytest.approx([0.02] * 4 + [0.01] * 6 + [0.005] * 3)


def test_without_milestones_the_rate_stays():
    assert rates(*build(StepDecaySchedulerConfig()), 5) == [0.02] * 5


def test_every_so_many_steps_it_is_torch_s_own():
    ours = rates(*build(StepDecaySchedulerConfig(milestones=(3, 6, 9))), 12)
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=0.02)
    theirs = rates(torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.5), optimizer, 12)
    assert ours == pytest.approx(theirs)


def test_a_resumed_schedule_goes_on_where_it_was_from_a_checkpoint_of_plain_numbers():
    scheduler, optimizer = build(CONFIG)
    rates(scheduler, optimizer, 7)
    checkpoint = io.BytesIO()
    torch.save({"scheduler": scheduler.state_dict(), "optimizer": optimizer.state_dict()}, checkpoint)
    checkpoint.seek(0)
    state = torch.load(checkpoint, weights_only=True)
    kept = [item for value in state["scheduler"].values() for item in (value if isinstance(value, list) else [value])]
    assert {type(item) for item in kept} <= {int, float, bool, str, type(None)}
    resumed, resumed_optimizer = build(CONFIG)
    resumed.load_state_dict(state["scheduler"])
    resumed_optimizer.load_state_dict(state["optimizer"])
    assert rates(resumed, resumed_optimizer, 6) == pytest.approx([0.01] * 3 + [0.005] * 3)
