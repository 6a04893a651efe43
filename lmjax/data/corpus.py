"""A corpus folder, opened: token streams of both splits, and what is known of the tokens."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lmjax.config import Config, ConfigError, ObjectiveConfig
from lmjax.data import shards
from lmjax.text import manifest, tokenizer
from lmjax.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Corpus:
    """Tokens to train on and to validate on."""

    folder: Path
    train: shards.Tokens
    validation: shards.Tokens
    tokenizer: Tokenizer | None
    """None for shards of other projects, which come without one."""
    digest: str
    """Stands for the content: SHA-256 of the manifest, or names and sizes of other's shards."""

    @property
    def bos(self) -> int | None:
        return None if self.tokenizer is None else self.tokenizer.bos

    @property
    def vocab_size(self) -> int | None:
        return None if self.tokenizer is None else self.tokenizer.vocab_size

    @property
    def word_starts(self) -> list[bool]:
        """Whether each token begins a word; empty without a tokenizer."""
        return [] if self.tokenizer is None else self.tokenizer.word_starts

    @property
    def bytes_V(self) -> np.ndarray | None:
        """UTF-8 bytes of each token, int64; None without a tokenizer."""
        return None if self.tokenizer is None else np.array(self.tokenizer.byte_lengths)


def exists(folder: Path) -> bool:
    """Whether there is anything at the place of a corpus."""
    return folder.is_dir() and any(folder.iterdir())


def open_corpus(folder: Path) -> Corpus:
    """Open a folder that `lmjax.prepare` made, or one of nanoGPT's or modded-nanogpt's shards.

    Every shard of ours is held against its digest first. Raises DataError naming what is damaged.
    """
    if not (folder / manifest.FILE).exists():
        paths = {split: shards.find_shards(folder, split) for split in ("train", "val")}
        content = repr([(p.name, p.stat().st_size) for split in paths.values() for p in split])
        train, validation = (shards.open_shards(paths[split]) for split in ("train", "val"))
        return Corpus(folder, train, validation, None, _digest(content.encode()))
    facts = manifest.read_manifest(folder)
    manifest.verify(folder, facts)
    train, validation = (
        shards.open_shards([folder / file.name for file in split.shards], facts.dtype)
        for split in (facts.train, facts.val)
    )
    model = tokenizer.load(folder / facts.tokenizer.file.name)
    return Corpus(folder, train, validation, model, _digest((folder / manifest.FILE).read_bytes()))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def ids(pieces: int, objective: ObjectiveConfig) -> int:
    """Ids a model must know: the tokenizer's pieces, and a mask where it has none of its own."""
    return pieces + (objective.kind == "masked" and objective.mask_id is None)


def padded(ids: int) -> int:
    """Rounded up to a multiple of 64, which products of matrices like."""
    return -(-ids // 64) * 64


def padded_vocabulary(corpus: Corpus, config: Config) -> int:
    """Rows of the embedding: as asked, or what the tokens need rounded up to a multiple of 64.

    A masked objective without a mask of its own needs one row more than the tokenizer has pieces.
    Raises ConfigError if fewer are asked for than the tokens need.
    """
    asked, pieces = config.model.vocab_size, corpus.vocab_size
    if pieces is None:
        if asked is None:
            raise ConfigError(
                f"model.vocab_size: expected a number, since {corpus.folder} has no tokenizer"
            )
        return asked
    needed = ids(pieces, config.objective)
    if asked is None:
        return padded(needed)
    if asked < needed:
        raise ConfigError(
            f"model.vocab_size: expected at least the {needed} the tokens need, found {asked}"
        )
    return asked
