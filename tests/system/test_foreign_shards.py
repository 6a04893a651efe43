"""Other projects' token shards train as ours do."""

import numpy as np
import pytest
from commands import Commands

from lmjax.runtime import journal
from lmjax.text.corpus import read_manifest


@pytest.fixture
def on_shards(tmp_path, environment, corpus):
    """Commands on a folder with nanoGPT's files, written from the corpus."""
    folder = tmp_path / "nanogpt"
    folder.mkdir()
    facts = read_manifest(corpus)
    for split, name in ((facts.train, "train.bin"), (facts.val, "val.bin")):
        tokens = np.concatenate([np.fromfile(corpus / s.name, facts.dtype) for s in split.shards])
        tokens[:20_000].tofile(folder / name)
    return Commands(tmp_path, environment, folder)


def test_they_train_with_the_vocabulary_given(on_shards):
    ended = on_shards.train("--model.vocab-size", "512", "--budget", "4steps")
    assert ended.code == 0, ended.err
    (last,) = [
        e for e in journal.read(on_shards.folder / "run" / "metrics.jsonl") if "val_loss" in e
    ]
    assert last["val_loss"] > 0
    assert last["val_bits_per_byte"] is None


def test_they_are_refused_without(on_shards):
    ended = on_shards.train()
    assert (ended.code, ended.out) == (78, "")
    assert "model.vocab_size: expected a number" in ended.err


def test_ids_beyond_the_vocabulary_are_refused(on_shards):
    ended = on_shards.train("--model.vocab-size", "256")
    assert (ended.code, ended.out) == (65, "")
    assert "train.bin: expected ids below 256" in ended.err
