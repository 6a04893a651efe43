"""SIGTERM and SIGINT asked politely: the loop stops at the next step; a second one ends at once."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from types import FrameType

_ASKING = (signal.SIGTERM, signal.SIGINT)


class Interrupted(RuntimeError):
    """A signal asked the run to stop; what could be saved is. Exit code 75."""


class Stop:
    """Whether a signal has asked the run to stop, and which."""

    def __init__(self) -> None:
        self.signal: str | None = None
        self._waits = True

    @contextlib.contextmanager
    def at_once(self, what: str) -> Iterator[None]:
        """Break off what is done inside, of which nothing is kept, with Interrupted.

        For what may take longer than who sent the signal will wait.
        """
        try:
            self._waits = False
            if self.signal is not None:
                raise KeyboardInterrupt
            yield
        # Not an Exception before it is here: those of others may be caught on the way.
        except KeyboardInterrupt:
            raise Interrupted(f"stopped by {self.signal} while {what}; run me again") from None
        finally:
            self._waits = True

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = signal.Signals(number).name
            if not self._waits:
                raise KeyboardInterrupt


@contextlib.contextmanager
def listen() -> Iterator[Stop]:
    """Turn SIGTERM and SIGINT into a flag. Off the main thread, where Python allows no handlers,
    the flag just stays down."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    # Python calls a handler between two of its instructions only: not while XLA compiles. What it
    # writes to a file descriptor instead reaches another thread at once.
    told, tell = socket.socketpair()
    tell.setblocking(False)
    threading.Thread(target=_end_at_the_second, args=(told,), name="signals", daemon=True).start()
    handlers = {number: signal.signal(number, stop._ask) for number in _ASKING}
    descriptor = signal.set_wakeup_fd(tell.fileno(), warn_on_full_buffer=False)
    try:
        yield stop
    finally:
        signal.set_wakeup_fd(descriptor)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        tell.close()


def _end_at_the_second(told: socket.socket) -> None:
    asked = False
    with told:
        while numbers := told.recv(64):
            for number in numbers:
                if number in _ASKING:
                    if asked:
                        os._exit(128 + number)
                    asked = True
