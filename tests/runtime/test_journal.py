"""Journals drop a torn last line, name a bad one, and are cut to the byte."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmjax.runtime import journal
from lmjax.text.errors import DataError


def test_a_torn_last_line_is_dropped(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert journal.read(path) == [{"step": 1}, {"step": 2}]
    again = journal.Journal(path)
    again.write({"step": 3}, durable=True)
    again.close()
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n'


def test_no_file_is_no_lines(tmp_path):
    assert journal.read(tmp_path / "absent") == []


@pytest.mark.parametrize("line", ["{torn", "[1]", "", "\x00\x00"])
def test_a_bad_line_is_named(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
    with pytest.raises(DataError, match=r"a\.jsonl, line 2: expected a JSON object"):
        journal.read(path)


numbers = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), numbers, st.text(max_size=5))),
    st.integers(0, 9),
)
def test_cut_keeps_what_is_up_to_the_step_to_the_byte(tmp_path_factory, entries, step):
    path = tmp_path_factory.mktemp("cut") / "a.jsonl"
    written = journal.Journal(path)
    lines = []
    for at, number, text in entries:
        entry = {"step": at, "number": number, "text": text}
        written.write(entry)
        lines.append((at, json.dumps(entry) + "\n"))
    written.cut(step)
    assert path.read_text() == "".join(line for at, line in lines if at <= step)
    written.write({"step": 10})
    written.close()
    assert journal.read(path)[-1] == {"step": 10}
    assert [p.name for p in path.parent.iterdir()] == ["a.jsonl"]
