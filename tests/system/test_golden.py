"""Checkpoints made once by another lmjax (`tools/golden.py`) are read bit for bit, and go on."""

import json
import shutil

import numpy as np
import pytest
from commands import finish

import lmjax
from lmjax.runtime import checkpoint, journal, restoring
from lmjax.runtime.generation import complete
from lmjax.text.errors import DataError
from tools import golden

HERE = golden.GOLDEN / str(checkpoint.FORMAT)
RUNS = pytest.mark.parametrize("name", golden.RUNS)


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the golden folder, in which paths are as they were."""
    folder = shutil.copytree(HERE, tmp_path / "golden")
    monkeypatch.chdir(folder)
    return folder


@RUNS
def test_arrays_come_back_bit_for_bit(name):
    expected = json.loads((HERE / "expected.json").read_text())[name]
    assert golden.digests(golden.restore(HERE / name)) == {
        item: expected[item] for item in ("params", "rest")
    }


@RUNS
def test_it_says_what_it_said(name, in_process):
    expected = json.loads((HERE / "expected.json").read_text())[name]
    found = golden.told(HERE / name)
    np.testing.assert_allclose(found["logits"], expected["logits"], rtol=1e-4, atol=1e-4)
    assert found["val_loss"] == pytest.approx(expected["val_loss"], rel=1e-4)


@pytest.mark.parametrize("name", ["decoder", "lstm"])
def test_it_writes(name):
    model, params, _ = lmjax.restore(HERE / name)
    tokenizer = restoring.restore_tokenizer(HERE / name)
    (text,) = complete(model, params, tokenizer, "The licence", max_tokens=4)
    assert isinstance("".join(text), str)


@RUNS
def test_it_goes_on_as_it_went_on(name, copy, in_process):
    config, make_optimizer = golden.RUNS[name]
    before = journal.read(HERE / name / "metrics.jsonl")
    lmjax.fit(config, make_optimizer(config))
    after = journal.read(copy / name / "metrics.jsonl")
    (resumed,) = [e for e in journal.read(copy / name / "events.jsonl") if e["event"] == "resume"]
    assert resumed["step"] == golden.KEPT
    assert [(e["step"], e.get("batch")) for e in after] == [
        (e["step"], e.get("batch")) for e in before
    ]
    for old, new in zip(before, after, strict=True):
        kind = "loss" if "loss" in old else "val_loss"
        assert new[kind] == pytest.approx(old[kind], rel=1e-3)


@pytest.mark.parametrize("other", [1, checkpoint.FORMAT + 1])
def test_another_format_is_refused_by_name(other, copy, commands):
    path = copy / "decoder" / "checkpoints" / str(golden.KEPT) / "seal.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": other}))
    refused = rf"expected {checkpoint.FORMAT}, found {other}; sealed by another lmjax"
    with pytest.raises(DataError, match=refused):
        restoring.restore(copy / "decoder")
    commands.folder = copy
    ended = finish(commands.start("train", "--config", "decoder/config.json"))
    assert (ended.code, ended.out) == (65, "")
    assert f"found {other}; sealed by another lmjax" in ended.err


def test_those_of_earlier_formats_are_refused_by_name():
    for folder in {*golden.GOLDEN.iterdir()} - {HERE}:
        for run in json.loads((folder / "expected.json").read_text()):
            with pytest.raises(DataError, match=f"found {folder.name}; sealed by another lmjax"):
                restoring.find(folder / run, None)


def test_they_are_small_and_not_made_anew():
    files = [path for path in golden.GOLDEN.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 300_000 * len([*golden.GOLDEN.iterdir()])
    with pytest.raises(SystemExit, match="already there, made by another lmjax"):
        golden.main()
