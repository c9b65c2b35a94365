"""Progress as the console commands show it."""

from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SPEED_WINDOW_SECONDS = 60.0
"""The remaining time is told from the speed in a window this long."""


def progress_display() -> Progress:
    """One line a stage: what, how far, how long so far, how long to go."""
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
