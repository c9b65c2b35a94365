"""What is shown on the console: remarks about the input, and progress."""

import re
import shutil
import time
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Callable, Iterator, List, NamedTuple, Optional, Sequence, TypeVar, Union

from nerfstudio.utils.rich_utils import CONSOLE
from rich.errors import MarkupError
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

SPEED_WINDOW_SECONDS = 60.0
"""Length of the time window from whose speed the remaining time is estimated."""

SECONDS_PER_LINE = 10.0
"""Between two lines that say how far something is, where there is no terminal, at least."""


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


@contextmanager
def stage_display(label: str) -> Iterator[Callable[[str, int, int], None]]:
    """Shows how far something is that has several stages: a bar on a terminal, elsewhere a line now and then.

    Args:
        label: what it is.

    Yields:
        What is to be told the name of a stage, how many of its parts are done, and of how many.
    """
    began = last = time.monotonic()
    progress = Progress(
        TextColumn("{task.description:<24}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=CONSOLE,
        transient=True,
        disable=not CONSOLE.is_terminal,
    )
    task = progress.add_task(label, total=None)

    def show(stage: str, done: int, total: int) -> None:
        nonlocal last
        progress.update(task, description=f"{label}: {stage}", completed=done, total=total)
        now = time.monotonic()
        if not CONSOLE.is_terminal and now - last >= SECONDS_PER_LINE:
            last = now
            CONSOLE.print(
                f"{label}: {stage}, {done} of {total}; {duration(now - began)} elapsed", markup=False, highlight=False
            )

    try:  # `with progress` would not take it away again if Ctrl-C came while it appears
        progress.start()
        yield show
    finally:
        progress.stop()


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


def readable(text: str) -> str:
    """A text that can be written as UTF-8: names of files need not be Unicode, and what is not becomes U+FFFD."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


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
