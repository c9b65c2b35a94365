"""The order in which images are put together, and by neighbors where any matches at all fold one side onto another."""

import math
from dataclasses import replace
from pathlib import Path
from typing import AbstractSet, Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import pytest
import torch

from gnerf_ns.cameras.alignment import Similarity
from gnerf_ns.cameras.look_at import look_at
from gnerf_ns.matching import reconstruction
from gnerf_ns.matching.colmap import FAINT, LOOSE, Colmap, Criteria, MatchedPairs, Model
from gnerf_ns.matching.consistency import Overlap
from gnerf_ns.matching.job import Job
from gnerf_ns.matching.local_matches import Component, LocalMatches, PairMatches
from gnerf_ns.matching.pairs import every_pair
from gnerf_ns.matching.reconstruction import by_neighbors, reconstruct, with_doubt, with_lost

COUNT = 36
LOGO = Overlap(covered=0.35, tilt=1.5, count=200)
Pair = Tuple[int, int]


def pair(one: int, other: int) -> Pair:
    one, other = one % COUNT, other % COUNT
    return min(one, other), max(one, other)


def ring() -> Dict[Pair, Overlap]:
    """Every image and the three before and after it."""
    return {pair(i, i + step): Overlap(1.0 - 0.1 * step, 1.1, 90) for i in range(COUNT) for step in (1, 2, 3)}


def with_logos(logo: Overlap = LOGO, of: Sequence[int] = range(COUNT // 2)) -> Dict[Pair, Overlap]:
    """A ring with the same logo on opposite sides, which matches better than all else."""
    return {**ring(), **{pair(i, i + COUNT // 2): logo for i in of}}


class StandIn(Colmap):
    """Puts images together as structure from motion does: what matches most comes first, and what matches is taken for
    the same; a logo on the other side puts an image where the side is that the logo is on."""

    def __init__(
        self,
        overlaps: Dict[Pair, Overlap],
        strict: Optional[AbstractSet[Pair]] = None,
        aborts: bool = False,
        faint: AbstractSet[Pair] = frozenset(),
    ) -> None:
        """
        Args:
            overlaps: of all pairs that match.
            strict: those that match strictly; None for all.
            aborts: whether images cannot be matched loosely.
            faint: those that have few points in common.
        """
        self.overlaps, self.strict, self.aborts, self.faint = overlaps, strict, aborts, faint
        self.job = Job(COUNT, [], True, list(range(COUNT)), 1, 0)
        self.maps = 0
        self.matched: List[int] = []

    @property
    def loose(self) -> MatchedPairs:
        return self.match(every_pair(COUNT), LOOSE)

    def extract(self) -> None:
        pass

    def match(self, pairs: Any, criteria: Criteria, beside: Optional[MatchedPairs] = None) -> MatchedPairs:
        if criteria.is_loose and self.aborts:
            raise SystemError("aborted")
        self.matched.append(len(pairs))
        found = set(self.overlaps) if criteria.is_loose or self.strict is None else self.strict
        compared: AbstractSet[Pair] = frozenset(map(tuple, pairs.tolist()))
        if beside is not None:
            chosen = set(map(tuple, pairs.tolist()))
            found = (found & chosen) | (beside.overlaps.keys() - chosen)
            compared |= beside.compared
        nothing = PairMatches(np.zeros((0, 2), np.int64), np.zeros(0, np.int64), np.zeros((0, 4), np.float32))
        return MatchedPairs(Path(), criteria, nothing, {each: self.overlaps[each] for each in found}, compared)

    def map(
        self,
        matched: MatchedPairs,
        begun: Optional[Model] = None,
        criteria: Optional[Criteria] = None,
        among: Optional[Sequence[int]] = None,
        pairs: Optional[AbstractSet[Pair]] = None,
    ) -> List[Model]:
        self.maps += 1
        chosen = set(matched.overlaps) if pairs is None else set(pairs)
        chosen -= set() if criteria == FAINT else self.faint
        chosen = [each for each in chosen if among is None or set(each) <= set(among)]
        ordered = sorted(chosen, key=lambda each: (-self.overlaps[each].count, each))
        if not ordered:
            return []
        steps: Dict[int, int] = {ordered[0][0]: ordered[0][0]} if begun is None else dict(begun.reconstruction)
        while True:
            new = next((each for each in ordered if (each[0] in steps) != (each[1] in steps)), None)
            if new is None:
                return [Model(component(steps), steps)]
            known, other = new if new[0] in steps else new[::-1]
            apart = (other - known + COUNT // 2) % COUNT - COUNT // 2
            steps[other] = steps[known] + (0 if abs(apart) == COUNT // 2 else apart)


def component(steps: Dict[int, int]) -> Component:
    indices, nothing = np.array(sorted(steps)), np.zeros(0, dtype=np.int64)
    azimuths = torch.tensor([steps[index] for index in indices.tolist()]).double() * 2 * math.pi / COUNT
    positions = 4.0 * torch.stack([azimuths.cos(), azimuths.sin(), 0.3 + 0.0 * azimuths], dim=-1)
    points = 0.5 * np.random.default_rng(0).standard_normal((50, 3))
    filled = np.ones((len(indices), 2))
    return Component(
        indices, look_at(positions).numpy(), filled, filled / 2, np.zeros((len(indices), 6)),
        points, nothing, nothing, np.zeros((0, 2)), np.array(0.5),
    )  # fmt: skip


def neighborly(overlaps: Dict[Pair, Overlap]) -> Tuple[List[Model], StandIn]:
    stand_in = StandIn(overlaps)
    return by_neighbors(stand_in, stand_in.loose)[0], stand_in


def folded(model: Model) -> List[int]:
    """Images that do not stand where most do: a whole number of steps along the ring from the image's own."""
    offsets = {index: (step - index) % COUNT for index, step in model.reconstruction.items()}
    usual = max(set(offsets.values()), key=list(offsets.values()).count)
    return [index for index, offset in offsets.items() if offset != usual]


def test_plain_matches_fold_the_ring():
    stand_in = StandIn(with_logos())
    (model,) = stand_in.map(stand_in.loose)
    assert len(folded(model)) == COUNT // 2


def test_neighbors_do_not():
    (model,), _ = neighborly(with_logos())
    assert len(model) == COUNT and folded(model) == []


def halves(logo: Overlap) -> Dict[Pair, Overlap]:
    """Two halves that are seen more aslant from each other than the logos on them."""
    overlaps = with_logos(logo)
    for one, other in list(overlaps):
        if abs(one - other) != COUNT // 2 and ((one < COUNT // 2) != (other < COUNT // 2)):
            overlaps[(one, other)] = Overlap(0.6, 2.3, 60)
    return overlaps


def test_what_came_to_stand_beside_what_it_does_not_look_like_is_not_used_again():
    (model,), stand_in = neighborly(halves(LOGO._replace(covered=0.45)))
    assert len(model) == COUNT and folded(model) == []
    assert stand_in.maps > 2


def test_what_is_seen_the_same_way_and_has_little_in_common_is_never_used(monkeypatch: pytest.MonkeyPatch):
    overlaps = halves(LOGO._replace(covered=0.31, tilt=1.1))
    (model,), stand_in = neighborly(overlaps)
    monkeypatch.setattr(reconstruction, "LOOKALIKE", Overlap(0.0, 1.0, 0))
    (other,), misled = neighborly(overlaps)
    assert len(model) == len(other) == COUNT and folded(model) == folded(other) == []
    assert stand_in.maps < misled.maps


def test_images_that_match_by_logos_alone_are_left_out_or_on_their_own():
    """Half of the ring has nothing else in common with the other half."""
    half = range(COUNT // 2)
    overlaps = {each: overlap for each, overlap in with_logos().items() if (each[0] in half) == (each[1] in half)}
    (one, other), _ = neighborly({**overlaps, **{pair(i, i + COUNT // 2): LOGO for i in half}})
    assert len(one) == len(other) == COUNT // 2
    assert folded(one) == folded(other) == []


@pytest.mark.parametrize(("limit", "value"), [("MOST_STEPS", 1), ("MOST_IMAGES", COUNT)])
def test_steps_are_limited(monkeypatch: pytest.MonkeyPatch, limit: str, value: int):
    """What was accepted by then is kept."""
    monkeypatch.setattr(reconstruction, limit, value)
    (one, other), stand_in = neighborly(halves(LOGO._replace(covered=0.45)))
    assert len(one) == len(other) == COUNT // 2 and folded(one) == folded(other) == []
    assert stand_in.maps == 3


def test_each_result_replaces_the_one_before():
    strict, loose, last = reconstruct(StandIn(with_logos()))
    for each in (strict, loose, last):
        assert len(each.components[0]) == COUNT and len(each.misplaced) > COUNT // 4
    (model,), _ = neighborly(with_logos())
    np.testing.assert_allclose(last.components[0].camera_to_worlds, model.component.camera_to_worlds)


def test_a_right_ring_is_mapped_once():
    stand_in = StandIn(ring())
    (only,) = reconstruct(stand_in)
    assert len(only.components[0]) == COUNT and len(only.misplaced) == 0
    assert stand_in.maps == 1


def among(images: range) -> AbstractSet[Pair]:
    return {each for each in ring() if set(each) <= set(images)}


def test_what_strict_matches_began_grows():
    strict, last = reconstruct(StandIn(ring(), strict=among(range(20))))
    assert strict.components[0].image_indices.tolist() == list(range(20))
    assert len(last.components[0]) == COUNT and len(last.misplaced) == 0


def test_where_strict_matches_place_nearly_all_only_those_left_are_matched_loosely():
    most = COUNT * 9 // 10
    stand_in = StandIn(ring(), strict=among(range(most)))
    strict, last = reconstruct(stand_in)
    assert len(strict.components[0]) == most and len(last.components[0]) == COUNT and len(last.misplaced) == 0
    every, of_left = COUNT * (COUNT - 1) // 2, COUNT * (COUNT - 1) // 2 - most * (most - 1) // 2
    assert stand_in.matched == [every, of_left]


@pytest.mark.parametrize("are_many", [False, True])
def test_those_that_strict_matches_put_elsewhere_are_matched_loosely_too(
    monkeypatch: pytest.MonkeyPatch, are_many: bool
):
    """Two images that nothing but a logo places, among sure ones; of many, these are not matched all over again."""
    if are_many:
        monkeypatch.setattr(reconstruction, "EXHAUSTIVE_UP_TO", COUNT - 1)
        monkeypatch.setattr(StandIn, "descriptors", lambda self: [])
        monkeypatch.setattr(reconstruction, "likely_pairs", lambda descriptors, order: every_pair(COUNT))
    moved = {5, 14}
    overlaps = with_logos(of=sorted(moved))
    logos = overlaps.keys() - ring().keys()
    stand_in = StandIn(overlaps, strict={each for each in overlaps if not moved & set(each)} | logos)
    first, *_ = reconstruct(stand_in)
    assert set(first.misplaced.tolist()) == moved
    every, left = COUNT * (COUNT - 1) // 2, COUNT - len(moved)
    matched = [every, every - left * (left - 1) // 2]
    assert stand_in.matched == (matched if are_many else [*matched, every])


@pytest.mark.parametrize("is_folded", [False, True])
def test_of_many_images_neighbors_are_compared_before_they_say_anything(
    monkeypatch: pytest.MonkeyPatch, is_folded: bool
):
    """Of many images only likely pairs are compared: others, unasked, contradict nobody; asked, those of another side
    do."""
    overlaps = with_logos() if is_folded else ring()
    likely = [each for each in overlaps if pair(*each) not in {pair(i, i + 1) for i in range(0, COUNT, 3)}]
    monkeypatch.setattr(reconstruction, "EXHAUSTIVE_UP_TO", COUNT - 1)
    monkeypatch.setattr(StandIn, "descriptors", lambda self: [])
    monkeypatch.setattr(reconstruction, "likely_pairs", lambda descriptors, order: np.array(likely))
    stand_in = StandIn(overlaps)
    before, asked, *_ = reconstruct(stand_in)
    assert len(before.components[0]) == len(asked.components[0]) == COUNT
    assert is_folded or len(before.misplaced) == 0
    num_likely, num_neighbors, *_ = stand_in.matched
    assert num_likely == len(likely) and num_neighbors >= COUNT // 3
    if is_folded:
        assert len(asked.misplaced) > COUNT // 4
    else:
        assert len(asked.misplaced) == 0 and stand_in.maps == 1 and num_neighbors == COUNT // 3


def test_images_join_by_few_points_before_they_are_a_component_of_their_own():
    between = {each for each in ring() if (each[0] < 20) != (each[1] < 20)}
    *_, apart = reconstruct(StandIn({each: overlap for each, overlap in ring().items() if each not in between}))
    assert [len(each) for each in apart.components] == [20, COUNT - 20]
    *_, together = reconstruct(StandIn(ring(), faint=between))
    assert [len(each) for each in together.components] == [COUNT]


def test_what_few_points_have_placed_is_in_doubt():
    seen_by = np.repeat([0, 1, 2], [14, 15, 100])
    seen = {"seen_by": seen_by, "seen_point": 0 * seen_by, "seen_at": np.zeros((len(seen_by), 2))}
    placed = replace(component({4: 4, 7: 7, 9: 9}), **seen)
    assert with_doubt(replace(as_matches(placed), misplaced=np.array([9]))).misplaced.tolist() == [4, 9]
    assert len(with_doubt(as_matches()).misplaced) == 0


def test_images_of_further_components_that_few_points_have_placed_are_left_out():
    def seeing(counts: Dict[int, int]) -> Component:
        seen_by = np.repeat(np.arange(len(counts)), list(counts.values()))
        seen = {"seen_by": seen_by, "seen_point": 0 * seen_by, "seen_at": np.zeros((len(seen_by), 2))}
        return replace(component({index: index for index in counts}), **seen)

    largest = seeing({0: 20, 1: 20, 2: 20, 3: 20})
    found = with_doubt(as_matches(largest, seeing({5: 15, 6: 14, 7: 20, 8: 30}), seeing({10: 15, 11: 15, 12: 14})))
    assert [each.image_indices.tolist() for each in found.components] == [[0, 1, 2, 3], [5, 7, 8]]
    assert len(found.misplaced) == 0


def as_matches(*components: Component) -> LocalMatches:
    nothing = PairMatches(np.zeros((0, 2), np.int64), np.zeros(0, np.int64), np.zeros((0, 4), np.float32))
    return LocalMatches(list(components), nothing, np.zeros(0, np.int64))


@pytest.mark.parametrize(
    ("first", "last", "fold", "expected"),
    [
        (0, COUNT, COUNT, [*range(30), 30, 31, 32]),  # but for three that are a component of their own
        (0, COUNT, COUNT // 2, [*range(30)]),  # the two do not agree
        (29, COUNT, COUNT, [*range(30)]),  # or have but one image in common
        (30, COUNT, COUNT, [*range(30)]),
    ],
)
def test_images_that_only_another_way_places_are_kept_if_the_two_agree(
    first: int, last: int, fold: int, expected: List[int]
):
    worse = component({index: index % fold for index in range(first, last)})
    frame = Similarity(torch.eye(3, dtype=torch.float64)[[2, 0, 1]], 0.2, torch.ones(3, dtype=torch.float64))
    moved = frame.apply(torch.from_numpy(worse.camera_to_worlds)).numpy()
    better = as_matches(component({index: index for index in range(30)}), component({33: 33, 34: 34, 35: 35}))
    found = with_lost(better, as_matches(replace(worse, camera_to_worlds=moved)))
    largest, own = found.components
    assert largest.image_indices.tolist() == expected and own.image_indices.tolist() == [33, 34, 35]
    true = component({index: index for index in expected})
    np.testing.assert_allclose(largest.camera_to_worlds, true.camera_to_worlds, atol=1e-6)
    assert set(range(30, len(expected))) <= set(with_doubt(found).misplaced.tolist())


@pytest.mark.parametrize("count", [0, 20])
def test_what_is_found_is_told_before_anything_can_fail(count: int):
    """And nothing is no result."""
    results = reconstruct(StandIn(ring(), strict=among(range(count)), aborts=True))
    if count:
        assert len(next(results).components[0]) == count
    with pytest.raises(SystemError, match="aborted"):
        next(results)


def test_few_images_without_contradiction_replace_no_others(monkeypatch: pytest.MonkeyPatch):
    """Some images have little in common with their neighbors: one of them stands where the few put it, too."""
    odd = {2, 7, 12, 17, 22, 27, 32}
    overlaps = {each: Overlap(0.3, 2.0, 50) if odd & set(each) else overlap for each, overlap in ring().items()}
    few = {each: each for each in range(6)}
    monkeypatch.setattr(reconstruction, "by_neighbors", lambda colmap, loose: ([Model(component(few), few)], loose))
    *_, last = reconstruct(StandIn(overlaps))
    assert len(last.components[0]) == COUNT
    assert last.misplaced.tolist() == sorted(odd - {2})


def test_where_caution_has_only_lost_images_they_stay_and_are_in_doubt(monkeypatch: pytest.MonkeyPatch):
    odd = {2, 7, 12, 17, 22, 27, 32}
    overlaps = {each: Overlap(0.3, 2.0, 50) if odd & set(each) else overlap for each, overlap in ring().items()}
    fewer = {each: each for each in range(COUNT) if each not in odd - {2}}
    monkeypatch.setattr(reconstruction, "by_neighbors", lambda colmap, loose: ([Model(component(fewer), fewer)], loose))
    *_, last = reconstruct(StandIn(overlaps))
    assert len(last.components[0]) == COUNT and last.misplaced.tolist() == sorted(odd - {2})
    # One whose place nobody contradicts is in doubt for being lost alone.
    del fewer[3]
    *_, last = reconstruct(StandIn(overlaps))
    assert len(last.components[0]) == COUNT and last.misplaced.tolist() == sorted({*odd, 3} - {2})
