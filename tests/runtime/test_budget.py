"""Progress lands on 1 when the budget is spent: counted in steps, in tokens, or by the clock."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmjax.config import BatchConfig, Config, EvaluationConfig, RampConfig, TransformerConfig
from lmjax.learning import ramps
from lmjax.runtime import budget
from lmjax.runtime.budget import Piece, Progress


def config(text: str, every: str = "10%") -> Config:
    return Config(
        budget=text,
        batch=BatchConfig(rows=4),
        model=TransformerConfig(length=32),
        evaluation=EvaluationConfig(every=every),
    )


@pytest.mark.parametrize(
    ("text", "steps"),
    [("500steps", 500), ("1step", 1), ("128tokens", 1), ("129tokens", 2), ("1Mtokens", 7813)],
)
def test_steps_and_tokens_are_one_piece(text, steps):
    progress = budget.start(config(text))
    assert len(progress.pieces) == 1
    assert progress.end == steps
    assert [progress.at(step) for step in (0, steps, steps + 1)] == [0.0, 1.0, 1.0]
    assert progress.at(steps - 1) < 1


def test_tokens_are_counted_through_a_ramp_of_rows():
    ramp = RampConfig(rows=((0.25, 1), (0.5, 2)))
    ramped = dataclasses.replace(config("12800tokens"), ramp=ramp)  # 32 tokens a row, 4 rows
    progress = budget.start(ramped)
    assert [piece.step for piece in progress.pieces] == [0, 100, 150]
    assert progress.end == 200
    rows = [ramps.stage(ramped, progress.at(step)).rows for step in range(200)]
    assert sum(rows) * 32 == 12800
    assert rows == [1] * 100 + [2] * 50 + [4] * 50
    auto = dataclasses.replace(ramped, batch=BatchConfig(rows=4, micro_rows="auto"))
    assert budget.start(auto) == progress  # another run's settings, as a branch reads them
    left = budget.start(ramped, step=150, progress=0.5)  # a branch spends all of them from there
    assert left.end == 250


@given(st.integers(1, 2_000_000))
def test_every_number_of_steps_ends_there(steps):
    progress = budget.start(config(f"{steps}steps"))
    assert progress.at(steps) == 1.0
    assert progress.at(steps - 1) < 1.0


def test_time_stands_still_until_it_is_measured():
    progress = budget.start(config("90s"))
    assert progress.at(1000) == 0.0
    assert progress.end == math.inf


def test_the_newest_piece_counts():
    progress = Progress((Piece(0, 0.0, 0.1), Piece(5, 0.5, 0.05)))
    assert [progress.at(step) for step in (0, 4, 5, 6)] == [0.0, 0.4, 0.5, 0.55]
    assert progress.end == 15
    assert progress.extended(Piece(7, 1.0, 0.0)).end == 7


def test_pieces_are_replayed_from_the_journal():
    pieces = [Piece(2, 0.0, 0.01), Piece(10, 0.08, 0.02)]
    events = [{"event": "piece", **piece._asdict()} for piece in pieces]
    events.insert(1, {"event": "skip", "step": 3})
    assert budget.replayed(config("90s"), events).pieces == (Piece(0, 0.0, 0.0), *pieces)


@given(st.integers(1, 3000), st.integers(1, 40))
def test_every_multiple_is_crossed_once(steps, parts):
    progress = budget.start(config(f"{steps}steps"))
    crossings = [step for step in range(steps + 1) if budget.crossed(progress, step, 1 / parts)]
    assert len(crossings) == min(steps, parts)
    assert crossings[-1] == steps
    if steps % parts == 0:
        assert crossings == list(range(steps // parts, steps + 1, steps // parts))


@dataclasses.dataclass
class Simulation:
    """The loop with a clock of its own. `seconds_a_step(elapsed)` is the machine's speed."""

    settings: Config
    seconds_a_step: object
    evaluation: float = 0.0
    share: float = 1.0
    save: float = 0.0
    save_every: float = math.inf
    start: float = 3.0

    def run(self) -> tuple[float, list[float], Progress]:
        """The time at the end, progress at each step, and the pieces."""
        pacer, progress = budget.Pacer(self.settings), budget.start(self.settings)
        every = pacer._evaluate_every
        now, step, seen, last_save = self.start, 0, [], self.start
        pacer.evaluated(self.evaluation * self.share, self.share)
        now += self.evaluation * self.share
        while True:
            if pacer.due(progress, step) and (piece := pacer.estimate(progress, step, now)):
                progress = progress.extended(piece)
            seen.append(progress.at(step))
            ended = progress.at(step) >= 1
            if every.kind == "steps":
                evaluate = step > 0 and step % int(every.value) == 0
            else:
                evaluate = budget.crossed(progress, step, every.value)
            if ended or evaluate:
                share = 1.0 if ended else self.share
                now += self.evaluation * share
                pacer.evaluated(self.evaluation * share, share)
            if ended or step == 1 or now - last_save >= self.save_every:
                now += self.save
                last_save = now
                pacer.saved(self.save)
            if ended:
                return now, seen, progress
            now += self.seconds_a_step(now)
            step += 1


SPEEDS = {
    "steady": lambda now: 0.1,
    "twice as fast half-way": lambda now: 0.1 if now < 50 else 0.05,
    "half as fast half-way": lambda now: 0.1 if now < 50 else 0.2,
    "slow steps": lambda now: 4.0,
    "swinging": lambda now: 0.1 + 0.05 * math.sin(now),
}


@pytest.mark.parametrize("speed", SPEEDS.values(), ids=SPEEDS)
@pytest.mark.parametrize("every", ["10%", "20steps"])
@pytest.mark.parametrize(
    "aside",
    [
        {},
        {"evaluation": 2.0},
        {"evaluation": 4.0, "share": 0.1, "save": 1.0},
        {"evaluation": 1.0, "save": 0.5, "save_every": 10.0},
    ],
    ids=["nothing else", "evaluations", "a long last evaluation", "saves"],
)
def test_a_budget_in_time_lands_on_its_deadline(speed, every, aside):
    end, seen, _ = Simulation(config("100s", every), speed, **aside).run()
    step = max(speed(end - back / 10) for back in range(30))  # the slowest of late
    deadline = 100 - budget.Pacer.LEAVING
    assert end <= deadline + step
    # A step more may bring an evaluation with it that does not fit.
    evaluation = aside.get("evaluation", 0) if every == "20steps" else 0
    assert end >= deadline - 1.5 * step - aside.get("save", 0) - evaluation
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    # The last steps are annealed: progress walks to 1, it does not jump there.
    steps_left = 1 + len(seen) // 10
    assert max(b - a for a, b in zip(seen[-steps_left:], seen[-steps_left + 1 :], strict=False)) < (
        3 / len(seen)
    )


def test_no_piece_begins_where_a_killed_process_has_written():
    pacer, progress = budget.Pacer(config("100s"), reached=50), budget.start(config("100s"))
    assert not any(pacer.due(progress, step) for step in range(50))
    assert pacer.due(progress, 50)


def test_a_day_has_a_hundred_pieces_or_so():
    settings = config("24h", "5%")
    _, _, progress = Simulation(settings, lambda now: 2.0, evaluation=20.0, save=1.0).run()
    assert 50 < len(progress.pieces) < 200


def test_a_budget_that_is_over_ends_at_once():
    end, seen, _ = Simulation(config("10s"), lambda now: 0.1, start=60.0).run()
    assert seen[-2:] == [0.0, 1.0]
    assert end < 61


def test_pieces_beyond_a_step_gone_back_to_are_void():
    config = Config(budget="60s")
    piece = lambda step, progress, rate: {  # noqa: E731
        "event": "piece",
        "step": step,
        "progress": progress,
        "rate": rate,
    }
    rewind = {"event": "rewind", "step": 9, "to": 5, "rows": 80}
    before = [piece(2, 0.1, 0.02), piece(5, 0.16, 0.01), piece(8, 0.19, 0.5)]
    after = budget.replayed(config, [*before, rewind])
    assert after.at(9) == pytest.approx(0.2)
    assert budget.replayed(config, [*before, rewind, piece(7, 0.18, 0.1)]).at(9) == pytest.approx(
        0.38
    )
