"""What is shown on the console: remarks about the input, and progress."""

from functools import cache
from pathlib import Path
from typing import Sequence, Union

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


@cache
def remark(sentence: str) -> None:
    """Print a sentence, unless it was printed before: nerfstudio has the same files read for each split."""
    CONSOLE.print(sentence, style="yellow", markup=False, highlight=False, soft_wrap=True)


def named(files: Sequence[Union[Path, str]], limit: int = 3) -> str:
    """The names of the first few files, and how many more there are."""
    names = ", ".join(Path(file).name for file in files[:limit])
    return names if len(files) <= limit else f"{names} and {len(files) - limit} more"
