"""Journals drop a torn last line, name a bad one, and are cut to the byte."""

import contextlib
import json
import time
import tracemalloc

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
    assert journal.newest(tmp_path / "absent", "step") is None


@pytest.mark.parametrize("width", [1, 30_000, 200_000])
def test_lines_of_any_width_are_found_from_the_end(tmp_path, width):
    path = tmp_path / "a.jsonl"
    with contextlib.closing(journal.Journal(path)) as written:
        for step in range(1, 8):
            more = {"val_loss": 0.5} if step == 2 else {}
            written.write({"step": step, "pad": "x" * width, **more})
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"step": 8, "val_loss')
    assert journal.newest(path, "step")["step"] == 7
    assert journal.newest(path, "val_loss")["step"] == 2
    assert journal.newest(path, "x" * width) is None
    for step in (6, 1, 0):
        with contextlib.closing(journal.Journal(path)) as written:
            assert path.read_bytes() == whole
            written.cut(step)
        whole = b"".join(whole.splitlines(keepends=True)[:step])
        assert path.read_bytes() == whole


def test_a_bad_line_at_the_end_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"step": 1}\n"step"\n')
    with pytest.raises(DataError, match=r"a\.jsonl, line up to byte 19: expected a JSON object"):
        journal.newest(path, "step")
    with contextlib.closing(journal.Journal(path)) as written, pytest.raises(DataError):
        written.cut(0)


@pytest.mark.faults
def test_a_million_lines_are_no_matter_at_a_start(tmp_path):
    path = tmp_path / "metrics.jsonl"
    entry = {"loss": 1.23456789, "loss_hex": (1.23456789).hex(), "batch": "0123456789abcdef"}
    with path.open("w") as file:
        file.writelines(json.dumps({"step": n, **entry}) + "\n" for n in range(1, 1_000_001))
    begun = time.monotonic()
    tracemalloc.start()
    with contextlib.closing(journal.Journal(path)) as written:
        assert journal.newest(path, "step")["step"] == 1_000_000
        assert journal.newest(path, "val_loss") is None  # the most that a start may have to look at
        written.cut(999_000)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
    assert time.monotonic() - begun < 30
    assert journal.newest(path, "step")["step"] == 999_000


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
    for at, number, text in sorted(entries):
        entry = {"step": at, "number": number, "text": text}
        written.write(entry)
        lines.append((at, json.dumps(entry) + "\n"))
    written.cut(step)
    assert path.read_text() == "".join(line for at, line in lines if at <= step)
    written.write({"step": 10})
    written.close()
    assert journal.read(path)[-1] == {"step": 10}
    assert [p.name for p in path.parent.iterdir()] == ["a.jsonl"]
