"""The command: both forms make the same corpus, and exit codes tell bad data from bad settings."""

import subprocess
import sys

import pytest

from lmjax.text.corpus import read_manifest


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


def test_help_shows_both_forms(folder):
    done = run(folder, "--help")
    assert done.returncode == 0
    assert "--input" in done.stdout and "--config" in done.stdout
