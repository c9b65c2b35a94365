"""A run that begins where matches put its images: the frame, what follows for the rest, and what it goes on with."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import List, Optional

import numpy as np
import pytest
import roma
import torch
from analytic_scene import (
    RADIUS,
    Blobs,
    ConstantFog,
    cameras,
    image_set_of,
    matches_between,
    model_of,
    random_poses,
)
from nerfstudio.utils.eval_utils import eval_setup
from PIL import Image
from tiny_run import (
    SCHEDULE,
    TINY_LOCALIZATION,
    build_pipeline,
    build_trainer,
    pipeline_config,
    train_steps,
    trainer_config,
)
from torch import Tensor

from gnerf_ns.cameras.alignment import Similarity, pose_errors
from gnerf_ns.cameras.look_at import look_at
from gnerf_ns.cameras.pose_codec import rotate_poses
from gnerf_ns.cameras.pose_prior import PosePriorConfig
from gnerf_ns.cameras.rays import CameraDirections
from gnerf_ns.data.image_set import ImageSet, ImageStack
from gnerf_ns.data.images import ImageSize
from gnerf_ns.fields.mip360_radiance import Mip360RadianceConfig
from gnerf_ns.matching.local_matches import Component, LocalMatches, PairMatches
from gnerf_ns.models.gnerf import GNeRFModelConfig
from gnerf_ns.pose_search.rigid_groups import PlacedGroup
from gnerf_ns.training import held_out_poses
from gnerf_ns.training import pipeline as pipeline_module
from gnerf_ns.training import placement as placement_module
from gnerf_ns.training import pose_updates as pose_updates_module
from gnerf_ns.training.beginning import (
    colors_tell_little,
    found_lenses,
    known_poses,
    prior_around,
    prior_of_silhouettes,
)
from gnerf_ns.training.placement import (
    GivenPoses,
    Placement,
    PoseOrigin,
    confirmed_images,
    images_that_match_elsewhere,
    is_enough,
    joined,
    precision_deg,
)
from gnerf_ns.training.schedule import PhaseScheduleConfig, Schedule
from gnerf_ns.utils.errors import InputError

ANY_FRAME = Similarity(
    torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64),
    5.0,
    torch.tensor([3.0, -1.0, 2.0], dtype=torch.float64),
)
DIRECTIONS = CameraDirections(cameras(6)), CameraDirections(cameras(3))
"""Of six training images, and three held-out ones."""
NOBODY = np.zeros(0, np.int64)
SHARP = ImageSize(1000, 750)
"""Of images whose `component` has sharp poses."""
NO_PAIRS = PairMatches(np.zeros((0, 2), np.int64), np.zeros(0, np.int64), np.zeros((0, 4), np.float32))


@pytest.fixture(autouse=True)
def few_steps_beside_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fields of seven steps show nothing that hundreds would find; `test_held_out_poses` takes them."""
    monkeypatch.setattr(held_out_poses, "BESIDE_OTHERS", TINY_LOCALIZATION)


def component(indices: List[int], poses: Tensor, points: Optional[Tensor] = None, focal: float = 1.4) -> Component:
    count, some = len(indices), torch.zeros(1, 3) if points is None else points
    seen = np.repeat(np.arange(count), 25)
    return Component(
        image_indices=np.array(indices),
        camera_to_worlds=ANY_FRAME.apply(poses.double()).numpy(),
        focal=np.full((count, 2), focal),
        center=np.full((count, 2), 0.5),
        distortion=np.tile([0.05, 0.0, 0.0, 0.0, 0.0, 0.0], (count, 1)),
        points=(ANY_FRAME.scale * some.double() @ ANY_FRAME.rotation.mT + ANY_FRAME.translation).numpy(),
        seen_by=seen,
        seen_point=0 * seen,
        seen_at=np.zeros((len(seen), 2)),
        error_px=np.array(0.5),
    )


def matches_of(*components: Component) -> LocalMatches:
    return LocalMatches(list(components), NO_PAIRS, NOBODY)


def test_an_object_comes_to_fill_the_ball_whatever_frame_its_cameras_came_in():
    truth, found = random_poses(14, seed=5), [0, 2, 3, 4, 7, 8, 9, 11, 12]
    images = image_set_of(model_of(Blobs()), truth[:12])
    of_both = CameraDirections(cameras(12)), CameraDirections(cameras(2))
    known = known_poses(matches_of(component(found, truth[found])), None, images, of_both)
    assert known.train_indices.tolist() == found[:-1] and known.eval_indices.tolist() == [0]
    errors = pose_errors(torch.cat([known.train, known.eval]), truth[found]).summary()
    assert errors["rotation_error_deg_max"] < 0.1 and errors["translation_error_relative"] < 1e-3
    # The blobs reach to 0.75 of where these poses have their unit, and are no ball themselves.
    larger = float(known.train[:, :, 3].norm(dim=-1).mean()) / RADIUS
    assert 1.0 < larger < 1.6
    heights, true_heights = known.train[:, 2, 3], truth[known.train_indices, 2, 3]
    assert float(heights.std()) == pytest.approx(larger * float(true_heights.std()), rel=0.1)  # +z is up


def test_cameras_in_a_room_come_to_stand_in_the_ball_around_what_they_see():
    truth = random_poses(12, seed=5)
    images = image_set_of(model_of(ConstantFog()), truth)
    images.images.pixels = images.images.pixels[..., :3]
    points = torch.tensor([0.3, 0.2, 0.1]) + 0.1 * torch.randn(101, 3, generator=torch.Generator().manual_seed(0))
    of_both = CameraDirections(cameras(12)), CameraDirections(cameras(1))
    known = known_poses(matches_of(component(list(range(12)), truth, points)), None, images, of_both)
    distances = known.train[:, :, 3].norm(dim=-1)
    assert 0.95 < float(distances.max()) < 1.2 and float(distances.min()) > 0.5


@pytest.mark.parametrize(
    ("what", "expected"),
    [("room", True), ("white", False), ("noise on gray", False), ("alpha", False), ("padded white", False)],
)
def test_surroundings_are_told_from_a_plain_ground(what: str, expected: bool):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.full((5, 96, 128, 3), 250, dtype=torch.uint8)
    pixels[:, 10:-10, 10:-10] = torch.randint(0, 256, (5, 76, 108, 3), generator=generator, dtype=torch.uint8)
    extents = None
    if what == "room":
        pixels[:, :, :40] = 90
    elif what == "noise on gray":
        noise = 120 + 50 * torch.randn(pixels.shape, generator=generator)
        pixels = noise.clamp(0, 255).to(torch.uint8)
    elif what == "alpha":
        pixels = torch.cat([pixels, torch.full_like(pixels[..., :1], 128)], dim=-1)
    elif what == "padded white":
        pixels[3, :, :32], pixels[3, :, -32:] = 0, 0
        extents = torch.tensor([[1.0, 1.0]] * 3 + [[0.5, 1.0], [1.0, 1.0]])
    assert ImageStack(pixels, extents).show_surroundings == expected


@pytest.mark.parametrize("count", [0, 3, 5])
def test_with_few_images_matched_a_run_begins_as_without(count: int):
    components = [component(list(range(count)), random_poses(count))] if count else []
    assert not is_enough(matches_of(*components), [SHARP] * 12)
    assert is_enough(matches_of(*components), [SHARP] * 12, is_only_beginning=True) == (count >= 4)


@pytest.mark.parametrize(("num_train", "expected"), [(16, True), (18, False), (30, False), (32, True), (34, False)])
def test_of_few_images_nearly_all_have_to_be_matched(num_train: int, expected: bool):
    matches = matches_of(component(list(range(16)), random_poses(16)))
    assert is_enough(matches, [SHARP] * num_train) == expected
    assert is_enough(matches, [ImageSize(100, 75)] * num_train) == (expected and num_train > 30)  # roughly placed


def test_lenses_are_found_by_size():
    sizes = [ImageSize(40, 30), ImageSize(30, 40), ImageSize(40, 30), ImageSize(99, 99)]
    lenses = found_lenses(component([0, 1, 2], random_poses(3)), sizes)
    assert [lens.size for lens in lenses] == [ImageSize(40, 30), ImageSize(30, 40)]
    assert lenses[0].focal == pytest.approx((56.0, 56.0)) and lenses[1].focal == pytest.approx((42.0, 42.0))
    assert lenses[1].center == pytest.approx((15.0, 20.0)) and lenses[0].distortion[0] == pytest.approx(0.05)


def test_matches_know_poses_as_well_as_pixels_and_their_number_allow():
    """A pixel of 0.2046 degrees, an error of half of it, and 16 points in a typical image."""
    seen = np.repeat([0, 1, 2], [4, 16, 25])
    some = component([0, 1, 2], random_poses(3), focal=1.4)
    matched, unseen = (
        matches_of(replace(some, seen_by=each, seen_point=0 * each, seen_at=np.zeros((len(each), 2))))
        for each in (seen, seen[:0])
    )
    sizes = [ImageSize(200, 150)] * 3
    assert precision_deg(matched, sizes) == pytest.approx(0.2046 / 8, rel=1e-3)
    assert precision_deg(matched, [ImageSize(4000, 3000)]) == pytest.approx(0.2046 / 8 / 5, rel=1e-3)
    assert precision_deg(unseen, sizes) == math.inf


def test_the_prior_is_where_cameras_stand():
    azimuths = torch.deg2rad(torch.tensor([350.0, 10.0, 30.0, 60.0]))
    level = torch.stack([azimuths.cos(), azimuths.sin(), 0.5 + 0.0 * azimuths], dim=-1)
    positions = level * torch.tensor([2.0, 3.0, 2.5, 2.2])[:, None]
    prior = prior_around(look_at(positions, torch.tensor([0.0, 0.2, 0.0]).expand(4, 3)), RADIUS, RADIUS).resolve()
    low, high = prior.azimuth_deg
    assert low == pytest.approx(-20.0, abs=1e-3) and high == pytest.approx(70.0, abs=1e-3)
    assert prior.elevation_deg == pytest.approx((16.57, 36.57), abs=0.01)
    lengths = positions.norm(dim=-1) / RADIUS
    assert prior.radius == pytest.approx((0.9 * float(lengths.min()), 1.1 * float(lengths.max())))
    assert 0.0 < prior.look_at_jitter < 0.2 / RADIUS
    ring = random_poses(40, seed=2)
    assert prior_around(ring, RADIUS, RADIUS).azimuth_deg == (0.0, 360.0)


def test_phase_b_is_all_there_is():
    config = PhaseScheduleConfig(**{**SCHEDULE, "phase_a_attempts": None, "leave_out_rounds": None})
    schedule = Schedule.of(config.with_known_poses("matched"), 12, 100)
    assert schedule.total_steps == config.phase_b_steps
    plans = [schedule.at(step) for step in range(schedule.total_steps)]
    assert all(plan.phase == "B" and not plan.searches_all_poses and plan.leave_out_rounds == 0 for plan in plans)
    assert all(plan.density_noise == 0.0 for plan in plans)
    assert [plan.step for plan in plans if plan.searches_misfit_poses] == [2]


@pytest.mark.parametrize(("length", "at"), [(1500, 600), (700, 300), (620, 300), (400, 150), (200, 66), (6, 2), (2, 0)])
def test_groups_are_looked_up_late_and_misfits_among_them_after_that(length: int, at: int):
    schedule = Schedule.of(PhaseScheduleConfig(phase_b_steps=length).with_known_poses("matched"), 40, 100)
    plans = [schedule.at(step) for step in range(length)]
    searches = [plan.step for plan in plans if plan.searches_misfit_poses]
    assert [plan.step for plan in plans if plan.places_groups] == [step for step in searches if step >= at]
    assert at in searches


def test_given_poses_of_others_move_into_the_frame_of_the_matched_ones():
    truth = random_poses(9, seed=3).double()
    elsewhere = Similarity(torch.eye(3, dtype=torch.float64)[[2, 0, 1]], 0.2, torch.ones(3, dtype=torch.float64))
    rough = truth.clone()
    rough[:, :, 3] += 0.02 * torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    rough[1] = truth[8]  # wrong, as one in ten may be
    rows = torch.tensor([0, 1, 2, 3, 4, 5, 7, 8])
    given = Placement(rows, elsewhere.apply(rough[rows]), torch.full((8,), PoseOrigin.GIVEN))
    placed = joined(matches_of(component([0, 1, 2, 3, 4, 5], truth[:6])), given, DIRECTIONS)
    assert placed.indices.tolist() == [0, 1, 2, 3, 4, 5, 7, 8]
    assert placed.origins.tolist() == [PoseOrigin.MATCHES] * 6 + [PoseOrigin.GIVEN] * 2
    expected = ANY_FRAME.apply(truth[placed.indices])
    torch.testing.assert_close(placed.camera_to_worlds[:6], expected[:6])
    assert float((placed.camera_to_worlds[6:] - expected[6:]).abs().max()) < 0.2 * ANY_FRAME.scale


def exact_matches(truth: Tensor) -> LocalMatches:
    """Of all images, and points that they see."""
    points = 0.4 * torch.randn(60, 3, generator=torch.Generator().manual_seed(1))
    return replace(matches_of(component(list(range(len(truth))), truth)), matches=matches_between(truth, points))


def test_given_poses_that_matches_confirm_stay_as_they_are():
    """Poses made from matches would be worse than what a rig or a good calibration knows."""
    truth = random_poses(9, seed=3)
    matches = exact_matches(truth)
    noise = 2e-3 * torch.randn(matches.matches.points.shape, generator=torch.Generator().manual_seed(2))
    noisy = replace(matches, matches=replace(matches.matches, points=matches.matches.points + noise.numpy()))
    elsewhere = Similarity(torch.eye(3, dtype=torch.float64)[[2, 0, 1]], 0.2, torch.ones(3, dtype=torch.float64))
    poses = elsewhere.apply(truth.double())
    poses[4] = poses[8]  # an outlier
    given = Placement(torch.arange(9), poses, torch.full((9,), PoseOrigin.GIVEN))
    placed = joined(noisy, given, DIRECTIONS)
    assert dict(zip(placed.indices.tolist(), placed.origins.tolist(), strict=True)) == {
        **dict.fromkeys(range(9), PoseOrigin.CONFIRMED),
        4: PoseOrigin.MATCHES,
    }
    expected = elsewhere.apply(truth.double())
    sure = placed.origins == PoseOrigin.CONFIRMED
    assert torch.equal(placed.camera_to_worlds[sure], expected[placed.indices[sure]])
    torch.testing.assert_close(placed.camera_to_worlds, expected[placed.indices], atol=1e-4, rtol=0.0)


def test_where_most_given_poses_are_confirmed_others_count_more_than_doubtful_matches():
    truth = random_poses(9, seed=3)
    wrong = truth.clone()
    wrong[7] = random_poses(1, seed=9)[0]
    matches = replace(exact_matches(truth), components=[component(list(range(9)), wrong)], misplaced=np.array([7]))
    rough = truth.double()
    turn = roma.rotvec_to_rotmat(torch.tensor([0.0, 0.05, 0.0], dtype=torch.float64))
    rough[7, :, :3] = turn @ rough[7, :, :3]
    given = Placement(torch.arange(9), rough, torch.full((9,), PoseOrigin.GIVEN))
    placed = joined(matches, given, DIRECTIONS)
    torch.testing.assert_close(placed.camera_to_worlds[placed.indices == 7], rough[7:8], atol=1e-5, rtol=0.0)
    assert dict(zip(placed.indices.tolist(), placed.origins.tolist(), strict=True)) == {
        **dict.fromkeys(range(9), PoseOrigin.CONFIRMED),
        7: PoseOrigin.GIVEN,
    }


@pytest.mark.parametrize("turned_deg", [0.0, 30.0, 180.0])
def test_an_image_whose_matches_do_not_fit_its_place_is_in_doubt(turned_deg: float):
    """As where it was put on the wrong one of two sides that are alike."""
    truth = random_poses(9, seed=3)
    wrong = truth.clone()
    wrong[4] = rotate_poses(roma.rotvec_to_rotmat(torch.deg2rad(torch.tensor([0.0, 0.0, turned_deg]))), truth[4])
    matches = replace(exact_matches(truth), components=[component(list(range(9)), wrong)])
    found = images_that_match_elsewhere(matches, DIRECTIONS).tolist()
    assert found == ([] if turned_deg == 0.0 else [4])
    placed = joined(matches, None, DIRECTIONS)
    assert (placed.origins == PoseOrigin.DOUBTFUL_MATCHES).nonzero()[:, 0].tolist() == found


@pytest.mark.parametrize("turned_deg", [1.0, 10.0])
def test_rough_poses_are_not_confirmed(turned_deg: float):
    truth = random_poses(9, seed=3)
    matches = exact_matches(truth)
    turns = roma.rotvec_to_rotmat(
        math.radians(turned_deg) * torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    )
    rough = torch.cat([turns @ truth[..., :3], truth[..., 3:]], dim=-1).double()
    given = Placement(torch.arange(9), rough, torch.full((9,), PoseOrigin.GIVEN))
    assert len(confirmed_images(matches, given, DIRECTIONS)) == 0
    assert joined(matches, given, DIRECTIONS).origins.tolist() == [PoseOrigin.MATCHES] * 9


def test_what_neighbors_contradict_may_be_moved_and_is_named(
    tiny_scene: Path, matched: Tensor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    result = LocalMatches([component([0, 1, 2, 3, 4, 5, 6], matched[:7])], NO_PAIRS, np.array([3]))
    monkeypatch.setattr(placement_module, "match_images", lambda images, seed: result)
    pipeline = build_pipeline(pipeline_config(tiny_scene, "transport", matching="only"), test_mode="val")
    said = " ".join(capsys.readouterr().out.split())
    assert "In doubt is where 1 of the images were taken" in said and "sides that are alike" in said
    assert pipeline.leave_out.movable.tolist() == [3] and pipeline.leave_out.are_all_placed
    pipeline.leave_out.origins[[4, 5]] = torch.tensor([PoseOrigin.GIVEN, PoseOrigin.CONFIRMED])
    assert pipeline.leave_out.movable.tolist() == [3, 4]


@pytest.mark.parametrize(
    ("misplaced", "offset", "options", "expected"),
    [
        ([3], 0.0, {}, "matches"),  # of seven
        ([1, 3], 0.0, {}, "nothing"),
        ([0, 1, 2, 4, 5, 6], 0.0, {}, "nothing"),
        ([1, 3], 1.0, {}, "matches"),  # held by hand
        ([1, 3], 0.02, {}, "nothing"),
        ([1, 3], 0.0, {"matching": "only"}, "matches"),
        ([1, 3], 0.0, {"poses": "given"}, "matches"),
    ],
)
def test_contradictions_count_for_more_where_cameras_were_aimed(
    tiny_scene: Path, matched: Tensor, monkeypatch: pytest.MonkeyPatch, misplaced, offset, options, expected
):
    poses = matched[:7].clone()
    poses[..., 3] += offset * torch.randn(7, 3, generator=torch.Generator().manual_seed(1))
    result = LocalMatches([component([0, 1, 2, 3, 4, 5, 6], poses)], NO_PAIRS, np.array(misplaced))
    monkeypatch.setattr(placement_module, "match_images", lambda images, seed: result)
    config = pipeline_config(tiny_scene, "transport", **{"matching": "auto", **options})
    pipeline = build_pipeline(config, test_mode="val")
    assert (pipeline.config.begins_with is None) == (expected == "nothing")
    assert (pipeline.schedule.phase_a_end > 0) == (expected == "nothing")


@pytest.mark.parametrize("are_masked", [False, True])
def test_cameras_that_hardly_moved_are_said(
    tiny_scene: Path,
    tmp_path: Path,
    matched: Tensor,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    are_masked: bool,
):
    """As before a turntable: then what stands still has to be masked, if it is not."""
    scene = tmp_path / "scene"
    shutil.copytree(tiny_scene, scene)
    for path in [] if are_masked else scene.rglob("*.png"):
        Image.open(path).convert("RGB").save(path)
    together = matched[:7].clone()
    together[..., :3], together[..., 3] = together[0, :, :3], together[0, :, 3] + 0.01 * together[..., 3]
    result = LocalMatches([component([0, 1, 2, 3, 4, 5, 6], together)], NO_PAIRS, np.zeros(0, dtype=np.int64))
    monkeypatch.setattr(placement_module, "match_images", lambda images, seed: result)
    build_pipeline(pipeline_config(scene, "transport", matching="only"), test_mode="val")
    said = " ".join(capsys.readouterr().out.split())
    assert ("the camera hardly moved" in said and "give masks" in said) == (not are_masked)


def silhouettes_from(prior: PosePriorConfig) -> Optional[PosePriorConfig]:
    """What silhouettes of a scene say, taken from a distribution of poses."""
    poses = prior.resolve().sample(40, RADIUS, "cpu", torch.Generator().manual_seed(0))
    return prior_of_silhouettes(image_set_of(model_of(Blobs()), poses, 48, 48), RADIUS)


def test_silhouettes_tell_cameras_on_a_sphere_from_those_held_by_hand():
    assert silhouettes_from(PosePriorConfig(elevation_deg=(0.0, 60.0), radius=(1.2, 1.2))) is None
    aimed = silhouettes_from(PosePriorConfig(elevation_deg=(0.0, 60.0), radius=(1.3, 1.3), look_at_jitter=0.1))
    assert aimed is not None and aimed.look_at_jitter == pytest.approx(0.1, rel=0.35)
    near = silhouettes_from(PosePriorConfig(elevation_deg=(0.0, 60.0), radius=(1.0, 1.9), look_at_jitter=0.1))
    assert near is not None and near.radius is not None
    # Relative to the usual distance, 1.45.
    assert near.radius == (pytest.approx(0.72, abs=0.15), pytest.approx(1.27, abs=0.2))


def test_neither_flat_objects_nor_a_few_spoiled_masks_look_as_if_cameras_were_held_by_hand():
    pixels = torch.zeros(40, 48, 48, 4, dtype=torch.uint8)
    for index, height in enumerate(torch.linspace(2, 30, 40).round().int().tolist()):
        pixels[index, 24 - height // 2 : 24 + height // 2, 8:40] = 255
    pixels[0], pixels[1, :1, :1], pixels[1, 1:] = 255, 255, 0
    images = ImageSet(ImageStack(pixels), CameraDirections(cameras(40, 48, 48)))
    assert prior_of_silhouettes(images, RADIUS) is None


@pytest.mark.parametrize("handheld", [True, False])
def test_cameras_held_by_hand_are_expected_where_silhouettes_say_so(
    tiny_scene: Path, monkeypatch: pytest.MonkeyPatch, handheld: bool
):
    prior = PosePriorConfig(radius=(0.8, 1.2), look_at_jitter=0.1, roll_deg=(-20.0, 20.0))
    monkeypatch.setattr(pipeline_module, "prior_of_silhouettes", lambda images, radius: prior if handheld else None)
    config = pipeline_config(tiny_scene, "transport", matching="off")
    config.pose_prior = PosePriorConfig()
    length = config.schedule.phase_a_steps
    pipeline = build_pipeline(config, test_mode="val")
    assert pipeline.schedule.config.phase_a_steps == (2 * length if handheld else length)
    assert pipeline.config.resolved_pose_mode == ("free" if handheld else "look_at")
    # What the user says goes first.
    own = pipeline_config(tiny_scene, "transport", matching="off")
    own.pose_prior = PosePriorConfig(elevation_deg=(0.0, 45.0))
    assert build_pipeline(own, test_mode="val").config.resolved_pose_mode == "look_at"
    aimed = pipeline_config(tiny_scene, "transport", matching="off", pose_mode="look_at")
    aimed.pose_prior = PosePriorConfig()
    assert build_pipeline(aimed, test_mode="val").schedule.config.phase_a_steps == length


def test_what_images_told_is_kept_for_evaluation(tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    prior = PosePriorConfig(radius=(0.8, 1.2), look_at_jitter=0.1, roll_deg=(-20.0, 20.0))
    monkeypatch.setattr(pipeline_module, "prior_of_silhouettes", lambda images, radius: prior)
    monkeypatch.setattr(ImageStack, "are_pale", True)
    config = trainer_config(tiny_scene, tmp_path, "transport", max_num_iterations=2)
    config.pipeline.matching, config.pipeline.pose_prior = "off", PosePriorConfig()
    trainer = build_trainer(config)
    trainer.train()
    monkeypatch.undo()
    _, loaded, _, _ = eval_setup(trainer.base_dir / "config.yml")
    assert loaded.cameras.codec.mode == "free"  # pyright: ignore
    assert loaded.model.config.background_color == "black"  # pyright: ignore
    torch.testing.assert_close(loaded.cameras.poses("train"), trainer.pipeline.cameras.poses("train"))  # pyright: ignore


@pytest.mark.parametrize("result", ["too few", None])
def test_where_only_matches_are_to_be_begun_with_too_few_stop_the_run(
    tiny_scene: Path, matched: Tensor, monkeypatch: pytest.MonkeyPatch, result: Optional[str]
):
    few = LocalMatches([component([0, 1, 2], matched[:3])], NO_PAIRS, np.zeros(0, dtype=np.int64))
    monkeypatch.setattr(placement_module, "match_images", lambda images, seed: few if result else None)
    with pytest.raises(InputError, match=f"place {3 if result else 'none'} of .* images, but at least 4"):
        build_pipeline(pipeline_config(tiny_scene, "transport", matching="only"), test_mode="val")


def test_fixed_poses_and_matches_alone_do_not_go_together(tiny_scene: Path):
    with pytest.raises(InputError, match="nothing is matched"):
        build_pipeline(pipeline_config(tiny_scene, "transport", matching="only", poses="fixed"), test_mode="val")


# A whole run


@pytest.fixture
def matched(tiny_scene: Path, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """The true poses of the scene's nine images, of which matching finds all but two."""
    poses = torch.tensor(
        [
            frame["transform_matrix"]
            for split in ("train", "test")
            for frame in json.loads((tiny_scene / f"transforms_{split}.json").read_text())["frames"]
        ]
    )[:, :3]
    found = [0, 1, 2, 4, 5, 6, 7]
    monkeypatch.setattr(placement_module, "MIN_SHARE_OF_FEW", 0.5)
    monkeypatch.setattr(placement_module, "SHARP_DEG", 10.0)
    result = matches_of(component(found, poses[found]))
    monkeypatch.setattr(placement_module, "match_images", lambda images, seed: result)
    return poses


def test_others_wait_until_they_are_looked_up(matched: Tensor, tiny_scene: Path):
    pipeline = build_pipeline(pipeline_config(tiny_scene, "transport", matching="only"), test_mode="val")
    assert pipeline.schedule.total_steps == SCHEDULE["phase_b_steps"] and pipeline.cameras.codec.mode == "look_at"
    begun = pose_errors(pipeline.cameras.poses("train")[[0, 1, 2, 4, 5, 6]], matched[[0, 1, 2, 4, 5, 6]]).summary()
    assert begun["rotation_error_deg_max"] < 0.1
    seen = []
    train_steps(pipeline, range(4), lambda step: seen.append(sorted(pipeline.leave_out.training_indices.tolist())))
    assert seen == [[0, 1, 2, 4, 5, 6]] * 2 + [list(range(7))] * 2
    guess = pipeline.leave_out.eval_guess()
    assert guess.isfinite().all(dim=(1, 2)).tolist() == [True, False]
    pipeline.estimate_eval_poses(4)
    assert pipeline.cameras.poses("eval").isfinite().all()
    # A field of four steps knows nothing; matches do.
    assert pipeline.leave_out.eval_origins.tolist() == [PoseOrigin.MATCHES, PoseOrigin.LOOKED_UP]
    turned = roma.rotmat_geodesic_distance(pipeline.cameras.poses("eval")[0, :, :3], guess[0, :, :3])
    assert float(turned) < math.radians(1.0)


@pytest.mark.parametrize("is_clear", [True, False])
def test_a_second_component_is_placed_as_one(
    tiny_scene: Path, matched: Tensor, monkeypatch: pytest.MonkeyPatch, is_clear: bool
):
    monkeypatch.setattr(placement_module, "MIN_SHARE_OF_FEW", 0.5)
    monkeypatch.setattr(placement_module, "SHARP_DEG", 10.0)
    monkeypatch.setattr(placement_module, "MIN_GROUP", 3)
    result = LocalMatches(
        [component([0, 1, 2, 3, 7], matched[[0, 1, 2, 3, 7]]), component([4, 5, 6, 8], matched[[4, 5, 6, 8]])],
        NO_PAIRS,
        NOBODY,
    )
    monkeypatch.setattr(placement_module, "match_images", lambda images, seed: result)
    told = []

    def place(search, image_set, indices, relative):
        told.append((indices.tolist(), relative))
        return PlacedGroup(matched[4:7], is_clear)

    monkeypatch.setattr(pose_updates_module, "place_group", place)
    config = pipeline_config(tiny_scene, "transport", matching="only")
    config.schedule.phase_b_steps, config.schedule.misfit_search_steps = 8, (2, 4, 6)
    pipeline = build_pipeline(config, test_mode="val")
    trained, movable = [], []

    def look(step: int) -> None:
        trained.append(len(pipeline.leave_out.training_indices))
        movable.append(pipeline.leave_out.movable.tolist())

    train_steps(pipeline, range(6), look)
    assert trained == [4] * 4 + [7] * 2
    assert movable[:4] == [[]] * 4, "those that wait are no misfits"
    ((indices, relative),) = told
    assert indices == [4, 5, 6]
    torch.testing.assert_close(relative, ANY_FRAME.apply(matched[4:7].double()).float())
    origin = PoseOrigin.GROUP if is_clear else PoseOrigin.DOUBTFUL_GROUP
    assert pipeline.leave_out.origins.tolist() == [PoseOrigin.MATCHES] * 4 + [origin] * 3
    assert pipeline.leave_out.eval_origins.tolist() == [PoseOrigin.MATCHES, origin]
    assert pipeline.leave_out.movable.tolist() == ([] if is_clear else [4, 5, 6])
    # Its held-out image goes where it is.
    guess = pipeline.leave_out.eval_guess()
    errors = pose_errors(torch.cat([pipeline.cameras.poses("train")[4:], guess[1:]]), matched[[4, 5, 6, 8]])
    assert float(errors.rotation_deg.max()) < 2.0


@pytest.mark.parametrize(("mode", "known"), [("fixed", True), ("shared", False)])
def test_a_lens_that_is_to_stay_is_not_found_anew(tiny_scene: Path, monkeypatch: pytest.MonkeyPatch, mode, known: bool):
    told: List[bool] = []
    monkeypatch.setattr(placement_module, "match_images", lambda images, seed: told.append(images.is_lens_known))
    build_pipeline(pipeline_config(tiny_scene, "transport", matching="auto", focal_length=mode), test_mode="val")
    assert told == [known]


def test_no_match_is_made_where_nothing_begins(tiny_scene: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(placement_module, "match_images", lambda images, seed: pytest.fail("matched"))
    build_pipeline(pipeline_config(tiny_scene, "transport", matching="only"), test_mode="test")
    build_pipeline(pipeline_config(tiny_scene, "transport", matching="off"), test_mode="val")


def test_such_a_run_is_evaluated_and_resumed(
    matched: Tensor, tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = trainer_config(tiny_scene, tmp_path, "transport", max_num_iterations=None)
    config.pipeline.matching = "only"
    trainer = build_trainer(config)
    trainer.train()
    poses = trainer.pipeline.cameras.poses("train")
    monkeypatch.setattr(placement_module, "match_images", lambda images, seed: pytest.fail("matched again"))
    _, loaded, _, _ = eval_setup(tmp_path / "run" / "gnerf-ns-tiny" / "now" / "config.yml")
    torch.testing.assert_close(loaded.cameras.poses("train"), poses)  # pyright: ignore

    again = trainer_config(tiny_scene, tmp_path, "transport", max_num_iterations=9)
    again.timestamp = "again"
    again.pipeline.matching = "only"
    again.load_dir = config.get_checkpoint_dir()
    resumed = build_trainer(again)
    resumed.train()
    assert resumed.pipeline.config.begins_with is not None


def test_few_further_images_are_looked_up_one_by_one():
    poses = random_poses(20, seed=3)
    parts = [component(part, poses[part]) for part in (list(range(8)), list(range(8, 14)), list(range(14, 19)))]
    groups = placement_module.groups_of(LocalMatches(parts, NO_PAIRS, NOBODY), torch.arange(8), 20)
    assert [indices.tolist() for indices, _ in groups] == [list(range(8, 14))]


# Poses that come with the images


def with_poses(folder: Path, target: Path, without: int = 0, count: Optional[int] = None) -> Path:
    """A copy with the first so many training images, the very first of which have no pose."""
    shutil.copytree(folder, target)
    path = target / "transforms_train.json"
    meta = json.loads(path.read_text())
    meta["frames"] = meta["frames"][:count]
    for frame in meta["frames"][:without]:
        del frame["transform_matrix"]
    path.write_text(json.dumps(meta))
    return target


@pytest.mark.parametrize(("poses", "without"), [("given", 0), ("fixed", 2), ("fixed", 0)])
def test_frequencies_are_held_back_while_poses_are_being_found(
    tiny_scene: Path, tmp_path: Path, poses: GivenPoses, without: int
):
    folder = with_poses(tiny_scene, tmp_path / "some", without=without)
    config = pipeline_config(folder, "transport", poses=poses)
    assert build_pipeline(config, test_mode="val").schedule.at(0).active_levels == 0.0, "levels of a hash grid grow"
    config.model = GNeRFModelConfig(radiance=Mip360RadianceConfig(num_layers=1, layer_width=8))
    pipeline = build_pipeline(config, test_mode="val")
    assert pipeline.schedule.at(0).active_levels == (1.0 if poses == "fixed" and without == 0 else 0.0)


def true_poses(folder: Path, split: str) -> Tensor:
    frames = json.loads((folder / f"transforms_{split}.json").read_text())["frames"]
    return torch.tensor([frame["transform_matrix"] for frame in frames])[:, :3]


@pytest.mark.parametrize("poses", ["given", "fixed"])
def test_a_run_begins_where_it_is_told_and_finds_the_others(tiny_scene: Path, tmp_path: Path, poses: GivenPoses):
    folder, truth = with_poses(tiny_scene, tmp_path / "some", without=2), true_poses(tiny_scene, "train")
    pipeline = build_pipeline(pipeline_config(folder, "transport", poses=poses), test_mode="val")
    begun = pipeline.cameras.poses("train")
    assert pose_errors(begun[2:], truth[2:]).summary()["rotation_error_deg_max"] < 0.1
    assert pipeline.leave_out.training_indices.tolist() == [2, 3, 4, 5, 6]
    train_steps(pipeline, range(5))
    now, origins = pipeline.cameras.poses("train"), pipeline.leave_out.origins.tolist()
    moved = (now - begun).abs().amax(dim=(1, 2)) > 0.0
    assert moved[:2].all() and origins[:2] == [PoseOrigin.LOOKED_UP] * 2
    assert bool(moved[2:].any()) == (poses == "given")
    pipeline.estimate_eval_poses(5)
    held_out = pose_errors(
        torch.cat([begun[2:], pipeline.cameras.poses("eval")]), torch.cat([truth[2:], true_poses(folder, "test")])
    )
    assert (held_out.summary()["rotation_error_deg_max"] < 0.1) == (poses == "fixed")


def test_given_poses_that_matches_confirm_are_held(tiny_scene: Path, matched: Tensor, monkeypatch: pytest.MonkeyPatch):
    result = exact_matches(matched)
    monkeypatch.setattr(placement_module, "match_images", lambda images, seed: result)
    config = pipeline_config(tiny_scene, "transport", matching="only", poses="given", pose_mode="free")
    pipeline = build_pipeline(config, test_mode="val")
    begun, guess = pipeline.cameras.poses("train"), pipeline.leave_out.eval_guess()
    train_steps(pipeline, range(5))
    pipeline.estimate_eval_poses(5)
    torch.testing.assert_close(pipeline.cameras.poses("train"), begun, atol=1e-6, rtol=0.0)
    torch.testing.assert_close(pipeline.cameras.poses("eval"), guess, atol=1e-5, rtol=0.0)
    origins = torch.cat([pipeline.leave_out.origins, pipeline.leave_out.eval_origins])
    assert origins.tolist() == [PoseOrigin.CONFIRMED] * 9


def test_too_few_given_poses_are_refused(tiny_scene: Path, tmp_path: Path):
    folder = with_poses(tiny_scene, tmp_path / "few", without=4)
    with pytest.raises(InputError, match="3 of 7 images to train on have a pose"):
        build_pipeline(pipeline_config(folder, "transport", poses="given"), test_mode="val")


@pytest.mark.parametrize(("count", "without", "enough"), [(2, 0, True), (3, 0, True), (3, 1, False), (1, 0, False)])
def test_of_fewer_than_four_images_all_have_to_be_given(
    tiny_scene: Path, tmp_path: Path, count: int, without: int, enough: bool
):
    folder = with_poses(tiny_scene, tmp_path / "few", without=without, count=count)
    config = pipeline_config(folder, "transport", poses="given")
    config.datamanager.dataparser.min_images = 1  # type: ignore[attr-defined]
    if not enough:
        with pytest.raises(InputError, match=f"{count - without} of {count} images to train on have a pose"):
            build_pipeline(config, test_mode="val")
        return
    pipeline = build_pipeline(config, test_mode="val")
    begun = pipeline.cameras.poses("train")
    assert pose_errors(begun, true_poses(tiny_scene, "train")[:count]).rotation_deg.max() < 0.1
    train_steps(pipeline, range(3))
    assert pipeline.leave_out.origins.tolist() == [PoseOrigin.GIVEN] * count


@pytest.mark.parametrize(
    ("num_images", "has_alpha", "expected"),
    [(12, False, True), (13, False, False), (12, True, False), (2, False, True)],
)
def test_colors_of_a_dozen_photographs_move_no_given_pose_far(num_images: int, has_alpha: bool, expected: bool):
    assert colors_tell_little(num_images, has_alpha) == expected


def test_poses_are_given_only_where_that_is_said(tiny_scene: Path):
    pipeline = build_pipeline(pipeline_config(tiny_scene, "transport"), test_mode="val")
    assert pipeline.config.begins_with is None and pipeline.cameras.codec.mode == "look_at"
    assert len(pipeline.cameras.poses("train").unique(dim=0)) == 1
