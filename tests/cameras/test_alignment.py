"""Alignment: recovers similarities, shrugs off outliers, flags mirrored estimates, reports honest figures."""

import math

import pytest
import roma
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gnerf_ns.cameras.alignment import Similarity, fit_similarity, pose_errors
from gnerf_ns.cameras.look_at import look_at
from gnerf_ns.cameras.pose_prior import PosePriorConfig
from gnerf_ns.utils.errors import InputError

RADIUS = 2.8


def true_cameras(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return PosePriorConfig("dtu", azimuth_deg=(0.0, 360.0)).resolve().sample(count, RADIUS, "cpu", generator).double()


def random_similarity(seed: int) -> Similarity:
    generator = torch.Generator().manual_seed(seed)
    rotation = roma.random_rotmat(dtype=torch.float64, generator=generator)
    scale = float(torch.exp(2.0 * torch.randn((), generator=generator)))
    return Similarity(rotation, scale, 3.0 * torch.randn(3, dtype=torch.float64, generator=generator))


def turned(poses: Tensor, angle_deg: float, seed: int) -> Tensor:
    """Each camera turned on the spot by the given angle about an axis of its own."""
    axes = torch.randn(len(poses), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    axes = math.radians(angle_deg) * torch.nn.functional.normalize(axes, dim=-1)
    return torch.cat([roma.rotvec_to_rotmat(axes) @ poses[..., :3], poses[..., 3:]], dim=-1)


def test_golden_similarity() -> None:
    quarter_turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    similarity = Similarity(quarter_turn, 2.0, torch.tensor([0.0, 0.0, 1.0]))
    moved = similarity.apply(look_at(torch.tensor([[3.0, 0.0, 0.0]])))
    expected = look_at(torch.tensor([[0.0, 6.0, 0.0]]))
    expected[..., 2, 3] += 1.0
    torch.testing.assert_close(moved, expected, atol=1e-6, rtol=0.0)


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_inverse_undoes(seed: int) -> None:
    similarity, poses = random_similarity(seed), true_cameras(5)
    torch.testing.assert_close(similarity.inverse().apply(similarity.apply(poses)), poses)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 40))
def test_recovers_a_random_similarity(seed: int, count: int) -> None:
    similarity, truth = random_similarity(seed), true_cameras(count, seed)
    found = fit_similarity(similarity.inverse().apply(truth), truth)
    torch.testing.assert_close(found.rotation, similarity.rotation, atol=1e-6, rtol=0.0)
    assert found.scale == pytest.approx(similarity.scale, rel=1e-6)
    torch.testing.assert_close(found.translation, similarity.translation, atol=1e-5, rtol=1e-6)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.floats(0.0, 0.4))
def test_a_minority_of_wild_cameras_changes_nothing(seed: int, share: float) -> None:
    truth, similarity = true_cameras(50, seed), random_similarity(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    estimated = truth.clone()
    wild = torch.randperm(50, generator=generator)[: int(share * 50)]
    estimated[wild, :, :3] = roma.random_rotmat(len(wild), dtype=torch.float64, generator=generator)
    estimated[wild, :, 3] = 100.0 * torch.randn(len(wild), 3, dtype=torch.float64, generator=generator)
    errors = pose_errors(similarity.inverse().apply(estimated), truth)
    kept = torch.ones(50, dtype=torch.bool)
    kept[wild] = False
    assert errors.rotation_deg[kept].max() < 1e-4
    assert errors.translation[kept].max() < 1e-5
    assert not errors.mirrored


def test_half_turn_twins_do_not_tilt_the_rest() -> None:
    truth = true_cameras(100)
    estimated = truth.clone()
    half_turn = torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64))
    estimated[:30] = half_turn @ truth[:30]
    errors = pose_errors(estimated, truth)
    torch.testing.assert_close(errors.rotation_deg[:30], torch.full((30,), 180.0).double(), atol=0.1, rtol=0.0)
    assert errors.rotation_deg[30:].max() < 1e-4
    assert errors.summary()["rotation_under_5deg"] == pytest.approx(0.7)


def test_noise_is_measured_not_hidden() -> None:
    truth = true_cameras(200)
    errors = pose_errors(turned(truth, 4.0, seed=3), truth)
    assert float(errors.rotation_deg.median()) == pytest.approx(4.0, abs=0.25)
    assert float(errors.rotation_deg.max()) < 4.8
    # The frame itself is known as well as 200 cameras can tell it: 4 degrees / sqrt(200), times the radius.
    assert errors.translation.max() < 0.03


def test_summary_golden_values() -> None:
    truth = torch.cat([true_cameras(40), look_at(torch.tensor([[0.0, RADIUS, 0.0]], dtype=torch.float64))])
    truth = look_at(truth[..., 3])
    estimated = truth.clone()
    estimated[-1:] = turned(truth[-1:], 41.0, seed=0)
    estimated[-1, :, 3] += torch.tensor([0.0, 0.82, 0.0])
    summary = pose_errors(estimated, truth).summary()
    assert summary == pytest.approx(
        {
            "rotation_error_deg_median": 0.0,
            "rotation_error_deg_mean": 1.0,
            "rotation_error_deg_max": 41.0,
            "rotation_under_5deg": 40 / 41,
            "rotation_under_20deg": 40 / 41,
            "translation_error_mean": 0.02,
            "translation_error_relative": 0.02 / RADIUS,
            "mirrored": 0.0,
        },
        abs=1e-5,
    )
    assert all(type(value) is float for value in summary.values())


def test_relative_error_does_not_depend_on_where_the_world_is() -> None:
    truth = true_cameras(30)
    estimated = truth.clone()
    estimated[..., 3] += 0.05 * torch.randn(30, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    here = pose_errors(estimated, truth)
    there = pose_errors(estimated, Similarity(torch.eye(3).double(), 10.0, torch.full((3,), 50.0)).apply(truth))
    torch.testing.assert_close(there.translation, 10.0 * here.translation)
    torch.testing.assert_close(there.translation_relative, here.translation_relative)


@settings(deadline=None)
@given(
    st.integers(0, 10_000), st.sampled_from([(1.0, -1.0, 1.0), (-1.0, 1.0, 1.0), (1.0, 1.0, -1.0), (-1.0, -1.0, -1.0)])
)
def test_mirrored_estimates_are_flagged(seed: int, reflection: tuple) -> None:
    truth = look_at(true_cameras(40, seed)[..., 3])
    mirrored = turned(look_at(truth[..., 3] * truth.new_tensor(reflection)), 3.0, seed)
    errors = pose_errors(random_similarity(seed).apply(mirrored), truth)
    assert errors.mirrored
    assert errors.summary()["rotation_error_deg_median"] > 10.0
    assert errors.summary()["mirrored"] == 1.0


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_random_and_noisy_estimates_are_not_called_mirrored(seed: int) -> None:
    truth = true_cameras(100, seed)
    assert not pose_errors(true_cameras(100, seed + 1), truth).mirrored
    assert not pose_errors(turned(truth, 15.0, seed), truth).mirrored


def test_cameras_in_one_plane_are_not_called_mirrored() -> None:
    # A reflection in that plane maps the cameras to themselves.
    angles = torch.linspace(0.0, 6.0, 20, dtype=torch.float64)
    ring = look_at(torch.stack([angles.cos(), angles.sin(), torch.zeros_like(angles)], dim=-1))
    assert not pose_errors(turned(ring, 3.0, seed=0), ring).mirrored


def test_reflections_too_small_to_matter_are_not_called_mirrored() -> None:
    angles = torch.linspace(0.0, 6.0, 20, dtype=torch.float64)

    def ring(height: float) -> Tensor:
        return look_at(torch.stack([angles.cos(), angles.sin(), torch.full_like(angles, height)], dim=-1))

    assert pose_errors(ring(-0.1), ring(0.1)).mirrored
    assert not pose_errors(ring(-0.005), ring(0.005)).mirrored


def test_one_camera_and_cameras_at_one_place() -> None:
    truth = true_cameras(1)
    errors = pose_errors(true_cameras(1, seed=5), truth)
    assert errors.similarity.scale == 1.0
    assert errors.rotation_deg.max() < 1e-4
    assert errors.translation.max() < 1e-6
    together = true_cameras(4)
    together[..., 3] = 1.0
    assert all(math.isfinite(value) for value in pose_errors(together, true_cameras(4)).summary().values())


def test_garbage_still_gives_a_proper_similarity() -> None:
    for seed in range(20):
        similarity = fit_similarity(true_cameras(10, seed), true_cameras(10, seed + 100))
        assert similarity.scale > 0.1
        torch.testing.assert_close(torch.det(similarity.rotation), torch.ones(()).double())


def test_gradients_are_not_kept() -> None:
    truth = true_cameras(4)
    assert not pose_errors(truth.clone().requires_grad_(), truth).rotation_deg.requires_grad


@pytest.mark.parametrize(
    ("estimated", "truth", "message"),
    [
        (true_cameras(3)[:0], true_cameras(3)[:0], "at least one"),
        (true_cameras(3) * math.nan, true_cameras(3), "estimated camera poses are not finite"),
    ],
)
def test_bad_input(estimated: Tensor, truth: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit_similarity(estimated, truth)
