"""How far a long piece of work is, on standard error: a bar on a terminal, else plain lines."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

_SECONDS_BETWEEN_LINES = 10.0


def say(line: str) -> None:
    """Print a line for people."""
    Console(stderr=True, soft_wrap=True).print(line, markup=False, highlight=False)


@contextmanager
def stage(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a stage of `total` bytes; the function it gives takes the bytes done so far."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(title, total)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.update(task, completed=done)


def _lines(title: str, total: int) -> Callable[[int], None]:
    start = last = time.monotonic()

    def advance(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES or done >= total:
            last = now
            rate = done / max(now - start, 1e-3)
            left = (total - done) / max(rate, 1.0)
            say(
                f"{title}: {done / 1e6:,.1f} of {total / 1e6:,.1f} MB, "
                f"{rate / 1e6:.1f} MB/s, {left:.0f} s left"
            )

    return advance
