"""nerfstudio's camera optimizer with known poses before those that are learned."""

import torch

from gnerf_ns.localize.growth import LastCamerasOptimizer, LastCamerasOptimizerConfig


def learned(config: LastCamerasOptimizerConfig) -> LastCamerasOptimizer:
    """After steps towards other poses for all of five cameras, drawn in batches that are no camera's own rows."""
    optimizer = config.setup(num_cameras=5, device="cpu")
    adam = torch.optim.Adam(optimizer.parameters(), lr=1e-2)
    for indices in torch.tensor([[4, 0, 3], [1, 4, 2], [2, 3, 0]]):
        loss = (optimizer(indices) - 1.0).square().sum()
        losses = {"loss": loss}
        optimizer.get_loss_dict(losses)
        adam.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        adam.step()
    return optimizer


def test_only_the_last_cameras_move():
    for mode in ("SO3xR3", "SE3"):
        moved = learned(LastCamerasOptimizerConfig(mode=mode, num_corrected=2)).pose_adjustment
        assert bool((moved[:3] == 0).all()) and bool((moved[3:].abs() > 1e-3).any(dim=1).all())


def test_none_and_all():
    assert bool((learned(LastCamerasOptimizerConfig(mode="SO3xR3")).pose_adjustment == 0).all())
    everyone = learned(LastCamerasOptimizerConfig(mode="SO3xR3", num_corrected=5)).pose_adjustment
    assert bool((everyone.abs() > 1e-3).any(dim=1).all())
