"""Names become files in a fixed order, each once."""

import pytest

from lmjax.config import ConfigError
from lmjax.text import sources
from lmjax.text.errors import DataError


def test_folders_and_globs_in_order_each_file_once(tmp_path):
    for name in ("b.txt", "a/z.jsonl", "a/c.txt.gz", "notes.md"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    found = [s.path.name for s in sources.resolve([str(tmp_path), str(tmp_path / "*.txt")])]
    assert found == ["c.txt.gz", "z.jsonl", "b.txt"]
    assert [s.path.name for s in sources.resolve([str(tmp_path / "**/*.txt*")])] == [
        "c.txt.gz",
        "b.txt",
    ]


@pytest.mark.parametrize(
    ("pattern", "error", "message"),
    [
        ("absent.txt", DataError, "expected a file, folder or glob, found none at absent.txt"),
        ("absent*.txt", DataError, r"found none of them in absent\*\.txt"),
        ("python:poems", ConfigError, "expected python:docs or python:source, found python:poems"),
    ],
)
def test_names_with_nothing_behind_are_refused(tmp_path, monkeypatch, pattern, error, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        sources.resolve([pattern])
