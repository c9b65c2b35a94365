"""What surrounds a console command, ours (gnerf-*) or nerfstudio's (ns-*), that loads this package.

Nothing of this happens where the package is imported by anything else: a notebook, a script, a test.
"""

import os
import re
import sys
import warnings
from pathlib import Path
from types import TracebackType
from typing import List, Optional, Sequence, Type

from gnerf_ns.utils.errors import InputError
from gnerf_ns.utils.system_libraries import provide_ffmpeg, provide_libusb


def prepare_command() -> None:
    """If the running program is one of the commands, have it end well on bad input and find what it needs."""
    program = Path(sys.argv[0]) if getattr(sys, "argv", None) else Path()
    is_ours = program.stem in ("gnerf-demo", "gnerf-export-poses", "gnerf-localize", "gnerf-splat")
    is_nerfstudios = program.stem.startswith("ns-") or "nerfstudio/scripts" in program.as_posix()
    if is_ours or is_nerfstudios:
        from gnerf_ns.utils.console import show_brackets_of  # not above: it loads nerfstudio

        print_input_errors()
        show_brackets_of(_names_in([*sys.argv[1:], os.getcwd()]))
    if is_ours:
        # nerfstudio and torch warn of their own deprecations, on import and later, in the middle of progress displays.
        warnings.filterwarnings("ignore", module=r"(nerfstudio|torch)\b")
    if is_nerfstudios:
        provide_libusb()
        if program.stem in ("ns-render", "render"):
            provide_ffmpeg()


def _names_in(words: Sequence[str]) -> List[str]:
    """Of files and folders in a command line, and what is left of them without an ending: runs are named so."""
    names = [name for word in words for name in re.split(r"[/\\=]", word)]
    return [*names, *(Path(name).stem for name in names)]


def print_input_errors() -> None:
    """From now on, an uncaught error of the user's ends this program with one sentence instead of a traceback.

    Python itself makes the exit status 1. Other exceptions are shown as before.
    """
    show_others = sys.excepthook

    def show(kind: Type[BaseException], error: BaseException, traceback: Optional[TracebackType]) -> None:
        sentence = sentence_for(error, traceback)
        if sentence is None:
            show_others(kind, error, traceback)
        else:
            print(sentence, file=sys.stderr)

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
