"""What is shown of something that has stages, on a terminal and elsewhere."""

import io

import pytest
from rich.console import Console

from gnerf_ns.utils import console


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
