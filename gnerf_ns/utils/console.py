"""What is shown on the console: remarks about the input, and progress."""

import shutil
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Iterator, List, NamedTuple, Optional, Sequence, TypeVar, Union

from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SPEED_WINDOW_SECONDS = 60.0
"""Length of the time window from whose speed the remaining time is estimated."""


def progress_display() -> Progress:
    """A display with one line per stage: description, bar, percentage, elapsed and remaining time."""
    return Progress(
        TextColumn("{task.description:<24}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=CONSOLE,
        speed_estimate_period=SPEED_WINDOW_SECONDS,
    )


def use_terminal_width() -> None:
    """Have nerfstudio's console, which takes all terminals to be 120 columns wide, be as wide as this one is."""
    if CONSOLE.is_terminal:
        CONSOLE.width = shutil.get_terminal_size().columns


@contextmanager
def quiet_console() -> Iterator[None]:
    """Nothing is printed on nerfstudio's console in this block."""
    before, CONSOLE.quiet = CONSOLE.quiet, True
    try:
        yield
    finally:
        CONSOLE.quiet = before


class Activity(NamedTuple):
    """Something that goes on for a while within a training step."""

    label: str
    """What it is, in a few words."""
    done: int
    """How many of its parts are done,"""
    total: int
    """of so many."""


T = TypeVar("T")

_activities: List[Activity] = []
"""What `tracked` is going through, the innermost last: whoever does something need not know what shows it."""


def tracked(items: Sequence[T], label: str) -> Iterator[T]:
    """The same items, one after the other; `present_activity` tells meanwhile how far that is.

    Args:
        items: the parts of what is being done.
        label: what that is, in a few words.
    """
    _activities.append(Activity(label, 0, len(items)))
    try:
        for done, item in enumerate(items):
            _activities[-1] = Activity(label, done, len(items))
            yield item
    finally:
        _activities.pop()


def present_activity() -> Optional[Activity]:
    """What is being gone through by `tracked`, the innermost; None for nothing."""
    return _activities[-1] if _activities else None


def duration(seconds: float) -> str:
    """As on a clock: minutes and seconds, with hours before them where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@cache
def remark(sentence: str) -> None:
    """Print a sentence, unless it was printed before: nerfstudio has the same files read for each split."""
    CONSOLE.print(sentence, style="yellow", markup=False, highlight=False, soft_wrap=True)


def named(files: Sequence[Union[Path, str]], limit: int = 3) -> str:
    """The names of the first few files, and how many more there are."""
    names = ", ".join(Path(file).name for file in files[:limit])
    return names if len(files) <= limit else f"{names} and {len(files) - limit} more"
