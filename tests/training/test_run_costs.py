"""How much of a run is left, told while it goes."""

import pytest

from gnerf_ns.runs.run_time import WARM_UP_STEPS
from gnerf_ns.training.run_costs import COARSE, COSTS, LOOK_UP, OF_EVERYBODY, RunTime, parts_of_step, step_cost
from gnerf_ns.training.schedule import PhaseScheduleConfig, Schedule

NUM_IMAGES, NUM_HELD_OUT = 20, 3
END = COSTS["saving"] + NUM_HELD_OUT * COSTS["held-out images"] + COSTS["verdict"]
"""What follows the last step."""


def schedule_of(**lengths) -> Schedule:
    """Of a run with all kinds of steps."""
    config = PhaseScheduleConfig(
        **{
            "phase_a_steps": 30,
            "phase_a_attempts": 1,
            "interleaved_steps": 0,
            "leave_out_rounds": 2,
            "phase_b_steps": 100,
            "misfit_search_steps": (50,),
            **lengths,
        }
    )
    return Schedule.of(config, NUM_IMAGES, 64)


def run_time_of(schedule: Schedule, first_step: int = 0, steps_per_save: int = 40) -> RunTime:
    run_time = RunTime(NUM_IMAGES, NUM_HELD_OUT, first_step, schedule.total_steps, steps_per_save)
    run_time.set_schedule(schedule)
    return run_time


def seconds_of(schedule: Schedule, step: int, factor: float) -> float:
    """Each part takes so many times as long as expected."""
    parts = parts_of_step(schedule.at(step), NUM_IMAGES)
    if step > 0 and step % 40 == 0:
        parts["saving"] = 1.0
    return factor * sum(COSTS[part] * count for part, count in parts.items())


def test_expected_cost_follows_the_schedule():
    schedule = schedule_of(
        phase_a_steps=3,
        interleaved_steps=2,
        leave_out_rounds=4,
        phase_b_steps=4,
        misfit_search_steps=(2,),
    )
    costs = [step_cost(schedule.at(step), NUM_IMAGES) for step in range(schedule.total_steps)]
    a, b, fine = COSTS["phase A"], COARSE * COSTS["phase B"], COSTS["phase B"]
    all_of_them, misfits = COSTS["search of all"], COSTS["search of misfits"]
    rounds = (4 * (4 + LOOK_UP * NUM_IMAGES) + OF_EVERYBODY) * COSTS["fresh field"]
    expected = [a, a, a, a + all_of_them, b, b + rounds]
    assert costs[: len(expected)] == pytest.approx(expected)
    assert costs[7] == pytest.approx(b + (fine - b) * schedule.at(7).active_levels + misfits)
    assert costs[-1] == pytest.approx(b + (fine - b) * schedule.at(schedule.total_steps - 1).active_levels)


def test_nothing_is_known_before_a_step_was_measured():
    run_time = run_time_of(schedule_of())
    assert not run_time.is_measured and run_time.seconds_left() == 0.0
    for step in range(WARM_UP_STEPS):
        run_time.finish_step(step, 100.0)  # kernels are compiled in it
        assert not run_time.is_measured
    run_time.finish_step(WARM_UP_STEPS, 0.5)
    assert run_time.is_measured


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.75])
def test_where_all_takes_as_expected_on_this_machine_the_estimate_is_exact(share: float):
    schedule = schedule_of()
    run_time = run_time_of(schedule)
    total = schedule.total_steps
    for step in range(round(share * total)):
        run_time.finish_step(step, seconds_of(schedule, step, 0.3))
    truth = 0.3 * END + sum(seconds_of(schedule, step, 0.3) for step in range(round(share * total), total))
    assert run_time.seconds_left() == pytest.approx(truth, rel=1e-6)


def test_a_part_that_was_measured_counts_with_what_it_took():
    """Searches take ten times as long as expected: those to come do, too, and other parts do not."""
    schedule = schedule_of(misfit_search_steps=(20, 50))
    run_time = run_time_of(schedule, steps_per_save=10**9)

    def seconds(step: int) -> float:
        parts = parts_of_step(schedule.at(step), NUM_IMAGES)
        return sum(COSTS[part] * count * (10.0 if "search" in part else 1.0) for part, count in parts.items())

    measured = schedule.phase_a_end + 21
    for step in range(measured):
        run_time.finish_step(step, seconds(step))
    truth = sum(seconds(step) for step in range(measured, schedule.total_steps))
    for part in ("search of all", "search of misfits"):
        assert run_time._of_one(part) == pytest.approx(10.0 * COSTS[part], rel=1e-6)
    # What is still to come for the first time is guessed from all that was measured, which is slower than expected.
    assert truth + END < run_time.seconds_left() < truth + 10.0 * END


def test_a_step_that_lasts_is_counted_while_it_does():
    schedule = schedule_of()
    run_time = run_time_of(schedule)
    for step in range(10):
        run_time.finish_step(step, seconds_of(schedule, step, 1.0))
    left, of_one = run_time.seconds_left(), COSTS["phase A"]
    assert run_time.seconds_left(0.5 * of_one) == pytest.approx(left - 0.5 * of_one)
    assert run_time.seconds_left(9.0 * of_one) == pytest.approx(left - of_one)
    # Known to be done by a quarter after 9 units, it takes 27 more.
    assert run_time.seconds_left(9.0 * of_one, 0.25) == pytest.approx(left - of_one + 27.0 * of_one)


def test_a_phase_a_that_begins_anew_is_still_to_come():
    schedule = schedule_of()
    run_time = run_time_of(schedule)
    for step in range(31):
        run_time.finish_step(step, seconds_of(schedule, step, 1.0))
    left = run_time.seconds_left()
    run_time.set_schedule(schedule.begun_anew(31))
    assert run_time.seconds_left() > left + 30 * (COSTS["phase A"] - COSTS["phase B"])


def test_a_resumed_run_has_the_rest_ahead_of_it():
    schedule = schedule_of()
    whole, rest = run_time_of(schedule), run_time_of(schedule, first_step=100)
    for step in range(105):
        whole.finish_step(step, seconds_of(schedule, step, 1.0))
    for step in range(100, 105):
        rest.finish_step(step, seconds_of(schedule, step, 1.0))
    assert rest.seconds_left() == pytest.approx(whole.seconds_left(), rel=1e-6)
