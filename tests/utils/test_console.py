"""What is shown of something that has stages, and what nerfstudio's console makes of names of files."""

import io
import os

import pytest
from nerfstudio.utils.rich_utils import CONSOLE
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from gnerf_ns.utils import commands, console
from gnerf_ns.utils.console import readable, show_brackets_of

NAMES = ["scan [v2]", "[red]", "x[bold]y", "a[[b]c]", "[#7]", "[/]", "[link=x]"]


@pytest.fixture(autouse=True)
def console_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is shared by all tests."""
    monkeypatch.setattr(CONSOLE, "render_str", CONSOLE.render_str)


def printed(*objects: object, log: bool = False) -> str:
    with CONSOLE.capture() as capture:
        if log:
            CONSOLE.log(*objects)
        else:
            CONSOLE.print(*objects, soft_wrap=True)
    return capture.get()


@pytest.mark.parametrize("name", NAMES)
def test_names_are_printed_as_they_are_and_styles_stay_styles(name: str):
    show_brackets_of(NAMES)
    path = f"outputs/{name}/config.yml"
    assert printed(f"[bold][green]Saved to[/bold] {path}") == f"Saved to {path}\n"
    assert printed(f"Saved to {escape(path)}") == f"Saved to {path}\n"
    assert f"to: {path}" in " ".join(printed(f"Saving config to: {path}", log=True).split())
    table = Table(show_header=False)
    table.add_row("[bold]Config File", path)
    assert path in (shown := printed(Panel(table))) and "bold]" not in shown.replace(path, "")


def test_brackets_that_are_no_styles_are_no_error():
    show_brackets_of([])
    assert printed("Saved to x[/done]/config.yml") == "Saved to x[/done]/config.yml\n"


def test_names_come_from_the_command_line_and_the_present_folder(monkeypatch: pytest.MonkeyPatch):
    seen = []
    monkeypatch.setattr(console, "show_brackets_of", seen.extend)
    monkeypatch.setattr(commands, "print_input_errors", lambda: None)
    monkeypatch.setattr(commands, "provide_libusb", lambda: None)
    monkeypatch.setattr(commands.sys, "argv", ["/bin/ns-train", "--data=/a [1]/[v2].old", "--output-dir", "C:\\[x]\\y"])
    monkeypatch.setattr(commands.os, "getcwd", lambda: "/home/[me]")
    commands.prepare_command()
    assert {"a [1]", "[v2].old", "[v2]", "[x]", "y", "[me]"} <= set(seen)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_stages_are_a_bar_on_a_terminal_and_lines_elsewhere(monkeypatch: pytest.MonkeyPatch, is_terminal: bool):
    printed = io.StringIO()
    shown_on = Console(file=printed, width=80, force_terminal=is_terminal)
    monkeypatch.setattr(console, "CONSOLE", shown_on)
    clock = iter([0.0, 5.0, 12.0, 15.0])  # when it begins, and at each stage
    monkeypatch.setattr(console, "time", type("Time", (), {"monotonic": lambda: next(clock)}))
    with console.stage_display("Matching 9 images") as show:
        show("features", 0, 9)
        show("matches", 8, 36)
        show("matches", 16, 36)
    if is_terminal:
        assert "Matching 9 images: matches" in printed.getvalue() and "44%" in printed.getvalue()
    else:
        assert printed.getvalue().splitlines() == ["Matching 9 images: matches, 8 of 36; 0:12 elapsed"]


def test_what_is_readable_can_be_written():
    name = os.fsdecode(b"caf\xe9 \xff.jpg")
    assert readable(name) == "caf\ufffd \ufffd.jpg"
    assert readable("Größe 日本 🙂.jpg") == "Größe 日本 🙂.jpg"
