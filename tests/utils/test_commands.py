"""What importing the package does inside the console commands, and that it does nothing anywhere else."""

import subprocess
import sys
import warnings
from pathlib import Path
from typing import List

import pytest

from gnerf_ns.utils import commands
from gnerf_ns.utils.errors import InputError

FAILURE = """
from gnerf_ns.utils.errors import InputError
try:
    int("nine")
except ValueError as error:
    raise InputError("cameras [v2].json holds no number; write one.") from error
"""


def ended(program: str, code: str) -> "subprocess.CompletedProcess[str]":
    """A fresh Python that takes itself for the given program, once it has imported the package."""
    start = f"import sys; sys.argv[0] = {program!r}; import gnerf_ns\n"
    command = [sys.executable, "-c", start + code]
    return subprocess.run(command, capture_output=True, text=True, errors="replace")


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> List[str]:
    """Names of what `prepare_command` does."""
    done: List[str] = []
    for name in ("provide_libusb", "provide_ffmpeg"):
        monkeypatch.setattr(commands, name, lambda name=name: done.append(name))
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # to be put back afterwards
    return done


@pytest.mark.parametrize("program", ["gnerf-localize", "/lib/nerfstudio/scripts/train.py"])
def test_commands_print_the_sentence_alone(program: str):
    process = ended(program, FAILURE)
    assert process.returncode == 1 and process.stdout == ""
    assert process.stderr == "cameras [v2].json holds no number; write one.\n"


def test_other_programs_and_other_errors_are_shown_in_full():
    process = ended("mine.py", FAILURE)
    assert process.returncode == 1 and "Traceback" in process.stderr and "int(" in process.stderr
    process = ended("ns-train", "raise ValueError('a bug of ours')")
    assert process.returncode == 1 and "Traceback" in process.stderr


def test_an_input_error_does_not_end_a_notebook():
    assert issubclass(InputError, ValueError) and not issubclass(InputError, SystemExit)


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("/venv/bin/ns-render", ["provide_libusb", "provide_ffmpeg"]),
        (r"ns-render.exe", ["provide_libusb", "provide_ffmpeg"]),
        ("/venv/bin/ns-train", ["provide_libusb"]),
        ("/site-packages/nerfstudio/scripts/viewer/run_viewer.py", ["provide_libusb"]),
        ("/venv/bin/gnerf-demo", []),
        ("/usr/lib/ipykernel_launcher.py", []),
        ("-c", []),
        ("", []),
    ],
)
def test_each_program_gets_what_it_needs(monkeypatch, prepared: List[str], program: str, expected: List[str]):
    monkeypatch.setattr(sys, "argv", [program])
    hook = sys.excepthook
    commands.prepare_command()
    assert prepared == expected
    assert (sys.excepthook is not hook) == Path(program).stem.startswith(("ns-", "gnerf-", "run_viewer"))


@pytest.mark.parametrize(("program", "is_shown"), [("gnerf-demo", False), ("ns-train", True), ("mine.py", True)])
def test_only_our_commands_hide_nerfstudios_warnings(monkeypatch, prepared, program: str, is_shown: bool):
    monkeypatch.setattr(sys, "argv", [program])
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        commands.prepare_command()
        warnings.warn_explicit("old", FutureWarning, "activations.py", 32, module="nerfstudio.field_components")
        warnings.warn_explicit("ours", UserWarning, "field.py", 1, module="gnerf_ns.fields")
    messages = {str(warning.message) for warning in shown}
    assert "ours" in messages and ("old" in messages) == is_shown


@pytest.mark.parametrize(("program", "status"), [("gnerf-demo", 0), ("ns-train", 0), ("mine.py", 1)])
def test_what_an_encoding_lacks_does_not_end_a_command(monkeypatch, program: str, status: int):
    """As on Windows, where output goes to a file."""
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")
    process = ended(program, "from rich.console import Console; Console().print('done 🎉 0.3°')")
    assert process.returncode == status
    assert status == 1 or process.stdout.encode("cp1252", "replace").startswith(b"done ? 0.3")


@pytest.mark.parametrize(("program", "is_hidden"), [("ns-eval", True), ("gnerf-demo", True), ("mine.py", False)])
def test_methods_of_ours_hide_them_in_nerfstudios_commands_too(monkeypatch, program: str, is_hidden: bool):
    monkeypatch.setattr(sys, "argv", [program])
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        commands.hide_deprecations()
        warnings.warn_explicit("old", UserWarning, "cameras.py", 601, module="nerfstudio.cameras.cameras")
    assert (not shown) == is_hidden


@pytest.mark.parametrize(
    ("program", "is_training"),
    [
        ("/venv/bin/ns-train", True),
        ("/lib/nerfstudio/scripts/train.py", True),
        ("ns-eval", False),
        ("train.py", False),
        ("gnerf-demo", False),
    ],
)
def test_ns_train_is_told_from_others(monkeypatch, program: str, is_training: bool):
    monkeypatch.setattr(sys, "argv", [program])
    assert commands.is_training_command() == is_training


def test_the_sentence_is_red_on_a_terminal(monkeypatch, prepared, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys, "argv", ["ns-train"])
    commands.prepare_command()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    sys.excepthook(InputError, InputError("No such folder."), None)
    assert capsys.readouterr().err == "\033[31mNo such folder.\033[0m\n"
