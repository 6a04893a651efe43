"""Where the time went: every second of a run is in exactly one section."""

import collections
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, get_args

Section = Literal["prepare", "compile", "data", "step", "evaluate", "save", "other"]
SECTIONS: tuple[Section, ...] = get_args(Section)


class Stay(NamedTuple):
    """In which section a run is, and for how long; what its latest stays in `step` took."""

    section: Section
    seconds: float
    steps: list[float]


class Ledger:
    """Seconds the run has used, by section, those of earlier processes included.

    Counted from `since` (its making) on, in seconds of `now`; time between two processes is not.
    Other threads may read it.
    """

    def __init__(
        self, now: Callable[[], float] = time.monotonic, since: float | None = None
    ) -> None:
        self._now, self._since = now, now() if since is None else since
        self._lock = threading.Lock()
        self._seconds: dict[Section, float] = dict.fromkeys(SECTIONS, 0.0)
        self._section: Section = "other"
        self._entered = self._since
        self._steps: collections.deque[float] = collections.deque(maxlen=512)

    def carry(self, seconds: Mapping[str, float]) -> None:
        """Add what earlier processes have used."""
        with self._lock:
            for section in SECTIONS:
                self._seconds[section] += seconds.get(section, 0.0)

    @contextlib.contextmanager
    def section(self, name: Section) -> Iterator[None]:
        """Charge what happens inside to `name`, and what comes after to what was before."""
        before = self._enter(name)
        try:
            yield
        finally:
            self._enter(before)

    def seconds(self) -> dict[str, float]:
        """Seconds of each section up to now; they sum to `elapsed`."""
        with self._lock:
            self._charge()
            return {str(section): spent for section, spent in self._seconds.items()}

    def elapsed(self) -> float:
        """Seconds of all sections."""
        return sum(self.seconds().values())

    def stay(self) -> Stay:
        """Where the run is now."""
        with self._lock:
            return Stay(self._section, self._now() - self._entered, list(self._steps))

    def _enter(self, name: Section) -> Section:
        with self._lock:
            self._charge()
            if self._section == "step":
                self._steps.append(self._since - self._entered)
            self._entered = self._since
            before, self._section = self._section, name
            return before

    def _charge(self) -> None:
        now = self._now()
        self._seconds[self._section] += now - self._since
        self._since = now


def process_began() -> float:
    """When this process began, on the clock of `time.monotonic`; now, where nothing tells."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        booted = time.monotonic() - time.clock_gettime(time.CLOCK_BOOTTIME)
    except (OSError, AttributeError):
        return time.monotonic()
    return booted + ticks / os.sysconf("SC_CLK_TCK")
