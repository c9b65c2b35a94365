"""Poses that are replaced: images without one, misfits, and when a run does what."""

from pathlib import Path
from typing import Any, List, Tuple

import pytest
import roma
import torch
from analytic_scene import RADIUS, Blobs, cameras, image_set_of, model_of, random_poses
from tiny_run import SCHEDULE, build_pipeline, build_trainer, pipeline_config, train_steps, trainer_config
from torch import Tensor

from gnerf_ns.cameras.learned_cameras import LearnedCameras
from gnerf_ns.cameras.look_at import aim_beside
from gnerf_ns.cameras.pose_codec import PoseMode
from gnerf_ns.cameras.pose_prior import PosePrior, PosePriorConfig
from gnerf_ns.models.gnerf import GNeRFModel
from gnerf_ns.pose_search.pose_search import PoseProposals, PoseSearch, PoseSearchConfig
from gnerf_ns.training.misfits import Misfits, MisfitsConfig
from gnerf_ns.training.objective import TrainingScene
from gnerf_ns.training.placement import PoseOrigin
from gnerf_ns.training.pose_updates import LeaveOut
from gnerf_ns.training.schedule import PhaseScheduleConfig

AROUND = PosePriorConfig(elevation_deg=(-60.0, 60.0)).resolve()
TRUTH = random_poses(12, seed=3)


@pytest.fixture(scope="module")
def model() -> GNeRFModel:
    return model_of(Blobs(num_samples=16))


def scene_of(
    model: GNeRFModel, taken: Tensor, current: Tensor, prior: PosePrior = AROUND, mode: PoseMode = "look_at"
) -> Tuple[TrainingScene, PoseSearch]:
    """Images taken from some poses and believed to be from others, in a field that shows them as they are."""
    torch.manual_seed(0)
    learned = LearnedCameras(cameras(len(taken)), cameras(0), mode)
    learned.assign(torch.arange(len(taken)), current)
    proposals = PoseProposals(prior, lambda: RADIUS)
    search = PoseSearch(PoseSearchConfig(bank_size=400), model, proposals, learned.codec)
    return TrainingScene(model, image_set_of(model, taken), learned, prior, proposals), search


def errors_deg(poses: Tensor, truth: Tensor) -> Tensor:
    return torch.rad2deg(roma.rotmat_geodesic_distance(poses[:, :, :3], truth[:, :, :3]))


# Images without a pose


@pytest.fixture
def leave_out(model: GNeRFModel) -> LeaveOut:
    """Of nine images, 1 and 4 are believed to be from elsewhere."""
    current = TRUTH[:9].clone()
    current[[1, 4]] = random_poses(2, seed=4)
    return LeaveOut(*scene_of(model, TRUTH[:9], current), num_held_out=0)


def test_who_may_be_moved_by_colors_and_who_by_glaring_ones(leave_out: LeaveOut):
    leave_out.origins.copy_(torch.tensor([origin.value for origin in PoseOrigin] + [PoseOrigin.MATCHES]))
    leave_out.unplaced[PoseOrigin.LOOKED_UP] = True
    leave_out._scene.cameras.hold(torch.tensor([8]))
    sure = [PoseOrigin.MATCHES, PoseOrigin.GROUP]
    waits_or_given = [PoseOrigin.LOOKED_UP, PoseOrigin.CONFIRMED, 8]
    assert leave_out.matched.tolist() == sorted(sure)
    assert leave_out.movable.tolist() == [i for i in range(9) if i not in (*sure, *waits_or_given)]


def test_images_without_a_pose_are_also_tried_between_those_before_and_after_them(leave_out: LeaveOut):
    leave_out.unplaced[[0, 1, 4, 8]] = True
    poses = leave_out._scene.cameras.poses("train")
    between = leave_out._between_neighbors(torch.tensor([0, 4, 8]))
    assert between.shape == (3, 5, 3, 4)
    torch.testing.assert_close(between[:, 0], poses[[2, 3, 7]])
    torch.testing.assert_close(between[:, -1], poses[[2, 5, 7]])
    # These cameras are level, and so are all on the way.
    assert float(between[..., 2, 0].abs().max()) < 1e-5


def test_checkpoints_hold_which_images_have_no_pose(leave_out: LeaveOut):
    leave_out.unplaced[3] = True
    kept = {"origins", "eval_origins", "unplaced", "cost_in_vain"}
    kept |= {f"relative_poses.{name}" for name in ("parts", "poses", "eval_parts", "eval_poses")}
    assert set(leave_out.state_dict()) == kept
    assert leave_out.training_indices.tolist() == [0, 1, 2, 4, 5, 6, 7, 8]


# Misfits


@pytest.mark.parametrize("max_sharp", [400, 3])
def test_only_misfits_are_moved(model: GNeRFModel, monkeypatch: pytest.MonkeyPatch, max_sharp: int):
    current = TRUTH.clone()
    current[[2, 7]] = random_poses(2, seed=4)
    scene, search = scene_of(model, TRUTH, current)
    sides, relative = [], search.costs.relative
    monkeypatch.setattr(search.costs, "relative", lambda *given: sides.append(given[2]) or relative(*given))
    moved, poses = Misfits(MisfitsConfig(max_sharp=max_sharp), search).better_poses(scene, 32)
    assert sides == [32 if max_sharp == 400 else 16], "of more images, smaller ones are looked at first"
    assert sorted(moved.tolist()) == [2, 7]
    assert errors_deg(poses, TRUTH[moved]).max() < 20


def test_images_that_wait_for_a_pose_do_not_say_what_is_usual(model: GNeRFModel):
    current = TRUTH.clone()
    current[[2, *range(6, 12)]] = random_poses(7, seed=4)
    scene, search = scene_of(model, TRUTH, current)
    placed = torch.arange(12) < 6
    misfits = Misfits(MisfitsConfig(), search)
    assert misfits.better_poses(scene, 32, torch.arange(6), placed)[0].tolist() == [2]
    assert misfits.better_poses(scene, 32, torch.arange(6))[0].tolist() == []


def test_what_matches_placed_moves_where_colors_are_glaring_alone(model: GNeRFModel):
    current = TRUTH.clone()
    current[[2, 7]] = random_poses(2, seed=4)
    scene, search = scene_of(model, TRUTH, current)
    others, matched = torch.tensor([0, 1, 7]), torch.tensor([2, 3, 4])
    assert Misfits(MisfitsConfig(), search).better_poses(scene, 32, others)[0].tolist() == [7]
    moved, poses = Misfits(MisfitsConfig(), search).better_poses(scene, 32, others, matched=matched)
    assert sorted(moved.tolist()) == [2, 7] and errors_deg(poses, TRUTH[moved]).max() < 20
    # No more than is usual, or no better elsewhere.
    for config in (MisfitsConfig(matched_cost_ratio=1e6), MisfitsConfig(matched_required_cost_ratio=1e-6)):
        stays = Misfits(config, search)
        assert stays.better_poses(scene, 32, others, matched=matched)[0].tolist() == [7]


def test_no_more_misfits_are_looked_up_at_a_time_than_stated(model: GNeRFModel):
    scene, search = scene_of(model, TRUTH, random_poses(12, seed=4))
    few = Misfits(MisfitsConfig(cost_ratio=0.0, max_count=3), search)
    assert len(few.better_poses(scene, 32)[0]) == 3


def test_an_image_that_shows_little_in_a_corner_is_a_misfit_too(model: GNeRFModel):
    """It costs less than the others where it is wrong, and few of the bank's poses come near."""
    aside = torch.tensor([[0.33, 0.33]])
    truth, current = TRUTH.clone(), TRUTH.clone()
    truth[:1], current[:1] = aim_beside(truth[:1], aside), aim_beside(random_poses(1, seed=8), aside)
    prior = PosePriorConfig(elevation_deg=(-60.0, 60.0), look_at_jitter=0.15).resolve()
    scene, search = scene_of(model, truth, current, prior, "free")
    search.config.bank_size = 600
    assert errors_deg(current, truth)[0] > 40
    everyone, side = torch.arange(12), search.config.image_side
    cost = search.costs.at(scene.image_set, everyone, random_poses(12, seed=9), side)
    assert search.costs.at(scene.image_set, torch.tensor([0]), current[:1], side) < cost.median()
    moved, poses = Misfits(MisfitsConfig(), search).better_poses(scene, 32)
    # Random search alone leaves it eight degrees off.
    assert moved.tolist() == [0] and errors_deg(poses, truth[:1]).max() < 3


def test_a_misfit_stays_unless_its_cost_falls_as_far_as_required(model: GNeRFModel):
    scene, search = scene_of(model, TRUTH, random_poses(12, seed=4))
    strict, loose = (Misfits(MisfitsConfig(cost_ratio=0.0, required_cost_ratio=share), search) for share in (0.0, 0.85))
    assert strict.better_poses(scene, 32)[0].tolist() == []
    moved, poses = loose.better_poses(scene, 32)
    assert len(moved) == 8, "as many as may be searched again"
    cost, cost_there = (
        search.costs.at(scene.image_set, moved, at, 32) for at in (scene.cameras.poses("train")[moved], poses)
    )
    assert bool((cost_there < 0.85 * cost).all())


def test_what_was_looked_up_in_vain_waits_until_it_costs_more(model: GNeRFModel, monkeypatch: pytest.MonkeyPatch):
    current = TRUTH.clone()
    current[[2, 7]] = random_poses(2, seed=4)
    scene, search = scene_of(model, TRUTH, current)
    in_vain, misfits = torch.zeros(12), Misfits(MisfitsConfig(required_cost_ratio=0.0), search)
    assert misfits.better_poses(scene, 32, cost_in_vain=in_vain)[0].tolist() == []
    assert (in_vain > 0).nonzero()[:, 0].tolist() == [2, 7]
    known = in_vain.clone()
    with monkeypatch.context() as patch:
        patch.setattr(search, "top_poses", lambda *arguments: pytest.fail("searched"))
        misfits.better_poses(scene, 32, cost_in_vain=in_vain)
    # One that costs more than it did is looked up again, and found.
    in_vain[7] *= 0.5
    moved, _ = Misfits(MisfitsConfig(), search).better_poses(scene, 32, cost_in_vain=in_vain)
    assert moved.tolist() == [7] and in_vain[7] == 0 and in_vain[2] == known[2]


def test_where_no_image_is_a_misfit_none_is_searched(model: GNeRFModel, monkeypatch: pytest.MonkeyPatch):
    scene, search = scene_of(model, TRUTH, TRUTH)
    monkeypatch.setattr(search, "top_poses", lambda *arguments: pytest.fail("searched"))
    moved, poses = Misfits(MisfitsConfig(cost_ratio=1e6), search).better_poses(scene, 32)
    assert len(moved) == len(poses) == 0
    scene.cameras.assign(moved, poses)  # as the run does
    torch.testing.assert_close(scene.cameras.poses("train"), TRUTH)


# In a run


@pytest.mark.parametrize(
    ("phase_a", "expected"),
    [
        ("transport", {3: "all by search", 7: "misfits"}),
        ("adversarial", {3: "all by network", 7: "misfits"}),
    ],
)
def test_poses_are_looked_up_and_mended_where_the_schedule_says_so(tiny_scene: Path, monkeypatch, phase_a, expected):
    pipeline = build_pipeline(pipeline_config(tiny_scene, phase_a))
    calls: List[str] = []

    def record(owner: Any, name: str, meaning: str) -> None:
        original = getattr(owner, name)

        def recorded(*arguments):
            calls.append(meaning)
            return original(*arguments)

        monkeypatch.setattr(owner, name, recorded)

    record(pipeline.pose_search, "top_poses", "all by search")
    record(pipeline.pose_updates._misfits, "better_poses", "misfits")
    if pipeline.adversarial is not None:
        record(pipeline.pose_updates, "_regress", "all by network")
    found = {}
    for step in range(12):
        train_steps(pipeline, range(step, step + 1))
        if calls:
            found[step] = calls[0]  # one search may use the other
            calls.clear()
    assert found == expected


def test_images_that_the_inversion_network_gets_wrong_are_looked_up(tiny_scene: Path, monkeypatch: pytest.MonkeyPatch):
    """All of them if need be: it may have learned nothing."""
    pipeline = build_pipeline(pipeline_config(tiny_scene, "adversarial"))
    search, image_set = pipeline.pose_search, pipeline.scene.image_set
    everyone, side = torch.arange(len(image_set)), search.config.image_side
    good, _ = search.top_poses(image_set, 1)
    nonsense = good[:1, 0].expand(len(image_set), -1, -1)
    cost = search.costs.at(image_set, everyone, nonsense, side)
    monkeypatch.setattr(pipeline.pose_updates, "_regress", lambda image_set: nonsense)
    pipeline.pose_updates.apply(pipeline.schedule.at(3))
    found = pipeline.cameras.poses("train")
    moved = (found - nonsense).abs().amax(dim=(1, 2)) > 1e-3
    assert int(moved.sum()) > len(image_set) // 2
    better = search.costs.at(image_set, everyone, found, side)
    assert bool((better[moved] < cost[moved]).all())


@pytest.mark.parametrize("are_replaced", [True, False])
def test_optimizers_begin_anew_where_the_field_was_replaced(
    tiny_scene: Path, tmp_path: Path, monkeypatch: Any, are_replaced: bool
):
    config = trainer_config(tiny_scene, tmp_path, max_num_iterations=7)
    config.pipeline.schedule = PhaseScheduleConfig(**{**SCHEDULE, "leave_out_rounds": 2})
    trainer = build_trainer(config)
    pipeline = trainer.pipeline
    in_turn, render, asked, momenta = pipeline.pose_updates._left_out_in_turn, pipeline.model.render, [], []

    def replaced(rounds: int) -> bool:
        asked.append(rounds)
        return are_replaced

    def rendering(rays: Any, **options: Any) -> Any:
        if len(momenta) < len(asked):
            momenta.append(sum(len(optimizer.state) for optimizer in trainer.optimizers.optimizers.values()))
        return render(rays, **options)

    monkeypatch.setattr(in_turn, "run", replaced)
    monkeypatch.setattr(pipeline.model, "render", rendering)
    trainer.train()
    assert asked == [2], "once, where phase B begins"
    assert len(momenta) == 1 and (momenta[0] == 0) == are_replaced


def test_fresh_fields_leave_no_gradients(tiny_scene: Path):
    """Their rays depend on the run's focal lengths, which the step after them would move."""
    pipeline = build_pipeline(pipeline_config(tiny_scene, focal_length="shared"))
    pipeline.pose_updates._left_out_in_turn.run(1)
    assert all(parameter.grad is None for parameter in pipeline.parameters())
    assert torch.isfinite(pipeline.cameras.poses("train")).all()
