"""Every format gives the same documents, or says what is wrong and where."""

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from lmjax.config import TextConfig
from lmjax.text import documents, sources
from lmjax.text.errors import DataError

ROWS = ["first \u4e2d\u6587", "second\n\twith lines", "third \U0001f600"]
PACKERS = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


def texts(*names, **settings) -> list[str]:
    config = TextConfig(sources=tuple(map(str, names)), **settings)
    return [
        text
        for chunk in documents.chunks(sources.resolve(config.sources), config)
        for document in chunk.documents
        for text, _ in documents.parse(chunk.format, document, config)
    ]


@pytest.mark.parametrize("packed", PACKERS)
def test_json_lines_packed_or_not(tmp_path, packed):
    lines = "\n\n".join(json.dumps({"id": 1, "body": row}) for row in ROWS)
    path = tmp_path / f"rows.jsonl{packed}"
    path.write_bytes(PACKERS[packed](lines.encode()))
    assert texts(path, field="body") == ROWS


@pytest.mark.parametrize("packed", PACKERS)
def test_plain_text_packed_or_not(tmp_path, packed):
    path = tmp_path / f"book.txt{packed}"
    path.write_bytes(PACKERS[packed]("\n\n".join(ROWS).encode()))
    assert texts(path) == ["\n\n".join(ROWS)]


def test_several_gzip_and_zstd_members_are_all_read(tmp_path):
    for suffix in (".gz", ".zst"):
        path = tmp_path / f"two.txt{suffix}"
        path.write_bytes(PACKERS[suffix](b"one ") + PACKERS[suffix](b"two"))
        assert texts(path) == ["one two"]


def test_parquet_gives_the_same_documents(tmp_path):
    path = tmp_path / "rows.parquet"
    table = pyarrow.table({"id": [1, 2, 3, 4], "body": [*ROWS, None]})
    pyarrow.parquet.write_table(table, path)
    assert texts(path, field="body") == ROWS


@given(
    text=st.text(st.sampled_from("ab \n.\u3002\u4e2d"), max_size=400),
    most=st.integers(1, 50),
)
def test_cutting_keeps_everything_and_the_limit(text, most):
    parts = documents.cut(text, most)
    assert "".join(parts) == text
    assert all(0 < len(part) <= most for part in parts[:-1])
    assert len(parts[-1]) <= most


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("aaaa aaaa\n\naaa. aa\naaaaaaa", "aaaa aaaa\n\n"),
        ("aaaa aaaa\naaaa. aa aaaaaaa", "aaaa aaaa\n"),
        ("aaaa aaaaa. aa aaaaaaa", "aaaa aaaaa. "),
        ("aaaa aaaaa aaaaaaaaaaaa", "aaaa aaaaa "),
        ("a" * 30, "a" * 16),
    ],
    ids=["paragraph", "line", "sentence", "word", "anywhere"],
)
def test_text_is_cut_at_the_best_place(text, first):
    assert documents.cut(text, 16)[0] == first


def test_a_long_file_is_cut_the_same_as_in_one_piece(tmp_path):
    text = "".join(f"paragraph {i}\r\n" + "\r\n" * (i % 3) for i in range(200_000))
    path = tmp_path / "long.txt"
    path.write_bytes(text.encode())
    assert path.stat().st_size > 2 << 20
    assert texts(path) == documents.cut(text.replace("\r\n", "\n"), 20_000)


def test_invalid_utf8_is_told_and_replaced(tmp_path):
    plain, rows = tmp_path / "plain.txt", tmp_path / "rows.jsonl"
    plain.write_bytes(b"caf\xe9 au lait")
    rows.write_bytes(b'{"text": "caf\xe9"}\n{"text": "half \\ud83d"}\n{"text": "good"}\n')
    config = TextConfig(sources=(str(plain), str(rows)))
    parsed = [
        pair
        for chunk in documents.chunks(sources.resolve(config.sources), config)
        for document in chunk.documents
        for pair in documents.parse(chunk.format, document, config)
    ]
    assert parsed == [
        ("caf\ufffd au lait", False),
        ("caf\ufffd", False),
        ("half \ufffd", False),
        ("good", True),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"text\0text", r"a\.txt: expected UTF-8 text, found a binary file"),
        ("a.txt", "\u4e2d\u6587\u6f22\u5b57".encode("gbk"), r"a\.txt: expected UTF-8 text"),
        ("a.md", b"text", r"a\.md: expected a file ending in \.txt, .*rename plain text"),
        ("a.jsonl", b'{"text": "x"}\n\n{"text": 3}', r"line 3: expected text in 'text', found int"),
        ("a.jsonl", b'{"body": "x"}', r"line 1: expected a field 'text' .*, found body"),
        ("a.jsonl", b"[1]", r"a\.jsonl, line 1: expected a JSON object, found list"),
        ("a.jsonl", b"{", r"a\.jsonl, line 1: expected a JSON object"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl, line 1: expected a JSON object"),
        ("a.jsonl", b" " * (17 << 20), r"a\.jsonl, line 1: expected at most 16 MiB"),
        ("a.txt.gz", b"no gzip", r"a\.txt\.gz: expected a whole gzip file"),
        (
            "a.txt.gz",
            gzip.compress(b"x" * 9999, mtime=0)[:-9],
            r"a\.txt\.gz: expected a whole gzip file",
        ),
        ("a.txt.zst", b"no zstd", r"a\.txt\.zst: expected a whole zstd file"),
        ("a.txt.zst", zstandard.compress(bytes(range(1, 127)) * 99)[:-9], r"expected a whole zstd"),
        ("a.parquet", b"no parquet", r"a\.parquet: expected a Parquet file"),
    ],
)
def test_unfit_files_are_refused_by_name(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    config = TextConfig(sources=(str(path),))
    with pytest.raises(DataError, match=message):
        for chunk in documents.chunks(sources.resolve(config.sources), config):
            for index, document in enumerate(chunk.documents):
                try:
                    list(documents.parse(chunk.format, document, config))
                except DataError as error:
                    raise DataError(f"{chunk.place(index)}: {error}") from None


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({"body": ["x"]}, "expected a column 'text' .*, found body"),
        ({"text": [1]}, "row 1: expected text in 'text', found int"),
    ],
)
def test_parquet_without_text_is_refused(tmp_path, column, message):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table(column), path)
    with pytest.raises(DataError, match=message):
        texts(path)
