"""Budgets: progress from 0 to 1 as a piecewise-linear function of the step.

A budget in steps or tokens is one piece. A budget in time gets a new piece at declared steps, its
rate estimated from the throughput measured so far; each piece is journalled, so a run lands on its
deadline and can still be repeated bit for bit.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from lmjax.config import Config, parse_quantity
from lmjax.learning import ramps


class Piece(NamedTuple):
    """From `step` on, progress is `progress` and grows by `rate` a step."""

    step: int
    progress: float
    rate: float


@dataclass(frozen=True)
class Progress:
    """The pieces, in the order of their steps."""

    pieces: tuple[Piece, ...]

    def at(self, step: int) -> float:
        """Progress before update number `step` (counted from 0), from 0 to 1, in float64."""
        piece = max((p for p in self.pieces if p.step <= step), key=lambda p: p.step)
        # Rounded, or 107 steps of 1/107 would not add up to 1, and a run would take 108.
        return min(1.0, round(piece.progress + (step - piece.step) * piece.rate, 12))

    @property
    def end(self) -> float:
        """The step at which progress reaches 1, by the last piece; infinite if it stands still."""
        step, progress, rate = self.pieces[-1]
        if progress >= 1:
            return step
        return step + round((1 - progress) / rate) if rate > 0 else math.inf

    def extended(self, piece: Piece) -> "Progress":
        return Progress((*self.pieces, piece))


def crossed(progress: Progress, step: int, share: float) -> bool:
    """Whether the update that led to `step` took progress past a multiple of `share`."""
    return step > 0 and _multiples(progress.at(step), share) > _multiples(
        progress.at(step - 1), share
    )


def _multiples(progress: float, share: float) -> int:
    return math.floor(progress / share + 1e-9)


def start(config: Config, step: int = 0, progress: float = 0.0) -> Progress:
    """The first pieces, from where a branch begins or from 0: one, or in tokens one a stage.

    A budget in time stands still until a step has been measured.
    """
    budget = parse_quantity(config.budget, "budget", ("steps", "tokens", "seconds"))
    if budget.kind == "seconds":
        return Progress((Piece(step, progress, 0.0),))
    if budget.kind == "steps":
        return Progress((Piece(step, progress, (1 - progress) / budget.value),))
    whole, pieces = budget.value / (1 - progress), []
    for end in [*(at for at in ramps.starts(config) if at > progress), 1.0]:
        tokens = ramps.rows(config, progress) * config.model.length
        steps = max(1, math.ceil(whole * (end - progress) / tokens - 1e-6))
        pieces.append(Piece(step, progress, (end - progress) / steps))
        step, progress = step + steps, end
    return Progress(tuple(pieces))


def replayed(config: Config, events: list[dict[str, Any]]) -> Progress:
    """The first piece and those a run's journal holds."""
    branches = [event for event in events if event["event"] == "branch"]
    begun = {name: branches[0][name] for name in ("step", "progress")} if branches else {}
    progress = start(config, **begun)
    for event in events:
        if event["event"] == "piece":
            progress = progress.extended(Piece(event["step"], event["progress"], event["rate"]))
        elif event["event"] == "rewind":  # what was to come after the step gone back to is void
            begins = progress.pieces[0].step
            kept = (p for p in progress.pieces if p.step <= max(begins, event["to"]))
            progress = Progress(tuple(kept))
    return progress


def spent(config: Config, seconds: dict[str, float]) -> float:
    """The seconds of a ledger that count against the budget."""
    if config.budget_counts == "steps":
        return seconds["data"] + seconds["step"]
    return sum(seconds.values())


class Pacer:
    """Decides, for a budget in time, when and how progress bends; idle for others and for replays.

    Room is left for what comes beside the updates: the evaluations on the way, the last one over
    the whole split, and the last save, each as long as the one before, and for leaving the process.
    No piece begins before step `reached`, to which a killed process has written metrics: the same
    lines are written again.
    """

    # A tenth of the steps left between two estimates: the last one is made a step before the end,
    # and a day-long run holds about a hundred pieces.
    _STEPS_AHEAD = 10
    LEAVING = 1.0
    """Seconds from the last save to the end of the process."""

    def __init__(self, config: Config, reached: int = 0) -> None:
        budget = parse_quantity(config.budget, "budget", ("steps", "tokens", "seconds"))
        every = parse_quantity(config.evaluation.every, "", ("steps", "progress"))
        timed = budget.kind == "seconds" and config.replay is None
        self._seconds = budget.value if timed else None
        self._all = config.budget_counts == "everything"
        self._evaluate_every = every
        self._evaluate = self._evaluate_all = self._save = 0.0
        self._aside = 0.0
        self._mark: tuple[int, float] | None = None
        self._next = self._reached = reached

    def evaluated(self, seconds: float, share: float) -> None:
        """Note how long an evaluation of a share of the rows took."""
        if self._all:
            self._evaluate, self._evaluate_all = seconds, seconds / share
            self._aside += seconds

    def saved(self, seconds: float) -> None:
        """Note how long the loop waited for a save."""
        if self._all:
            self._save = max(self._save, seconds)
            self._aside += seconds

    def turned(self, step: int) -> None:
        """Note that the updates from this step on are others, with a pace of their own."""
        self._mark, self._next = None, max(self._reached, step)

    def due(self, progress: Progress, step: int) -> bool:
        """Whether to estimate at this step; never where a piece is already journalled."""
        return self._seconds is not None and step >= self._next and step > progress.pieces[-1].step

    def estimate(self, progress: Progress, step: int, elapsed: float) -> Piece | None:
        """The piece that lands on the deadline from here; none before two steps are measured."""
        assert self._seconds is not None
        training = elapsed - self._aside
        if self._mark is None:
            self._mark, self._next = (step, training), step + 2
            return None
        seconds_a_step = (training - self._mark[1]) / (step - self._mark[0])
        at = progress.at(step)
        left = self._seconds - elapsed - self._evaluate_all - self._save
        left -= self.LEAVING if self._all else 0.0
        steps = self._fitting(progress, step, left, seconds_a_step)
        self._mark = (step, training)
        self._next = step + max(1, steps // self._STEPS_AHEAD)
        return Piece(step, at, (1 - at) / steps) if steps > 0 else Piece(step, 1.0, 0.0)

    def _fitting(self, progress: Progress, step: int, left: float, seconds_a_step: float) -> int:
        """The most steps that fit, with the evaluation due at this step and those on the way."""
        seconds, every = self._evaluate, self._evaluate_every.value
        if self._evaluate_every.kind == "progress":
            left -= crossed(progress, step, every) * seconds
            on_the_way = max(0, math.ceil((1 - progress.at(step)) / every - 1e-6) - 1)
            return math.floor((left - on_the_way * seconds) / seconds_a_step)
        left -= (step % every == 0) * seconds
        least = int(left / (seconds_a_step + seconds / every) / every) - 2
        best = 0
        for on_the_way in itertools.count(max(0, least)):
            fit = math.floor((left - on_the_way * seconds) / seconds_a_step)
            # One step more, and there would be another evaluation on the way.
            last = int((step // every + on_the_way + 1) * every) - step
            best = max(best, min(fit, last))
            if fit <= last:
                break
        return best
