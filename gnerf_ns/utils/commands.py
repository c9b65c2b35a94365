"""What surrounds a console command, ours (gnerf-*) or nerfstudio's (ns-*), that loads this package.

Nothing of this happens where the package is imported by anything else: a notebook, a script, a test.
"""

import os
import re
import sys
import warnings
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType
from typing import List, Optional, Sequence, Type

from gnerf_ns.utils.errors import InputError
from gnerf_ns.utils.system_libraries import provide_ffmpeg, provide_libusb

OUR_COMMANDS = ("gnerf-demo", "gnerf-export-poses", "gnerf-localize", "gnerf-report", "gnerf-splat")


def prepare_command() -> None:
    """If the running program is one of the commands, have it end well on bad input and find what it needs."""
    program = _program()
    if program.stem in OUR_COMMANDS or _is_nerfstudios(program):
        from gnerf_ns.utils.console import show_brackets_of  # not above: it loads nerfstudio

        print_input_errors()
        print_what_can_be_printed()
        show_brackets_of(_names_in([*sys.argv[1:], os.getcwd()]))
    if program.stem in OUR_COMMANDS:
        hide_deprecations()
    if _is_nerfstudios(program):
        provide_libusb()
        if program.stem in ("ns-render", "render"):
            provide_ffmpeg()


def _names_in(words: Sequence[str]) -> List[str]:
    """Of files and folders in a command line, and what is left of them without an ending: runs are named so."""
    names = [name for word in words for name in re.split(r"[/\\=]", word)]
    return [*names, *(Path(name).stem for name in names)]


def print_what_can_be_printed() -> None:
    """From now on, a character that the output's encoding lacks is shown as ``?`` and does not end this program.

    nerfstudio ends a training with 🎉, and Windows writes files and pipes in an encoding of one byte.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


def hide_deprecations() -> None:
    """nerfstudio and torch warn of their own deprecations, on import and later, in the middle of progress displays.

    For commands alone, and among nerfstudio's for those that use a method of ours.
    """
    program = _program()
    if program.stem in OUR_COMMANDS or _is_nerfstudios(program):
        warnings.filterwarnings("ignore", module=r"(nerfstudio|torch)\b")


def is_training_command() -> bool:
    """Whether the running program is `ns-train`, whose exit status tells what became of the run."""
    program = _program()
    return program.stem == "ns-train" or (program.stem == "train" and _is_nerfstudios(program))


def _program() -> Path:
    return Path(sys.argv[0]) if getattr(sys, "argv", None) else Path()


def _is_nerfstudios(program: Path) -> bool:
    return program.stem.startswith("ns-") or "nerfstudio/scripts" in program.as_posix()


def print_input_errors() -> None:
    """From now on, an uncaught `InputError` ends this program with its sentence alone, red on a terminal.

    Ctrl-C ends it with a word. Python itself makes the exit status 1, or 130 (the signal's). Other exceptions are shown
    as before.
    """
    show_others = sys.excepthook

    def show(kind: Type[BaseException], error: BaseException, traceback: Optional[TracebackType]) -> None:
        sentence = sentence_for(error, traceback)
        if sentence is not None:
            red, plain = ("\033[31m", "\033[0m") if sys.stderr.isatty() else ("", "")
            print(f"{red}{sentence}{plain}", file=sys.stderr)
        elif isinstance(error, KeyboardInterrupt):
            print("Stopped.", file=sys.stderr)
        else:
            show_others(kind, error, traceback)

    sys.excepthook = show


def sentence_for(error: BaseException, traceback: Optional[TracebackType]) -> Optional[str]:
    """That of an `InputError`, or of a config.yml that nerfstudio's `eval_setup` could not read; else None."""
    if isinstance(error, InputError):
        return str(error)
    while traceback is not None and isinstance(error, Exception):
        frame = traceback.tb_frame
        if frame.f_code.co_name == "eval_setup" and not hasattr(frame.f_locals.get("config"), "pipeline"):
            lines = str(error).strip().splitlines()
            reason = getattr(error, "problem", None) or (lines[-1].strip() if lines else "it holds no run")
            return (
                f"{frame.f_locals['config_path']} cannot be read ({reason}); give --load-config the config.yml of a "
                "run whose method is installed here."
            )
        traceback = traceback.tb_next
    return None
