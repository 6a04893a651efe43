"""A run that hangs ends by itself with code 75, and where every thread stood is written down.

What hangs cannot be asked to stop, so nothing is saved: the run goes on from its newest checkpoint.
One whose folder is removed ends by itself too: it would train on for nothing.
"""

import contextlib
import faulthandler
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np

from lmjax.config import WatchdogConfig, parse_quantity
from lmjax.runtime import lock
from lmjax.runtime.ledger import Ledger

STACKS = "stacks.txt"
_CODE = 75
_LOOKS = 0.25  # seconds between two looks
_SLOWEST = 20  # times the slowest but one in a hundred steps


class Limits:
    """Seconds that a stay in a section may last; none where nothing is watched."""

    def __init__(self, config: WatchdogConfig) -> None:
        self._seconds = {
            name: parse_quantity(getattr(config, name), f"watchdog.{name}", ("seconds",)).value
            for name in ("step", "compile", "evaluate", "save")
        }
        self._seconds["data"] = self._seconds["step"]

    def of(self, section: str, steps: list[float]) -> float | None:
        """`steps` are what waiting for steps took lately: slow steps are no reason."""
        limit = self._seconds.get(section)
        if limit is None or section not in ("step", "data") or not steps:
            return limit
        return max(limit, _SLOWEST * float(np.percentile(steps, 99)))


@contextlib.contextmanager
def watching(
    run: Path, ledger: Ledger, config: WatchdogConfig, held: Callable[[], bool]
) -> Iterator[None]:
    """End the process where a section of `ledger` overstays; every thread's stack is in `run`.

    Also where `run` is no longer `held`.
    """
    limits, ended = Limits(config), threading.Event()

    def look() -> None:
        while not ended.wait(_LOOKS):
            if not held():
                _end(lock.gone(run), lock.CODE)
            stay = ledger.stay()
            limit = limits.of(stay.section, stay.steps)
            if limit is not None and stay.seconds > limit:
                _give_up(run, f"{stay.section} took more than {limit:.0f} s")

    thread = threading.Thread(target=look, name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _give_up(run: Path, why: str) -> NoReturn:
    """Nothing here may wait for a lock that a hung thread holds."""
    with contextlib.suppress(OSError):
        with (run / STACKS).open("w") as to:
            faulthandler.dump_traceback(to, all_threads=True)
    faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
    _end(f"{run}: hung: {why}; where it stood: {run / STACKS}; run me again", _CODE)


def _end(told: str, code: int) -> NoReturn:
    os.write(2, f"lmjax: {told}\n".encode())
    os._exit(code)
