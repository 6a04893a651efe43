"""Settings changed on the way: allowed by name, journalled, and exact from there on."""

import json
import shutil

import pytest
from commands import arrays, wait_for

from lmjax.runtime import checkpoint, journal

CHANGED = ["--optimizer.learning-rate", "0.01", "--budget", "70steps"]
ALLOWED = ["--allow-drift", "optimizer.learning-rate", "budget"]


@pytest.fixture
def at_55(finished, commands):
    """A run of 60 steps, as if killed after 55."""
    run = shutil.copytree(finished.run, commands.folder / "run")
    (run / "events.jsonl").write_text("")
    checkpoint.discard(run / "checkpoints" / "60")
    return run


def test_what_is_allowed_holds_from_there_on(at_55, finished, commands):
    ended = commands.train(*CHANGED)
    assert ended.code == 78
    assert "--allow-drift budget optimizer.learning_rate" in ended.err

    killed = shutil.copytree(at_55, commands.folder / "killed")
    process = commands.start_training(*CHANGED, *ALLOWED, "--run", "killed")
    wait_for(killed / "events.jsonl", process, lines=2)
    process.kill()
    process.communicate()
    ended = commands.train("--run", "killed")
    assert ended.code == 78, ended.err  # as it was begun is no longer as it is
    ended = commands.train(*CHANGED, "--run", "killed")
    assert ended.code == 0, ended.err

    ended = commands.train(*CHANGED, *ALLOWED)
    assert ended.code == 0, ended.err
    assert "resumed at step 55" in ended.err
    (event,) = [e for e in journal.read(at_55 / "events.jsonl") if e["event"] == "drift"]
    assert event["step"] == 55
    assert event["changes"] == [
        ["budget", "60steps", "70steps"],
        ["optimizer.learning_rate", 0.02, 0.01],
    ]
    assert json.loads((at_55 / "config.json").read_text())["budget"] == "70steps"
    lines = [e for e in journal.read(at_55 / "metrics.jsonl") if "loss" in e]
    before = [e for e in journal.read(finished.run / "metrics.jsonl") if "loss" in e]
    assert [e["step"] for e in lines] == list(range(1, 71))
    assert lines[:55] == before[:55] and lines[55]["lr"] != before[55]["lr"]

    assert (killed / "metrics.jsonl").read_bytes() == (at_55 / "metrics.jsonl").read_bytes()
    assert arrays(killed) == arrays(at_55)
    for again in (CHANGED, [*CHANGED, *ALLOWED]):
        assert commands.train(*again).code == 0

    ended = commands.run("train", "--replay", "run")
    assert ended.code == 78
    assert "replay: expected a run with the same settings from start to end" in ended.err


def test_another_structure_is_refused_before_anything_is_written(at_55, commands):
    before = (at_55 / "config.json").read_bytes()
    ended = commands.train(*CHANGED, *ALLOWED, recipe="composed.py")
    assert ended.code == 78, ended.err
    assert "optimizer" in ended.err and "--init-from run" in ended.err
    assert (at_55 / "config.json").read_bytes() == before
    assert (at_55 / "events.jsonl").read_bytes() == b""
