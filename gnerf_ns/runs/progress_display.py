"""What the terminal shows of a training, in place of nerfstudio's table."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Type

import roma
import torch
from jaxtyping import Float
from nerfstudio.configs.base_config import LocalWriterConfig, LoggingConfig
from nerfstudio.utils import writer
from nerfstudio.utils.rich_utils import CONSOLE
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from torch import Tensor

from gnerf_ns.runs.run_time import PartTimes
from gnerf_ns.utils.console import SECONDS_PER_LINE, Activity, duration, present_activity, use_terminal_width

REFRESHES_PER_SECOND = 4.0

STEPS_OF_MOTION = 50
"""Steps over which it is measured how far poses move, at least."""

MEASURED_STEPS, MEASURED_SHARE = 20, 0.1
"""Training steps, and share of the run's time, after which it is said how long the run will take: the first steps are
slower than those that follow, and searches may be far quicker than expected, which the first of them shows."""


class Phase(NamedTuple):
    """What a training is about at a step."""

    name: str
    """As it is called in the documentation."""
    words: str
    """What it means, in three words."""


class Watched(NamedTuple):
    """What a display looks at."""

    phase: Callable[[int], Phase]
    """Of a step."""
    run_time: PartTimes
    """How long it takes."""
    first_step: int
    """Step that training begins or goes on with."""
    num_steps: int
    """Training ends before this step."""
    replan: Callable[[], None] = lambda: None
    """Is called after each step: what there is to do may have changed."""
    poses: Optional[Callable[[], Float[Tensor, "n 3 4"]]] = None
    """Present camera_to_worlds of the training images, if these are learned."""
    contrast: Optional[float] = None
    """Mean squared difference of the images' colors, in [0, 1], from each image's mean color."""


class Shown(NamedTuple):
    """All that is shown at a moment."""

    phase: Phase
    """Of the step that is being made."""
    step: int
    """Number of steps that are done,"""
    num_steps: int
    """of so many."""
    share: float
    """Share of the run's time that has passed, in [0, 1]."""
    elapsed: float
    """Seconds since training began."""
    left: Optional[float]
    """Seconds until it ends; None while that is not known."""
    figures: List[str]
    """Loss, image quality, poses: each in a few words."""
    activity: Optional[Activity]
    """What goes on within the step."""

    @property
    def heading(self) -> str:
        """The phase and what it means, or what goes on."""
        words = self.phase.words
        if self.activity is not None:
            words = f"{self.activity.label} ({self.activity.done + 1}/{self.activity.total})"
        return f"{self.phase.name}: {words}"

    @property
    def remaining(self) -> str:
        """How long it will still take, in words."""
        return "time left not known yet" if self.left is None else f"about {duration(self.left)} left"


def live_lines(shown: Shown) -> RenderableType:
    """Three lines that fit 80 columns: the phase, a bar with times, and figures."""
    first = Table.grid(expand=True)
    first.add_column(no_wrap=True, overflow="ellipsis")
    first.add_column(justify="right", no_wrap=True)
    first.add_row(Text(shown.heading, style="bold"), f"step {shown.step} of {shown.num_steps}")
    second = Table.grid(expand=True, padding=(0, 1))
    second.add_column(ratio=1)
    second.add_column(no_wrap=True, justify="right")
    second.add_row(
        ProgressBar(total=1.0, completed=shown.share),
        f"{shown.share:.0%}  {duration(shown.elapsed)} elapsed, {shown.remaining}",
    )
    return Group(first, second, Text(" · ".join(shown.figures), no_wrap=True, overflow="ellipsis"))


def plain_line(shown: Shown) -> str:
    """The same in a line, for files and pipes."""
    words = [f"step {shown.step} of {shown.num_steps}", f"{duration(shown.elapsed)} elapsed", shown.remaining]
    return f"{shown.share:4.0%}  {shown.heading}; {', '.join([*words, *shown.figures])}"


class ProgressWriter(writer.LocalWriter):
    """Takes the place of nerfstudio's table: shows where training stands, and says once how long it will take.

    nerfstudio builds it from the logging configuration and hands it every step's scalars; the trainer says what else
    there is to look at.
    """

    def __init__(self, config: LocalWriterConfig, banner_messages: Optional[List[str]] = None) -> None:
        """
        Args:
            config: the one that selects it.
            banner_messages: where the viewer is.
        """
        super().__init__(config, banner_messages)
        self._banner = banner_messages or []
        self._watched: Optional[Watched] = None
        self._live: Optional[Live] = None
        self._step = 0
        self._has_said_how_long = False
        self._began = self._step_began = self._last_line = 0.0
        self._scalars: Dict[str, float] = {}
        self._poses_then = (0, torch.empty(0, 3, 4))
        self._motion_deg: Optional[float] = None

    @property
    def places(self) -> List[str]:
        """Where the viewer is."""
        return [url for message in self._banner for url in re.findall(r"http://\S+", message)]

    def begin(self, watched: Watched) -> None:
        """Show a training from now on."""
        self._watched, self._step = watched, watched.first_step
        watched.replan()
        self._began = self._step_began = self._last_line = time.monotonic()
        if watched.poses is not None:
            self._poses_then = (self._step, watched.poses())
        if CONSOLE.is_terminal:
            self._live = Live(
                console=CONSOLE,
                get_renderable=self._render,
                transient=True,
                refresh_per_second=REFRESHES_PER_SECOND,
                vertical_overflow="crop",
            )
            self._live.start(refresh=True)

    def end(self) -> None:
        """Show nothing any more; what is printed from now on stays."""
        if self._live is not None:
            self._live.stop()
        self._live = self._watched = None

    @property
    def elapsed(self) -> float:
        """Seconds since training began."""
        return time.monotonic() - self._began

    def write_stats_log(self, step: int) -> None:
        """Take a finished step's scalars; nerfstudio calls it once everything after the step is done, too.

        Args:
            step: that of the first event, which may be of earlier on.
        """
        watched, now = self._watched, time.monotonic()
        step = max(event["step"] for event in writer.EVENT_STORAGE)
        if watched is None or not self._step <= step < watched.num_steps:
            return
        watched.run_time.finish_step(step, now - self._step_began)
        watched.replan()
        self._step, self._step_began = step + 1, now
        for event in writer.EVENT_STORAGE:
            if event["name"] == "Train Loss":
                self._scalars["loss"] = float(event["event"].detach())
            elif event["name"] == "Train Metrics Dict" and "psnr" in event["event"]:
                self._scalars["psnr"] = float(event["event"]["psnr"])
        self._measure_motion(watched)
        self._say_how_long_it_takes(watched)
        if self._live is None and now - self._last_line >= SECONDS_PER_LINE:
            self._last_line = now
            CONSOLE.print(plain_line(self._shown(watched)), markup=False, highlight=False, soft_wrap=True)

    def _say_how_long_it_takes(self, watched: Watched) -> None:
        """Once, as soon as enough has been measured."""
        total = self.elapsed + watched.run_time.seconds_left()
        is_measured = self._step >= watched.first_step + MEASURED_STEPS and self.elapsed >= MEASURED_SHARE * total
        if is_measured and not self._has_said_how_long:
            self._has_said_how_long = True
            CONSOLE.print(f"This will take about {duration(total)} on this machine.")

    def _measure_motion(self, watched: Watched) -> None:
        before, poses_then = self._poses_then
        if watched.poses is None or self._step - before < STEPS_OF_MOTION:
            return
        poses = watched.poses()
        angles = roma.rotmat_geodesic_distance(poses_then[..., :3], poses[..., :3])
        self._motion_deg = float(torch.rad2deg(angles).median()) * 100.0 / (self._step - before)
        self._poses_then = (self._step, poses)

    def _shown(self, watched: Watched) -> Shown:
        activity = present_activity()
        run_time = watched.run_time
        left, share, elapsed = None, 0.0, self.elapsed
        if run_time.is_measured:
            share_of_step = None if activity is None else activity.done / max(1, activity.total)
            left = run_time.seconds_left(time.monotonic() - self._step_began, share_of_step)
            share = elapsed / max(1e-6, elapsed + left)
        return Shown(
            watched.phase(self._step),
            self._step,
            watched.num_steps,
            share,
            elapsed,
            left,
            self._figures(watched),
            activity,
        )

    def _figures(self, watched: Watched) -> List[str]:
        figures = []
        if "loss" in self._scalars:
            figures.append(f"loss {self._scalars['loss']:.3g}")
        if "psnr" in self._scalars:
            psnr = self._scalars["psnr"]
            figures.append(f"PSNR {psnr:.1f} dB")
            if watched.contrast is not None:
                explained = 1.0 - 10.0 ** (-psnr / 10.0) / max(watched.contrast, 1e-6)
                figures.append(f"images {max(0.0, explained):.0%} explained")
        if self._motion_deg is not None:
            figures.append(f"poses move {self._motion_deg:.2f}°/100 steps")
        return figures

    def _render(self) -> RenderableType:
        use_terminal_width()
        return "" if self._watched is None else live_lines(self._shown(self._watched))


@dataclass
class ProgressWriterConfig(LocalWriterConfig):
    """Selects `ProgressWriter`; nerfstudio's own options for its table have no effect."""

    _target: Type = field(default_factory=lambda: ProgressWriter)
    """Target class to instantiate."""
    enable: bool = True
    """Whether the terminal shows the progress of training."""


def progress_logging() -> LoggingConfig:
    """nerfstudio's logging, with our display in place of its table, and without a profile at the end."""
    return LoggingConfig(local_writer=ProgressWriterConfig(), profiler="none")


def installed_writer(config: Any) -> Optional[ProgressWriter]:
    """The writer that nerfstudio has just built from a trainer's configuration, if it is ours and enabled.

    Args:
        config: a `TrainerConfig`.
    """
    if not config.logging.local_writer.enable or not writer.EVENT_WRITERS:
        return None
    last = writer.EVENT_WRITERS[-1]  # nerfstudio appends it after all others
    return last if isinstance(last, ProgressWriter) else None
