"""Runs killed at random instants end as runs that were never stopped, bit for bit."""

import random
import subprocess
from itertools import pairwise

import pytest
from commands import arrays, files, wait_for

from lmjax.runtime import journal


def kill_after(process: subprocess.Popen[str], seconds: float) -> None:
    try:
        process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("recipe", "kills"), [("default.py", 5), ("composed.py", 2)])
def test_killed_at_any_instant(commands, finished_by, recipe, kills):
    reference = finished_by(recipe)
    instants = random.Random(recipe)  # noqa: S311
    for _ in range(kills):
        kill_after(commands.start_training(recipe=recipe), instants.uniform(0, reference.seconds))
    ended = commands.train(recipe=recipe)
    assert ended.code == 0, ended.err
    run = commands.folder / "run"
    metrics = run / "metrics.jsonl"
    assert metrics.read_bytes() == (reference.run / "metrics.jsonl").read_bytes()
    assert arrays(run) == arrays(reference.run)
    assert files(run) == files(reference.run)


def test_ramps_go_on_through_a_kill(commands, finished_by):
    """Rows, length, window, momentum and decay change on the way, and again after the kill."""
    reference = finished_by("ramped.py")
    run = commands.folder / "run"
    process = commands.start_training(recipe="ramped.py")
    wait_for(run / "metrics.jsonl", process, lines=24)  # in the second stage, between two saves
    process.kill()
    process.communicate()
    ended = commands.train(recipe="ramped.py")
    assert ended.code == 0, ended.err
    metrics = run / "metrics.jsonl"
    assert metrics.read_bytes() == (reference.run / "metrics.jsonl").read_bytes()
    assert arrays(run) == arrays(reference.run)
    tokens = [0, *(e["tokens"] for e in journal.read(metrics) if "loss" in e)]
    rows = [(after - before) // 32 for before, after in pairwise(tokens)]
    assert rows == [2] * 18 + [4] * 42


def test_a_budget_in_time_repeats_what_was_done(commands):
    settings = ["--budget", "12s", "--budget-counts", "steps", "--checkpoint.every", "25steps"]
    run = commands.folder / "run"
    metrics = run / "metrics.jsonl"
    process = commands.start_training(*settings)
    wait_for(run / "events.jsonl", process, lines=4)
    # Some steps beyond the newest piece, which the next process must take by that piece too.
    wait_for(metrics, process, lines=metrics.read_bytes().count(b"\n") + 12)
    process.kill()
    process.communicate()
    whole, _, _ = metrics.read_bytes().rpartition(b"\n")
    pieces = pieces_of(run)
    ended = commands.train(*settings)
    assert ended.code == 0, ended.err
    assert metrics.read_bytes().startswith(whole)
    assert pieces_of(run)[: len(pieces)] == pieces
    lines = [e for e in journal.read(run / "metrics.jsonl") if "loss" in e]
    progress = [e["progress"] for e in lines]
    assert progress == sorted(progress)
    assert [e["step"] for e in lines] == list(range(1, len(lines) + 1))


def pieces_of(run):
    return [e for e in journal.read(run / "events.jsonl") if e["event"] == "piece"]
