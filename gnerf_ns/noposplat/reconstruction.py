"""A scene and its cameras from a few photos.

Two or three go through the network together, in each order, and the one that re-renders best is kept. More are put
together from pairs (`chaining`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import Callable, Dict, List, Optional, Tuple

import roma
import torch
from jaxtyping import Float
from torch import Tensor

from gnerf_ns.cameras.alignment import Similarity
from gnerf_ns.noposplat.camera_poses import MIN_OPACITY, REFINEMENT_STEPS, pose_from_points, refined_pose
from gnerf_ns.noposplat.chaining import Link, PairScene, best_tree, chained
from gnerf_ns.noposplat.network import NoPoSplatNetwork
from gnerf_ns.noposplat.photos import Photos
from gnerf_ns.splats.axes import camera_to_worlds, inverse_poses
from gnerf_ns.splats.gaussians import Gaussians
from gnerf_ns.splats.rendering import Rendering, render
from gnerf_ns.utils.errors import InputError

MOST_AT_ONCE = 3
"""So many photos go through the network together: weights are trained on two or three."""
COMPARISON_STEPS = 40
"""Steps of refinement before orders are compared; the poses of the best are then refined further."""
MIN_COVERED = 0.1
"""Share of a photo that the Gaussians of the others have to cover,"""
COVERED = 0.05
"""a pixel being covered where they are opaque by more than this. Little is enough: some networks let one photo's
Gaussians show what two have in common, and the other's fade."""
MIN_EXPLAINED = 0.1
"""Share of the variance of the covered part that they have to explain. 0 is what its mean color does."""


@dataclass(frozen=True)
class Reconstruction:
    """What was found out."""

    order: Tuple[int, ...]
    """Indices of the photos as the network had them: all is in the frame of the first's camera."""
    gaussians: Gaussians
    """One for each pixel, photo after photo in that order."""
    world_to_cameras: Float[Tensor, "views 3 4"]
    """Of the photos as they were given; OpenCV's axes."""

    @property
    def camera_to_worlds(self) -> Float[Tensor, "views 3 4"]:
        """The poses with nerfstudio's axes."""
        return camera_to_worlds(self.world_to_cameras)

    def gaussians_of(self, *of: int) -> Gaussians:
        """Those that were made from some photos' pixels."""
        views = len(self.order)
        kept = torch.zeros(views, len(self.gaussians) // views, dtype=torch.bool, device=self.gaussians.means.device)
        kept[[self.order.index(photo) for photo in of]] = True
        return self.gaussians[kept.flatten()]

    def others(self, photo: int) -> List[int]:
        """All photos but one."""
        return [other for other in sorted(self.order) if other != photo]

    def seen(self, photos: Photos, photo: int, gaussians: Optional[Gaussians] = None) -> Rendering:
        """What a photo's camera sees of all Gaussians, or of some."""
        view = photos.view(photo, self.world_to_cameras[photo])
        with torch.no_grad():
            return render(gaussians or self.gaussians, view, torch.zeros(3, device=photos.images.device))

    def psnrs(self, photos: Photos) -> Float[Tensor, "views"]:
        """How well each photo is shown by the Gaussians from its camera, in dB."""
        errors = [
            (self.seen(photos, photo).image.clamp(0.0, 1.0).permute(2, 0, 1) - photos.images[photo]).square().mean()
            for photo in range(len(photos))
        ]
        return -10.0 * torch.stack(errors).clamp_min(1e-10).log10().cpu()

    def explained(self, photos: Photos, photo: int, *by: int) -> Tuple[float, float]:
        """What the Gaussians of some other photos alone show of a photo.

        Returns:
            The share of it that they cover, and the share of the variance there that they explain: 0 is what the mean
            color of that part does, and it is negative for worse.
        """
        seen = self.seen(photos, photo, self.gaussians_of(*by))
        covered = seen.accumulation > COVERED
        if not bool(covered.any()):
            return 0.0, 0.0
        # As if they were opaque.
        shown = (seen.image / seen.accumulation[..., None])[covered].clamp(0.0, 1.0)
        truth = photos.images[photo].permute(1, 2, 0)[covered]
        variance = (truth - truth.mean(dim=0)).square().mean().clamp_min(1e-5)
        return float(covered.float().mean()), 1.0 - float((shown - truth).square().mean() / variance)

    @property
    def scene_depth(self) -> float:
        """Median distance of what the first photo in the order shows from its camera's plane, in scene units."""
        count = len(self.gaussians) // len(self.order)
        pose = self.world_to_cameras[self.order[0]]
        return float((self.gaussians.means[:count] @ pose[2, :3] + pose[2, 3]).median())

    def moves(self) -> List[Tuple[float, float]]:
        """By how much each photo's camera is turned from that of the first photo given, in degrees; and how far it is
        from there, in units of `scene_depth`."""
        poses = inverse_poses(self.world_to_cameras.cpu())
        angles = torch.rad2deg(roma.rotmat_geodesic_distance(poses[:, :, :3], poses[:1, :, :3]))
        distances = torch.linalg.vector_norm(poses[:, :, 3] - poses[0, :, 3], dim=-1) / abs(self.scene_depth)
        return list(zip(angles.tolist(), distances.tolist(), strict=True))

    def upright(self) -> Reconstruction:
        """The same in a frame whose z is up for the cameras in the mean, and whose origin is the middle of the scene.

        The scale stays: what is nearer than 0.2 is not drawn.
        """
        poses = self.camera_to_worlds
        up, right = poses[:, :, 1].mean(dim=0), poses[:, :, 0].mean(dim=0)
        if float(up.norm()) < 0.1:  # of cameras held in opposite ways
            up, right = poses[0, :, 1], poses[0, :, 0]
        up = torch.nn.functional.normalize(up, dim=0)
        right = torch.nn.functional.normalize(right - (right @ up) * up, dim=0)
        rotation = torch.stack([right, torch.linalg.cross(up, right, dim=0), up])
        opaque = self.gaussians.opacities > MIN_OPACITY
        middle = (self.gaussians.means[opaque] if bool(opaque.any()) else self.gaussians.means).median(dim=0).values
        world = Similarity(rotation, 1.0, -(rotation @ middle))
        moved = inverse_poses(world.apply(inverse_poses(self.world_to_cameras)))
        return replace(self, gaussians=self.gaussians.moved(world), world_to_cameras=moved)


def reconstruct(
    network: NoPoSplatNetwork, photos: Photos, on_step: Callable[[], None] = lambda: None
) -> Reconstruction:
    """Gaussians and cameras.

    Args:
        network: trained.
        photos: two or more.
        on_step: called after each of `num_steps`.

    Raises:
        InputError: a photo has no camera from which its own Gaussians would be seen where they should be, in any order;
            or, of more than `MOST_AT_ONCE`, one is explained by no other.
    """
    return (_in_one_pass if len(photos) <= MOST_AT_ONCE else _by_pairs)(network, photos, on_step)


def num_steps(count: int) -> int:
    """How often `reconstruct` calls back for so many photos, if all goes well."""
    if count > MOST_AT_ONCE:
        return count * (count - 1) // 2 + (count - 1) * num_steps(2)
    return count + count * (count - 1) + count - 1


def _in_one_pass(network: NoPoSplatNetwork, photos: Photos, on_step: Callable[[], None]) -> Reconstruction:
    """Each photo having been the first one of the network's once."""
    tried: List[Reconstruction] = []
    lost: Dict[int, List[str]] = {}
    for first in range(len(photos)):
        order = (first, *(photo for photo in range(len(photos)) if photo != first))
        placed = _placed(network, photos, order)
        on_step()
        if isinstance(placed, Reconstruction):
            placed = _refined(placed, photos, COMPARISON_STEPS, on_step)
            tried.append(placed)
        else:
            lost[first] = [photos.names[photo] for photo in placed]
    if not tried:
        names = ", ".join(min(lost.values(), key=len))
        raise InputError(
            f"The photos do not seem to show the same thing: no camera explains the points that were found for "
            f"{names}; give photos that overlap by half or more."
        )
    best = max(tried, key=lambda each: float(each.psnrs(photos).mean()))
    return _refined(best, photos, REFINEMENT_STEPS, on_step)


def _by_pairs(network: NoPoSplatNetwork, photos: Photos, on_step: Callable[[], None]) -> Reconstruction:
    """Put together from pairs, by those whose photos explain each other best."""
    agreement = torch.zeros(len(photos), len(photos))
    for first, second in combinations(range(len(photos)), 2):
        agreement[first, second] = agreement[second, first] = _agreement(network, photos.some([first, second]))
        on_step()
    links = best_tree(agreement)
    apart = [
        photos.names[photo] for photo in sorted(set(range(len(photos))) - {each for link in links for each in link})
    ]
    if apart:
        raise InputError(
            f"The photos do not seem to show the same thing: no other photo explains {', '.join(apart)}; leave "
            f"{'it' if len(apart) == 1 else 'them'} out, or give photos between that overlap by half or more."
        )
    chain = chained(links, [_pair_scene(network, photos, link, on_step) for link in links])
    return Reconstruction(*chain)


def _agreement(network: NoPoSplatNetwork, pair: Photos) -> float:
    """How much of each of two photos the other explains in one pass, from 0 to 1: of the one of which it is more, since
    networks may let the one photo's Gaussians show what both have in common."""
    placed = _placed(network, pair, (0, 1))
    if not isinstance(placed, Reconstruction):
        return 0.0
    covered_and_explained = [placed.explained(pair, photo, 1 - photo) for photo in range(2)]
    return max(covered * max(0.0, explained) for covered, explained in covered_and_explained)


def _pair_scene(network: NoPoSplatNetwork, photos: Photos, link: Link, on_step: Callable[[], None]) -> PairScene:
    """Of a link's two photos."""
    found = _in_one_pass(network, photos.some(link), on_step)
    return PairScene(found.gaussians_of(0), found.gaussians_of(1), found.world_to_cameras)


def _placed(network: NoPoSplatNetwork, photos: Photos, order: Tuple[int, ...]) -> "Reconstruction | List[int]":
    """What the network makes of photos in an order, with cameras from points; or the photos that have none."""
    chosen = list(order)
    with torch.no_grad():
        gaussians = network(photos.images[None, chosen], photos.intrinsics[None, chosen])[0]
    width, height = photos.size
    means, opacities = (
        value.unflatten(0, (len(photos), height, width)) for value in (gaussians.means, gaussians.opacities)
    )
    poses: List[Optional[Tensor]] = [None] * len(photos)
    poses[order[0]] = torch.eye(4, device=means.device)[:3]
    for place, photo in enumerate(order[1:], start=1):
        found = pose_from_points(means[place], opacities[place], photos.focal[photo], photos.centers[photo])
        if found is not None:
            poses[photo] = found.world_to_camera.to(means)
    known = [pose for pose in poses if pose is not None]
    if len(known) < len(poses):
        return [photo for photo, pose in enumerate(poses) if pose is None]
    return Reconstruction(order, gaussians, torch.stack(known))


def _refined(reconstruction: Reconstruction, photos: Photos, steps: int, on_step: Callable[[], None]) -> Reconstruction:
    """With all cameras but the first of the order refined."""
    poses = reconstruction.world_to_cameras.clone()
    for photo in reconstruction.order[1:]:
        view = photos.view(photo, poses[photo])
        poses[photo] = refined_pose(reconstruction.gaussians, photos.images[photo], view, steps)
        on_step()
    return replace(reconstruction, world_to_cameras=poses)


def doubts(reconstruction: Reconstruction, photos: Photos) -> List[str]:
    """Why photos may not show the same thing: a clause for each that has nothing in common with the others.

    A network makes Gaussians of any photo, and they show it from its own camera. That photos have something in common
    shows where one is drawn by the Gaussians of others alone: they have to cover a part of it (`MIN_COVERED`), and to
    show that part better than its mean color does (`MIN_EXPLAINED`). One way is enough, the others' Gaussians showing
    the photo or the photo's showing another, since networks may let one photo's Gaussians show what both do.
    """
    found = []
    for photo in range(len(photos)):
        others = reconstruction.others(photo)
        ways = [(photo, others), *((other, [photo]) for other in others)]
        shares = [reconstruction.explained(photos, seen, *by) for seen, by in ways]
        if any(covered >= MIN_COVERED and explained >= MIN_EXPLAINED for covered, explained in shares):
            continue
        if shares[0][0] < MIN_COVERED:
            found.append(f"from the camera of {photos.names[photo]} hardly anything is seen of what the others show")
        else:
            found.append(f"what the others show explains {photos.names[photo]} hardly better than one color does")
    return found
