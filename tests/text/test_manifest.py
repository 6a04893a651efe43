"""A manifest says what is wrong with it by the name of the field, whoever wrote it."""

import json
from pathlib import Path

import pytest

from lmjax.config import TextConfig, TokenizerConfig
from lmjax.text import manifest
from lmjax.text.corpus import prepare, read_manifest, verify
from lmjax.text.errors import DataError


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    text = "".join(f"Paragraph {i} of the text.\n\n" for i in range(400))
    (folder / "a.txt").write_text(text)
    config = TextConfig(
        sources=(str(folder / "a.txt"),),
        document_chars=200,
        tokenizer=TokenizerConfig(vocab_size=300),
        processes=1,
    )
    prepare(config, folder / "corpus")
    return folder / "corpus"


@pytest.fixture
def corpus(made, tmp_path) -> Path:
    """A copy that a test may damage."""
    for file in made.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_what_is_written_is_read(made):
    assert json.loads(manifest.to_json(read_manifest(made))) == json.loads(
        (made / manifest.FILE).read_text()
    )


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        ("format", 2, "format: expected 1, found 2; made by another lmjax"),
        ("format", True, "format: expected int, found True"),
        ("format", "1", "format: expected int, found '1'"),
        ("dtype", "float64", "dtype: expected Literal, found 'float64'"),
        ("dtype", [], r"dtype: expected Literal, found \[\]"),
        ("tokenizer.vocab_size", 70_000, "tokenizer.vocab_size: expected what fits uint16"),
        ("tokenizer.bos", 300, "tokenizer.bos: expected an id below 300, found 300"),
        ("tokenizer.bos", -1, "tokenizer.bos: expected int, found -1"),
        ("tokenizer.file.name", "../x", "tokenizer.file.name: expected a plain file name"),
        ("tokenizer.file.name", "..", "tokenizer.file.name: expected a plain file name"),
        ("tokenizer.file.name", "a\0b", "tokenizer.file.name: expected a plain file name"),
        ("train.shards.0.name", "/etc/passwd", r"train.shards\[0\].name: expected a plain file"),
        ("train.shards.0.sha256", "00", r"train.shards\[0\].sha256: expected 64 hexadecimal"),
        ("train.shards.0.size", 2**63, r"train.shards\[0\].size: expected int"),
        ("train.shards", {}, "train.shards: expected tuple, found {}"),
        ("train.tokens", 1, r"train.tokens: expected \d+ as in its shards, found 1"),
        ("val", None, "val: expected the fields documents, tokens, bytes, shards, found None"),
        ("settings", 3, "settings: expected dict, found 3"),
        ("extra", 3, "manifest: expected the fields format, .* found .*extra"),
    ],
)
def test_hostile_fields_are_refused_by_name(corpus, keys, value, message):
    path = corpus / manifest.FILE
    tree = node = json.loads(path.read_text())
    *parents, last = keys.split(".")
    for key in parents:
        node = node[int(key) if key.isdigit() else key]
    node[last] = value
    path.write_text(json.dumps(tree))
    with pytest.raises(DataError, match=f"manifest.json: {message}"):
        read_manifest(corpus)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected JSON"),
        (b"[" * 200_000, "expected JSON"),
        (b"\xff\xfe", "expected JSON"),
        (b"[]", r"manifest: expected the fields .* found \[\]"),
        (b" " * (65 << 20), "expected at most 64 MiB"),
    ],
    ids=["empty", "deep", "binary", "list", "huge"],
)
def test_what_is_no_manifest_is_refused(corpus, content, message):
    (corpus / manifest.FILE).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_manifest(corpus)


def test_a_folder_without_manifest_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"expected the manifest of a corpus, found none"):
        read_manifest(tmp_path)


def test_a_shard_cut_short_or_gone_is_noticed_at_once(corpus):
    shard = corpus / "val-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(DataError, match=r"val-00000\.bin: expected \d+ bytes, found \d+"):
        read_manifest(corpus)
    shard.unlink()
    with pytest.raises(DataError, match=r"val-00000\.bin: expected \d+ bytes, found no file"):
        read_manifest(corpus)


@pytest.mark.parametrize("name", ["train-00000.bin", "val-00000.bin", "tokenizer.model"])
def test_one_flipped_bit_is_found(corpus, name):
    verify(corpus, read_manifest(corpus))
    content = bytearray((corpus / name).read_bytes())
    content[len(content) // 2] ^= 1
    (corpus / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}: expected SHA-256 [0-9a-f]{{64}}, found"):
        verify(corpus, read_manifest(corpus))
