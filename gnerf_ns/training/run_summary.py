"""What the terminal says of a training of field and cameras: when it begins, of its phases, and when it has ended."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence

from jaxtyping import Float
from torch import Tensor

from gnerf_ns.cameras.alignment import PoseErrors
from gnerf_ns.data.image_set import ImageSet
from gnerf_ns.report.page import REPORT, is_report
from gnerf_ns.runs.lines import Line, shown_path
from gnerf_ns.runs.progress_display import Phase
from gnerf_ns.training.pose_status import PoseStatus
from gnerf_ns.training.restarts import PHASE_A_FAILED
from gnerf_ns.training.schedule import Schedule
from gnerf_ns.training.trust import Verdict
from gnerf_ns.utils.console import duration
from gnerf_ns.utils.system_libraries import export_advice

CONTRAST_SIDE = 64
"""Longer side of the images whose contrast is measured, in pixels."""

PHASE_WORDS = {"A": "finding all poses", "AB": "finding and fitting", "B": "fitting every image"}
END_WORDS = "finding held-out poses"


# The beginning


class Input(NamedTuple):
    """What a training begins with."""

    data: str
    """Where the images are from."""
    num_images: int
    """How many are trained on."""
    num_held_out: int
    """How many are not."""
    file_size: Sequence[int]
    """Typical width and height of the files, in pixels."""
    image_side: int
    """Longer side that they are trained at, in pixels."""
    has_gpu: Optional[bool]
    """Whether training runs on one; None where that is not known."""
    lens: str
    """Where the intrinsics are from."""
    background: str
    """What is known of the images' background."""


def background_words(has_masks: bool, has_alpha: bool, show_surroundings: bool) -> str:
    """What is known of the images' background.

    Args:
        has_masks: whether there are files of masks.
        has_alpha: whether images, or these, leave something out.
        show_surroundings: whether there is more than the object and a plain ground.
    """
    if has_alpha:
        return "the object alone, by its masks" if has_masks else "the object alone, by the images' transparency"
    return "the object and what is around it" if show_surroundings else "the object on a plain ground, without masks"


def start_lines(begun: Input, num_attempts: int, places: Sequence[str], sizes: str = "") -> List[Line]:
    """At most five lines; how long it takes is said once some steps have been measured.

    Args:
        begun: what training begins with.
        num_attempts: how often phase A is made.
        places: where to look meanwhile.
        sizes: what follows from the device, in a line.
    """
    width, height = begun.file_size
    size = f"{width}×{height} pixels"
    if begun.image_side < max(begun.file_size):
        reason = " because there is no GPU" if begun.has_gpu is False else ""
        more = min(2 * begun.image_side, max(begun.file_size))
        size += f", trained at {begun.image_side} px{reason}"
        size += f"; --pipeline.datamanager.max-image-side {more} keeps more detail"
    lines = [
        Line(f"{begun.num_images} images to train on, {begun.num_held_out} held out, from {begun.data}"),
        Line(f"{size}. They show {begun.background}."),
        Line(f"Lens: intrinsics from {begun.lens}."),
    ]
    if sizes:
        lines.append(Line(sizes))
    if num_attempts > 1:
        lines[2] = Line(f"{lines[2].text} Few images take longer: phase A is made up to {num_attempts} times.")
    return [*lines, Line(f"Look at {', '.join(places)}.", is_copied=True)] if places else lines


# Meanwhile


def phase_of(schedule: Schedule, step: int, num_steps: int) -> Phase:
    """What a training that follows a schedule is about.

    Args:
        schedule: the present one.
        step: a step; that after the last one for the end of the run.
        num_steps: of the run.
    """
    if step >= num_steps:
        return Phase("End", END_WORDS)
    plan = schedule.at(step)
    return Phase(f"Phase {plan.name}", PHASE_WORDS[plan.name])


def color_contrast(image_set: ImageSet, background: Float[Tensor, "3"]) -> float:
    """Mean squared difference of colors, in [0, 1], from the mean color of their image.

    Args:
        image_set: the images.
        background: what transparent pixels are laid over.
    """
    height, width = image_set.images.height, image_set.images.width
    scale = min(1.0, CONTRAST_SIDE / max(height, width))
    images = image_set.resized(max(1, round(scale * height)), max(1, round(scale * width)), background)
    return float(images.var(dim=(2, 3), unbiased=False).mean())


# The end


class Outcome(NamedTuple):
    """What a training has come to."""

    verdict: Verdict
    """Whether to trust it."""
    seconds: Optional[float]
    """How long training took; None where that was not measured."""
    statuses: Sequence[PoseStatus]
    """Of the images that were trained on."""
    held_out: Sequence[PoseStatus]
    """Of the others."""
    held_out_psnr: Optional[float]
    """In dB, at their estimated poses; None without any."""
    phase_a_explained: Optional[float]
    """Explained variance of the images after phase A, of the attempt that was kept; None where there was none."""
    remarks: Sequence[Line]
    """Further sentences about the poses."""


def truth_sentence(errors: PoseErrors, is_truth: bool) -> str:
    """How far poses are from those that came with the images.

    Args:
        errors: of the training images.
        is_truth: whether training never saw these.
    """
    summary = errors.summary()
    against = "Against the true poses, which training never saw" if is_truth else "From the poses that were given"
    return (
        f"{against}: rotation error {summary['rotation_error_deg_median']:.2f}° in the median, "
        f"{summary['rotation_error_deg_max']:.2f}° at most, {summary['rotation_under_5deg']:.0%} under 5°"
        + (", and the solution is mirrored." if errors.mirrored else ".")
    )


STYLES = {"good": "bold green", "doubtful": "bold yellow", "failed": "bold red"}
HEADINGS = {"good": "Done", "doubtful": "Done, but with doubts,", "failed": "FAILED"}


def outcome_lines(outcome: Outcome) -> List[Line]:
    """The verdict and what it rests on."""
    verdict = outcome.verdict
    lines = [Line(f"{HEADINGS[verdict.level]}{_after(outcome.seconds)}: {verdict.sentence}", STYLES[verdict.level])]
    lines.append(Line(f"  training images: {_explained(outcome.statuses)} of what a typical one shows is explained"))
    if outcome.held_out:
        found = sum(not status.is_flagged for status in outcome.held_out)
        quality = "" if outcome.held_out_psnr is None else f", PSNR {outcome.held_out_psnr:.1f} dB"
        lines.append(
            Line(
                f"  held-out images: {_explained(outcome.held_out)}{quality}; {found} of {len(outcome.held_out)} found "
                "without doubt"
            )
        )
    if outcome.phase_a_explained is not None:
        share = max(0.0, outcome.phase_a_explained)
        lines.append(Line(f"  phase A: explained {share:.0%} of how the images differ"))
    return [*lines, *(Line(f"  {remark.text}", remark.style) for remark in outcome.remarks)]


def _explained(statuses: Sequence[PoseStatus]) -> str:
    shares = sorted(status.explained for status in statuses)
    return f"{max(0.0, shares[len(shares) // 2]):.0%}"


def unjudged_lines(seconds: Optional[float], has_phase_a_failed: bool) -> List[Line]:
    """The end of a run of which only phase A is known to have come to something, or to nothing.

    Args:
        seconds: how long training took; None where that was not measured.
        has_phase_a_failed: whether phase A ended without telling the images apart.
    """
    if has_phase_a_failed:
        return [Line(f"{HEADINGS['failed']}{_after(seconds)}: {PHASE_A_FAILED}", STYLES["failed"])]
    return [Line(f"Done{_after(seconds)}, but nobody has judged the poses: look at them.", STYLES["doubtful"])]


def _after(seconds: Optional[float]) -> str:
    return "" if seconds is None else f" after {duration(seconds)}"


def report_command(run: Path) -> str:
    """What makes the report of a run.

    Args:
        run: its folder, as it is to be named.
    """
    return f"gnerf-report --load-config {shlex.quote(str(run / 'config.yml'))}"


def commands_after(run: Path) -> Dict[str, str]:
    """Commands that go on from a run, by what they are good for.

    Args:
        run: its folder, as it is to be named in them.
    """
    load = f"--load-config {shlex.quote(str(run / 'config.yml'))}"
    film, points, copies = (shlex.quote(str(run / name)) for name in ("film.mp4", "pointcloud", "colmap"))
    return {
        "Look at it from anywhere:": f"ns-viewer {load}",
        "A film:": f"ns-render interpolate {load} --output-path {film}",
        "The surface as points:": f"ns-export pointcloud {load} --output-dir {points} --normal-method open3d",
        "The cameras for COLMAP’s readers:": f"gnerf-export-poses {load} --format colmap --output {copies}",
    }


def places_lines(run: Path, poses_folder: str) -> List[Line]:
    """Where the results are, and commands that go on from there.

    Args:
        run: the run's folder.
        poses_folder: name of the one with the poses, in it.
    """
    poses = shown_path(run) / poses_folder
    advice = export_advice()
    commands = commands_after(shown_path(run)).values()
    lines = [
        Line(f"Poses: {poses / 'transforms.json'}, a plot of them: {poses / 'cameras.png'}", is_copied=True),
        Line("Go on with", "bold"),
        *(Line(f"  {command}", is_copied=True) for command in commands),
    ]
    if is_report(run / poses_folder / REPORT):
        lines.insert(1, Line(f"All images, and how far each pose can be trusted: {poses / REPORT}", is_copied=True))
    return lines if advice is None else [*lines, Line(f"  ({advice})")]
