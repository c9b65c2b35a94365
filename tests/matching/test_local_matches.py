"""What matching found travels through a file."""

from pathlib import Path

import numpy as np

from gnerf_ns.matching.local_matches import Component, LocalMatches, PairMatches


def component(seed: int, count: int = 4) -> Component:
    random = np.random.default_rng(seed)
    return Component(
        image_indices=np.arange(count) + 10 * seed,
        camera_to_worlds=random.standard_normal((count, 3, 4)),
        focal=random.random((count, 2)),
        center=random.random((count, 2)),
        distortion=random.random((count, 6)),
        points=random.random((7, 3)),
        seen_by=random.integers(0, count, 20),
        seen_point=random.integers(0, 7, 20),
        seen_at=random.random((20, 2)),
        error_px=np.array(0.5),
    )


PAIRS = PairMatches(
    pairs=np.array([[0, 2], [1, 2]]), ends=np.array([3, 5]), points=np.arange(20, dtype=np.float32).reshape(5, 4)
)


def test_what_is_saved_is_loaded(tmp_path: Path):
    saved = LocalMatches([component(1), component(2, 3)], PAIRS, np.array([11, 13]))
    saved.save(tmp_path / "matches.npz")
    loaded = LocalMatches.load(tmp_path / "matches.npz")
    assert [len(each) for each in loaded.components] == [4, 3] and loaded.misplaced.tolist() == [11, 13]
    for one, other in zip([*saved.components, saved.matches], [*loaded.components, loaded.matches], strict=True):
        for name, value in vars(one).items():
            np.testing.assert_array_equal(getattr(other, name), value, err_msg=name)


def test_nothing_found_is_saved_and_loaded(tmp_path: Path):
    nothing = PairMatches(np.zeros((0, 2), np.int64), np.zeros(0, np.int64), np.zeros((0, 4), np.float32))
    LocalMatches([], nothing, np.zeros(0, np.int64)).save(tmp_path / "matches.npz")
    loaded = LocalMatches.load(tmp_path / "matches.npz")
    assert loaded.components == [] and len(loaded.matches.points) == 0


def test_some_of_the_images_see_the_same_points():
    whole = component(1)
    part = whole.of(np.array([3, 1]))
    assert part.image_indices.tolist() == [13, 11] and len(part) == 2
    of_whole, of_part = (
        sorted(zip(each.image_indices[each.seen_by], each.seen_point, map(tuple, each.seen_at), strict=True))
        for each in (whole, part)
    )
    assert of_part == [each for each in of_whole if each[0] in (11, 13)]
