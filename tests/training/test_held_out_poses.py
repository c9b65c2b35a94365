"""How poses of held-out images are found, and which of them are believed."""

from typing import Any

import pytest
import roma
import torch
from analytic_scene import RADIUS, Blobs, image_set_of, model_of, random_poses

from gnerf_ns.cameras.pose_codec import PoseCodec, rotate_poses
from gnerf_ns.cameras.pose_prior import PosePriorConfig
from gnerf_ns.pose_search.pose_search import PoseProposals, PoseSearch, PoseSearchConfig
from gnerf_ns.pose_search.refinement import Localization, LocalizationConfig, RefinementConfig
from gnerf_ns.training import held_out_poses
from gnerf_ns.training.held_out_poses import (
    EvalPosesConfig,
    HeldOutGuess,
    find_held_out_poses,
    held_to_guess,
    looked_up,
    refined,
    tried_beside_others,
    unsure_images,
)
from gnerf_ns.training.placement import PoseOrigin

COUNT = 5


@pytest.mark.parametrize("regressed", ["no network", "a wrong network", "a good network"])
def test_held_out_poses_are_found_from_nothing(regressed: str):
    torch.manual_seed(0)
    model = model_of(Blobs(num_samples=16))
    truth = random_poses(COUNT, seed=6)
    image_set = image_set_of(model, truth)
    prior = PosePriorConfig(elevation_deg=(-60.0, 60.0)).resolve()
    # With a good network even a hopeless search does no harm.
    bank_size = 5 if regressed == "a good network" else 400
    search = PoseSearch(
        PoseSearchConfig(bank_size=bank_size), model, PoseProposals(prior, lambda: RADIUS), PoseCodec("look_at", RADIUS)
    )
    first = RefinementConfig(steps=40, rays_per_hypothesis=64, learning_rate=1e-2, first_image_side=16)
    last = RefinementConfig(steps=100, rays_per_hypothesis=64, learning_rate=5e-3)
    networks = {
        "no network": None,
        "a wrong network": lambda image_set: random_poses(COUNT, seed=7),
        "a good network": lambda image_set: truth + 0.05,
    }
    config = EvalPosesConfig(
        num_hypotheses=3,
        localization=LocalizationConfig(survivors=1, first=first, second=RefinementConfig(steps=0), last=last),
    )
    poses = looked_up(config, image_set, search, networks[regressed])
    errors = torch.rad2deg(roma.rotmat_geodesic_distance(poses[:, :, :3], truth[:, :, :3]))
    assert errors.max() < 1.0


@pytest.mark.parametrize("are_sharp", [True, False])
def test_held_out_poses_stay_near_what_sharp_matches_say(are_sharp: bool):
    guess = random_poses(6, seed=7)
    guess[4] = torch.nan
    turns_deg = torch.tensor([3.0, 0.2, 3.0, 0.2, 0.0, 90.0])
    axis = torch.tensor([0.0, 0.6, 0.8])
    turns = roma.rotvec_to_rotmat(torch.deg2rad(turns_deg)[:, None] * axis)
    estimated = torch.cat([turns @ random_poses(6, seed=7)[..., :3], random_poses(6, seed=7)[..., 3:]], dim=-1)
    doubtful = PoseOrigin.DOUBTFUL_MATCHES
    origins = torch.tensor([PoseOrigin.MATCHES] * 2 + [PoseOrigin.GIVEN] * 2 + [PoseOrigin.LOOKED_UP, doubtful])
    poses, found = held_to_guess(estimated, guess, origins, are_sharp)
    assert unsure_images(estimated, guess, origins, are_sharp).tolist() == ([4, 5] if are_sharp else [0, 4, 5])
    moved = PoseOrigin.LOOKED_UP
    first = PoseOrigin.MATCHES if are_sharp else moved
    assert found.tolist() == [first, PoseOrigin.MATCHES, moved, PoseOrigin.GIVEN, moved, doubtful]
    assert torch.equal(poses[0], guess[0] if are_sharp else estimated[0])
    assert torch.equal(poses[1:], estimated[1:])


def test_images_that_were_placed_wrongly_are_found_beside_others():
    torch.manual_seed(0)
    model = model_of(Blobs(num_samples=16))
    truth = random_poses(2, seed=6)
    search = PoseSearch(
        PoseSearchConfig(), model, PoseProposals(PosePriorConfig().resolve(), lambda: RADIUS), PoseCodec("free", RADIUS)
    )
    axis = torch.tensor([0.0, 0.6, 0.8])

    def turned(poses: torch.Tensor, degrees: float) -> torch.Tensor:
        return rotate_poses(roma.rotvec_to_rotmat(torch.deg2rad(torch.tensor(degrees)) * axis), poses)

    guess = torch.cat([turned(truth[:1], 2.0), turned(truth[1:], 150.0)])
    others = torch.cat([random_poses(3, seed=7), turned(truth[1:], 15.0)])
    images, config = image_set_of(model, truth), EvalPosesConfig()
    near = refined(config, images, search, guess[:, None])
    poses = tried_beside_others(images, search, near, guess[:, None], others)
    errors = torch.rad2deg(roma.rotmat_geodesic_distance(poses[:, :, :3], truth[:, :, :3]))
    assert errors.max() < 1.0
    # What was estimated counts as well, and there may be no guess at all.
    for known in (near[1:], torch.full_like(near[1:], torch.nan)):
        elsewhere = tried_beside_others(
            images[torch.tensor([1])], search, known, turned(truth[1:], 10.0)[:, None], others[:3]
        )
        assert torch.rad2deg(roma.rotmat_geodesic_distance(elsewhere[:, :, :3], truth[1:, :, :3])).max() < 1.0


def test_images_go_elsewhere_only_where_they_fit_clearly_better(monkeypatch: pytest.MonkeyPatch):
    """Each by itself, whichever are tried together."""
    count = 2 * held_out_poses.TRIED_TOGETHER + 1
    guess, estimated = random_poses(count, seed=1), random_poses(count, seed=2)
    there = torch.tensor([0.84, 0.86]).repeat(count)[:count]

    def localized(config: Any, field: Any, image_set: Any, starts: torch.Tensor, make_poses: Any) -> Any:
        assert len(image_set) == len(starts) <= held_out_poses.TRIED_TOGETHER
        is_elsewhere = (starts[:, :1] == estimated).all(dim=(2, 3))
        squared = torch.where(is_elsewhere.any(dim=1), (is_elsewhere * there).sum(dim=1), 1.0)
        return [
            Localization(mine[0], 0.1 * float(cost) ** 0.5, 0.9, len(mine), 1, True, 1.0, 1.0, mine[:1], 0)
            for mine, cost in zip(starts, squared, strict=True)
        ]

    monkeypatch.setattr(held_out_poses, "localize_images", localized)
    model = model_of(Blobs(num_samples=16))
    search = PoseSearch(
        PoseSearchConfig(), model, PoseProposals(PosePriorConfig().resolve(), lambda: RADIUS), PoseCodec("free", RADIUS)
    )
    images = image_set_of(model, random_poses(count, seed=3))
    poses = tried_beside_others(images, search, guess, estimated[:, None], random_poses(2, seed=4))
    assert torch.equal(poses, torch.where((there < held_out_poses.MAX_COST_RATIO)[:, None, None], estimated, guess))


def test_held_out_poses_go_with_their_group_unless_its_place_is_in_doubt():
    guess = random_poses(2, seed=7)
    estimated = random_poses(2, seed=8)
    origins = torch.tensor([PoseOrigin.GROUP, PoseOrigin.DOUBTFUL_GROUP])
    poses, found = held_to_guess(estimated, guess, origins, are_matches_sharp=True)
    assert torch.equal(poses, torch.stack([guess[0], estimated[1]])) and torch.equal(found, origins)


def test_held_out_poses_do_not_depend_on_which_images_share_a_batch(monkeypatch: pytest.MonkeyPatch):
    """Nor on how many there are: batches bound memory, and no image knows of others."""
    model, truth = model_of(Blobs(num_samples=16)), random_poses(COUNT, seed=6)
    search = PoseSearch(
        PoseSearchConfig(bank_size=100),
        model,
        PoseProposals(PosePriorConfig(elevation_deg=(-60.0, 60.0)).resolve(), lambda: RADIUS),
        PoseCodec("look_at", RADIUS),
    )
    none = RefinementConfig(steps=0)
    config = EvalPosesConfig(localization=LocalizationConfig(survivors=1, first=none, second=none, last=none))
    found = []
    for batch in (2, 100):
        monkeypatch.setattr(held_out_poses, "IMAGES_PER_BATCH", batch)
        torch.manual_seed(0)
        found.append(looked_up(config, image_set_of(model, truth), search))
    torch.testing.assert_close(*found)
    errors = torch.rad2deg(roma.rotmat_geodesic_distance(found[0][:, :, :3], truth[:, :, :3]))
    assert errors.median() < 20, "each image has its own pose"


def test_one_in_doubt_is_looked_for_elsewhere_only_if_it_is_shown_worse_than_sure_ones(monkeypatch: pytest.MonkeyPatch):
    model, truth = model_of(Blobs(num_samples=16)), random_poses(7, seed=6)
    search = PoseSearch(
        PoseSearchConfig(), model, PoseProposals(PosePriorConfig().resolve(), lambda: RADIUS), PoseCodec("free", RADIUS)
    )
    elsewhere, looked = random_poses(2, seed=9), []

    def look_up(config: Any, images: Any, *others: Any) -> torch.Tensor:
        looked.append(len(images))
        return elsewhere[: len(images), None].clone()

    monkeypatch.setattr(held_out_poses, "starting_poses", look_up)
    monkeypatch.setattr(held_out_poses, "refined", lambda config, images, search, starts: starts[:, 0])
    monkeypatch.setattr(held_out_poses, "tried_beside_others", lambda images, search, near, found, others: found[:, 0])
    # Sure ones are a little off, as they are in training.
    known = rotate_poses(roma.rotvec_to_rotmat(torch.tensor([0.0, 0.0, 0.02])), truth)
    known[[4, 5]] = torch.stack([truth[4], random_poses(1, seed=3)[0]])
    known[6] = torch.nan
    origins = torch.tensor([PoseOrigin.MATCHES] * 4 + [PoseOrigin.DOUBTFUL_MATCHES] * 2 + [PoseOrigin.LOOKED_UP])
    guess = HeldOutGuess(known, origins, are_matches_sharp=True, are_fixed=False, others=random_poses(3, seed=8))
    poses, found = find_held_out_poses(EvalPosesConfig(), image_set_of(model, truth), search, None, guess)
    assert looked == [2], "one in doubt that is shown badly, and one without a pose"
    assert torch.equal(poses, torch.cat([known[:5], elsewhere])) and torch.equal(found, origins)
    # With few sure ones to compare with, those in doubt are looked for.
    few, images = torch.tensor([0, 1, 4]), image_set_of(model, truth)
    find_held_out_poses(
        EvalPosesConfig(), images[few], search, None, guess._replace(camera_to_worlds=known[few], origins=origins[few])
    )
    assert looked == [2, 1]
    # As where nothing but the field speaks for those that stay where matches put them as a group.
    group = torch.where(origins == PoseOrigin.MATCHES, PoseOrigin.GROUP, origins)
    poses, _ = find_held_out_poses(
        EvalPosesConfig(), images[few], search, None, guess._replace(camera_to_worlds=known[few], origins=group[few])
    )
    assert looked == [2, 1, 1] and torch.equal(poses[:2], known[:2])
    placed = guess._replace(camera_to_worlds=known[:6], origins=group[:6])
    find_held_out_poses(EvalPosesConfig(), images[torch.arange(6)], search, None, placed)
    assert looked == [2, 1, 1, 2]


@pytest.mark.parametrize("are_sharp", [True, False])
def test_with_nothing_sure_all_are_looked_up_and_those_in_doubt_compared_with_what_is_near(
    are_sharp: bool, monkeypatch: pytest.MonkeyPatch
):
    model, truth = model_of(Blobs(num_samples=16)), random_poses(4, seed=6)
    search = PoseSearch(
        PoseSearchConfig(), model, PoseProposals(PosePriorConfig().resolve(), lambda: RADIUS), PoseCodec("free", RADIUS)
    )
    looked_up_poses, tried = random_poses(4, seed=9), []
    monkeypatch.setattr(held_out_poses, "looked_up", lambda *given: looked_up_poses.clone())
    monkeypatch.setattr(held_out_poses, "refined", lambda config, images, search, starts: starts[:, 0])

    def tried_beside(images: Any, search: Any, near: torch.Tensor, starts: torch.Tensor, others: Any) -> torch.Tensor:
        tried.append((near, starts))
        return near

    monkeypatch.setattr(held_out_poses, "tried_beside_others", tried_beside)
    known = truth.clone()
    known[3] = torch.nan
    doubtful = [PoseOrigin.GIVEN, PoseOrigin.DOUBTFUL_MATCHES, PoseOrigin.DOUBTFUL_GROUP, PoseOrigin.LOOKED_UP]
    guess = HeldOutGuess(known, torch.tensor(doubtful), are_sharp, are_fixed=False, others=random_poses(3, seed=8))
    poses, _ = find_held_out_poses(EvalPosesConfig(), image_set_of(model, truth), search, None, guess)
    near, starts = tried[0]
    assert torch.equal(near, torch.cat([known[1:3], looked_up_poses[3:]]))
    assert torch.equal(starts, looked_up_poses[1:, None])
    assert torch.equal(poses, torch.cat([looked_up_poses[:1], known[1:3], looked_up_poses[3:]]))


def test_fixed_poses_stay_and_others_are_found(monkeypatch: pytest.MonkeyPatch):
    model, truth = model_of(Blobs(num_samples=16)), random_poses(2, seed=6)
    search = PoseSearch(
        PoseSearchConfig(), model, PoseProposals(PosePriorConfig().resolve(), lambda: RADIUS), PoseCodec("free", RADIUS)
    )
    estimated = random_poses(2, seed=7)
    monkeypatch.setattr(held_out_poses, "looked_up", lambda *given: estimated.clone())
    monkeypatch.setattr(held_out_poses, "tried_beside_others", lambda images, search, near, found, others: found[:, 0])
    origins = torch.tensor([PoseOrigin.GIVEN, PoseOrigin.LOOKED_UP])
    known = torch.stack([truth[0], torch.full_like(truth[1], torch.nan)])
    guess = HeldOutGuess(known, origins, are_matches_sharp=False, are_fixed=True, others=random_poses(3, seed=8))
    images = image_set_of(model, truth)
    poses, found = find_held_out_poses(EvalPosesConfig(), images, search, None, guess)
    assert torch.equal(poses, torch.stack([truth[0], estimated[1]])) and torch.equal(found, origins)
    # Where all are known there is nothing to look for.
    monkeypatch.setattr(held_out_poses, "looked_up", lambda *given: pytest.fail("looked up"))
    whole = guess._replace(camera_to_worlds=truth, origins=torch.full((2,), PoseOrigin.GIVEN))
    assert find_held_out_poses(EvalPosesConfig(), images, search, None, whole)[0] is truth
