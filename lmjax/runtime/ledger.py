"""Where the time went: every second of a run is in exactly one section."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, get_args

Section = Literal["prepare", "compile", "data", "step", "evaluate", "save", "other"]
SECTIONS: tuple[Section, ...] = get_args(Section)


class Ledger:
    """Seconds the run has used, by section, those of earlier processes included.

    Counted from its making on, in seconds of `now`; time between two processes is not.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._since = now, now()
        self._seconds: dict[Section, float] = dict.fromkeys(SECTIONS, 0.0)
        self._section: Section = "other"

    def carry(self, seconds: Mapping[str, float]) -> None:
        """Add what earlier processes have used."""
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
        self._enter(self._section)
        return {str(section): spent for section, spent in self._seconds.items()}

    def elapsed(self) -> float:
        """Seconds of all sections."""
        return sum(self.seconds().values())

    def _enter(self, name: Section) -> Section:
        now, before = self._now(), self._section
        self._seconds[before] += now - self._since
        self._section, self._since = name, now
        return before
