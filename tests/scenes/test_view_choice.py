"""Which views of a scene are chosen, by the frames between them and by their overlap."""

import math
from typing import List, Tuple

import numpy as np
import pytest
import torch
from camera_ring import ring
from hypothesis import given
from hypothesis import strategies as st

from gnerf_ns.scenes.scene_data import SceneCameras, UnusableScene
from gnerf_ns.scenes.view_choice import PAIR_RULES, ChosenViews, GapRule, OverlapRule, likely_overlap


def gaps_drawn(rule: GapRule, step: int, count: int = 200, frames: int = 150) -> List[ChosenViews]:
    generator, cameras = np.random.default_rng(0), ring(frames)
    return [rule.choose(cameras, 2, 4, step, generator) for _ in range(count)]


@pytest.mark.parametrize(
    ("kind", "step", "bounds"),
    [
        ("re10k", 0, (25, 25)),
        ("re10k", 4688, (35, 58)),
        ("re10k", 9375, (45, 90)),
        ("re10k", 10**6, (45, 90)),
        ("dl3dv", 0, (5, 7)),
        ("dl3dv", 9375, (8, 22)),
    ],
)
def test_gaps_grow(kind, step: int, bounds: Tuple[int, int]):
    rule = PAIR_RULES[kind]
    assert isinstance(rule, GapRule)
    gaps = {views.context[1] - views.context[0] for views in gaps_drawn(rule, step, 1000)}
    assert (min(gaps), max(gaps)) == bounds
    assert len(gaps) == bounds[1] - bounds[0] + 1


def test_targets_lie_between_ends_included_and_all_frames_are_used():
    drawn = gaps_drawn(GapRule((3, 3), (3, 3)), 0, 2000, frames=10)
    offsets = [frame - views.context[0] for views in drawn for frame in views.target]
    shares = np.bincount(offsets) / len(offsets)
    np.testing.assert_allclose(shares, 0.25, atol=0.02)
    assert {views.context[0] for views in drawn} == set(range(7))


@given(st.integers(3, 6), st.integers(0, 10_000), st.integers(0, 1000))
def test_further_context_views_are_others_in_order(num_context: int, step: int, seed: int):
    rule = GapRule((2, 4), (8, 22))
    context, _ = rule.choose(ring(30), num_context, 1, step, np.random.default_rng(seed))
    assert len(context) == num_context and list(context) == sorted(set(context)) and context[-1] < 30


def test_too_few_frames():
    rule, generator = GapRule((5, 9), (20, 30), growth_steps=10), np.random.default_rng(0)
    for _ in range(20):
        assert rule.choose(ring(6), 2, 1, 0, generator).context == (0, 5)
    with pytest.raises(UnusableScene, match="too few"):
        rule.choose(ring(5), 2, 1, 0, generator)
    with pytest.raises(UnusableScene, match="too few"):
        rule.choose(ring(6), 2, 1, 10, generator)


def test_likely_overlap_of_a_ring():
    overlap = likely_overlap(ring(24), 5)
    assert overlap[5] == pytest.approx(1.0)
    np.testing.assert_allclose(overlap[:5], overlap[10:5:-1], atol=0.01)  # the same on both sides
    assert (np.diff(overlap[5:12]) < 0).all() and (overlap[11:24] < 1e-9).all()  # from 90 degrees on
    assert overlap[6] == pytest.approx(math.cos(math.radians(15.0)), abs=0.15)


def test_likely_overlap_of_parallel_cameras():
    """Where no point is looked at by all, distances are those between cameras: 1 on average here."""
    cameras = ring(4, fov_deg=90.0)
    poses = torch.eye(4, dtype=torch.float64)[:3].repeat(4, 1, 1)
    poses[:, 0, 3] = torch.tensor([-1.5, -0.5, 0.5, 1.5])
    overlap = likely_overlap(SceneCameras(cameras.intrinsics, poses), 0)
    np.testing.assert_allclose(overlap, [1.0, 0.5, 0.0, 0.0], atol=1e-9)


@pytest.mark.parametrize("step", [0, 10**6])
@pytest.mark.parametrize("num_context", [2, 3])
def test_images_in_any_order_are_paired_by_overlap(step: int, num_context: int):
    order = np.random.default_rng(1).permutation(72)
    cameras = SceneCameras(*(column[order] for column in ring(72)))
    rule, generator = OverlapRule(), np.random.default_rng(0)
    least, most = (rule.first_overlaps, rule.last_overlaps)[step > 0]
    found = []
    for _ in range(30):
        views = rule.choose(cameras, num_context, 4, step, generator)
        first, *further, last = views.context
        overlaps = likely_overlap(cameras, first), likely_overlap(cameras, last)
        assert least <= overlaps[0][last] <= most
        assert len(set(views.context)) == num_context
        positions = cameras.camera_to_worlds[:, :, 3]
        baseline = float((positions[first] - positions[last]).norm())
        for frame in (*further, *views.target):
            assert max(float((positions[frame] - positions[end]).norm()) for end in (first, last)) < baseline + 1e-6
            assert frame == first or overlaps[0][frame] >= overlaps[0][last] - 1e-9
            assert frame == last or overlaps[1][frame] >= overlaps[0][last] - 1e-9
        found.append(overlaps[0][last])
    assert max(found) - min(found) > 0.1


def test_images_that_all_overlap_much_are_paired_as_far_apart_as_they_are():
    cameras = SceneCameras(*(column[:4] for column in ring(360)))  # 3 degrees in all
    for seed in range(5):
        first, last = OverlapRule().choose(cameras, 2, 1, 10**6, np.random.default_rng(seed)).context
        assert last == (3 if first < 2 else 0)


def test_images_that_have_nothing_in_common():
    with pytest.raises(UnusableScene, match="overlap"):
        OverlapRule().choose(ring(3), 2, 1, 0, np.random.default_rng(0))
    at_one_place = SceneCameras(ring(9).intrinsics, torch.eye(4, dtype=torch.float64)[:3].repeat(9, 1, 1))
    with pytest.raises(UnusableScene):
        OverlapRule().choose(at_one_place, 2, 1, 0, np.random.default_rng(0))
