"""Images in a wrong place are found out by fields that have not seen them."""

from typing import Any, List, Tuple

import pytest
import roma
import torch
from analytic_scene import RADIUS, Blobs, cameras, image_set_of, model_of, random_poses
from torch import Tensor

from gnerf_ns.cameras.alignment import pose_errors
from gnerf_ns.cameras.learned_cameras import LearnedCameras
from gnerf_ns.cameras.look_at import look_at
from gnerf_ns.cameras.pose_codec import PoseCodec
from gnerf_ns.cameras.pose_prior import PosePriorConfig
from gnerf_ns.data.image_set import ImageSet
from gnerf_ns.fields.hash_radiance import HashRadianceConfig
from gnerf_ns.models.gnerf import GNeRFModel, GNeRFModelConfig
from gnerf_ns.pose_search.pose_search import PoseProposals, PoseSearch, PoseSearchConfig
from gnerf_ns.training import left_out_in_turn
from gnerf_ns.training.fresh_field import FreshField, FreshFieldConfig
from gnerf_ns.training.left_out_in_turn import LeftOutInTurn, LeftOutInTurnConfig, num_parts
from gnerf_ns.training.misfits import MisfitsConfig
from gnerf_ns.training.objective import TrainingScene

TRUTH = random_poses(12, seed=3)
PRIOR = PosePriorConfig(elevation_deg=(-60.0, 60.0)).resolve()
FIELD = FreshFieldConfig(rays_per_step=512)
HOW = {"image_side": 16, "pose_learning_rate": 2e-3}
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
    return config.setup(scene_box=reference.scene_box, num_train_data=len(TRUTH))


def turned(poses: Tensor, indices: List[int]) -> Tensor:
    """Some of them half around the vertical axis."""
    half_turn = torch.diag(torch.tensor([-1.0, -1.0, 1.0]))
    poses = poses.clone()
    poses[indices] = half_turn @ poses[indices]
    return poses


# Fresh fields


def test_a_fresh_field_shows_true_poses_best(model: GNeRFModel, image_set: ImageSet):
    fresh = FreshField(FIELD, model, image_set, search_in(model))
    costs = []
    for wrong in ([], [4], [4, 7]):
        fresh.begin_anew()
        learned = fresh.learn(turned(TRUTH, wrong), 60, **HOW)
        costs.append(fresh.search.costs.relative(image_set, learned, 16))
    assert costs[0].mean() < costs[1].mean() < costs[2].mean()
    assert int(costs[1].argmax()) == 4 and set(costs[2].topk(2).indices.tolist()) == {4, 7}


def test_only_its_own_weights_and_the_poses_it_is_given_learn(model: GNeRFModel, image_set: ImageSet):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fresh = FreshField(FIELD, model, image_set, search_in(model))
    begun = fresh.weights()
    learned = fresh.learn(TRUTH, 5, **HOW, chosen=torch.tensor([0, 1, 2]))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in model.parameters())
    assert any(not torch.equal(value, begun[name]) for name, value in fresh.weights().items())
    assert bool(((learned - TRUTH)[:3, :, :3].abs().amax(dim=(1, 2)) > 1e-4).all())
    assert torch.equal(learned[3:], TRUTH[3:]), "those left out stay"
    assert all(pose.isfinite().all() for pose in learned)


def test_a_fresh_field_needs_no_proposals(model: GNeRFModel, image_set: ImageSet):
    fresh = FreshField(FIELD, model, image_set, search_in(model))
    begun = fresh.weights()
    fresh.learn(TRUTH, 2, **HOW)
    changed = {name for name, value in fresh.weights().items() if not torch.equal(value, begun[name])}
    assert any(name.startswith("radiance.field") for name in changed)
    assert not any("proposal_network" in name for name in changed)


def test_weights_are_a_copy(model: GNeRFModel, image_set: ImageSet):
    fresh = FreshField(FIELD, model, image_set, search_in(model))
    begun = fresh.weights()
    kept = {name: value.clone() for name, value in begun.items()}
    fresh.learn(TRUTH, 2, **HOW)
    assert all(torch.equal(value, kept[name]) for name, value in begun.items())


# Left out in turn


def turns_on(
    model: GNeRFModel, image_set: ImageSet, start: Tensor, **options: Any
) -> Tuple[LeftOutInTurn, LearnedCameras]:
    learned = LearnedCameras(cameras(len(start)), cameras(0))
    learned.assign(torch.arange(len(start)), start)
    config = LeftOutInTurnConfig(
        **{
            "steps": 60,
            "first": (16, 2e-3),
            "later": (16, 1e-3),
            "steps_of_all": 60,
            "share_of_bank": 1.0,  # 300 are as many as otherwise the share is
            "fresh_field": FIELD,
            **options,
        }
    )
    search = search_in(model)
    scene = TrainingScene(model, image_set, learned, PRIOR, search.proposals)
    return LeftOutInTurn(config, scene, search, MisfitsConfig()), learned


def test_images_in_a_wrong_place_are_brought_back(model: GNeRFModel, image_set: ImageSet):
    in_turn, learned = turns_on(model, image_set, turned(TRUTH, [4, 7]))
    before = model.state_dict()["radiance.field.hash_encoding.hash_table"].clone()
    assert in_turn.run(2)
    assert pose_errors(learned.poses("train"), TRUTH).rotation_deg.max() < 15
    after = model.state_dict()["radiance.field.hash_encoding.hash_table"]
    assert after.abs().max() > 10 * before.abs().max(), "the field that explains these poses goes with them"
    show = search_in(model).costs.relative(image_set, learned.poses("train"), 16)
    assert show.max() < 0.2, "and is of their scale"


@pytest.mark.parametrize(("count", "are_put_back"), [(8, True), (9, False)])
def test_poses_learned_from_fewer_than_eight_are_put_back(
    model: GNeRFModel, image_set: ImageSet, count: int, are_put_back: bool
):
    some = torch.arange(count)
    options = {"steps": 3, "steps_of_all": 0, "share_of_bank": 0.05, "num_hypotheses": 2}
    in_turn, learned = turns_on(model, image_set[some], TRUTH[some], **options)
    assert in_turn.run(1)
    assert bool(pose_errors(learned.poses("train"), TRUTH[some]).rotation_deg.median() < 1e-3) == are_put_back


def test_very_few_do_not_bend_what_remains_more_and_more(model: GNeRFModel, image_set: ImageSet):
    some = torch.arange(6)
    start = turned(TRUTH[some], [4])
    in_turn, learned = turns_on(model, image_set[some], start, steps_of_all=0)
    assert in_turn.run(2)
    errors = pose_errors(learned.poses("train"), TRUTH[some]).rotation_deg
    assert errors[[0, 1, 2, 3, 5]].max() < 1e-3, "they stay"
    assert errors[4] < 15, "the one that is clearly wrong moves"
    distances = learned.poses("train")[:, :, 3].norm(dim=1)
    torch.testing.assert_close(distances, torch.full_like(distances, RADIUS), rtol=0.02, atol=0)


@pytest.mark.parametrize("factor", [0.5, 1.8])
def test_a_scene_too_tall_or_too_flat_comes_right(model: GNeRFModel, image_set: ImageSet, factor: float):
    centers = TRUTH[:, :, 3] * torch.tensor([1.0, 1.0, factor])
    start = look_at(RADIUS * centers / centers.norm(dim=1, keepdim=True))
    in_turn, learned = turns_on(model, image_set, start, steps=100)
    assert in_turn.run(2)
    before, after = (pose_errors(poses, TRUTH).rotation_deg.median() for poses in (start, learned.poses("train")))
    assert before > 10 and after < 0.5 * before


def test_each_image_is_left_out_once_in_a_round_and_then_looked_up(
    model: GNeRFModel, image_set: ImageSet, monkeypatch: pytest.MonkeyPatch
):
    in_turn, _ = turns_on(model, image_set, TRUTH, steps=1, steps_of_all=3, share_of_bank=0.05, num_hypotheses=2)
    events: List[Tuple[str, List[int]]] = []
    learn, look_up = FreshField.learn, in_turn._looked_up

    def learning(fresh: FreshField, poses: Tensor, steps: int, side: int, rate: float, chosen: Any = None) -> Tensor:
        torch.testing.assert_close(poses[:, :, 3].norm(dim=1).mean(), torch.tensor(RADIUS))  # always as far away
        events.append(("learn", list(range(12)) if chosen is None else chosen.tolist()))
        return learn(fresh, poses, steps, side, rate, chosen)

    def looking_up(fresh: FreshField, present: Tensor, left_out: Tensor, side: int) -> Any:
        events.append(("look up", left_out.tolist()))
        return look_up(fresh, present, left_out, side)

    monkeypatch.setattr(FreshField, "learn", learning)
    monkeypatch.setattr(in_turn, "_looked_up", looking_up)
    assert in_turn.run(2)
    assert [kind for kind, _ in events] == ["learn", "look up"] * 6 + ["learn"] * 2
    of_rounds = [events[2 * start : 2 * start + 6] for start in (0, 3)]
    for each in of_rounds:
        left_out = [images for kind, images in each if kind == "look up"]
        assert (
            sorted(image for images in left_out for image in images) == list(range(12))
            and [len(images) for images in left_out] == [4] * 3
        )
        for (_, kept), out in zip(each[::2], left_out, strict=True):
            assert sorted(kept + out) == list(range(12))
    assert of_rounds[0] != of_rounds[1]
    assert events[-1][1] == list(range(12))


@pytest.mark.parametrize(("share_of_bank", "images"), [(0.005, [8]), (1.0, [8, 9])], ids=["nearby", "wherever else"])
def test_images_are_looked_up_nearby_and_wherever_else(
    model: GNeRFModel,
    image_set: ImageSet,
    monkeypatch: pytest.MonkeyPatch,
    share_of_bank: float,
    images: List[int],
):
    in_turn, _ = turns_on(model, image_set, TRUTH, share_of_bank=share_of_bank)
    fresh = FreshField(FIELD, model, image_set, in_turn._search)
    poses = fresh.learn(TRUTH, 80, **HOW, chosen=torch.arange(8))
    left_out = torch.tensor(images)
    # One where it belongs, which two poses of a bank do not show, and one on the other side.
    found, fit_elsewhere, unexplained = in_turn._looked_up(fresh, turned(poses, [9])[left_out], left_out, 16)
    assert fit_elsewhere.tolist() == [image == 9 for image in images]
    errors = torch.rad2deg(roma.rotmat_geodesic_distance(found[:, :, :3], TRUTH[left_out, :, :3]))
    assert bool((errors < 15).all()) and bool((unexplained < 0.5).all()) and bool((unexplained > 0.0).all())
    # Of what the others do not show well anywhere, they tell nothing, however much worse it fits nearby.
    monkeypatch.setattr(left_out_in_turn, "MOST_UNEXPLAINED", float(unexplained.min()) / 2)
    _, fit_elsewhere, _ = in_turn._looked_up(fresh, turned(poses, [9])[left_out], left_out, 16)
    assert not bool(fit_elsewhere.any())


@pytest.mark.parametrize("diverged", ["poses", "weights"])
def test_nothing_changes_where_a_field_diverges(
    model: GNeRFModel, image_set: ImageSet, monkeypatch: pytest.MonkeyPatch, diverged: str
):
    in_turn, learned = turns_on(model, image_set, TRUTH, steps=1, steps_of_all=1)
    learns: List[int] = []

    def diverge(fresh: FreshField, poses: Tensor, steps: int, *arguments: Any) -> Tensor:
        learns.append(steps)
        if diverged == "weights":
            with torch.no_grad():
                max(fresh._model.parameters(), key=Tensor.numel).fill_(torch.inf)
        return poses * (float("nan") if diverged == "poses" else 1.0)

    monkeypatch.setattr(FreshField, "learn", diverge)
    poses, weights = learned.poses("train"), {name: value.clone() for name, value in model.state_dict().items()}
    assert not in_turn.run(1)
    assert len(learns) == 1, "nor is anything learned after that"
    torch.testing.assert_close(learned.poses("train"), poses, rtol=0, atol=0)
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name]), name


@pytest.mark.parametrize(
    ("count", "sizes"), [(4, [1] * 4), (9, [1] * 9), (10, [2] * 5), (12, [4] * 3), (25, [7, 6, 6, 6]), (30, [10] * 3)]
)
def test_what_remains_makes_up_a_scene(count: int, sizes: List[int]):
    assert [len(part) for part in torch.randperm(count).tensor_split(num_parts(count))] == sizes
