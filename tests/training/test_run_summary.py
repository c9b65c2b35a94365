"""What is said at the beginning and at the end of a run."""

import shlex
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import List

import pytest

from gnerf_ns.report.contents import ReportContents
from gnerf_ns.report.page import write_report
from gnerf_ns.runs.lines import Line, resume_command
from gnerf_ns.training.placement import PoseOrigin
from gnerf_ns.training.pose_status import PoseStatus
from gnerf_ns.training.restarts import PHASE_A_FAILED
from gnerf_ns.training.run_summary import Input, Outcome, outcome_lines, places_lines, start_lines, unjudged_lines
from gnerf_ns.training.trust import Evidence, verdict_of

BEGUN = Input("photos", 43, 7, (4032, 3024), 240, False, "EXIF data (50 of 50 images)", "the object alone")


def statuses(*explained: float, is_flagged: bool = False) -> List[PoseStatus]:
    return [PoseStatus(PoseOrigin.APPEARANCE, each, is_flagged) for each in explained]


def test_the_beginning_says_what_was_read_and_what_is_made_of_it_in_few_lines():
    lines = [line.text for line in start_lines(BEGUN, 1, ["http://localhost:7007", "tensorboard --logdir runs"])]
    assert len(lines) <= 4
    assert lines[0] == "43 images to train on, 7 held out, from photos"
    assert "4032×3024 pixels, trained at 240 px because there is no GPU" in lines[1]
    assert "--pipeline.datamanager.max-image-side 480" in lines[1]
    assert "EXIF data (50 of 50 images)" in lines[2] and lines[3].endswith(
        "http://localhost:7007, tensorboard --logdir runs."
    )


@pytest.mark.parametrize(
    ("changes", "is_said"),
    [
        ({"has_gpu": True}, "trained at 240 px; --pipeline"),
        ({"file_size": (300, 200)}, "max-image-side 300"),
        ({"file_size": (240, 200)}, "240×200 pixels. They show"),
    ],
)
def test_sizes(changes, is_said: str):
    assert is_said in start_lines(BEGUN._replace(**changes), 1, [])[1].text


def test_few_images_take_longer_and_that_is_said():
    said = "".join(line.text for line in start_lines(BEGUN, 4, []))
    assert "Few images take longer: phase A is made up to 4 times." in said
    assert "Few" not in "".join(line.text for line in start_lines(BEGUN, 1, []))


@pytest.mark.parametrize(
    ("train", "held_out", "has_phase_a_failed", "ambiguity", "level"),
    [
        (statuses(*[0.95] * 9), statuses(0.94, 0.93), False, [], "good"),
        (statuses(*[0.95] * 9), [], False, [], "good"),
        (statuses(*[0.95] * 9), statuses(0.94, 0.93), False, ["looks the same from behind"], "doubtful"),
        (statuses(*[0.95] * 9), statuses(0.3, 0.2), False, [], "doubtful"),
        (statuses(*[0.95] * 9, is_flagged=True), statuses(0.94, 0.93), False, [], "failed"),
        ([*statuses(*[0.95] * 8), *statuses(0.9, 0.9, is_flagged=True)], statuses(0.94, 0.93), False, [], "doubtful"),
        ([*statuses(*[0.95] * 8), *statuses(0.9, is_flagged=True)], statuses(0.94, 0.93), False, [], "good"),
        ([*statuses(*[0.95] * 19), *statuses(0.9, is_flagged=True)], statuses(0.94, 0.93), False, [], "good"),
        (statuses(*[0.4] * 9), statuses(0.4, 0.4), False, [], "failed"),
        (statuses(*[0.95] * 9), statuses(0.94, 0.93), True, [], "failed"),
    ],
)
def test_verdicts(train, held_out, has_phase_a_failed: bool, ambiguity: List[str], level: str):
    verdict = verdict_of(train, held_out, Evidence(has_phase_a_failed, ambiguity))
    assert verdict.level == level
    assert (verdict.sentence == PHASE_A_FAILED) == has_phase_a_failed


@pytest.mark.parametrize(
    ("origins", "level"),
    [
        ([PoseOrigin.APPEARANCE] * 8, "doubtful"),
        ([PoseOrigin.APPEARANCE] * 9, "good"),
        ([PoseOrigin.MATCHES] * 8, "good"),
        ([PoseOrigin.GIVEN] * 6, "good"),  # they are believed
        ([*[PoseOrigin.MATCHES] * 4, *[PoseOrigin.LOOKED_UP] * 3], "good"),
        ([*[PoseOrigin.MATCHES] * 3, *[PoseOrigin.LOOKED_UP] * 4], "doubtful"),
    ],
)
def test_nobody_is_sure_of_a_few_images_that_only_a_field_speaks_for(origins: List[PoseOrigin], level: str):
    """However well it shows them, and those held out: it has shown six from wrong poses that well."""
    verdict = verdict_of([PoseStatus(each, 0.98, False) for each in origins], statuses(0.95, 0.95), Evidence(False))
    assert verdict.level == level
    assert (f"so few images to train on ({len(origins)})" in verdict.sentence) == (level == "doubtful")


def test_a_run_that_ends_before_poses_were_looked_up_has_failed():
    """Whatever the field shows: nothing was placed by it."""
    verdict = verdict_of(statuses(*[0.96] * 7), [], Evidence(False, ends_in_phase_a=True))
    assert verdict.level == "failed" and "--max-num-iterations" in verdict.sentence


def test_the_end_has_the_verdict_first_and_its_figures():
    train, held_out = statuses(*[0.96] * 9), statuses(0.94, 0.93)
    verdict = verdict_of(train, held_out, Evidence(False))
    lines = outcome_lines(Outcome(verdict, 252.0, train, held_out, 24.31, 0.71, [Line("9 images.")]))
    said = [line.text for line in lines]
    assert said[0].startswith("Done after 4:12: ") and lines[0].style == "bold green"
    assert said[1:] == [
        "  training images: 96% of what a typical one shows is explained",
        "  held-out images: 94%, PSNR 24.3 dB; 2 of 2 found without doubt",
        "  phase A: explained 71% of how the images differ",
        "  9 images.",
    ]
    failed = outcome_lines(Outcome(verdict_of(train, [], Evidence(True)), 5.0, train, [], None, -0.2, []))
    assert failed[0].text == f"FAILED after 0:05: {PHASE_A_FAILED}" and failed[0].style == "bold red"
    assert "held-out" not in "".join(line.text for line in failed[1:])


def test_the_end_of_a_run_that_nobody_has_judged():
    (done,) = unjudged_lines(252.0, has_phase_a_failed=False)
    assert done.text == "Done after 4:12, but nobody has judged the poses: look at them."
    (failed,) = unjudged_lines(None, has_phase_a_failed=True)
    assert failed.text == f"FAILED: {PHASE_A_FAILED}" and failed.style == "bold red"


def test_only_a_report_that_is_there_is_named(tmp_path: Path):
    def named() -> int:
        return sum("report.html" in line.text for line in places_lines(tmp_path, "poses"))

    assert named() == 0
    write_report(tmp_path / "poses" / "report.html", ReportContents("a run", []))
    assert named() == 1


def test_commands_to_go_on_can_be_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "my runs" / "now"
    commands = [line.text.strip() for line in places_lines(run, "poses") if "--load-config" in line.text]
    programs = ["ns-viewer", "ns-render", "ns-export", "gnerf-export-poses"]
    assert [command.split()[0] for command in commands] == programs
    for command in commands:
        words = shlex.split(command)
        assert words[words.index("--load-config") + 1] == "my runs/now/config.yml"


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (
            "gnerf-ns --data photos unposed-data --fov-deg 40",
            "gnerf-ns --load-dir c --data photos unposed-data --fov-deg 40",
        ),
        ("gnerf-ns --load-dir old --data photos", "gnerf-ns --load-dir c --data photos"),
        ("gnerf-ns --load-checkpoint=old.ckpt --data 'my photos'", "gnerf-ns --load-dir c --data 'my photos'"),
        ("gnerf-ns --load_dir old --load_step 9 --data photos", "gnerf-ns --load-dir c --data photos"),
        ("gnerf-ns --load-config config.yml", "gnerf-ns --data images --load-dir c"),
        ("", "gnerf-ns --data images --load-dir c"),
    ],
)
def test_resuming_is_what_was_typed_from_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, expected: str
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ns-train", *shlex.split(typed)])
    pipeline = SimpleNamespace(datamanager=SimpleNamespace(data=Path("images")))
    config = SimpleNamespace(method_name="gnerf-ns", get_checkpoint_dir=lambda: tmp_path / "c", pipeline=pipeline)
    assert resume_command(config) == f"ns-train {expected}"
