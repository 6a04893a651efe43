"""A resumed run is the same run, or is refused with what differs."""

import pytest

from lmjax.runtime import run_folder
from lmjax.text.errors import DataError


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
