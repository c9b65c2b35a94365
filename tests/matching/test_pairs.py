"""Pairs to match: all of few images; of many, those in a row and those that look alike."""

from typing import List

import numpy as np
import pytest

from gnerf_ns.matching.pairs import LOOK_ALIKES, NEIGHBORS_IN_ORDER, every_pair, likely_pairs, vlad


def places(count: int, images_each: int, seed: int = 0) -> List[np.ndarray]:
    """Descriptors of images of some places, the images of one place standing together."""
    random = np.random.default_rng(seed)
    shown = random.random((count, 60, 128), dtype=np.float32)
    found = []
    for place in shown:
        for _ in range(images_each):
            chosen = place[random.permutation(60)[: random.integers(20, 50)]]
            found.append(np.abs(chosen + 0.02 * random.standard_normal(chosen.shape).astype(np.float32)))
    return found


def test_every_pair():
    assert every_pair(4).tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    assert every_pair(1).shape == (0, 2)


def test_images_of_one_place_look_alike():
    described = vlad(places(10, 5))
    alike = described @ described.T
    np.fill_diagonal(alike, -1)
    nearest = np.argsort(-alike, axis=1)[:, :4]
    assert (nearest // 5 == np.arange(50)[:, None] // 5).all()
    np.testing.assert_allclose(np.linalg.norm(described, axis=1), 1, rtol=1e-5)


def test_of_many_images_only_likely_pairs():
    descriptors = places(30, 10)
    pairs = likely_pairs(descriptors, range(300))
    listed = {(int(one), int(other)) for one, other in pairs}
    assert all(one < other for one, other in listed) and len(listed) == len(pairs)
    assert len(pairs) <= 300 * (LOOK_ALIKES + NEIGHBORS_IN_ORDER + 8)
    of_one_place = {(i, j) for i in range(300) for j in range(i + 1, 300) if i // 10 == j // 10}
    assert of_one_place <= listed


def test_frames_of_a_video_are_matched_with_those_around_them():
    descriptors, order = places(250, 1), np.random.default_rng(1).permutation(250).tolist()
    pairs = {(int(one), int(other)) for one, other in likely_pairs(descriptors, order)}
    for distance in (1, NEIGHBORS_IN_ORDER, 16, 32, 128):
        in_turn = zip(order, order[distance:], strict=False)
        assert {(min(pair), max(pair)) for pair in in_turn} <= pairs


@pytest.mark.parametrize("size", [0, 3])
def test_images_without_features(size: int):
    descriptors = [*places(2, 2), np.zeros((size, 128), dtype=np.float32)]
    assert np.isfinite(vlad(descriptors)).all()
