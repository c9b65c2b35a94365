"""Neighbors that look alike only in part are found, and right ones are left alone."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from gnerf_ns.cameras.look_at import look_at
from gnerf_ns.matching.consistency import (
    NEAREST,
    misplaced,
    nearest_neighbors,
    overlaps_of_pairs,
    placed_otherwise,
    shows_no_motion,
)
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


def square(side: float) -> np.ndarray:
    """Twenty-five points all over a square in the middle of an image."""
    steps = np.linspace(-side / 2, side / 2, 5)
    return np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2) + 0.5


def pairs_of(sides: "dict[tuple[int, int], float]") -> PairMatches:
    """Pairs that match all over a square each."""
    points = [np.concatenate([square(side), square(side)], axis=1) for side in sides.values()]
    return PairMatches(
        np.array(list(sides)).reshape(-1, 2),
        25 * np.arange(1, len(sides) + 1),
        np.concatenate(points).astype(np.float32),
    )


def test_what_images_have_in_common_is_a_share_of_the_most_they_have():
    overlaps = overlaps_of_pairs(pairs_of({(0, 1): 0.8, (2, 1): 0.2, (2, 3): 0.2}), np.ones(4))
    assert overlaps[(0, 1)].covered == overlaps[(2, 3)].covered == 1.0
    assert overlaps[(1, 2)].covered == pytest.approx(25 / 49)  # of the features of image 1
    assert all(each.count == 25 and each.tilt == pytest.approx(1.0, rel=1e-4) for each in overlaps.values())


def test_a_logo_above_and_small_print_below_cover_little():
    """As two sides of a carton have them in common, with all that is between different."""
    random = np.random.default_rng(0)
    whole = random.uniform(0.1, 0.9, (400, 2))
    ends = whole[np.abs(whole[:, 1] - 0.5) > 0.3]
    points = [np.concatenate([each, each], axis=1) for each in (whole, ends, whole)]
    matches = PairMatches(
        np.array([[0, 1], [0, 2], [2, 3]]),
        np.cumsum([len(each) for each in points]),
        np.concatenate(points).astype(np.float32),
    )
    overlaps = overlaps_of_pairs(matches, np.ones(4))
    assert overlaps[(0, 1)].covered == 1.0
    assert overlaps[(0, 2)].covered < 0.65


@pytest.mark.parametrize("turned", [0.0, 0.3, math.pi / 2])
def test_a_side_seen_at_sixty_degrees_is_tilted_twice(turned: float):
    """In pixels, whatever the shapes of the images."""
    aspects = np.array([1.5, 0.75])
    front = 0.2 * np.random.default_rng(0).standard_normal((30, 2))
    aslant = front * [math.cos(math.radians(60.0)), 1.0]
    aslant = aslant @ np.array([[math.cos(turned), math.sin(turned)], [-math.sin(turned), math.cos(turned)]])
    points = np.concatenate([front, aslant], axis=1) / [aspects[0], 1.0, aspects[1], 1.0] + 0.5
    matches = PairMatches(np.array([[0, 1]]), np.array([30]), points.astype(np.float32))
    assert overlaps_of_pairs(matches, aspects)[(0, 1)].tilt == pytest.approx(2.0, rel=1e-3)


def test_matches_in_a_line_tell_of_no_tilt():
    line = np.array([[0.1, 0.1, 0.1, 0.1], [0.2, 0.2, 0.2, 0.2], [0.3, 0.3, 0.3, 0.3]], dtype=np.float32)
    found = overlaps_of_pairs(PairMatches(np.array([[0, 1]]), np.array([3]), line), np.ones(2))
    assert found[(0, 1)].tilt == math.inf and found[(0, 1)].count == 3


def neighbors_in_a_ring(count: int) -> "dict[tuple[int, int], float]":
    return {(index, (index + step) % count): 0.9 - 0.1 * step for index in range(count) for step in (1, 2, 3)}


def test_a_right_ring_is_left_alone_and_a_folded_one_is_found():
    """Half of the ring put onto the other half, as by a logo that is on two sides."""
    count = 48
    sides = neighbors_in_a_ring(count)
    assert misplaced(component(ring(count)), overlaps_of_pairs(pairs_of(sides), np.ones(48))).tolist() == []
    folded = ring(count, turns=2.0)
    sides.update({(index, index + count // 2): 0.2 for index in range(count // 2)})
    taken = misplaced(component(folded), overlaps_of_pairs(pairs_of(sides), np.ones(48)))
    assert count // 3 < len(taken) <= count // 2 + 1


def test_one_image_among_others_is_named():
    count = 48
    poses, sides = ring(count), neighbors_in_a_ring(count)
    sides = {pair: side for pair, side in sides.items() if 5 not in pair}
    sides.update({(5, index): 0.2 for index in range(20, 30)})
    poses[5] = poses[25]
    assert misplaced(component(poses), overlaps_of_pairs(pairs_of(sides), np.ones(48))).tolist() == [5]


def test_pairs_that_were_never_compared_contradict_nobody():
    count = 48
    sides = neighbors_in_a_ring(count)
    left_out = {(index, index + 1) for index in range(0, count - 1, 2)}
    kept = {pair: side for pair, side in sides.items() if pair not in left_out}
    overlaps = overlaps_of_pairs(pairs_of(kept), np.ones(count))
    every = {(i, j) for i in range(count) for j in range(i + 1, count)}
    assert len(misplaced(component(ring(count)), overlaps)) > 0
    assert len(misplaced(component(ring(count)), overlaps, every)) > 0
    assert len(misplaced(component(ring(count)), overlaps, every - left_out)) == 0


def test_nearest_neighbors_are_those_of_each_image():
    """Against a list of each image's neighbors, of cameras at random places; images are numbered unlike rows."""
    random = np.random.default_rng(0)
    azimuths, heights = random.uniform(0.0, 2.0, 40), random.uniform(0.0, 0.5, 40)
    positions = 4.0 * np.stack([np.cos(azimuths), np.sin(azimuths), heights], axis=1)
    cameras = component(look_at(torch.from_numpy(positions)).numpy())
    cameras = replace(cameras, image_indices=random.permutation(100)[:40])
    towards = positions - np.median(cameras.points, axis=0)
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    angles = np.degrees(np.arccos(np.clip(towards @ towards.T, -1.0, 1.0)))
    np.fill_diagonal(angles, np.inf)
    expected = set()
    for row in range(40):
        for other in [each for each in np.argsort(angles[row]) if angles[row, each] < 15.0][:NEAREST]:
            expected.add(tuple(sorted(cameras.image_indices[[row, other]].tolist())))
    assert set(map(tuple, nearest_neighbors(cameras).tolist())) == expected
    assert len(expected) > 100


@pytest.mark.parametrize(("count", "expected"), [(4, 0), (11, 1)])
def test_too_few_neighbors_say_nothing(count: int, expected: int):
    """Of pairs that all stand side by side, one without a match: 6 pairs tell nothing, 55 do."""
    sides = {(i, j): 0.8 for i in range(count) for j in range(i + 1, count) if (i, j) != (0, 1)}
    overlaps = overlaps_of_pairs(pairs_of(sides), np.ones(count))
    assert len(misplaced(component(ring(count, turns=0.02)), overlaps)) == expected


def test_images_without_enough_matches_have_not_all_in_common():
    few = pairs_of({(0, 1): 0.8, (0, 2): 0.1}).points.reshape(2, 25, 4)[:, ::3]
    matches = PairMatches(np.array([[0, 1], [0, 2]]), np.array([9, 18]), few.reshape(-1, 4))
    assert overlaps_of_pairs(matches, np.ones(3))[(0, 2)].covered < 0.8


@pytest.mark.parametrize("extent", [0.1, 0.3])
def test_a_small_object_photographed_often_shows_motion(extent: float):
    """Seen by a camera that turned by a degree or so about it."""
    moved = pairs_of({(i, j): extent for i in range(8) for j in range(i + 1, 8)})
    moved.points[:, 2] += 0.02 * extent
    assert not shows_no_motion(moved, None)


def test_images_that_two_reconstructions_turn_otherwise():
    """In frames and units of their own, with some images missing in either."""
    poses = ring(20)
    turned = ring(20)
    turn = np.array([[-1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0]])
    turned[12:15] = turn @ turned[12:15]
    frame = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    one, other = component(poses), component(3.0 * frame @ turned)
    other.camera_to_worlds[..., :3] /= 3.0
    one, other = (
        replace(component(each.camera_to_worlds[kept]), image_indices=each.image_indices[kept])
        for each, kept in ((one, slice(0, 18)), (other, slice(2, 20)))
    )
    assert placed_otherwise(one, other).tolist() == [12, 13, 14]
    assert placed_otherwise(one, one).tolist() == []


@pytest.mark.parametrize(("shift", "stands_still"), [(0.0, True), (0.002, True), (0.02, False)])
def test_a_camera_before_a_turntable_shows_no_motion(shift: float, stands_still: bool):
    """What is behind stays where it is in many pairs, and the turning object matches in the others."""
    points = np.concatenate([square(0.8), square(0.8) + [shift, 0.0]], axis=1)
    turning = np.concatenate([square(0.3), square(0.3) + [0.1, 0.0]], axis=1)
    pairs = [(i, j) for i in range(8) for j in range(i + 1, 8)]
    of_pairs = [points if number % 2 else turning for number in range(len(pairs))]
    matches = PairMatches(
        np.array(pairs), 25 * np.arange(1, len(pairs) + 1), np.concatenate(of_pairs).astype(np.float32)
    )
    assert shows_no_motion(matches, None) == stands_still
    assert shows_no_motion(matches, component(ring(20))) == stands_still


@pytest.mark.parametrize(("turns", "stands_still"), [(0.01, True), (0.1, False), (1.0, False)])
def test_cameras_that_matches_put_into_one_place_show_no_motion(turns: float, stands_still: bool):
    matches = pairs_of({(0, 1): 0.5})
    assert shows_no_motion(matches, component(ring(20, turns))) == stands_still
