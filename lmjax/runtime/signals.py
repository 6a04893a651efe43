"""SIGTERM and SIGINT asked politely: the loop stops at the next step; a second one ends at once."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Stop:
    """Whether a signal has asked the run to stop, and which."""

    def __init__(self) -> None:
        self.signal: str | None = None

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = signal.Signals(number).name


@contextlib.contextmanager
def listen() -> Iterator[Stop]:
    """Turn SIGTERM and SIGINT into a flag. Off the main thread, where Python allows no handlers,
    the flag just stays down."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {s: signal.signal(s, stop._ask) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
