"""A resumed run is the same run, is refused with what differs, or goes on with what was allowed."""

import contextlib
import dataclasses
import json

import pytest

from lmjax import config as configuration
from lmjax.config import (
    BatchConfig,
    Config,
    ConfigError,
    ObjectiveConfig,
    OptimizerConfig,
    TransformerConfig,
)
from lmjax.runtime import drift, journal, run_folder
from lmjax.text.errors import DataError

CONFIG = configuration.with_vocabulary(Config(), 512)
FASTER = Config(optimizer=OptimizerConfig(learning_rate=0.03), budget="30m")
ALLOWED = ("budget", "optimizer.learning-rate")


@pytest.fixture
def run(tmp_path):
    begin(tmp_path, CONFIG)
    return tmp_path


def begin(run, config):
    run_folder.write_new(run / "config.json", configuration.to_json(config).encode())


def adopt(run, config, step=7):
    with contextlib.closing(journal.Journal(run / "events.jsonl")) as events:
        drift.adopt(run, configuration.with_vocabulary(config, 512), step, events)


def test_a_new_folder_takes_any_settings(tmp_path):
    drift.check(tmp_path, Config(seed=3))


def test_the_same_settings_pass_wherever_the_folders_are(run):
    drift.check(run, Config(run="elsewhere", data="moved"))
    drift.check(run, Config(), ALLOWED)


def test_drift_lists_the_keys_and_names_the_option(run):
    with pytest.raises(
        run_folder.Drift,
        match=r"other settings.*go on .*: --allow-drift budget optimizer\.learning_rate$",
    ) as caught:
        drift.check(run, FASTER, ["budget"])
    assert caught.value.rows == [
        ("budget", "20m", "30m"),
        ("optimizer.learning_rate", 0.02, 0.03),
    ]


def test_another_vocabulary_is_drift(run):
    with pytest.raises(run_folder.Drift) as caught:
        drift.check(run, configuration.with_vocabulary(Config(), 1024))
    assert caught.value.rows == [("model.vocab_size", 512, 1024)]


@pytest.mark.parametrize(
    ("key", "config"),
    [
        ("seed", Config(seed=3)),
        ("model.depth", Config(model=TransformerConfig(depth=4))),
        ("model.length", Config(model=TransformerConfig(length=128))),
        ("model.rope_base", Config(model=TransformerConfig(rope_base=1e6))),
        ("objective.kind", Config(objective=ObjectiveConfig(kind="masked"))),
        ("batch.packing", Config(batch=BatchConfig(packing="contiguous"))),
        ("batch.micro_rows", Config(batch=BatchConfig(micro_rows="auto"))),
        ("init_from", Config(init_from="other")),
        ("budget", Config(budget="500steps")),
    ],
)
def test_what_no_run_can_change_is_refused_with_the_reason(run, key, config):
    with pytest.raises(
        run_folder.Drift, match=rf"--init-from {run} .*(?s:.)  {key}: \w+"
    ) as caught:
        drift.check(run, config, [key])
    assert "--allow-drift" not in str(caught.value)


def test_rows_cannot_change_where_a_budget_in_tokens_counts_them(tmp_path):
    begin(tmp_path, Config(budget="1Mtokens"))
    with pytest.raises(run_folder.Drift, match=r"batch\.rows: progress counts"):
        drift.check(tmp_path, Config(budget="1Mtokens", batch=BatchConfig(rows=64)), ["batch.rows"])


def test_what_is_no_setting_cannot_be_allowed(run):
    with pytest.raises(ConfigError, match=r"--allow-drift: expected settings.*found optimizer\.lr"):
        drift.check(run, Config(), ["optimizer.lr"])


def test_a_run_that_is_done_changes_nothing(run):
    (run / "events.jsonl").write_text('{"event": "done"}\n')
    with pytest.raises(run_folder.Drift, match="it is done"):
        drift.check(run, FASTER, ALLOWED)


def test_what_was_allowed_is_journalled_and_holds(run):
    drift.check(run, FASTER, ALLOWED)
    adopt(run, FASTER)
    (event,) = run_folder.drifts(run)
    assert event["step"] == 7
    assert event["changes"] == [
        ["budget", "20m", "30m"],
        ["optimizer.learning_rate", 0.02, 0.03],
    ]
    assert configuration.load_config(run / "config.json") == run_folder.read_config(run)
    drift.check(run, FASTER)
    drift.check(run, FASTER, ALLOWED)
    with pytest.raises(run_folder.Drift):
        drift.check(run, Config())
    adopt(run, FASTER)
    assert len(run_folder.drifts(run)) == 1
    adopt(run, dataclasses.replace(FASTER, budget="40m"), step=9)
    assert run_folder.drifts(run)[1]["changes"] == [["budget", "30m", "40m"]]


@pytest.mark.parametrize(
    "event",
    [{}, {"changes": 3}, {"changes": [["budget", "20m", 3]]}, {"changes": [["a.b", 1, 2]]}],
)
def test_a_drift_that_does_not_fit_is_refused(run, event):
    (run / "events.jsonl").write_text(json.dumps({"event": "drift", **event}) + "\n")
    with pytest.raises(DataError, match=r"events\.jsonl: drift: expected settings"):
        run_folder.read_config(run)


def test_a_death_before_the_settings_are_written_changes_nothing(run, monkeypatch):
    def die(path, content):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run_folder, "write_new", die)
        adopt(run, FASTER)
    assert configuration.load_config(run / "config.json") == CONFIG
    assert run_folder.read_config(run).optimizer == FASTER.optimizer
    drift.check(run, FASTER)
    with pytest.raises(run_folder.Drift):
        drift.check(run, Config())
    adopt(run, FASTER)
    assert len(run_folder.drifts(run)) == 1
