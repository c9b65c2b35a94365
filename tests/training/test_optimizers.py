import torch

from gnerf_ns.training.learning_rates import QuickAdamOptimizerConfig


def test_options_reach_torch():
    optimizer = QuickAdamOptimizerConfig(lr=3e-3).setup(params=[torch.nn.Parameter(torch.zeros(1))])
    assert type(optimizer) is torch.optim.Adam
    assert optimizer.defaults["betas"] == (0.9, 0.99) and optimizer.defaults["eps"] == 1e-15
    assert optimizer.param_groups[0]["lr"] == 3e-3
