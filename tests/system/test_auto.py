"""`auto` in a run's settings: chosen for the device's memory once, and kept through a stop."""

import dataclasses
import json

import pytest
from commands import DEFAULT

import lmjax
from lmjax import config as configuration
from lmjax.runtime import blueprint, device, loop, run_folder, sizing


class Stopped(Exception):
    """As by a kill, in this process."""


@pytest.fixture
def config(tmp_path, corpus, in_process):
    path = tmp_path / "recipe.py"
    path.write_text(DEFAULT)
    settings = ["--batch.micro-rows", "auto", "--model.remat", "auto", "--budget", "12steps"]
    config = lmjax.load_config(path, settings)
    return dataclasses.replace(config, data=str(corpus), run=str(tmp_path / "run"))


def memory_for(config, micro_rows, remat):
    """Just enough."""
    config = configuration.with_vocabulary(config, 512)
    parts = sizing.formula_parts(
        sizing.applied(config, micro_rows, remat), blueprint.parameters(config), "cpu"
    )
    return 1.001 * sum(parts) / sizing.MARGIN


def test_a_resumed_run_keeps_what_was_chosen(config, tmp_path, monkeypatch, capsys):
    def stop_at(step, record, taken):
        if taken.step == step:
            raise Stopped
        take(record, taken)

    take, scarce = loop.Record.take, memory_for(config, 2, "full")
    monkeypatch.setattr(device, "memory_bytes", lambda: scarce)
    whole = lmjax.fit(dataclasses.replace(config, run=str(tmp_path / "whole")))
    assert "auto: 2 of 4 rows at a time, remat full" in capsys.readouterr().err

    monkeypatch.setattr(loop.Record, "take", lambda *args: stop_at(4, *args))
    with pytest.raises(Stopped):
        lmjax.fit(config)
    monkeypatch.setattr(loop.Record, "take", take)
    monkeypatch.setattr(device, "memory_bytes", lambda: 1000 * scarce)
    run = lmjax.fit(config)
    assert capsys.readouterr().err.count("auto: 2 of 4 rows at a time, remat full") == 2
    assert run_folder.fixed(run) == run_folder.fixed(whole)
    assert (run / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()

    written = json.loads((run / "config.json").read_text())
    assert (written["batch"]["micro_rows"], written["model"]["remat"]) == ("auto", "auto")
    _, _, restored = lmjax.restore(run)
    assert restored.batch.micro_rows == "auto"


def test_with_memory_to_spare_all_rows_are_computed_at_once(config, capsys):
    run = lmjax.fit(dataclasses.replace(config, budget="1steps"))
    assert "auto: 4 of 4 rows at a time, remat none" in capsys.readouterr().err
    choice = json.loads((run / "plan.json").read_text())["fixed"]["auto"]
    assert (choice["micro_rows"], choice["remat"]) == (4, "none")
