"""Going back: a run whose updates are dropped one after another goes on from an earlier step.

The rows it stumbled over are passed by (Chowdhery et al. 2022, "PaLM": restart before the spike and
skip its batches). A rewind is an event, on disk before anything follows from it. Each checkpoint
says how many rewinds came before it, so that one from a way that was given up is told apart,
however the run was killed.
"""

from pathlib import Path
from typing import NamedTuple

from lmjax.config import GuardConfig
from lmjax.runtime import checkpoint, console, journal
from lmjax.text.errors import DataError


class Diverged(RuntimeError):
    """Update after update was dropped, and going back did not help. Exit code 70."""


class Astray(RuntimeError):
    """So many updates in a row were dropped that the run should go back."""

    def __init__(self, step: int, dropped: int, rows: int, told: str) -> None:
        super().__init__(told)
        self.step, self.dropped, self.rows = step, dropped, rows


class Rewind(NamedTuple):
    """From the last update dropped back to a sealed step, to go on with the rows from `rows` on."""

    step: int
    to: int
    rows: int


def of(run: Path) -> list[Rewind]:
    """The rewinds that a run's journal holds."""
    events = journal.read(run / "events.jsonl")
    names = Rewind._fields
    return [Rewind(*(e[name] for name in names)) for e in events if e["event"] == "rewind"]


def jumps(rewinds: list[Rewind]) -> dict[int, int]:
    """By step, the row its update goes on with: of each rewind that no later one made undone."""
    found: dict[int, int] = {}
    for rewind in rewinds:
        found = {to: rows for to, rows in found.items() if to < rewind.to} | {
            rewind.to: rewind.rows
        }
    return found


def give_up_steps(folder: Path, rewinds: list[Rewind]) -> None:
    """Remove the checkpoints of ways that were given up. Damaged ones are left to `newest`."""
    if not rewinds:
        return
    for step in checkpoint.steps(folder):
        try:
            numbers = checkpoint.numbers(folder / str(step))
        except DataError:
            continue
        if any(step > rewind.to for rewind in rewinds[numbers["rewinds"] :]):
            checkpoint.discard(folder / str(step))


def go_back(run: Path, guard: GuardConfig, astray: Astray, events: journal.Journal) -> None:
    """Journal a rewind to the newest whole step before the first update that was dropped.

    Raises Diverged where there is none, or where the run has gone back as often as it may.
    """
    before = of(run)
    first = astray.step - astray.dropped + 1
    to = _newest_before(run / "checkpoints", first)
    if to is None or len(before) >= guard.most_rewinds:
        ways = "".join(f"\n  from step {r.step} back to {r.to}, past row {r.rows}" for r in before)
        raise Diverged(
            f"{run}: {astray.dropped} updates in a row were dropped, steps {first} to "
            f"{astray.step}, up to row {astray.rows}; the last: {astray}. Rewinds before: "
            f"{len(before)} of at most {guard.most_rewinds}{ways}\nLower the learning rate, or "
            "look at the rows, and start another run"
        )
    rewind = Rewind(astray.step, to, astray.rows)
    events.write({"event": "rewind", **rewind._asdict()}, durable=True)
    console.say(
        f"{astray.dropped} updates in a row were dropped: back from step {astray.step} to {to}, "
        f"on with row {astray.rows}"
    )


def _newest_before(folder: Path, first: int) -> int | None:
    for step in checkpoint.steps(folder):
        if step < first:
            try:
                return checkpoint.verify(folder / str(step)).step
            except DataError:
                continue
    return None
