"""A resumed run is the same run, or is refused with what differs."""

import dataclasses

import pytest

from lmjax import config as configuration
from lmjax.config import Config
from lmjax.runtime import run_folder
from lmjax.text.errors import DataError


@pytest.fixture
def run(tmp_path):
    config = configuration.with_vocabulary(Config(), 512)
    run_folder.write_new(tmp_path / "config.json", configuration.to_json(config).encode())
    return tmp_path


def test_a_new_folder_takes_any_settings(tmp_path):
    run_folder.check_config(tmp_path, Config(seed=3))


def test_the_same_settings_pass_wherever_the_folders_are(run):
    run_folder.check_config(run, Config(run="elsewhere", data="moved"))


def test_drift_lists_the_keys(run):
    model = dataclasses.replace(Config().model, depth=4)
    with pytest.raises(run_folder.Drift, match="other settings") as caught:
        run_folder.check_config(run, Config(seed=3, model=model, budget="5m"))
    assert caught.value.rows == [("budget", "20m", "5m"), ("seed", 0, 3), ("model.depth", 6, 4)]


def test_another_vocabulary_is_drift(run):
    with pytest.raises(run_folder.Drift) as caught:
        run_folder.check_config(run, configuration.with_vocabulary(Config(), 1024))
    assert caught.value.rows == [("model.vocab_size", 512, 1024)]


def test_the_fixed_part_of_a_plan_is_held(tmp_path):
    plan = {"fixed": {"corpus": "a", "optimizer": "b"}, "device": "one"}
    run_folder.check_plan(tmp_path, plan)
    run_folder.check_plan(tmp_path, {**plan, "device": "another"})
    with pytest.raises(run_folder.Drift) as caught:
        run_folder.check_plan(tmp_path, {"fixed": {"corpus": "a", "optimizer": "c"}})
    assert caught.value.rows == [("optimizer", "b", "c")]
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_a_plan_of_another_format_is_refused(tmp_path):
    (tmp_path / "plan.json").write_text('{"format": 2, "fixed": {}}')
    with pytest.raises(DataError, match=r"plan\.json: expected format 1, found 2"):
        run_folder.check_plan(tmp_path, {"fixed": {}})


def test_another_tokenizer_is_refused(tmp_path):
    run, corpus = tmp_path / "run", tmp_path / "corpus"
    for folder in (run, corpus):
        folder.mkdir()
        (folder / "tokenizer.model").write_bytes(b"same")
    run_folder.check_tokenizer(run, corpus)
    (corpus / "tokenizer.model").write_bytes(b"other")
    with pytest.raises(DataError, match=r"expected the tokenizer of .*run, found another"):
        run_folder.check_tokenizer(run, corpus)


def test_no_run_is_named(tmp_path):
    with pytest.raises(DataError, match=r"expected a run folder, found no config\.json"):
        run_folder.read_config(tmp_path)
