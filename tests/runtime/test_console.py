"""One line on a terminal, that leaves nothing behind; plain lines elsewhere."""

import fcntl
import math
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from lmjax.runtime import console

SHOW = """
import itertools
from lmjax.runtime import console
with console.Console() as screen:
    console.say("before [1/2]")
    for step in range(1, 101):
        screen.show(console.Status(
            123400 + step, 123500, step / 100, 10.12345, 1.23456, 2e-2, 123456.7, 0.42, 0.123, 4e4
        ))
        if step == 50:
            console.say("half-way")
console.say("after")
"""


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (950, "950"), (45_123, "45.1k"), (1.25e6, "1.2M"), (3.42e9, "3.4B")],
)
def test_count(number, text):
    assert console.count(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (-3, "0:00"), (65, "1:05"), (3723, "1:02:03"), (math.inf, "?"), (math.nan, "?")],
)
def test_span(seconds, text):
    assert console.span(seconds) == text


def test_plain_lines_where_there_is_no_terminal():
    ended = subprocess.run([sys.executable, "-c", SHOW], capture_output=True, text=True, check=True)
    assert ended.stdout == ""
    lines = ended.stderr.splitlines()
    assert "\x1b" not in ended.stderr and "\r" not in ended.stderr
    assert len(lines) == 103
    assert lines[:2] == [
        "before [1/2]",
        "123401/123500   1%  loss 10.123  val 1.235 bpb  lr 2.0e-02  123.5k tok/s  mfu 42%  "
        "wait 12%  eta 11:06:40",
    ]
    assert (lines[51], lines[102]) == ("half-way", "after")


def on_a_terminal(columns: int) -> str:
    """What the script writes to a terminal of so many columns."""
    mine, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-c", SHOW],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**environment, "TERM": "xterm-256color"},
    )
    os.close(theirs)
    written = b""
    try:
        while piece := os.read(mine, 65536):
            written += piece
    except OSError:  # how Linux ends a terminal that nobody holds any more
        pass
    os.close(mine)
    assert process.wait() == 0
    return written.decode()


def screen(written: str) -> tuple[list[str], int, bool]:
    """The lines a terminal shows in the end, the widest it ever drew, and whether it has a cursor.

    Knows only the codes that a progress line needs; any other one fails.
    """
    lines, row, column, widest, cursor = [""], 0, 0, 0, True
    for code, character in re.findall(r"\x1b\[([0-9;?]*[A-Za-z])|(.)", written, re.DOTALL):
        if character == "\r":
            column = 0
        elif character == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif character:
            lines[row] = lines[row][:column].ljust(column) + character + lines[row][column + 1 :]
            column += 1
            widest = max(widest, column)
        elif code == "2K":
            lines[row] = ""
        elif code.endswith("A"):
            row -= int(code[:-1])
        elif code in ("?25l", "?25h"):
            cursor = code == "?25h"
        else:
            assert code.endswith("m"), f"a code this test does not know: {code}"
    return [line for line in lines if line.strip()], widest, cursor


def test_the_progress_line_fits_and_goes():
    written = on_a_terminal(100)
    lines, widest, cursor = screen(written)
    assert "loss 10.123" in re.sub(r"\x1b\[[0-9;]*m", "", written)
    assert lines == ["before [1/2]", "half-way", "after"]
    assert widest <= 100
    assert cursor


def test_all_of_the_line_is_seen_in_100_columns():
    status = console.Status(12345, 20000, 0.62, 3.412, 1.034, 2e-2, 45_100, 0.41, 0.003, 3723)
    assert len(str(status)) <= 100
