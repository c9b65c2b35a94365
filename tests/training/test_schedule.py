"""What happens at which step: golden values, what holds whatever the lengths, and figures that are refused."""

import dataclasses
import math
from itertools import pairwise
from typing import Any, List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnerf_ns.training.schedule import PhaseScheduleConfig, Schedule, StepPlan
from gnerf_ns.utils.annealing import geometric, linear
from gnerf_ns.utils.errors import InputError

MANY = 100
"""So many images have one attempt at phase A, and no rounds between the phases."""

CONFIGS = {
    "short": PhaseScheduleConfig(
        phase_a_steps=100,
        interleaved_steps=0,
        phase_b_steps=1500,
        phase_a_image_side=(16, 16),
        phase_b_image_side=(24, 100),
        growth_fraction=0.6,
        epsilon=(0.05, 0.0075),
        density_noise=1.0,
        density_noise_steps=80,
        misfit_search_steps=(60, 150, 300, 600),
    ),
    "adversarial": PhaseScheduleConfig(
        phase_a_steps=800,
        interleaved_steps=200,
        phase_b_steps=1500,
        phase_a_image_side=(16, 32),
        phase_b_image_side=(24, 100),
        growth_fraction=0.6,
        epsilon=(0.05, 0.0075),
        density_noise=1.0,
        density_noise_steps=400,
        min_patch_scale=0.8,
        patch_scale_decay=2e-4,
        patch_side=16,
    ),
    "paper": PhaseScheduleConfig(
        phase_a_steps=12_000,
        interleaved_steps=16_000,
        phase_b_steps=20_000,
        two_turns_are_an_iteration=True,
        phase_a_image_side=(16, 128),
        interleaved_image_side=(128, 400),
        phase_b_image_side=(400, 400),
        image_growth="linear",
        growth_fraction=0.6,
        epsilon=(0.05, 0.0075),
        density_noise=1.0,
        density_noise_steps=5_000,
        min_patch_scale=0.8,
        patch_scale_decay=2e-4,
        patch_scale_hold=1116,
        patch_scale_floor="final",
        patch_side=16,
        misfit_search_steps=(),
    ),
}

GOLDEN = {
    # (schedule, step): (name, phase, image side, epsilon, noise, active levels, smallest patch scale)
    ("short", 0): ("A", "A", 16, 0.05, 1.0, 0.0, 1.0),
    ("short", 40): ("A", "A", 16, 0.0234116, 0.5, 0.0, 1.0),
    ("short", 99): ("A", "A", 16, 0.0076436, 0.0, 0.0, 1.0),
    ("short", 100): ("B", "B", 24, 0.0075, 0.0, 0.0, 0.784159),
    ("short", 550): ("B", "B", 49, 0.0075, 0.0, 0.5, 0.716667),
    ("short", 1000): ("B", "B", 100, 0.0075, 0.0, 1.0, 0.654985),
    ("short", 1599): ("B", "B", 100, 0.0075, 0.0, 1.0, 0.581034),
    ("adversarial", 0): ("A", "A", 16, 0.05, 1.0, 0.0, 1.0),
    ("adversarial", 400): ("A", "A", 23, 0.0193649, 0.0, 0.0, 0.738493),
    ("adversarial", 800): ("AB", "A", 32, 0.0075, 0.0, 0.0, 0.681715),
    ("adversarial", 801): ("AB", "B", 32, 0.0075, 0.0, 0.0, 0.681579),
    ("adversarial", 999): ("AB", "B", 32, 0.0075, 0.0, 0.0, 0.655116),
    ("adversarial", 1000): ("B", "B", 24, 0.0075, 0.0, 0.0, 0.666667),
    ("paper", 0): ("A", "A", 16, 0.05, 1.0, 0.0, 0.8),
    ("paper", 1000): ("A", "A", 25, 0.0426906, 0.8, 0.0, 0.8),
    ("paper", 2500): ("A", "A", 39, 0.0336759, 0.5, 0.0, 0.606580),
    ("paper", 6000): ("A", "A", 72, 0.0193649, 0.0, 0.0, 0.301219),
    ("paper", 12000): ("AB", "A", 128, 0.0075, 0.0, 0.0, 0.0907257),
    ("paper", 12001): ("AB", "B", 128, 0.0075, 0.0, 0.0, 0.0907257),
    ("paper", 16000): ("AB", "A", 196, 0.0075, 0.0, 0.0, 0.0608153),
    ("paper", 27999): ("AB", "B", 400, 0.0075, 0.0, 0.0, 0.04),
    ("paper", 28000): ("B", "B", 400, 0.0075, 0.0, 0.0, 0.04),
    ("paper", 47999): ("B", "B", 400, 0.0075, 0.0, 1.0, 0.04),
}


SCHEDULES = {name: Schedule.of(config, MANY, 100) for name, config in CONFIGS.items()}


def schedule_of(config: PhaseScheduleConfig, num_images: int = MANY, **changes: Any) -> Schedule:
    """The schedule of a configuration in which something is different."""
    return Schedule.of(dataclasses.replace(config, **changes), num_images, 100)


def plans(schedule: Schedule) -> List[StepPlan]:
    return [schedule.at(step) for step in range(schedule.total_steps)]


@pytest.mark.parametrize(("name", "step"), GOLDEN)
def test_plan_at_stated_steps(name: str, step: int):
    plan = SCHEDULES[name].at(step)
    phase_name, phase, image_side, epsilon, noise, levels, scale = GOLDEN[name, step]
    assert plan.step == step
    assert (plan.name, plan.phase, plan.image_side) == (phase_name, phase, image_side)
    assert plan.epsilon == pytest.approx(epsilon, rel=1e-4)
    assert plan.density_noise == pytest.approx(noise)
    assert plan.active_levels == pytest.approx(levels)
    assert plan.patch_scale == (pytest.approx(scale, rel=1e-4), 1.0)


@pytest.mark.parametrize(("first", "last", "count"), [(24, 100, 11), (24, 27, 2), (100, 100, 1), (24, 25, 1)])
def test_images_grow_by_rungs_from_first_to_last(first: int, last: int, count: int):
    """Each size is made of all images at once, and is stayed at for about as long as the others."""
    config = PhaseScheduleConfig(phase_a_steps=0, phase_b_steps=1000, phase_b_image_side=(first, last))
    sides = [plan.image_side for plan in plans(schedule_of(config))]
    growing = sorted(set(sides))
    assert sides == sorted(sides) and growing[-1] == last and len(growing) == count
    assert count == 1 or growing[0] == first
    stays = [sides[:600].count(side) for side in growing]
    assert max(stays) - min(stays) <= 1
    assert all(side == last for side in sides[600:])


def test_phases_follow_each_other_and_take_turns_between():
    schedule = schedule_of(PhaseScheduleConfig(phase_a_steps=3, interleaved_steps=5, phase_b_steps=4))
    assert schedule.total_steps == 12 and schedule.phase_a_end == 8
    assert "".join(plan.phase for plan in plans(schedule)) == "AAA" + "ABABA" + "BBBB"
    assert [plan.name for plan in plans(schedule)] == ["A"] * 3 + ["AB"] * 5 + ["B"] * 4
    assert [plan.interleaved for plan in plans(schedule)] == [False] * 3 + [True] * 5 + [False] * 4


def test_few_images_are_left_out_in_turn_once_it_is_known_which_attempt_was_the_best():
    config = PhaseScheduleConfig(phase_a_steps=3, phase_b_steps=10, phase_a_attempts=2)
    assert [config.settled(count).leave_out_rounds for count in (3, 4, 30, 31)] == [0, 3, 3, 0]
    schedule = Schedule.of(config, 30, 100)
    assert [plan.step for plan in plans(schedule) if plan.leave_out_rounds] == [4]
    second = plans(schedule.begun_anew(4))
    assert [(plan.step, plan.leave_out_rounds) for plan in second if plan.leave_out_rounds] == [(8, 3)]
    interleaved = schedule_of(config, interleaved_steps=3, phase_a_attempts=1, leave_out_rounds=1)
    assert [plan.step for plan in plans(interleaved) if plan.leave_out_rounds] == [6]
    never = schedule_of(config, 12, looks_up_poses=False)
    assert not any(plan.leave_out_rounds for plan in plans(never))


def test_few_images_have_several_attempts_at_phase_a_and_a_whole_phase_b_after_them():
    config = PhaseScheduleConfig(phase_a_steps=3, phase_b_steps=10)
    assert Schedule.of(config, 31, 100).total_steps == Schedule.of(config, 3, 100).total_steps == 13
    schedule = Schedule.of(config, 30, 100)
    assert schedule.config.phase_a_attempts == 4
    assert (schedule.attempts_left, schedule.total_steps) == (3, 3 * 4 + 13)
    for begin, left in ((4, 2), (8, 1), (12, 0)):
        schedule = schedule.begun_anew(begin, left)
        assert [schedule.at(begin + step).phase for step in range(4)] == ["A"] * 3 + ["B"]
        assert schedule.at(begin + 3).searches_all_poses
        assert (schedule.total_steps, schedule.phase_b_steps) == (25, 10)
    schedule = schedule.begun_anew(16)  # not planned
    assert (schedule.total_steps, schedule.phase_b_steps) == (25, 6)
    assert schedule.begun_anew(100).phase_b_steps == 0, "and not less"
    assert schedule_of(config, 12, looks_up_poses=False, phase_a_attempts=4).total_steps == 13


def test_a_schedule_that_begins_anew_leaves_the_old_one_as_it_was():
    """It is a value: whoever asked for it before goes on with what he has."""
    schedule = Schedule.of(PhaseScheduleConfig(phase_a_steps=3, phase_b_steps=10), 12, 100)
    before = (schedule.total_steps, plans(schedule))
    anew = schedule.begun_anew(4, 2)
    assert (schedule.total_steps, plans(schedule)) == before and anew != schedule
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.begins_at = 4  # pyright: ignore[reportAttributeAccessIssue]


def test_what_is_settled_stays_settled_and_what_is_given_is_kept():
    config = PhaseScheduleConfig(phase_a_steps=3, phase_b_steps=10)
    settled = config.settled(12)
    assert settled.settled(100) == settled and config == PhaseScheduleConfig(phase_a_steps=3, phase_b_steps=10)
    given = {"leave_out_rounds": 5, "phase_a_attempts": 2, "distortion_boost": (9.0, 2.0), "pose_boost": 3.0}
    for count in (12, 100):
        mine = dataclasses.replace(config, **given).settled(count)
        assert {name: getattr(mine, name) for name in given} == given


def test_poses_of_few_images_that_are_looked_up_learn_faster():
    config = PhaseScheduleConfig()
    boosts = {count: config.settled(count).pose_boost for count in (3, 4, 12, 30, 31, 100)}
    assert boosts == {3: 1.0, 4: 4.0, 12: 4.0, 30: 4.0, 31: 1.0, 100: 1.0}
    assert config.with_known_poses("matched").settled(12).pose_boost == 1.0
    assert dataclasses.replace(config, looks_up_poses=False).settled(12).pose_boost == 1.0
    assert dataclasses.replace(config, leave_out_rounds=1).settled(100).pose_boost == 1.0


def test_the_distortion_loss_is_stronger_with_few_images():
    config = PhaseScheduleConfig(phase_a_steps=3, phase_b_steps=10)
    for count in (25, 31, 100):
        assert {plan.distortion_boost for plan in plans(Schedule.of(config, count, 100))} == {1.0}
    falling = [Schedule.of(config, count, 100).at(99).distortion_boost for count in range(12, 26)]
    assert falling == sorted(falling, reverse=True) and len(set(falling)) == 14
    for count in (3, 12):
        schedule = schedule_of(config, count, phase_a_attempts=1)
        boosts = [plan.distortion_boost for plan in plans(schedule)]
        before = schedule.phase_a_end
        assert boosts[:before] == [1.0] * before
        assert boosts[before:] == pytest.approx([15.0] * 10)
        assert schedule.at(99).distortion_boost == pytest.approx(15)


@pytest.mark.parametrize("name", ["short", "adversarial"])
def test_images_and_detail_only_grow_within_a_phase_and_noise_and_epsilon_only_fall(name: str):
    for before, after in pairwise(plans(SCHEDULES[name])):
        if before.name == after.name:
            assert after.image_side >= before.image_side
        assert after.active_levels >= before.active_levels
        assert after.phase_a_progress >= before.phase_a_progress
        assert after.phase_b_progress >= before.phase_b_progress
        assert after.density_noise <= before.density_noise
        assert after.epsilon <= before.epsilon


def test_the_paper_s_patches_are_dynamic_from_the_first_step_and_its_images_never_jump():
    schedule = SCHEDULES["paper"]
    for step in range(0, schedule.total_steps, 37):
        before, after = schedule.at(step), schedule.at(step + 37)
        assert 0.04 <= after.patch_scale[0] <= before.patch_scale[0] <= 0.8
        # Released: the smaller of 0.8 and exp(-0.0002 t), t counting an A and a B step of AB as one.
        released = max(0.04, min(0.8, math.exp(-2e-4 * schedule.iterations_before(step))))
        assert before.patch_scale[0] == pytest.approx(released, rel=1e-3)
        assert 0 <= after.image_side - before.image_side <= 2


@pytest.mark.parametrize("interleaved", [0, 1, 4, 5])
def test_iterations_and_steps(interleaved: int):
    config = PhaseScheduleConfig(3, interleaved, 4, two_turns_are_an_iteration=True)
    schedule = Schedule.of(config, MANY, 100)
    iterations = [schedule.iterations_before(step) for step in range(schedule.total_steps)]
    assert iterations[: 3 + 1] == [0, 1, 2, 3] and iterations == sorted(iterations)
    if interleaved == 4:
        assert iterations == [0, 1, 2, 3, 3, 4, 4, 5, 6, 7, 8]
    for count in set(iterations):
        assert schedule.first_step_after(count) == iterations.index(count)
    plain = schedule_of(config, two_turns_are_an_iteration=False)
    assert all(plain.iterations_before(step) == plain.first_step_after(step) == step for step in range(20))


def test_every_value_is_in_its_range_whatever_the_lengths():
    for lengths in ((0, 0, 5), (5, 0, 0), (0, 4, 0), (1, 1, 1)):
        schedule = schedule_of(PhaseScheduleConfig(*lengths, density_noise_steps=0))
        for step in range(schedule.total_steps + 3):
            plan = schedule.at(step)
            assert 0 <= plan.phase_a_progress <= 1 and 0 <= plan.phase_b_progress <= 1 and 0 <= plan.active_levels <= 1
            assert 0 < plan.patch_scale[0] <= plan.patch_scale[1] == 1
            assert plan.density_noise >= 0 and plan.image_side >= 16 and plan.distortion_boost >= 1


def test_patches_never_see_finer_than_the_pixels():
    schedule = SCHEDULES["adversarial"]
    for step in range(0, schedule.total_steps, 11):
        plan = schedule.at(step)
        # The side before rounding may be half a pixel away.
        assert plan.patch_scale[0] * (plan.image_side + 0.5) >= schedule.config.patch_side * (1 - 1e-9)


@pytest.mark.parametrize("name", ["short", "adversarial"])
def test_poses_are_looked_up_once_after_phase_a_and_misfits_where_stated(name: str):
    schedule = SCHEDULES[name]
    everyone = [plan.step for plan in plans(schedule) if plan.searches_all_poses]
    misfits = [plan.step - schedule.phase_a_end for plan in plans(schedule) if plan.searches_misfit_poses]
    assert everyone == [schedule.config.phase_a_steps]
    assert misfits == list(schedule.config.misfit_search_steps)


def test_poses_are_looked_up_only_where_wanted():
    schedule = schedule_of(CONFIGS["adversarial"], looks_up_poses=False)
    assert not any(plan.searches_all_poses for plan in plans(schedule))
    assert any(plan.searches_misfit_poses for plan in plans(schedule)), "another matter"


def test_a_plan_depends_on_the_step_alone():
    schedule = SCHEDULES["adversarial"]
    forwards = [schedule.at(step) for step in range(0, 2500, 3)]
    assert [schedule.at(step) for step in reversed(range(0, 2500, 3))] == forwards[::-1]
    assert [dataclasses.replace(schedule).at(step) for step in range(0, 2500, 3)] == forwards


def test_beyond_the_end_nothing_changes_any_more():
    schedule = SCHEDULES["short"]
    last, later = schedule.at(schedule.total_steps - 1), schedule.at(10 * schedule.total_steps)
    assert later.name == "B" and later.image_side == last.image_side and later.active_levels == last.active_levels


@given(first=st.floats(1e-3, 1e3), last=st.floats(1e-3, 1e3), progress=st.floats(0, 1))
def test_geometric(first: float, last: float, progress: float):
    assert geometric((first, last), 0.0) == first
    assert math.isclose(geometric((first, last), 1.0), last, rel_tol=1e-12)
    expected = math.exp((1 - progress) * math.log(first) + progress * math.log(last))
    assert math.isclose(geometric((first, last), progress), expected, rel_tol=1e-9)


@given(first=st.floats(-1e3, 1e3), last=st.floats(-1e3, 1e3), progress=st.floats(0, 1))
def test_linear(first: float, last: float, progress: float):
    assert linear((first, last), 0.0) == first
    assert math.isclose(linear((first, last), progress), (1 - progress) * first + progress * last, abs_tol=1e-9)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("phase_a_steps", -1),
        ("interleaved_steps", -2),
        ("phase_b_steps", -1),
        ("leave_out_rounds", -1),
        ("density_noise_steps", -1),
        ("phase_a_attempts", 0),
        ("growth_fraction", 0.0),
        ("growth_fraction", 1.5),
        ("growth_fraction", math.nan),
        ("phase_a_image_side", (0, 16)),
        ("interleaved_image_side", (16, 0)),
        ("phase_b_image_side", (-24, 100)),
        ("epsilon", (0.05, 0.0)),
        ("distortion_boost", (0.0, 1.0)),
    ],
)
def test_figures_out_of_range_are_refused_by_name(option: str, value: Any):
    with pytest.raises(InputError, match=f"{option} is .*; give"):
        Schedule.of(PhaseScheduleConfig(**{option: value}), 12, 100)


@pytest.mark.parametrize(
    ("given", "side", "known", "expected"),
    [
        ((24, None), 100, False, (24, 100)),
        ((24, None), 240, False, (24, 240)),
        ((24, None), 240, True, (48, 240)),
        ((24, None), 100, True, (24, 100)),
        ((24, 60), 240, False, (24, 60)),
        ((24, None), 16, True, (16, 16)),
    ],
)
def test_phase_b_ends_with_images_as_large_as_they_are(given, side: int, known: bool, expected):
    config = PhaseScheduleConfig(phase_b_image_side=given)
    schedule = Schedule.of(config.with_known_poses("matched") if known else config, MANY, side)
    sides = [schedule.at(step).image_side for step in (schedule.phase_a_end, schedule.total_steps)]
    assert tuple(sides) == expected
