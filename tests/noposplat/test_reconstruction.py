"""From photos to cameras, by a network that knows the answer."""

from dataclasses import replace
from pathlib import Path
from typing import Tuple

import pytest
import roma
import torch
from made_surface import PerfectNetwork, pixel_gaussians, view_from

from gnerf_ns.cameras.alignment import pose_errors
from gnerf_ns.noposplat import reconstruction
from gnerf_ns.noposplat.photos import Photos
from gnerf_ns.noposplat.reconstruction import Reconstruction, doubts, num_steps, reconstruct
from gnerf_ns.noposplat.splat_pictures import film_poses
from gnerf_ns.splats.axes import camera_to_worlds, inverse_poses
from gnerf_ns.splats.gaussians import Gaussians
from gnerf_ns.utils.errors import InputError

VIEWS = [
    view_from((0, 0, 0), (0, 0, 0), 48, 32, 40.0),
    view_from((0.5, 0.1, -0.1), (2, -8, 3), 48, 32, 40.0),
    view_from((-0.3, 0.2, 0.2), (-3, 5, -4), 48, 32, 40.0),
]


@pytest.fixture(autouse=True)
def no_refinement(monkeypatch: pytest.MonkeyPatch):
    """Points alone tell these poses."""
    monkeypatch.setattr(reconstruction, "COMPARISON_STEPS", 0)
    monkeypatch.setattr(reconstruction, "REFINEMENT_STEPS", 0)


def photos_of(network: PerfectNetwork) -> Photos:
    count = len(network.views)
    return Photos(
        [Path(f"{number}.png") for number in range(count)],
        network.photos,
        torch.stack([view.focal for view in network.views]),
        torch.stack([view.center for view in network.views]),
        [(0.0, 0.0)] * count,
    )


class Broken(PerfectNetwork):
    """Makes nonsense of some photos unless these come first."""

    nonsense_of: Tuple[int, ...] = (1,)

    def forward(self, images: torch.Tensor, intrinsics: torch.Tensor) -> Gaussians:
        made = super().forward(images, intrinsics)
        means = made.means.unflatten(1, (images.shape[1], -1)).clone()
        for place, image in enumerate(images[0]):
            known = int((self.photos - image).square().flatten(1).mean(dim=1).argmin())
            if place > 0 and known in self.nonsense_of:
                means[:, place] = torch.randn(means[:, place].shape, generator=torch.Generator().manual_seed(0)) + 3.0
        return replace(made, means=means.flatten(1, 2))


@pytest.mark.parametrize("count", [2, 3])
def test_cameras_are_found_whatever_comes_first(count: int):
    network = PerfectNetwork(VIEWS[:count])
    photos = photos_of(network)
    steps = []
    found = reconstruct(network, photos, lambda: steps.append(1))
    assert len(steps) == num_steps(count)
    true = camera_to_worlds(torch.stack([view.world_to_camera for view in network.views]))
    errors = pose_errors(found.camera_to_worlds, true)
    assert errors.rotation_deg.max() < 0.1 and errors.similarity.scale == pytest.approx(1.0, abs=0.01)
    assert errors.translation.max() < 0.01
    assert found.psnrs(photos).min() > 20.0 and doubts(found, photos) == []
    assert torch.equal(found.world_to_cameras[found.order[0]], torch.eye(4)[:3])
    # The image from a photo's camera by all is that by all but its own, where these are.
    others = found.gaussians_of(*found.others(1))
    assert len(others) == (count - 1) * 48 * 32


ROUND = [
    view_from((0.45 * number - 0.9, 0.1 * (number % 2), 0.05 * number), (2, 8 - 4 * number, 3), 48, 32, 40.0)
    for number in range(5)
]


class UnitOfItsOwn(PerfectNetwork):
    """For each pair, and never more than two photos."""

    units = (1.0, 1.3, 0.8, 1.1, 0.9)

    def forward(self, images: torch.Tensor, intrinsics: torch.Tensor) -> Gaussians:
        assert images.shape[1] == 2
        known = [int((self.photos - image).square().flatten(1).mean(dim=1).argmin()) for image in images[0]]
        made = super().forward(images, intrinsics)
        unit = self.units[known[0]] / self.units[known[1]] ** 2
        return replace(made, means=unit * made.means, scales=unit * made.scales)


def test_more_photos_are_put_together_from_pairs():
    network = UnitOfItsOwn(ROUND)
    photos = photos_of(network)
    steps = []
    found = reconstruct(network, photos, lambda: steps.append(1))
    assert len(steps) == num_steps(5) == 10 + 4 * 5
    true = camera_to_worlds(torch.stack([view.world_to_camera for view in network.views]))
    errors = pose_errors(found.camera_to_worlds, true)
    assert errors.rotation_deg.max() < 0.2 and errors.translation_relative.max() < 0.01
    assert found.psnrs(photos).min() > 20.0 and doubts(found, photos) == []
    assert len(found.gaussians) == 5 * 48 * 32 and found.order[0] == 2  # the middle one
    torch.testing.assert_close(found.world_to_cameras[2], torch.eye(4)[:3])


def test_a_photo_of_something_else_is_named_among_more():
    network = UnitOfItsOwn([*ROUND[:3], view_from((9.0, 0, 0), (0, 40, 0), 48, 32, 40.0)])
    with pytest.raises(InputError, match=r"no other photo explains 3\.png; leave it out, or give photos between"):
        reconstruct(network, photos_of(network))


def test_angles_and_distances_are_from_the_first_photo_given():
    network = PerfectNetwork(VIEWS[:2])
    first = pixel_gaussians([VIEWS[1], VIEWS[0]])
    turned = VIEWS[0].world_to_camera[:, :3] @ VIEWS[1].world_to_camera[:, :3].T
    relative = torch.cat([turned, -(turned @ VIEWS[1].world_to_camera[:, 3:])], dim=1)
    found = Reconstruction((1, 0), first, torch.stack([relative, torch.eye(4)[:3]]))
    (own, nothing), (angle, distance) = found.moves()
    assert own == pytest.approx(0.0, abs=0.1) and nothing == 0.0
    assert angle == pytest.approx(float(roma.rotmat_geodesic_distance(turned, torch.eye(3)).rad2deg()), abs=0.1)
    depth = float(first.means[: 48 * 32, 2].median())
    assert found.scene_depth == pytest.approx(depth)
    assert distance == pytest.approx(float(torch.tensor([0.5, 0.1, -0.1]).norm()) / depth, rel=1e-3)
    del network


def test_the_frame_is_upright_and_shows_the_same():
    network = PerfectNetwork(VIEWS[:2])
    photos = photos_of(network)
    found = reconstruct(network, photos)
    upright = found.upright()
    up = upright.camera_to_worlds[:, :, 1].mean(dim=0)
    torch.testing.assert_close(up / up.norm(), torch.tensor([0.0, 0.0, 1.0]), atol=1e-5, rtol=0.0)
    assert upright.gaussians.means.median(dim=0).values.norm() < 0.5  # turned after it was found
    assert (upright.camera_to_worlds[:, 1, 2] < -0.9).all()  # cameras look along +y
    torch.testing.assert_close(upright.psnrs(photos), found.psnrs(photos), atol=0.1, rtol=0.0)
    assert upright.scene_depth == pytest.approx(found.scene_depth, rel=1e-4)
    torch.testing.assert_close(torch.tensor(upright.moves()), torch.tensor(found.moves()), atol=1e-2, rtol=1e-3)


def test_the_order_that_shows_the_photos_better_is_kept():
    network = PerfectNetwork(VIEWS[:2])
    photos = photos_of(network)
    wrong = network.forward

    def paler_if_the_first_is_first(images: torch.Tensor, intrinsics: torch.Tensor) -> Gaussians:
        made = wrong(images, intrinsics)
        is_worse = torch.equal(images[0, 0], photos.images[0])
        return replace(made, harmonics=made.harmonics * (0.5 if is_worse else 1.0))

    network.forward = paler_if_the_first_is_first  # type: ignore[method-assign]
    assert reconstruct(network, photos).order == (1, 0)


def test_an_order_without_poses_is_left_out_and_none_at_all_is_told():
    network = Broken(VIEWS[:2])
    photos = photos_of(network)
    assert reconstruct(network, photos).order == (1, 0)
    network.nonsense_of = (0, 1)
    with pytest.raises(InputError, match=r"do not seem to show the same thing: no camera .* found for [01]\.png"):
        reconstruct(network, photos)


def test_photos_of_different_things_raise_doubts():
    network = PerfectNetwork(VIEWS[:2], hues=[0.0, 4.0])
    photos = photos_of(network)
    found = doubts(reconstruct(network, photos), photos)
    assert len(found) == 2 and "hardly better than one color does" in found[0]


def test_photos_that_look_elsewhere_raise_doubts():
    network = PerfectNetwork([VIEWS[0], view_from((3.0, 0, 0), (0, 25, 0), 48, 32, 40.0)])
    photos = photos_of(network)
    found = doubts(reconstruct(network, photos), photos)
    assert found and "hardly anything is seen of what the others show" in found[0]


def test_the_film_passes_all_cameras_and_closes():
    poses = camera_to_worlds(torch.stack([view.world_to_camera for view in VIEWS]))
    film = film_poses(poses, 3.0, frames=200)
    turns = film[:, :, :3]
    torch.testing.assert_close(turns @ turns.mT, torch.eye(3).expand(200, 3, 3), atol=1e-5, rtol=0.0)
    steps = (film[:, :, 3] - film.roll(1, 0)[:, :, 3]).norm(dim=-1)
    assert steps.max() < 0.06 and (steps - steps.roll(1)).abs().max() < 0.01
    for pose in poses:
        distances = (film[:, :, 3] - pose[:, 3]).norm(dim=-1)
        nearest = int(distances.argmin())
        angle = roma.rotmat_geodesic_distance(turns[nearest], pose[:, :3]).rad2deg()
        assert distances[nearest] < 0.15 and angle < 2.0
    still = film_poses(poses[:1].expand(2, 3, 4), 3.0)
    assert (still[:, :, 3] - poses[0, :, 3]).norm(dim=-1).max() == pytest.approx(0.12, abs=1e-3)
    assert inverse_poses(still).isfinite().all()
