"""What a person watches: one progress line on a terminal, plain lines elsewhere. Standard error."""

import math
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

from rich.console import Console as RichConsole
from rich.progress import Progress, TextColumn
from rich.table import Table

terminal = RichConsole(stderr=True, highlight=False)


class Status(NamedTuple):
    """The facts of the progress line."""

    step: int
    end: float
    progress: float
    loss: float
    bits_per_byte: float | None
    learning_rate: float
    tokens_per_second: float
    mfu: float
    wait: float
    eta_seconds: float

    def __str__(self) -> str:
        end = "?" if math.isinf(self.end) else f"{self.end:.0f}"
        rate = "" if math.isnan(self.learning_rate) else f"  lr {self.learning_rate:.1e}"
        bits = "" if self.bits_per_byte is None else f"  val {self.bits_per_byte:.3f} bpb"
        return (
            f"{self.step}/{end} {self.progress:4.0%}  loss {self.loss:.3f}{bits}{rate}  "
            f"{count(self.tokens_per_second)} tok/s  "
            f"mfu {self.mfu:.0%}  wait {self.wait:.0%}  eta {span(self.eta_seconds)}"
        )


class Console:
    """Shows the status of one run; use it in a `with`."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        if terminal.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}", markup=False),
                console=terminal,
                transient=True,
            )
            self._task = self._progress.add_task("compiling", total=1.0)

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, status: Status) -> None:
        """Replace the progress line, or print a line where there is no terminal."""
        if self._progress is None:
            terminal.print(str(status), markup=False, soft_wrap=True)
        else:
            self._progress.update(self._task, completed=status.progress, description=str(status))


def say(text: str) -> None:
    """Print a line above the progress line."""
    terminal.print(text, markup=False, soft_wrap=True)


def fail(text: str) -> None:
    """Print why the command ends, also of a process that says nothing else."""
    quiet, terminal.quiet = terminal.quiet, False
    say(f"lmjax: {text}")
    terminal.quiet = quiet


def differences(rows: Sequence[tuple[str, Any, Any]], old: str, new: str) -> None:
    """Print settings that differ, in two columns."""
    table = Table("setting", old, new)
    for key, before, after in rows:
        table.add_row(key, str(before), str(after))
    terminal.print(table)


def ledger(seconds: Mapping[str, float]) -> None:
    """Print where the time went."""
    total = sum(seconds.values())
    parts = (f"{name} {span(value)} ({value / total:.0%})" for name, value in seconds.items())
    say(f"time {span(total)}: {', '.join(parts)}")


def count(number: float) -> str:
    """A number with three digits or so: 950, 45.1k, 1.2M, 3.4B."""
    for limit, scale, unit in ((1e3, 1, ""), (1e6, 1e3, "k"), (1e9, 1e6, "M")):
        if number < limit:
            return f"{number / scale:.{0 if scale == 1 else 1}f}{unit}"
    return f"{number / 1e9:.1f}B"


def span(seconds: float) -> str:
    """Seconds as 1:05, 1:02:03 or ?."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
