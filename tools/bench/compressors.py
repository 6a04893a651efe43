"""What general compressors make of a corpus: bits per validation byte, given the training text.

    python -m tools.bench.compressors --data corpora/python-docs

The size of training and validation text together less that of the training text alone, in bits per
byte of validation text: what a model's bits per byte can be held against. Documents are set apart
by one zero byte, which costs the compressors next to nothing.
"""

import bz2
import lzma
from pathlib import Path

import tyro

from lmjax.data.corpus import Corpus, open_corpus
from lmjax.data.shards import Tokens


def text(corpus: Corpus, tokens: Tokens) -> bytes:
    """A split as it was encoded, a zero byte before each document."""
    assert corpus.tokenizer is not None
    starts = tokens.document_starts(corpus.bos).tolist()
    ends = [*starts[1:], len(tokens)]
    return b"".join(
        b"\0" + corpus.tokenizer.decode(tokens.read(start, end).tolist()).encode()
        for start, end in zip(starts, ends, strict=True)
    )


def main(data: Path) -> None:
    corpus = open_corpus(data)
    train, validation = text(corpus, corpus.train), text(corpus, corpus.validation)
    compressors = {
        "bzip2 -9": lambda raw: bz2.compress(raw, 9),
        "xz -9": lambda raw: lzma.compress(raw, preset=9),
    }
    for name, compress in compressors.items():
        grown = len(compress(train + validation)) - len(compress(train))
        print(f"{name:10}{8 * grown / len(validation):8.4f} bits per validation byte")


if __name__ == "__main__":
    tyro.cli(main)
