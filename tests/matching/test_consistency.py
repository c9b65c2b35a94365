"""Neighbors that look alike only in part are found, and right ones are left alone."""

import math
from typing import List, Tuple

import numpy as np
import pytest
import torch

from gnerf_ns.cameras.look_at import look_at
from gnerf_ns.matching.consistency import coverage_of_pairs, misplaced
from gnerf_ns.matching.local_matches import Component, PairMatches


def ring(count: int, turns: float = 1.0) -> np.ndarray:
    azimuths = torch.arange(count).double() * 2 * math.pi * turns / count
    positions = 4.0 * torch.stack([azimuths.cos(), azimuths.sin(), 0.3 + 0.0 * azimuths], dim=-1)
    return look_at(positions).numpy()


def component(poses: np.ndarray) -> Component:
    count, nothing = len(poses), np.zeros(0, dtype=np.int64)
    points = 0.5 * np.random.default_rng(0).standard_normal((50, 3))
    return Component(
        image_indices=np.arange(count),
        camera_to_worlds=poses,
        focal=np.ones((count, 2)),
        center=np.full((count, 2), 0.5),
        distortion=np.zeros((count, 6)),
        points=points,
        seen_by=nothing,
        seen_point=nothing,
        seen_at=np.zeros((0, 2)),
        error_px=np.array(0.5),
    )


def square(side: float) -> List[Tuple[float, float]]:
    return [(0.5 + x * side / 2, 0.5 + y * side / 2) for x in (-1, 1) for y in (-1, 1)]


def pairs_of(sides: "dict[tuple[int, int], float]") -> PairMatches:
    """Pairs that match at the corners of a square each."""
    points = [np.concatenate([square(side), square(side)], axis=1) for side in sides.values()]
    return PairMatches(
        np.array(list(sides)).reshape(-1, 2),
        4 * np.arange(1, len(sides) + 1),
        np.concatenate(points).astype(np.float32),
    )


def test_coverage_is_a_share_of_all_that_an_image_has_in_common():
    coverage = coverage_of_pairs(pairs_of({(0, 1): 0.8, (2, 1): 0.4, (2, 3): 0.4}))
    assert coverage[(0, 1)] == pytest.approx(1.0, rel=1e-4)
    assert coverage[(1, 2)] == pytest.approx(0.25, rel=1e-4)  # of image 1, for all that 2 shows
    assert coverage[(2, 3)] == pytest.approx(1.0, rel=1e-4)


def test_three_matches_in_a_line_cover_nothing():
    line = np.array([[0.1, 0.1, 0.1, 0.1], [0.2, 0.2, 0.2, 0.2], [0.3, 0.3, 0.3, 0.3]], dtype=np.float32)
    assert coverage_of_pairs(PairMatches(np.array([[0, 1]]), np.array([3]), line)) == {(0, 1): 0.0}


def neighbors_in_a_ring(count: int) -> "dict[tuple[int, int], float]":
    return {(index, (index + step) % count): 0.9 - 0.1 * step for index in range(count) for step in (1, 2, 3)}


def test_a_right_ring_is_left_alone_and_a_folded_one_is_found():
    """Half of the ring put onto the other half, as by a logo that is on two sides."""
    count = 48
    sides = neighbors_in_a_ring(count)
    assert misplaced(component(ring(count)), coverage_of_pairs(pairs_of(sides))) == []
    folded = ring(count, turns=2.0)
    sides.update({(index, index + count // 2): 0.2 for index in range(count // 2)})
    taken = misplaced(component(folded), coverage_of_pairs(pairs_of(sides)))
    assert count // 3 < len(taken) <= count // 2 + 1


def test_one_image_among_others_is_named():
    count = 48
    poses, sides = ring(count), neighbors_in_a_ring(count)
    sides = {pair: side for pair, side in sides.items() if 5 not in pair}
    sides.update({(5, index): 0.2 for index in range(20, 30)})
    poses[5] = poses[25]
    assert misplaced(component(poses), coverage_of_pairs(pairs_of(sides))) == [5]


def test_too_few_neighbors_say_nothing():
    assert misplaced(component(ring(6)), {}) == []
