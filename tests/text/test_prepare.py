"""The command: both forms make the same corpus, and exit codes tell bad data from bad settings."""

import subprocess
import sys
from hashlib import sha256

import numpy as np
import pytest

from lmjax.runtime import journal
from lmjax.text.corpus import read_manifest, verify
from lmjax.text.manifest import File


def run(folder, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lmjax.prepare", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tmp_path):
    for name in ("one", "two"):
        text = "".join(f"Paragraph {i} of {name}.\n\n" for i in range(400))
        (tmp_path / f"{name}.txt").write_text(text)
    (tmp_path / "recipe.py").write_text(
        "from lmjax import config as c\n"
        "def get_config():\n"
        "    tokenizer = c.TokenizerConfig(vocab_size=300)\n"
        "    text = c.TextConfig(sources=('one.txt', 'two.txt'), document_chars=200,"
        " tokenizer=tokenizer)\n"
        "    return c.Config(data='corpora/recipe', text=text)\n"
    )
    return tmp_path


def test_both_forms_make_the_same_corpus(folder):
    short = [
        "--vocab-size",
        "300",
        "--text.document-chars",
        "200",
        "--text.cleaning.min-chars",
        "5",
    ]
    one = run(folder, "--input", "one.txt", "two.txt", "--out", "corpora/mine", *short)
    assert (one.returncode, one.stdout) == (0, "")
    assert "duplicates" in one.stderr and "bytes a token" in one.stderr
    two = run(folder, "--config", "recipe.py", "--text.cleaning.min-chars", "5")
    assert (two.returncode, two.stdout) == (0, "")
    mine, recipe = (read_manifest(folder / "corpora" / name) for name in ("mine", "recipe"))
    assert mine == recipe
    again = run(folder, "--input", "one.txt", "two.txt", "--out", "corpora/mine", *short)
    assert (again.returncode, "up to date" in again.stderr) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--input", "absent.txt", "--out", "x"], 65, "found none at absent.txt"),
        (["--input", "one.txt", "--out", "x"], 65, "found 1 to train on and 0 to validate"),
        (["--config", "recipe.py", "--text.tokenizer.vocab-size", "8192"], 78, "pieces, found 819"),
        (["--input", "one.txt", "--out", "x", "--vocab-size", "3"], 78, "between 300 and"),
        (
            ["--input", "one.txt", "--out", "x", "--tokenizer", "absent.json"],
            65,
            "absent.json: expected a tokenizer.json, found no such file",
        ),
        (["--input", "one.txt"], 78, "--out"),
        (["--out", "x"], 78, "--input"),
        (["--config", "absent.py"], 78, "absent.py"),
        (["--config", "recipe.py", "--text.no-such", "1"], 78, "no-such"),
        (["--input", "a", "--out", "x", "--text.sources", "b"], 78, "text.sources"),
        (["--input", "a", "--out", "x", "--tokenizer", "b", "--vocab-size", "999"], 78, "vocab-s"),
    ],
)
def test_refusals_have_their_exit_code_and_say_why(folder, arguments, code, message):
    before = sorted(file.name for file in folder.iterdir())
    done = run(folder, *arguments)
    assert done.returncode == code, done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == ""
    assert sorted(file.name for file in folder.iterdir() if file.name != "corpora") == before


RECIPE = """
from lmjax.config import *

def get_config():
    return Config(
        run="run",
        budget="2steps",
        model=TransformerConfig(length=16, depth=1, width=32, heads=2),
        batch=BatchConfig(rows=2),
    )
"""


def test_a_tokenizer_json_is_kept_encodes_the_text_and_trains(folder, environment):
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    theirs.train([str(folder / "one.txt")], trainer)
    theirs.save(str(folder / "theirs.json"))

    made = folder / "corpora" / "mine"
    sources = ["--input", "one.txt", "two.txt", "--text.document-chars", "200"]
    done = run(folder, *sources, "--tokenizer", "theirs.json", "--out", "corpora/mine")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    facts = read_manifest(made)
    verify(made, facts)
    content = (folder / "theirs.json").read_bytes()
    digest = sha256(content).hexdigest()
    assert facts.tokenizer.file == File(name="tokenizer.json", size=len(content), sha256=digest)
    assert {"tokenizers", "lmjax"} <= set(facts.versions)
    assert (made / "tokenizer.json").read_bytes() == content
    size, bos = theirs.get_vocab_size(), theirs.token_to_id("<|endoftext|>")
    assert (facts.tokenizer.vocab_size, facts.tokenizer.bos) == (size, bos)

    lines = []
    for side in (facts.train, facts.val):
        tokens = np.concatenate([np.fromfile(made / s.name, facts.dtype) for s in side.shards])
        starts = np.flatnonzero(tokens == bos)
        assert len(starts) == side.documents and len(tokens) == side.tokens
        for part in np.split(tokens, starts)[1:]:
            text = theirs.decode(part[1:].tolist())
            assert part[1:].tolist() == theirs.encode(text).ids
            lines += text.split("\n\n")
    assert sorted(lines) == sorted(
        f"Paragraph {i} of {n}." for n in ("one", "two") for i in range(400)
    )

    (folder / "small.py").write_text(RECIPE)
    command = [sys.executable, "-m", "lmjax.train", "--config", "small.py", "--data", str(made)]
    trained = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert trained.returncode == 0, trained.stderr
    *_, last = [e for e in journal.read(folder / "run" / "metrics.jsonl") if "val_loss" in e]
    assert last["step"] == 2 and last["val_bits_per_byte"] > 0
    assert (folder / "run" / "tokenizer.json").read_bytes() == content


def test_help_shows_both_forms(folder):
    done = run(folder, "--help")
    assert done.returncode == 0
    assert "--input" in done.stdout and "--config" in done.stdout
