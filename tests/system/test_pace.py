"""What a budget in time did can be done again; a run can be left early; every second is told."""

import hashlib

import pytest
from commands import arrays

from lmjax.runtime import journal


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_budget_in_time_is_replayed_bit_for_bit(commands):
    first = commands.train("--budget", "3s", "--budget-counts", "steps", recipe="ramped.py")
    assert first.code == 0, first.err
    run = commands.folder / "run"
    before = digests(run)
    again = commands.run("train", "--replay", "run")
    assert again.code == 0, again.err
    replay = commands.folder / "run-replay"
    assert (replay / "metrics.jsonl").read_bytes() == (run / "metrics.jsonl").read_bytes()
    assert arrays(replay) == arrays(run)
    assert digests(run) == before
    kinds = [event["event"] for event in journal.read(replay / "events.jsonl")]
    assert "piece" not in kinds  # it was paced by the other run's
    (done,) = [e for e in journal.read(run / "events.jsonl") if e["event"] == "done"]
    assert sum(done["ledger"].values()) == pytest.approx(done["elapsed"], rel=0.01)
    assert done["ledger"]["data"] + done["ledger"]["step"] == pytest.approx(3.0, abs=1.0)


def test_a_cooldown_leaves_a_run_and_does_not_touch_it(commands):
    first = commands.train("--budget", "20steps", "--checkpoint.keep", "9")
    assert first.code == 0, first.err
    run = commands.folder / "run"
    before = digests(run)
    left = commands.run("train", "--branch-from", "run", "--step", "5", "--budget", "10steps")
    assert left.code == 0, left.err
    assert digests(run) == before
    branch = commands.folder / "run-branch"
    steps = [e for e in journal.read(branch / "metrics.jsonl") if "loss" in e]
    assert [e["step"] for e in steps] == list(range(6, 16))
    rates = [e["lr"] for e in steps]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.2 * rates[0]
    assert steps[0]["progress"] == pytest.approx(0.4)
    # The rows that come are those the other run saw next.
    original = {e["step"]: e["batch"] for e in journal.read(run / "metrics.jsonl") if "batch" in e}
    assert all(e["batch"] == original[e["step"]] for e in steps)
    assert (
        commands.run("train", "--branch-from", "run", "--step", "5", "--budget", "10steps").code
        == 0
    )


def test_a_run_that_cools_down_already_is_not_left(commands):
    assert commands.train("--budget", "20steps").code == 0
    left = commands.run("train", "--branch-from", "run", "--step", "15", "--budget", "10steps")
    assert left.code == 78
    assert "expected a step before the cooldown" in left.err
