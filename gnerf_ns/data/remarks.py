"""What is doubtful about the input, said once."""

from functools import cache
from pathlib import Path
from typing import Sequence, Union

from nerfstudio.utils.rich_utils import CONSOLE


@cache
def remark(sentence: str) -> None:
    """Print a sentence, unless it was printed before: nerfstudio has the same files read for each split."""
    CONSOLE.print(sentence, style="yellow", markup=False, highlight=False, soft_wrap=True)


def named(files: Sequence[Union[Path, str]], limit: int = 3) -> str:
    """The names of the first few files, and how many more there are."""
    names = ", ".join(Path(file).name for file in files[:limit])
    return names if len(files) <= limit else f"{names} and {len(files) - limit} more"
