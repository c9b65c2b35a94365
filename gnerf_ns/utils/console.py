"""The progress display of the console commands."""

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
