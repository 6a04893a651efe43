"""`lmjax.convert`, the command: a run to a Hugging Face folder and back to one that works."""

import json

import pytest

from lmjax.runtime import journal

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def converted(finished_by):
    """The finished run, its export `theirs` and the import of that, `back`."""
    finished = finished_by("default.py")
    ended = [
        finished.commands.run("convert", "run", "theirs"),
        finished.commands.run("convert", "theirs", "back"),
    ]
    return finished, ended


def test_there_and_back(converted):
    finished, ended = converted
    for command in ended:
        assert (command.code, command.out) == (0, ""), command.err
    assert "NanoChatForCausalLM, step 60" in ended[0].err
    assert "read back by transformers, on 32 tokens of English text: " in ended[0].err
    assert "largest difference to transformers on 32 tokens" in ended[1].err

    arguments = ["--prompt", "The ", "--max-tokens", "20", "--temperature", "0"]
    runs = ("run", "back")
    texts = [finished.commands.run("generate", "--run", run, *arguments) for run in runs]
    assert texts[0].code == texts[1].code == 0, texts
    assert texts[0].out == texts[1].out
    data = ["--data", str(finished.commands.corpus), "--json"]
    found = [finished.commands.run("evaluate", "--run", run, *data) for run in runs]
    losses = [json.loads(one.out)["loss"] for one in found]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_the_card_says_what_the_run_knows(converted):
    finished, _ = converted
    card = (finished.commands.folder / "theirs" / "README.md").read_text()
    last = [e for e in journal.read(finished.run / "metrics.jsonl") if "val_loss" in e][-1]
    assert "library_name: transformers" in card
    assert "| steps | 60 |" in card and "| corpus | docs (python:docs): " in card
    assert f"| validation loss | {last['val_loss']:.4f} nats a token |" in card
    assert f"| bits per byte | {last['val_bits_per_byte']:.4f} |" in card


def test_nothing_is_written_over(converted):
    finished, _ = converted
    before = sorted((finished.run).iterdir())
    ended = finished.commands.run("convert", "theirs", "run")
    assert ended.code == 65
    assert "run: expected no such folder or an empty one" in ended.err
    assert sorted((finished.run).iterdir()) == before
    ended = finished.commands.run("convert", "absent", "new")
    assert (ended.code, ended.out) == (65, "")
    assert "absent: expected a folder, found none" in ended.err
    ended = finished.commands.run("convert", "theirs", "new", "--step", "3")
    assert ended.code == 78
