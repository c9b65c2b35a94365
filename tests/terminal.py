"""Commands in a pseudo-terminal, and what a person then sees on it."""

import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
from typing import Dict, List, NamedTuple, Optional, Sequence

import pyte

SECONDS = 300


class Seen(NamedTuple):
    """What a command has left on the screen."""

    status: int
    """Its exit status."""
    lines: List[str]
    """The screen, from top to bottom, and above it what has scrolled away."""
    colors: Dict[str, str]
    """Color of the first character of each line that has any, by the line's text."""


def run_in_terminal(
    command: Sequence[str], columns: int, rows: int, environment: Dict[str, str], interrupt_at: Optional[str] = None
) -> Seen:
    """Run a command to its end in a terminal of so many columns and rows.

    Args:
        command: program and arguments.
        columns: width of the terminal.
        rows: its height.
        environment: of the command.
        interrupt_at: Ctrl-C is pressed once this is on the screen.
    """
    screen = pyte.HistoryScreen(columns, rows, history=10_000, ratio=1.0)
    stream = pyte.ByteStream(screen)
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    environment = {name: value for name, value in environment.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env={**environment, "TERM": "xterm-256color"}
    )
    os.close(slave)
    while True:
        try:
            received = os.read(master, 65536)
        except OSError:  # how Linux says that nobody has the other end any more
            break
        if not received:
            break
        stream.feed(received)
        if interrupt_at is not None and any(interrupt_at in line for line in screen.display):
            process.send_signal(signal.SIGINT)
            interrupt_at = None
    os.close(master)
    status = process.wait(SECONDS)
    rows_above = list(screen.history.top)
    everything = [*rows_above, *(screen.buffer[row] for row in range(rows))]
    lines = ["".join(row[column].data for column in range(columns)).rstrip() for row in everything]
    colors = {line: row[0].fg for line, row in zip(lines, everything, strict=True) if line and row[0].fg != "default"}
    return Seen(status, lines, colors)
