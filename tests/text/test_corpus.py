"""A corpus holds each document once, on one side, in one order; and appears whole or not at all."""

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lmjax.config import CleaningConfig, ConfigError, TextConfig, TokenizerConfig
from lmjax.text import manifest, tokenizer
from lmjax.text.corpus import prepare, read_manifest, verify
from lmjax.text.errors import DataError

WORDS = "the of sea ship whale man and to in 中文 white old captain said upon now".split()
SMALL = TokenizerConfig(vocab_size=300)


def write_rows(path: Path, count: int) -> list[str]:
    numbers = np.random.default_rng(0).integers(0, len(WORDS), (count, 12))
    rows = [f"Row {i}:\n    " + " ".join(WORDS[n] for n in row) for i, row in enumerate(numbers)]
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return rows


def documents(folder: Path, side: str) -> list[str]:
    made = read_manifest(folder)
    shards = getattr(made, side).shards
    tokens = np.concatenate([np.fromfile(folder / s.name, made.dtype) for s in shards])
    encoder = tokenizer.load(folder / "tokenizer.model")
    starts = np.flatnonzero(tokens == encoder.bos)
    assert starts[0] == 0
    return [encoder.decode(part[1:].tolist()) for part in np.split(tokens, starts[1:])]


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> tuple[TextConfig, list[str]]:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    texts = write_rows(path, 30_000)
    return TextConfig(sources=(str(path),), tokenizer=SMALL, shard_tokens=200_000), texts


@pytest.fixture(scope="module")
def made(rows, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "corpus"
    prepare(dataclasses.replace(rows[0], processes=2), folder)
    return folder


def test_every_document_is_on_one_side_and_none_is_lost(rows, made):
    train, val = documents(made, "train"), documents(made, "val")
    assert sorted(train + val) == sorted(rows[1])
    assert not set(train) & set(val)
    assert 0.04 < len(val) / len(rows[1]) < 0.06
    order = {text: i for i, text in enumerate(rows[1])}
    assert [order[text] for text in train] == sorted(order[text] for text in train)


def test_the_manifest_tells_the_truth(rows, made):
    facts = read_manifest(made)
    verify(made, facts)
    for side in ("train", "val"):
        texts, split = documents(made, side), getattr(facts, side)
        assert split.documents == len(texts)
        assert split.bytes == sum(len(text.encode()) for text in texts)
    assert len(facts.train.shards) > 2
    assert all(shard.size <= 400_000 for shard in facts.train.shards)
    assert facts.tokenizer.trained_bytes == facts.train.bytes
    assert facts.cleaning["duplicates"]["documents_kept"] == len(rows[1])
    assert {file.name for file in made.iterdir()} == {
        manifest.FILE,
        manifest.SEAL,
        *(f.name for f in facts.files),
    }


def test_the_number_of_processes_changes_no_byte(rows, made, tmp_path):
    prepare(dataclasses.replace(rows[0], processes=1), tmp_path / "one")
    for file in made.iterdir():
        assert (tmp_path / "one" / file.name).read_bytes() == file.read_bytes(), file.name


def test_up_to_date_reads_no_contents(tmp_path, capsys):
    source = tmp_path / "a.jsonl"
    write_rows(source, 300)
    config = TextConfig(sources=(str(source),), tokenizer=SMALL, processes=1)
    made = prepare(config, tmp_path / "corpus")
    stat = source.stat()
    source.write_bytes(b"x" * stat.st_size)
    os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    start = time.perf_counter()
    assert prepare(dataclasses.replace(config, processes=2), tmp_path / "corpus") == made
    assert time.perf_counter() - start < 0.5
    assert "up to date" in capsys.readouterr().err


def test_other_settings_or_files_are_refused_and_shown(rows, made, tmp_path):
    before = {file.name: file.read_bytes() for file in made.iterdir()}
    other = dataclasses.replace(rows[0], cleaning=CleaningConfig(lower=True))
    with pytest.raises(DataError, match=r"text\.cleaning\.lower: was False, now True\nGive anoth"):
        prepare(other, made)
    write_rows(tmp_path / "more.jsonl", 10)
    more = dataclasses.replace(rows[0], sources=(*rows[0].sources, str(tmp_path / "more.jsonl")))
    with pytest.raises(DataError, match=r"more\.jsonl: was absent, now \(\d+, \d+\)"):
        prepare(more, made)
    assert {file.name: file.read_bytes() for file in made.iterdir()} == before


def test_a_folder_that_is_no_corpus_is_left_alone(rows, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(DataError, match="expected a corpus or no folder"):
        prepare(rows[0], tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_copy_of_a_document_is_dropped_and_the_report_adds_up(tmp_path):
    texts = write_rows(tmp_path / "a.jsonl", 200)
    write_rows(tmp_path / "b.jsonl", 250)
    (tmp_path / "bad.jsonl").write_bytes(b'{"text": "caf\xe9 and a good deal more of it"}\n' * 2)
    (tmp_path / "short.jsonl").write_text('{"text": "short"}\n')
    config = TextConfig(sources=(str(tmp_path),), tokenizer=SMALL, invalid_utf8="skip", processes=1)
    made = prepare(config, tmp_path / "corpus")
    assert len(texts) < made.train.documents + made.val.documents == 250
    assert made.invalid_utf8 == 2
    counts = list(made.cleaning.items())
    assert [name for name, count in counts if count["documents_dropped"]] == [
        "utf8",
        "min_chars",
        "duplicates",
    ]
    for (_, before), (_, after) in itertools.pairwise(counts):
        for what in ("documents", "characters"):
            assert after[f"{what}_kept"] + after[f"{what}_dropped"] == before[f"{what}_kept"]


def test_a_given_tokenizer_is_used(made, rows, tmp_path):
    model = tmp_path / "mine.model"
    model.write_bytes((made / "tokenizer.model").read_bytes())
    config = dataclasses.replace(rows[0], tokenizer=TokenizerConfig(file=str(model)))
    again = prepare(config, tmp_path / "corpus")
    assert again.train.shards == read_manifest(made).train.shards
    assert again.tokenizer.trained_bytes == 0
    os.utime(model, (1, 1))
    with pytest.raises(DataError, match=r"mine\.model: was"):
        prepare(config, tmp_path / "corpus")


def test_a_large_vocabulary_is_stored_in_four_bytes(tmp_path):
    characters = "\n".join("".join(map(chr, range(i, i + 20))) for i in range(0x4E00, 0x9F00, 4))
    (tmp_path / "a.txt").write_text(characters * 2)
    config = TextConfig(
        sources=(str(tmp_path / "a.txt"),),
        document_chars=1000,
        tokenizer=TokenizerConfig(vocab_size=66_000),
    )
    made = prepare(config, tmp_path / "corpus")
    assert made.dtype == "uint32"
    tokens = np.fromfile(tmp_path / "corpus" / "train-00000.bin", np.uint32)
    assert len(tokens) == made.train.tokens and 0 < tokens.max() < 66_000


REFUSALS = {
    "empty": (b"", {}, "expected text, found none that is left after cleaning"),
    "one side": (b"a text that is long enough", {}, "found [01] to train on and [01] to validate"),
    "binary": (b"\x7fELF\0\0", {}, r"a\.txt: expected UTF-8 text, found a binary file"),
    "pieces": (
        b"A text of few words.\n\n" * 90,
        {"document_chars": 100, "cleaning": CleaningConfig(duplicates=False)},
        r"supports at most \d+ pieces, found 8192",
    ),
    "no model": (b"text", {"tokenizer": TokenizerConfig(file="absent.model")}, "no such file"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_leave_nothing_behind(tmp_path, name):
    content, settings, message = REFUSALS[name]
    (tmp_path / "a.txt").write_bytes(content)
    config = TextConfig(
        sources=(str(tmp_path / "a.txt"),), **{"validation": 0.5, "processes": 1, **settings}
    )
    with pytest.raises((DataError, ConfigError), match=message):
        prepare(config, tmp_path / "corpus")
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_a_disk_too_small_is_told_before_anything_is_read(tmp_path):
    with (tmp_path / "huge.txt").open("wb") as stream:
        stream.truncate(8 << 40)
    with pytest.raises(DataError, match=r"expected about 17,592\.2 GB of free disk, found"):
        prepare(TextConfig(sources=(str(tmp_path / "huge.txt"),)), tmp_path / "corpus")


def test_a_row_without_text_is_told_with_its_line(tmp_path):
    write_rows(tmp_path / "a.jsonl", 50)
    with (tmp_path / "a.jsonl").open("a") as stream:
        stream.write('{"body": 3}\n')
    with pytest.raises(DataError, match=r"a\.jsonl, line 51: expected a field 'text'"):
        prepare(TextConfig(sources=(str(tmp_path / "a.jsonl"),)), tmp_path / "corpus")


def start(rows: TextConfig, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "lmjax.prepare", "--input", *rows.sources, "--out", str(out)]
    settings = ["--vocab-size", "300", "--text.processes", "2", "--text.shard-tokens", "200_000"]
    # A shell lets its background jobs ignore SIGINT, and a child would inherit that. Setting it in
    # the child (`preexec_fn`) would make Python fork, which jax warns of.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen([*command, *settings], stderr=subprocess.PIPE)
    finally:
        signal.signal(signal.SIGINT, before)
    spool = out.with_name(f".{out.name}.partial") / "spool"
    deadline = time.monotonic() + 30
    while not (spool.exists() and spool.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.002)
    return process


def test_killed_half_way_leaves_nothing_that_a_later_run_keeps(rows, made, tmp_path):
    out = tmp_path / "corpus"
    process = start(rows[0], out)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert [file.name for file in tmp_path.iterdir()] == [".corpus.partial"]
    for name in ("train-00000.bin", "train-00099.bin"):  # as if killed while encoding
        (tmp_path / ".corpus.partial" / name).write_bytes(b"old")
    prepare(rows[0], out)
    assert [file.name for file in tmp_path.iterdir()] == ["corpus"]
    assert read_manifest(out).files == read_manifest(made).files
    assert sorted(f.name for f in out.iterdir()) == sorted(f.name for f in made.iterdir())


def test_interrupted_leaves_nothing(rows, tmp_path):
    process = start(rows[0], tmp_path / "corpus")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert said.endswith(b"lmjax: interrupted; nothing is left behind\n")
    assert list(tmp_path.iterdir()) == []


def test_two_at_once_do_not_meet(rows, tmp_path):
    process = start(rows[0], tmp_path / "corpus")
    with pytest.raises(DataError, match="another process is preparing it"):
        prepare(rows[0], tmp_path / "corpus")
    process.communicate()
    assert process.returncode == 0
    verify(tmp_path / "corpus", read_manifest(tmp_path / "corpus"))


def test_neither_the_command_nor_its_workers_import_jax():
    script = "import sys, lmjax.prepare, lmjax.text.worker; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout == b"False\n"
