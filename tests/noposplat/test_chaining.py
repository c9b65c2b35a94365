"""Scenes of pairs in one frame and unit."""

import math
from typing import List, Sequence

import pytest
import roma
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_surface import pixel_gaussians, view_from

from gnerf_ns.cameras.alignment import Similarity
from gnerf_ns.noposplat.chaining import Link, PairScene, best_tree, chained, depth_ratio
from gnerf_ns.splats.axes import inverse_poses
from gnerf_ns.splats.gaussians import Gaussians

VIEWS = [
    view_from((0.4 * number, 0.1 * (number % 2), -0.05 * number), (2.0 * number, -4.0 * number, 3.0), 24, 16, 20.0)
    for number in range(5)
]
PIXELS = 24 * 16


def similarity(seed: int) -> Similarity:
    """Any frame and unit."""
    generator = torch.Generator().manual_seed(seed)
    rotation = roma.rotvec_to_rotmat(torch.randn(3, generator=generator))
    scale = math.exp(float(torch.randn(1, generator=generator)))
    return Similarity(rotation, scale, torch.randn(3, generator=generator))


def pair_scene(link: Link, frame: Similarity) -> PairScene:
    """The true one of two of the views, in another frame and unit."""
    both = [VIEWS[each] for each in link]
    gaussians = pixel_gaussians(both).moved(frame)
    in_first = torch.stack([true_in(link.parent)[each] for each in link])
    poses = inverse_poses(frame.apply(inverse_poses(in_first)))
    return PairScene(gaussians[:PIXELS], gaussians[PIXELS:], poses)


def true_in(root: int) -> List[torch.Tensor]:
    """World_to_cameras where the root's camera is the world."""
    homogeneous = [torch.cat([view.world_to_camera, torch.tensor([[0.0, 0.0, 0.0, 1.0]])]) for view in VIEWS]
    return [(each @ torch.linalg.inv(homogeneous[root]))[:3] for each in homogeneous]


TREES = [
    [(0, 1), (1, 2), (2, 3), (3, 4)],
    [(2, 1), (2, 3), (1, 0), (3, 4)],
    [(4, 0), (0, 2), (4, 1), (2, 3)],
]


@pytest.mark.parametrize("links", TREES)
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10**6))
def test_pairs_of_any_frame_and_unit_come_to_be_one_scene(links: Sequence[tuple], seed: int):
    tree = [Link(*link) for link in links]
    frames = [similarity(seed + number) for number in range(len(tree))]
    chain = chained(tree, [pair_scene(link, frame) for link, frame in zip(tree, frames, strict=True)])
    root = tree[0].parent
    assert chain.order == (root, *(link.child for link in tree))
    true, unit = true_in(root), frames[0].scale
    for photo, pose in enumerate(true):
        found = chain.world_to_cameras[photo]
        torch.testing.assert_close(found[:, :3], pose[:, :3], atol=1e-4, rtol=0.0)
        torch.testing.assert_close(found[:, 3] / unit, pose[:, 3], atol=1e-3, rtol=0.0)
    wanted = pixel_gaussians([VIEWS[photo] for photo in chain.order])
    torch.testing.assert_close(chain.gaussians.means / unit, wanted.means, atol=5e-3, rtol=0.0)
    torch.testing.assert_close(chain.gaussians.scales / unit, wanted.scales, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(chain.gaussians.harmonics, wanted.harmonics)


def test_the_unit_is_told_by_what_both_see_well():
    frame = similarity(3)
    pair = pair_scene(Link(0, 1), frame)
    first = pixel_gaussians(VIEWS[:2])[:PIXELS]
    identity = torch.eye(4)[:3]
    assert depth_ratio(pair.parent, pair.world_to_cameras[0], first, identity) == pytest.approx(frame.scale, rel=1e-3)
    # A third of the pixels with any depth at all, and nearly all others transparent with a wrong one.
    generator = torch.Generator().manual_seed(0)
    means, opacities = first.means.clone(), first.opacities.clone()
    means[: PIXELS // 3] *= torch.rand(PIXELS // 3, 1, generator=generator) * 4
    assert depth_ratio(
        pair.parent, pair.world_to_cameras[0], Gaussians(**{**vars(first), "means": means}), identity
    ) == pytest.approx(frame.scale, rel=0.05)
    means = first.means.clone()
    means[20:] *= 0.1
    opacities[20:] = 0.2
    thin = Gaussians(**{**vars(first), "means": means, "opacities": opacities})
    assert depth_ratio(pair.parent, pair.world_to_cameras[0], thin, identity) == pytest.approx(frame.scale, rel=1e-3)
    behind = Gaussians(**{**vars(first), "means": -first.means})
    assert depth_ratio(pair.parent, pair.world_to_cameras[0], behind, identity) == 1.0


def agreement_of(count: int, pairs: dict) -> torch.Tensor:
    values = torch.zeros(count, count)
    for (first, second), value in pairs.items():
        values[first, second] = values[second, first] = value
    return values


def test_photos_in_a_row_are_reached_from_the_middle():
    links = best_tree(agreement_of(5, {(each, each + 1): 0.8 for each in range(4)}))
    assert sorted(links) == [(1, 0), (2, 1), (2, 3), (3, 4)]
    assert links[0].parent == links[1].parent == 2


def test_a_way_over_others_is_taken_where_it_agrees_better_as_a_whole():
    three = {(0, 1): 0.9, (1, 2): 0.9}
    assert {frozenset(link) for link in best_tree(agreement_of(3, {**three, (0, 2): 0.5}))} == {
        frozenset((0, 1)),
        frozenset((1, 2)),
    }
    # The root is the photo from which all others agree best, whichever way: here 1.
    four = {**three, (0, 3): 0.9, (1, 3): 0.82}
    assert (1, 3) in best_tree(agreement_of(4, four)) and (0, 3) not in best_tree(agreement_of(4, four))


def test_perfect_agreement_is_not_taken_for_none():
    assert len(best_tree(agreement_of(3, {(0, 1): 1.0, (1, 2): 1.0}))) == 2


def test_photos_apart_are_in_no_link():
    assert best_tree(torch.zeros(4, 4)) == []
    links = best_tree(agreement_of(5, {(0, 1): 0.9, (2, 3): 0.2, (3, 4): 0.2}))
    assert {each for link in links for each in link} == {2, 3, 4}  # the larger group
