"""Lines on the terminal, and the paths and commands in them."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any, NamedTuple, Sequence

from nerfstudio.utils.rich_utils import CONSOLE

from gnerf_ns.utils.console import readable

RESUMING_FLAGS = ("--load-dir", "--load-step", "--load-checkpoint")
"""Flags that say what a training goes on from; each has one value."""


class Line(NamedTuple):
    """A line on the terminal."""

    text: str
    """What it says."""
    style: str = ""
    """Its color, as rich names it."""
    is_copied: bool = False
    """Whether it holds a path or a command to be copied, in which only the terminal may break lines."""


def say(lines: Sequence[Line]) -> None:
    """Print lines; sentences are wrapped between words on a terminal, and nowhere else."""
    for line in lines:
        soft_wrap = line.is_copied or not CONSOLE.is_terminal
        CONSOLE.print(readable(line.text), style=line.style, markup=False, highlight=False, soft_wrap=soft_wrap)


def shown_path(path: Path) -> Path:
    """Relative to the working directory where it lies in it."""
    path, here = Path(os.path.abspath(path)), Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def resume_command(config: Any) -> str:
    """The command that goes on with a training: as it was typed, if it was, but from the last checkpoint.

    Args:
        config: a `RunFolderConfig`.
    """
    load = ["--load-dir", str(shown_path(config.get_checkpoint_dir()))]
    words = sys.argv[1:]
    if not words or words[0] != config.method_name or any(word.startswith("--load-config") for word in words):
        data = config.pipeline.datamanager.data
        named = [] if data is None else ["--data", str(data)]
        return shlex.join(["ns-train", config.method_name, *named, *load])
    kept, skipped = [], False
    for word in words[1:]:
        is_flag = word.replace("_", "-").split("=")[0] in RESUMING_FLAGS
        if not is_flag and not skipped:
            kept.append(word)
        skipped = is_flag and "=" not in word
    return shlex.join(["ns-train", config.method_name, *load, *kept])
