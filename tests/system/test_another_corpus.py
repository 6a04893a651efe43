"""A run goes on with the corpus it was started with, and keeps that corpus's tokenizer."""

from commands import wait_for

from lmjax.config import TextConfig, TokenizerConfig
from lmjax.text.corpus import prepare


def test_another_corpus_is_refused_and_changes_nothing(commands, tmp_path):
    process = commands.start_training("--budget", "100000steps")
    wait_for(commands.folder / "run" / "metrics.jsonl", process, lines=3)
    process.kill()
    process.communicate()
    tokenizer = commands.folder / "run" / "tokenizer.model"
    kept = tokenizer.read_bytes()
    # 500 pieces are padded to the same 512 rows: only the digests can tell.
    text = TextConfig(tokenizer=TokenizerConfig(vocab_size=500), validation=0.01)
    prepare(text, tmp_path / "other")
    ended = commands.train("--budget", "100000steps", "--data", str(tmp_path / "other"))
    assert ended.code == 78, ended.err
    assert "corpus" in ended.err
    assert tokenizer.read_bytes() == kept
