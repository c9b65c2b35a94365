"""What is shown of a training, and what of it fits where."""

import io
from typing import Any, List

import pytest
import torch
from nerfstudio.configs.base_config import LoggingConfig
from nerfstudio.utils import writer
from rich.console import Console

from gnerf_ns.runs import progress_display
from gnerf_ns.runs.progress_display import (
    ProgressWriter,
    ProgressWriterConfig,
    Shown,
    Watched,
    installed_writer,
    live_lines,
    plain_line,
    progress_logging,
)
from gnerf_ns.training.run_costs import RunTime
from gnerf_ns.training.run_summary import phase_of
from gnerf_ns.training.schedule import PhaseScheduleConfig, Schedule
from gnerf_ns.utils.console import Activity, present_activity, tracked

SCHEDULE = Schedule.of(PhaseScheduleConfig(phase_a_steps=20, phase_a_attempts=1, phase_b_steps=180), 50, 64)
FIGURES = ["loss 0.000123", "PSNR 24.1 dB", "images 93% explained", "poses move 0.05°/100 steps"]
LATE = Shown(phase_of(SCHEDULE, 150, 200), 150, 200, 0.75, 3751.0, 1250.0, FIGURES, None)


def rendered(shown: Shown, width: int) -> List[str]:
    file = io.StringIO()
    Console(file=file, width=width).print(live_lines(shown))
    return file.getvalue().splitlines()


def test_everything_fits_eighty_columns():
    lines = rendered(LATE, 80)
    assert len(lines) == 3 and all(len(line) <= 80 and "…" not in line for line in lines)
    assert lines[0].startswith("Phase B: fitting every image") and lines[0].rstrip().endswith("step 150 of 200")
    assert "75%  1:02:31 elapsed, about 20:50 left" in lines[1]
    assert lines[2].rstrip() == " · ".join(FIGURES)


@pytest.mark.parametrize("width", [20, 40, 150])
def test_it_is_three_lines_at_any_width(width: int):
    """Those that the terminal breaks would be left behind whenever the display is drawn anew."""
    lines = rendered(LATE, width)
    assert len(lines) == 3 and all(len(line) <= width for line in lines)


@pytest.mark.parametrize(
    ("step", "phase"),
    [(5, "Phase A: finding all poses"), (150, "Phase B: fitting every image"), (200, "End: finding held-out poses")],
)
def test_phases_have_a_meaning(step: int, phase: str):
    assert LATE._replace(phase=phase_of(SCHEDULE, step, 200)).heading == phase


def test_what_goes_on_within_a_step_is_told():
    shown = LATE._replace(activity=Activity("trying other poses, round 1 of at most 2", 4, 12), left=None)
    assert shown.heading == "Phase B: trying other poses, round 1 of at most 2 (5/12)"
    assert "time left not known yet" in plain_line(shown) and "\n" not in plain_line(shown)


def test_tracked_items_are_told_while_they_last():
    seen = []
    for item in tracked("abc", "spelling"):
        seen.append((item, present_activity()))
        if item == "b":
            break
    assert seen == [("a", Activity("spelling", 0, 3)), ("b", Activity("spelling", 1, 3))]
    assert list(tracked("a", "spelling")) == ["a"] and present_activity() is None


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    file = io.StringIO()
    monkeypatch.setattr(progress_display, "CONSOLE", Console(file=file, width=120))
    monkeypatch.setattr(writer, "EVENT_STORAGE", [])
    return file


def watched() -> Watched:
    angle = torch.tensor(0.0)

    def poses() -> torch.Tensor:
        """Each look finds cameras a hundredth of a radian farther round."""
        angle.add_(0.01)
        rotation = torch.stack(
            [
                torch.stack([angle.cos(), -angle.sin(), torch.tensor(0.0)]),
                torch.stack([angle.sin(), angle.cos(), torch.tensor(0.0)]),
                torch.tensor([0.0, 0.0, 1.0]),
            ]
        )
        return torch.cat([rotation, torch.zeros(3, 1)], dim=1)[None]

    return watched_from(0)._replace(poses=poses, contrast=0.1)


def watched_from(first_step: int) -> Watched:
    """What there is of a training that learns no poses."""
    run_time = RunTime(50, 0, first_step, 200, 10**9)
    return Watched(
        lambda step: phase_of(SCHEDULE, step, 200), run_time, first_step, 200, lambda: run_time.set_schedule(SCHEDULE)
    )


def test_figures_are_those_of_the_events(printed: io.StringIO, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(progress_display, "SECONDS_PER_LINE", 0.0)
    display = ProgressWriter(ProgressWriterConfig())
    display.begin(watched())
    for step in range(100):
        writer.EVENT_STORAGE[:] = [
            {"name": "Train Loss", "event": torch.tensor(0.25, requires_grad=True), "step": step},
            {"name": "Train Metrics Dict", "event": {"psnr": torch.tensor(20.0)}, "step": step},
        ]
        display.write_stats_log(0)
    display.end()
    last = printed.getvalue().splitlines()[-1]
    # Squared errors of 0.01 leave a tenth of a contrast of 0.1; 0.01 radians in 50 steps.
    assert last.endswith("loss 0.25, PSNR 20.0 dB, images 90% explained, poses move 1.15°/100 steps")
    assert "Phase B: fitting every image; step 100 of 200" in last
    assert sum("This will take about" in line for line in printed.getvalue().splitlines()) == 1


def test_a_training_without_poses_has_no_figures_of_them(printed: io.StringIO, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(progress_display, "SECONDS_PER_LINE", 0.0)
    display = ProgressWriter(ProgressWriterConfig())
    display.begin(watched_from(0))
    for step in range(60):
        writer.EVENT_STORAGE[:] = [{"name": "Train Metrics Dict", "event": {"psnr": torch.tensor(20.0)}, "step": step}]
        display.write_stats_log(0)
    assert printed.getvalue().splitlines()[-1].endswith(" left, PSNR 20.0 dB")


def test_lines_do_not_come_more_often_than_every_few_seconds(printed: io.StringIO):
    display = ProgressWriter(ProgressWriterConfig())
    display.begin(watched())
    for step in range(50):
        writer.EVENT_STORAGE[:] = [{"name": "Train Iter (time)", "event": 0.1, "step": step}]
        display.write_stats_log(step)
    assert [line for line in printed.getvalue().splitlines() if "Phase" in line] == []


def test_events_of_before_and_after_are_not_steps(printed: io.StringIO):
    display = ProgressWriter(ProgressWriterConfig())
    display.begin(watched_from(100))
    for step in (0, 99, 200):
        writer.EVENT_STORAGE[:] = [{"name": "config", "event": {}, "step": step}]
        display.write_stats_log(step)
    assert display._step == 100
    display.end()
    display.write_stats_log(100)  # of a later training of the same process
    assert display._step == 100


def test_nerfstudios_configuration_selects_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(writer, "EVENT_WRITERS", [])
    config: Any = type("Config", (), {"logging": progress_logging()})
    writer.setup_local_writer(config.logging, 10, ["Viewer running locally at: http://localhost:7007"])
    found = installed_writer(config)
    assert isinstance(found, ProgressWriter) and found.places == ["http://localhost:7007"]
    config.logging.local_writer.enable = False
    assert installed_writer(config) is None
    config.logging = LoggingConfig()
    writer.setup_local_writer(config.logging, 10)
    assert installed_writer(config) is None
