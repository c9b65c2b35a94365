"""The screen after `ns-train`, as a person reads it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Dict, List

from terminal import Seen, run_in_terminal

TESTS = Path(__file__).resolve().parent.parent
ERASING = ("ETA (time)", "Train Iter (time)", "Training Finished", "GNeRFTrainerConfig(", "Printing profiling")
"""Of nerfstudio's table, of the end of its training, and of a configuration."""


def command(data: Path, output: Path, fate: str) -> List[str]:
    return [sys.executable, str(TESTS / "tiny_command.py"), str(data), str(output), fate]


def environment() -> Dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}


def index_of(lines: List[str], beginning: str) -> int:
    found = [number for number, line in enumerate(lines) if line.startswith(beginning)]
    assert len(found) == 1, f"{beginning!r} begins {len(found)} lines of:\n" + "\n".join(lines)
    return found[0]


def assert_nothing_is_lost(seen: Seen) -> None:
    """What is said at the beginning stands above what is said at the end, and the display is gone."""
    whole = "\n".join(seen.lines)
    assert not any(words in whole for words in ERASING), whole
    assert "Phase B" not in whole and " elapsed" not in whole, whole
    assert index_of(seen.lines, "7 images to train on, 2 held out") < index_of(seen.lines, "Look at tensorboard")


def test_a_run_that_went_well_ends_with_verdict_figures_places_and_commands(tiny_scene: Path, tmp_path: Path):
    seen = run_in_terminal(command(tiny_scene, tmp_path, "good"), 80, 24, environment())
    assert seen.status == 0, "\n".join(seen.lines)
    assert_nothing_is_lost(seen)
    verdict = index_of(seen.lines, "Done after 0:")
    assert seen.colors[seen.lines[verdict]] == "green"
    order = [
        "Look at tensorboard",
        "Done after",
        "  held-out images: 95%, PSNR",
        "Poses: ",
        "Go on with",
        "  ns-viewer",
        "  ns-export",
    ]
    places = [index_of(seen.lines, beginning) for beginning in order]
    assert places == sorted(places)
    assert len(seen.lines) - verdict <= 24, "all that is said at the end is on the screen"


def test_a_run_that_failed_says_why_in_red_and_has_another_status(tiny_scene: Path, tmp_path: Path):
    seen = run_in_terminal(command(tiny_scene, tmp_path, "fails"), 150, 45, environment())
    assert seen.status == 1
    assert_nothing_is_lost(seen)
    verdict = seen.lines[index_of(seen.lines, "FAILED after 0:")]
    assert "Phase A ended without telling the images apart, so the poses will be wrong." in verdict
    assert seen.colors[verdict] == "red"
    said_before = seen.lines[: seen.lines.index(verdict)]
    assert any(line.startswith("Phase A ended without") for line in said_before), "nothing erases it"


def test_without_a_terminal_there_are_plain_lines(tiny_scene: Path, tmp_path: Path):
    ended = subprocess.run(
        command(tiny_scene, tmp_path, "is slow"), capture_output=True, text=True, env=environment(), timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert "\033" not in ended.stdout and not any(words in ended.stdout for words in ERASING)
    progress = [line for line in lines if " elapsed, " in line]
    assert [line.split("step ")[1].split(",")[0] for line in progress] == [f"{step} of 12" for step in range(1, 13)]
    assert index_of(lines, "Done after 0:") > lines.index(progress[-1])


def test_ctrl_c_saves_and_says_how_to_go_on(tiny_scene: Path, tmp_path: Path):
    seen = run_in_terminal(command(tiny_scene, tmp_path, "is interrupted"), 150, 45, environment(), "Phase B: fitting")
    assert seen.status == 130, "\n".join(seen.lines)
    assert_nothing_is_lost(seen)
    (saved,) = (tmp_path / "run" / "gnerf-ns-tiny" / "now" / "nerfstudio_models").iterdir()
    said = "".join(seen.lines[index_of(seen.lines, "Stopped; step ") :]).replace(" ", "")
    step = int(saved.stem.split("-")[1])
    assert said.startswith(f"Stopped;step{step}issaved;goonwith:ns-traingnerf-ns-tiny--load-dir{saved.parent}--data")
