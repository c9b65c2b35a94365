"""The pose table: what it stores, how it starts, reading, writing and learning."""

from typing import Literal

import pytest
import torch

from gnerf_ns.cameras.learned_cameras import PoseTable
from gnerf_ns.cameras.look_at import look_at
from gnerf_ns.cameras.pose_codec import PoseCodec
from gnerf_ns.cameras.pose_prior import PosePriorConfig

RADIUS = 2.75
MODES = ("look_at", "free")


@pytest.mark.parametrize(("mode", "code_dim"), [("look_at", 3), ("free", 9)])
def test_one_named_parameter_in_units_of_the_radius(mode: Literal["look_at", "free"], code_dim: int) -> None:
    table = PoseTable(4, PoseCodec(mode, RADIUS))
    assert {name: tuple(value.shape) for name, value in table.state_dict().items()} == {"codes": (4, code_dim)}
    assert (table.num_poses, table.codec.dim) == (4, code_dim)
    torch.testing.assert_close(table.codes[:, :3].norm(dim=-1), torch.ones(4))


@pytest.mark.parametrize("mode", MODES)
def test_starts_at_the_radius_away_from_the_poles(mode: Literal["look_at", "free"]) -> None:
    poses = PoseTable(3, PoseCodec(mode, RADIUS))()
    torch.testing.assert_close(poses, look_at(poses[..., 3]))
    torch.testing.assert_close(poses[..., 3].norm(dim=-1), torch.full((3,), RADIUS))
    assert poses[..., 3][:, :2].norm(dim=-1).min() > 0.5 * RADIUS


def test_assign_writes_only_the_given_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    poses = PosePriorConfig("dtu", roll_deg=(-30.0, 30.0)).resolve().sample(2, RADIUS, "cpu", generator)
    table = PoseTable(5, PoseCodec("free", RADIUS))
    before = table().detach().clone()
    table.assign(torch.tensor([3, 1]), poses)
    torch.testing.assert_close(table(torch.tensor([3, 1])), poses)
    torch.testing.assert_close(table()[[0, 2, 4]], before[[0, 2, 4]], atol=0.0, rtol=0.0)
    assert table.codes.requires_grad


def test_look_at_mode_keeps_the_position_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    poses = PosePriorConfig("dtu", roll_deg=(-30.0, 30.0)).resolve().sample(3, RADIUS, "cpu", generator)
    table = PoseTable(3, PoseCodec("look_at", RADIUS))
    table.assign(torch.arange(3), poses.double())
    torch.testing.assert_close(table(), look_at(poses[..., 3]))


@pytest.mark.parametrize("mode", MODES)
def test_encode_and_decode_are_inverse(mode: Literal["look_at", "free"]) -> None:
    poses = PosePriorConfig("blender").resolve().sample(50, RADIUS, "cpu", torch.Generator().manual_seed(0))
    table = PoseTable(1, PoseCodec(mode, RADIUS))
    torch.testing.assert_close(table.codec.decode(table.codec.encode(poses)), poses, atol=1e-5, rtol=1e-5)


def test_a_camera_driven_over_the_pole_stays_finite_and_arrives() -> None:
    table = PoseTable(1, PoseCodec("look_at", RADIUS))
    # The straight way from the start leads over the pole.
    target = look_at(torch.tensor([[-0.9 * RADIUS, 0.0, 0.43 * RADIUS]]))
    optimizer = torch.optim.Adam(table.parameters(), lr=0.02)
    for _ in range(400):
        optimizer.zero_grad()
        (table() - target).square().mean().backward()
        assert table.codes.grad is not None
        assert table.codes.grad.isfinite().all()
        optimizer.step()
    torch.testing.assert_close(table().detach(), target, atol=5e-3, rtol=0.0)


@pytest.mark.parametrize("mode", MODES)
def test_a_camera_on_the_pole_can_leave_it(mode: Literal["look_at", "free"]) -> None:
    table = PoseTable(1, PoseCodec(mode, RADIUS))
    table.assign(torch.tensor([0]), look_at(torch.tensor([[0.0, 0.0, RADIUS]])))
    target = look_at(torch.tensor([[0.5 * RADIUS, 0.5 * RADIUS, 0.7 * RADIUS]]))
    optimizer = torch.optim.Adam(table.parameters(), lr=0.02)
    for _ in range(400):
        optimizer.zero_grad()
        (table() - target).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(table().detach(), target, atol=5e-3, rtol=0.0)
