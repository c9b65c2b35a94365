"""Many photos from scenes of two: networks are trained on two or three photos, and know the unit of each scene anew.

Scenes of pairs are put together along a tree. A photo that two of them share has a depth in each, and the ratio of the
depths is that of their units (DUSt3R, Wang et al., CVPR 2024, section 3.4, brings pairs into one frame, too, but by
optimizing all of them).
"""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Sequence, Tuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

from gnerf_ns.cameras.alignment import Similarity
from gnerf_ns.noposplat.camera_poses import MIN_OPACITY
from gnerf_ns.splats.axes import inverse_poses
from gnerf_ns.splats.gaussians import Gaussians


class Link(NamedTuple):
    """Of a tree: a photo, and the one that it is reached from."""

    parent: int
    child: int


class PairScene(NamedTuple):
    """What was made of a link's two photos, in a frame and unit of its own."""

    parent: Gaussians
    """One for each pixel of the parent, row after row."""
    child: Gaussians
    """Likewise of the child."""
    world_to_cameras: Float[Tensor, "2 3 4"]
    """Of parent and child; OpenCV's axes."""


class Chain(NamedTuple):
    """Scenes of pairs in one frame, which is that of the tree's root, in the unit of its first pair."""

    order: Tuple[int, ...]
    """The photos: the root, and then the children of the links."""
    gaussians: Gaussians
    """One for each pixel, photo after photo in that order."""
    world_to_cameras: Float[Tensor, "photos 3 4"]
    """Of the photos by their numbers; OpenCV's axes."""


def best_tree(agreement: Float[Tensor, "photos photos"]) -> List[Link]:
    """The links by which photos are reached from one of them over pairs that agree.

    How well a way agrees is the product of its pairs, which have errors each: two pairs are better than one where both
    agree clearly better than the two ends do with each other, but a long way is not for the sake of a little. The root
    is the photo from which most photos are reached, and of these the one whose ways agree best.

    Args:
        agreement: of each two photos, from 0 (they have nothing in common) to 1; symmetric.

    Returns:
        Parents come before their children. A photo that is not reached is in none of them.
    """
    lengths = -agreement.double().clamp(0.0, 1.0).log()
    # A length of about 0 would mean that there is no way.
    graph = torch.where(lengths.isfinite(), lengths.clamp_min(1e-6), 0.0).fill_diagonal_(0.0).numpy()
    distances, before = dijkstra(graph, directed=False, return_predecessors=True)
    reached = np.isfinite(distances)
    root = min(range(len(graph)), key=lambda photo: (-reached[photo].sum(), distances[photo, reached[photo]].sum()))
    nearest_first = distances[root].argsort(kind="stable").tolist()
    return [Link(int(before[root, photo]), photo) for photo in nearest_first if photo != root and reached[root, photo]]


def chained(links: Sequence[Link], pairs: Sequence[PairScene]) -> Chain:
    """Put scenes of pairs together.

    Each photo has the Gaussians of the pair by which it is reached, and the root those of its first pair.

    Args:
        links: at least one, which join all photos; parents come before their children.
        pairs: one for each link.
    """
    root, first_pose = links[0].parent, pairs[0].world_to_cameras[0]
    made: Dict[int, Gaussians] = {root: pairs[0].parent.moved(Similarity(first_pose[:, :3], 1.0, first_pose[:, 3]))}
    poses: Dict[int, Tensor] = {root: torch.eye(4).to(first_pose)[:3]}
    for (parent, child), pair in zip(links, pairs, strict=True):
        in_pair, camera_to_world = pair.world_to_cameras[0], inverse_poses(poses[parent])
        scale = depth_ratio(made[parent], poses[parent], pair.parent, in_pair)
        # The parent's camera is where it was: x -> C (scale P x) for its pose P in the pair and C in the world.
        turn = camera_to_world[:, :3] @ in_pair[:, :3]
        shift = camera_to_world[:, :3] @ (scale * in_pair[:, 3]) + camera_to_world[:, 3]
        into_world = Similarity(turn, scale, shift)
        made[child] = pair.child.moved(into_world)
        poses[child] = inverse_poses(into_world.apply(inverse_poses(pair.world_to_cameras[1])))
    parts = [vars(gaussians).values() for gaussians in made.values()]
    return Chain(
        tuple(made),
        Gaussians(*(torch.cat(values) for values in zip(*parts, strict=True))),
        torch.stack([poses[photo] for photo in sorted(poses)]),
    )


def depth_ratio(
    gaussians: Gaussians,
    world_to_camera: Float[Tensor, "3 4"],
    others: Gaussians,
    other_world_to_camera: Float[Tensor, "3 4"],
) -> float:
    """How long the unit of a second scene is in that of a first, by the depths of the same pixels in both.

    It is the median of the ratios, of pixels that are opaque and in front of the camera in both; 1 if there are none.

    Args:
        gaussians: of a photo's pixels, in the first scene.
        world_to_camera: of the photo there.
        others: of the same pixels, in the second scene.
        other_world_to_camera: of the photo there.
    """
    depth, other = (
        each.means @ pose[2, :3] + pose[2, 3]
        for each, pose in ((gaussians, world_to_camera), (others, other_world_to_camera))
    )
    opaque = torch.minimum(gaussians.opacities, others.opacities) > MIN_OPACITY
    known = opaque & (depth > 0.0) & (other > 0.0)
    return float((depth[known] / other[known]).median()) if bool(known.any()) else 1.0
