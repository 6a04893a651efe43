"""A whole run: what it prints and what it writes."""

import json
import re

from lmjax.runtime import journal

OURS = [
    r"[0-9.]+[kMB]? parameters, xla attention in float32 on \d+ cores, peak .* TFLOP/s .*",
    r"[\d,]+ training tokens in [\d,]+ rows",
    r"\d+/\d+ +\d+%  loss \d+\.\d{3}(  val \d+\.\d{3} bpb)?  lr .*  .* tok/s  mfu .*  eta [\d:?]+",
    r"time [\d:]+: prepare .*, other .*",
    r"",
    r"done: step 60, validation loss \d+\.\d{4}, \d+\.\d{4} bits per byte",
    r"run folder: run",
    r"next:",
    r"  python -m lmjax\.\w+ .*",
]


def test_nothing_but_our_lines_reaches_the_terminal(finished):
    assert finished.ended.out == ""
    for line in finished.ended.err.splitlines():
        assert any(re.fullmatch(ours, line) for ours in OURS), line


def test_metrics_hold_what_scripts_rely_on(finished):
    entries = journal.read(finished.run / "metrics.jsonl")
    steps = [e for e in entries if "val_loss" not in e]
    evaluations = [e for e in entries if "val_loss" in e]
    assert [e["step"] for e in steps] == list(range(1, 61))
    for e in steps:
        assert {"step", "loss", "loss_hex", "lr", "grad_norm", "tokens", "progress"} <= set(e)
        assert abs(float.fromhex(e["loss_hex"]) - e["loss"]) < 1e-6
        assert e["tokens"] == e["step"] * 4 * 32
        assert e["progress"] == round((e["step"] - 1) / 60, 12)
    assert len({e["batch"] for e in steps}) == 60
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.5
    assert [e["step"] for e in evaluations] == [20, 40, 60]
    for e in evaluations:
        assert 0 < e["val_bits_per_byte"] < e["val_loss"]
    clock = {"elapsed", "tokens_per_second", "mfu", "time", "seconds"}
    assert not any(clock & set(e) for e in entries)


def test_timing_is_kept_apart(finished):
    timing = journal.read(finished.run / "timing.jsonl")
    elapsed = [e["elapsed"] for e in timing]
    assert elapsed == sorted(elapsed)
    assert all(e["tokens_per_second"] > 0 for e in timing[:-1])


def test_the_folder_explains_itself(finished):
    plan = json.loads((finished.run / "plan.json").read_text())
    assert plan["format"] == 1
    assert set(plan["fixed"]) == {"corpus", "parameters", "optimizer"}
    assert {"jax", "optax", "lmjax", "python"} <= set(plan["versions"])
    config = json.loads((finished.run / "config.json").read_text())
    assert (config["budget"], config["model"]["vocab_size"]) == ("60steps", 512)
    kinds = [e["event"] for e in journal.read(finished.run / "events.jsonl")]
    assert kinds == ["start", "done"]
