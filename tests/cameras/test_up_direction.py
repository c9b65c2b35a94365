"""What is up: poses lean and stand level again, codes know it, and descent finds it."""

import math

import pytest
import roma
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gnerf_ns.cameras.learned_cameras import PoseTable
from gnerf_ns.cameras.look_at import look_at
from gnerf_ns.cameras.pose_codec import PoseCodec, UpDirection

RADIUS = 2.75
tilts = st.floats(-1.5, 1.5, width=32)


def leaning(x: float, y: float, is_learned: bool = False) -> UpDirection:
    up = UpDirection(is_learned)
    with torch.no_grad():
        up.tilt.copy_(torch.tensor([x, y]))
    return up


def positions(count: int = 20, seed: int = 0) -> torch.Tensor:
    directions = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
    return RADIUS * torch.nn.functional.normalize(directions, dim=-1)


@pytest.mark.parametrize(("is_learned", "count"), [(False, 0), (True, 2)])
def test_starts_upright(is_learned: bool, count: int) -> None:
    up = UpDirection(is_learned)
    assert sum(parameter.numel() for parameter in up.parameters()) == count
    assert torch.equal(up(), torch.eye(3))
    poses = look_at(positions())
    assert torch.equal(up.from_z_up(poses), poses)
    torch.testing.assert_close(PoseCodec("look_at", RADIUS, up).decode(poses[..., 3] / RADIUS), poses)


def test_a_quarter_turn_about_x_takes_z_to_minus_y() -> None:
    up = leaning(math.pi / 2, 0.0)
    torch.testing.assert_close(up()[:, 2], torch.tensor([0.0, -1.0, 0.0]), atol=1e-6, rtol=0.0)
    up.reset_parameters()
    assert torch.equal(up(), torch.eye(3))


@settings(deadline=None)
@given(tilts, tilts)
def test_leaning_cameras_are_those_of_a_codec_that_knows_what_is_up(x: float, y: float) -> None:
    up = leaning(x, y)
    codec = PoseCodec("look_at", RADIUS, up)
    # The poles are where a level camera has no right of its own.
    level = look_at(torch.cat([positions(), RADIUS * torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])]))
    poses = up.from_z_up(level)
    torch.testing.assert_close(up.to_z_up(poses), level, atol=1e-5, rtol=0.0)
    torch.testing.assert_close(codec.decode(codec.encode(poses))[:-2], poses[:-2], atol=1e-4, rtol=0.0)
    assert codec.decode(codec.encode(poses)).isfinite().all()
    # Level: nothing of the camera's right is along what is up.
    assert float((poses[:-2, :, 0] @ up()[:, 2]).abs().max()) < 1e-5


def test_codes_that_are_free_do_not_care() -> None:
    poses = look_at(positions())
    codec = PoseCodec("free", RADIUS, leaning(0.3, -0.2))
    torch.testing.assert_close(codec.decode(codec.encode(poses)), poses)


def test_gradient_of_poses_in_the_tilt() -> None:
    places = positions(6).double()

    def rotations(tilt: torch.Tensor) -> torch.Tensor:
        up = UpDirection()
        up.tilt = tilt
        return PoseCodec("look_at", RADIUS, up).decode(places / RADIUS, up())

    for start in ([0.0, 0.0], [0.2, -0.1]):
        tilt = torch.tensor(start, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(rotations, (tilt,), eps=1e-6, atol=1e-6)
        # Cameras stay where they are.
        jacobian = torch.autograd.functional.jacobian(rotations, tilt)
        assert isinstance(jacobian, torch.Tensor)
        assert float(jacobian[:, :, 3].abs().max()) < 1e-9


def test_mixed_precision_leaves_leaning_poses_exact() -> None:
    codec = PoseCodec("look_at", RADIUS, leaning(0.2, -0.1))
    codes = positions() / RADIUS
    poses = codec.decode(codes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(codec.decode(codes), poses)


def test_only_a_table_that_moves_it_has_a_gradient_in_it() -> None:
    up = leaning(0.1, 0.0, is_learned=True)
    for moves in (True, False):
        table = PoseTable(3, PoseCodec("look_at", RADIUS, up), moves_up_direction=moves)
        assert "tilt" not in dict(table.named_parameters())
        up.tilt.grad = None
        table()[..., :3].square().mul(torch.arange(9.0).view(3, 3)).sum().backward()
        assert (up.tilt.grad is not None) == moves


def test_descent_finds_what_is_up_where_positions_lean() -> None:
    """A scene that came out leaning by 12 degrees: where cameras stand is known, and what they see."""
    truth = leaning(math.radians(12.0) * 0.8, math.radians(12.0) * 0.6)
    poses = truth.from_z_up(look_at(positions(12, seed=3)))
    up = UpDirection(is_learned=True)
    table = PoseTable(12, PoseCodec("look_at", RADIUS, up), moves_up_direction=True)
    table.assign(torch.arange(12), poses)
    before = roma.rotmat_geodesic_distance(table().detach()[..., :3], poses[..., :3]).rad2deg()
    assert float(before.max()) > 10.0
    optimizer = torch.optim.Adam([*table.parameters(), *up.parameters()], lr=1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        (table() - poses).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(up.tilt.detach(), truth.tilt.detach(), atol=1e-3, rtol=0.0)
    after = roma.rotmat_geodesic_distance(table().detach()[..., :3], poses[..., :3]).rad2deg()
    assert float(after.max()) < 0.2
