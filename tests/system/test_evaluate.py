"""`lmjax.evaluate`: the numbers of a checkpoint, and of no other."""

import json
import math

import pytest

from lmjax.evaluate import evaluate
from lmjax.runtime import journal


@pytest.fixture
def last(finished):
    """The last evaluation of the finished run."""
    return [e for e in journal.read(finished.run / "metrics.jsonl") if "val_loss" in e][-1]


def test_json_is_one_object_and_agrees_with_the_run(finished, last):
    ended = finished.commands.run("evaluate", "--run", "run", "--json")
    assert (ended.code, ended.err) == (0, "")
    (line,) = ended.out.splitlines()
    found = json.loads(line)
    assert found["step"] == last["step"] == 60
    assert found["loss"] == last["val_loss"]
    assert found["bits_per_byte"] == last["val_bits_per_byte"]
    assert found["tokens"] == last["val_tokens"]
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))


def test_without_json_a_person_reads_standard_error(finished, last):
    ended = finished.commands.run("evaluate", "--run", "run", "--rows", "7")
    assert (ended.code, ended.out) == (0, "")
    values = dict(line.split(None, 1) for line in ended.err.splitlines())
    assert float(values["loss"]) == pytest.approx(last["val_loss"], rel=1e-6)
    assert int(values["tokens"]) == last["val_tokens"]


def test_a_step_is_picked(finished, last, in_process):
    found = evaluate(run=finished.run, step=55, data=finished.commands.corpus)
    assert found["step"] == 55
    assert found["loss"] != last["val_loss"]


def test_what_cannot_be_read_is_named(finished):
    ended = finished.commands.run("evaluate", "--run", "run", "--step", "3", "--json")
    assert (ended.code, ended.out) == (65, "")
    assert "expected step 3, found " in ended.err and "60" in ended.err
    ended = finished.commands.run("evaluate", "--run", "absent")
    assert ended.code == 65
    assert "absent: expected a run folder" in ended.err
    ended = finished.commands.run("evaluate", "--run", "run", "--rows", "0")
    assert ended.code == 78
    assert "rows: expected at least 1, found 0" in ended.err
