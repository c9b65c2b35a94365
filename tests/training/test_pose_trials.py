"""Images in a wrong place are found out by a field that begins anew."""

import math
from typing import Any, Iterator, List, Tuple

import pytest
import roma
import torch
from analytic_scene import RADIUS, Blobs, cameras, image_set_of, model_of, random_poses
from torch import Tensor

from gnerf_ns.cameras.learned_cameras import LearnedCameras
from gnerf_ns.cameras.look_at import look_at, stretch_poses
from gnerf_ns.cameras.pose_codec import PoseCodec
from gnerf_ns.cameras.pose_prior import PosePriorConfig
from gnerf_ns.data.image_set import ImageSet
from gnerf_ns.fields.hash_radiance import HashRadianceConfig
from gnerf_ns.models.gnerf import GNeRFModel, GNeRFModelConfig
from gnerf_ns.pose_search.pose_search import PoseProposals, PoseSearch, PoseSearchConfig
from gnerf_ns.training.objective import TrainingScene
from gnerf_ns.training.pose_trials import (
    Fit,
    PoseTrials,
    PoseTrialsConfig,
    ProbeField,
    ProbeFieldConfig,
    angles_deg,
)

TRUTH = random_poses(10, seed=3)
TRIED = (0, 4, 7)
PRIOR = PosePriorConfig(elevation_deg=(-60.0, 60.0)).resolve()
FIELD = ProbeFieldConfig(image_side=16, rays_per_step=512)
RADIANCE = HashRadianceConfig(
    num_levels=4,
    phase_a_levels=2,
    max_resolution=32,
    num_uniform_samples=16,
    num_proposal_samples=16,
    num_nerf_samples=8,
)


def search_in(model: GNeRFModel) -> PoseSearch:
    proposals = PoseProposals(PRIOR, lambda: RADIUS)
    return PoseSearch(PoseSearchConfig(bank_size=300), model, proposals, PoseCodec("look_at", RADIUS))


@pytest.fixture(scope="module")
def image_set() -> ImageSet:
    return image_set_of(model_of(Blobs()), TRUTH)


@pytest.fixture
def model() -> GNeRFModel:
    torch.manual_seed(0)
    return model_of_hash_grid()


def model_of_hash_grid() -> GNeRFModel:
    config = GNeRFModelConfig(radiance=RADIANCE)
    reference = model_of()
    return config.setup(scene_box=reference.scene_box, num_train_data=10)


def turned(poses: Tensor, indices: List[int]) -> Tensor:
    """Some of them half around the vertical axis."""
    half_turn = torch.diag(torch.tensor([-1.0, -1.0, 1.0]))
    poses = poses.clone()
    poses[indices] = half_turn @ poses[indices]
    return poses


def errors_deg(poses: Tensor) -> Tensor:
    return torch.rad2deg(roma.rotmat_geodesic_distance(poses[:, :, :3], TRUTH[:, :, :3]))


def test_a_probe_field_explains_true_poses_best(model: GNeRFModel, image_set: ImageSet):
    probe = ProbeField(FIELD, model, image_set, search_in(model))
    shares, misfits = [], []
    for wrong in ([], [4], [4, 7]):
        probe.begin_anew()
        fit = probe.fit(turned(TRUTH, wrong), 60)
        shares.append(fit.explained_variance)
        misfits.append(probe.worst_first(fit.camera_to_worlds))
    assert shares[0] > shares[1] + 0.01 and shares[1] > shares[2] + 0.01
    assert misfits[1][0] == 4 and set(misfits[2][:2]) == {4, 7}
    assert all(sorted(order) == list(range(10)) for order in misfits)


def test_only_its_own_weights_and_the_poses_it_is_given_learn(model: GNeRFModel, image_set: ImageSet):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    probe = ProbeField(FIELD, model, image_set, search_in(model))
    begun = probe.weights()
    learned = probe.learn(TRUTH, 5, chosen=torch.tensor([0, 1, 2]))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in model.parameters())
    assert any(not torch.equal(value, begun[name]) for name, value in probe.weights().items())
    turned_by = (learned - TRUTH)[:, :, :3].abs().amax(dim=(1, 2))
    assert bool((turned_by[:3] > 1e-4).all()) and bool((turned_by[3:] < 1e-5).all()), "those left out stay"
    torch.testing.assert_close(learned[:, :, 3].norm(dim=1).mean(), TRUTH[:, :, 3].norm(dim=1).mean())
    probe.put_back(begun)
    assert all(torch.equal(value, begun[name]) for name, value in probe.weights().items())


def test_a_probe_field_needs_no_proposals(model: GNeRFModel, image_set: ImageSet):
    probe = ProbeField(FIELD, model, image_set, search_in(model))
    begun = probe.weights()
    probe.learn(TRUTH, 2)
    changed = {name for name, value in probe.weights().items() if not torch.equal(value, begun[name])}
    assert any(name.startswith("radiance.field") for name in changed)
    assert not any("proposal_network" in name for name in changed)


def trials_on(
    model: GNeRFModel, image_set: ImageSet, start: Tensor, **options: Any
) -> Tuple[PoseTrials, LearnedCameras]:
    """By default images move one at a time, and not all together."""
    learned = LearnedCameras(cameras(len(TRUTH)), cameras(0))
    learned.assign(torch.arange(len(TRUTH)), start)
    config = PoseTrialsConfig(
        **{"num_places": 2, "steps_without": 30, "steps_with": 20, "min_gain": 0.01, "max_stretches": 0, **options},
        probe_field=FIELD,
    )
    search = search_in(model)
    return PoseTrials(config, TrainingScene(model, image_set, learned, PRIOR, search.proposals), search), learned


def test_images_in_a_wrong_place_are_brought_back(
    model: GNeRFModel, image_set: ImageSet, monkeypatch: pytest.MonkeyPatch
):
    options = {"num_places": 2, "steps_of_fit": 60, "share_of_bank": 1.0}  # 300 are as many as otherwise the share is
    options |= {"steps_without": 60, "steps_with": 30}  # as by default
    trials, learned = trials_on(model, image_set, turned(TRUTH, [4, 7]), **options)
    look = trials._somewhere_better
    # The other right ones would take half a minute.
    monkeypatch.setattr(
        trials, "_somewhere_better", lambda probe, i, poses: look(probe, i, poses) if i in TRIED else None
    )
    before = model.state_dict()["radiance.field.hash_encoding.hash_table"].clone()
    assert trials.run(1)
    assert errors_deg(learned.poses("train")).max() < 20
    after = model.state_dict()["radiance.field.hash_encoding.hash_table"]
    assert after.abs().max() > 10 * before.abs().max(), "the field that explains these poses goes with them"


def test_nothing_changes_where_nothing_explains_more(
    model: GNeRFModel, image_set: ImageSet, monkeypatch: pytest.MonkeyPatch
):
    trials, learned = trials_on(model, image_set, TRUTH, steps_of_fit=2)
    assert trials._search.config.bank_size < search_in(model).config.bank_size
    poses, weights = learned.poses("train"), {name: value.clone() for name, value in model.state_dict().items()}
    tried = []
    monkeypatch.setattr(trials, "_somewhere_better", lambda probe, image, poses: tried.append(image))
    assert not trials.run(3)
    assert sorted(tried) == list(range(10)), "once nobody moves, that was all"
    torch.testing.assert_close(learned.poses("train"), poses, rtol=0, atol=0)
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_a_round_that_made_things_worse_is_taken_back(
    model: GNeRFModel, image_set: ImageSet, monkeypatch: pytest.MonkeyPatch
):
    trials, learned = trials_on(model, image_set, TRUTH, steps_of_fit=50)
    poses = learned.poses("train")
    monkeypatch.setattr(trials, "_somewhere_better", lambda probe, i, poses: turned(poses, [i]) if i < 3 else None)
    assert not trials.run(1)
    torch.testing.assert_close(learned.poses("train"), poses, rtol=0, atol=0)


@pytest.mark.parametrize("min_gain", [0.0, 1.0])
def test_a_gain_that_chance_can_make_moves_nothing(
    model: GNeRFModel, image_set: ImageSet, monkeypatch: pytest.MonkeyPatch, min_gain: float
):
    wrong = turned(TRUTH, [4, 7])
    trials, learned = trials_on(model, image_set, wrong, min_gain=min_gain, steps_of_fit=50)
    monkeypatch.setattr(trials, "_somewhere_better", lambda probe, i, poses: TRUTH.clone())
    assert trials.run(1) == (min_gain == 0.0)
    assert (errors_deg(learned.poses("train")).max() < 20) == (min_gain == 0.0)


UPWARD = torch.tensor([0.0, 0.0, 1.0])


@pytest.mark.parametrize("factor", [0.5, 1.8])
def test_a_scene_too_tall_or_too_flat_is_stretched_back(model: GNeRFModel, image_set: ImageSet, factor: float):
    start = stretch_poses(TRUTH, UPWARD, factor)
    trials, learned = trials_on(model, image_set, start, max_stretches=4, steps_of_fit=60, fields_per_stretch=1)
    assert trials.run(0)
    before, after = (errors_deg(poses).median() for poses in (start, learned.poses("train")))
    assert before > 14 and after < 0.4 * before


def shares_given(monkeypatch: pytest.MonkeyPatch, shares: List[float]) -> Iterator[float]:
    """What fresh fields are to explain, one after another; poses stay as they are."""
    each = iter(shares)
    monkeypatch.setattr(ProbeField, "fit", lambda probe, poses, steps: Fit(poses, next(each)))
    return each


@pytest.mark.parametrize("stretched", [[0.7, 0.69, 0.68], [math.nan, 0.69, 0.68], [0.7, 0.705, 0.709, 0.6]])
def test_poses_stay_where_no_stretch_explains_more(
    model: GNeRFModel, image_set: ImageSet, monkeypatch: pytest.MonkeyPatch, stretched: List[float]
):
    """Or next to nothing more."""
    trials, learned = trials_on(model, image_set, TRUTH, max_stretches=4, fields_per_stretch=1)
    left = shares_given(monkeypatch, [0.7, *stretched])  # of the poses; once more, and higher, and lower
    assert not trials.run(0)
    assert next(left, None) is None
    torch.testing.assert_close(learned.poses("train"), TRUTH)


def test_where_a_round_counted_the_least_gain_does(
    model: GNeRFModel, image_set: ImageSet, monkeypatch: pytest.MonkeyPatch
):
    trials, learned = trials_on(model, image_set, TRUTH, max_stretches=1, fields_per_stretch=1)
    monkeypatch.setattr(trials, "_somewhere_better", lambda probe, image, poses: TRUTH.clone() if image == 0 else None)
    monkeypatch.setattr(ProbeField, "worst_first", lambda probe, poses: list(range(len(poses))))
    # Before and after the round; as they are, and higher; there once more.
    left = shares_given(monkeypatch, [0.6, 0.7, 0.7, 0.701, 0.7])
    assert trials.run(1) and next(left, None) is None
    torch.testing.assert_close(learned.poses("train"), stretch_poses(TRUTH, UPWARD, 2**0.5))


@pytest.mark.parametrize("last", [0.8, math.nan])
def test_a_field_that_diverged_is_not_taken(
    model: GNeRFModel, image_set: ImageSet, monkeypatch: pytest.MonkeyPatch, last: float
):
    trials, learned = trials_on(model, image_set, TRUTH, max_stretches=1, fields_per_stretch=1)
    shares_given(monkeypatch, [0.7, 0.7, 0.8, last])
    assert trials.run(0) == (last == 0.8)
    factor = 2**0.5 if last == 0.8 else 1.0
    torch.testing.assert_close(learned.poses("train"), stretch_poses(TRUTH, UPWARD, factor))


@pytest.mark.parametrize(
    ("shares", "factor"),
    [
        ([0.5, 0.6, 0.7, 0.65], 2.0),
        ([0.5, 0.5, 0.6, 0.55], 0.5**0.5),
        ([0.5, 0.6, 0.7, 0.8, 0.9], 4.0),  # and no further
        ([0.5, 0.4, 0.6, 0.7, 0.8, 0.9], 0.25),
        ([0.5, math.nan, 0.6, math.nan], 0.5**0.5),
    ],
)
def test_elevations_are_stretched_as_long_as_that_explains_more(
    model: GNeRFModel, image_set: ImageSet, monkeypatch: pytest.MonkeyPatch, shares: List[float], factor: float
):
    trials, learned = trials_on(model, image_set, TRUTH, max_stretches=4, fields_per_stretch=2)
    with torch.no_grad():
        learned.codec.up.tilt.copy_(torch.tensor([0.2, -0.1]))  # what is up leans
    left = shares_given(monkeypatch, [share + noise for share in shares for noise in (-0.2, 0.2)])
    probe = ProbeField(FIELD, model, image_set, search_in(model))
    stretched = trials._stretched(probe, TRUTH, 0.1)
    assert next(left, None) is None and stretched is not None
    torch.testing.assert_close(stretched, stretch_poses(TRUTH, learned.codec.up()[:, 2], factor))


def test_neighbors_are_the_nearest_few(model: GNeRFModel, image_set: ImageSet):
    azimuths = torch.deg2rad(torch.tensor([0.0, 25.0, -10.0, 180.0, 20.0, -29.0, 40.0, 90.0, 200.0, 270.0]))
    circle = look_at(RADIUS * torch.stack([azimuths.cos(), azimuths.sin(), torch.zeros(10)], dim=1))
    trials, _ = trials_on(model, image_set, circle)
    assert trials._neighbors(0, circle) == [2, 4, 1]
    assert trials._neighbors(3, circle) == [8]
    assert trials._neighbors(0, circle[:4]) == [2], "half of them have to remain"


def test_places_are_apart_and_neighbors_come_along(model: GNeRFModel, image_set: ImageSet):
    trials, _ = trials_on(model, image_set, TRUTH)
    probe = ProbeField(FIELD, model, trials._image_set, trials._search)
    probe.learn(TRUTH, 20)
    tries = trials._moves(probe, 4, [7, 1], TRUTH[4])
    alone, together = [moves for moves in tries if len(moves) == 1], [moves for moves in tries if len(moves) > 1]
    assert len(alone) == 2 and 0 < len(together) <= 2
    places = torch.stack([TRUTH[4], *(moves[4] for moves in alone)])
    for place in range(3):
        others = [other for other in range(3) if other != place]
        # Improvement moves a place by some degrees.
        assert angles_deg(places[others], places[place]).min() > 15
    for moves in together:
        assert set(moves) <= {4, 7, 1} and any(torch.equal(moves[4], other[4]) for other in alone)
        assert angles_deg(torch.stack(list(moves.values())), moves[4]).max() < 35.1


def test_angles_between_directions():
    degrees = torch.tensor([0.0, 60.0, 90.0, 180.0])
    radians = torch.deg2rad(degrees)
    positions = torch.stack([radians.cos(), radians.sin(), torch.zeros(4)], dim=1) * torch.tensor(
        [[1.0], [2], [3], [4]]
    )
    poses = torch.cat([torch.eye(3).expand(4, 3, 3), positions[:, :, None]], dim=2)
    torch.testing.assert_close(angles_deg(poses, poses[0]), degrees, atol=math.degrees(1e-3), rtol=0)
