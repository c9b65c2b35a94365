"""What is shown on the console: remarks about the input, and progress."""

import re
from functools import cache
from pathlib import Path
from typing import Any, Sequence, Union

from nerfstudio.utils.rich_utils import CONSOLE
from rich.errors import MarkupError
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

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


def show_brackets_of(names: Sequence[str]) -> None:
    """Print square brackets in names of files as they are: nerfstudio's messages take them for styles, and drop them.

    A message whose brackets make no sense as styles is printed as it is, too.

    Args:
        names: of files and folders, without any slash.
    """
    render = CONSOLE.render_str
    wanted = sorted({name for name in names if escape(name) != name}, key=len, reverse=True)
    alternatives = "|".join(map(re.escape, wanted)) or "(?!)"
    pattern = re.compile(rf"(?<!\\)({alternatives})")  # our own messages are escaped already

    def with_brackets(text: str, **options: Any) -> Text:
        if options.get("markup") is False:
            return render(text, **options)
        try:
            return render(pattern.sub(lambda found: escape(found[0]), text), **options)
        except MarkupError:
            return render(text, **{**options, "markup": False})

    CONSOLE.render_str = with_brackets
