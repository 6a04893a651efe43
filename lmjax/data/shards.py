"""Token shards on disk as one stream of ids.

Three layouts are read: our own headerless uint16 or uint32 (the corpus manifest says which),
nanoGPT's headerless uint16, and the one of llm.c and modded-nanogpt: a header of 256 int32 (magic,
version, number of tokens), then the ids.

They are read, not mapped: a page of a file that was cut, or that its disk cannot give, would end
the process with SIGBUS, and a read says so.

Shapes: N tokens of the stream, D documents.
"""

import os
import weakref
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lmjax.text.errors import DataError

HEADER_BYTES = 1024
HEADERS: dict[int, tuple[int, np.dtype[Any]]] = {
    20240520: (1, np.dtype("<u2")),
    20240801: (7, np.dtype("<u4")),
}
"""llm.c's magic numbers (GPT-2, Llama 3): the version we know, and the type of its ids."""
CHUNK = 2**24
"""Tokens scanned at a time."""


@dataclass(frozen=True, eq=False)
class _Shard:
    """An open file, closed with the last who holds it."""

    path: Path
    descriptor: int
    dtype: np.dtype[Any]
    skip: int
    """Bytes before the first id."""
    length: int
    """Ids."""

    def __post_init__(self) -> None:
        weakref.finalize(self, os.close, self.descriptor)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Ids start to stop, a copy. Raises DataError if the file does not give them."""
        ids = np.empty(stop - start, self.dtype)
        at = self.skip + start * ids.itemsize
        left, found = ids.view(np.uint8).data, -1
        while left and found:
            try:
                found = os.preadv(self.descriptor, [left], at)
            except OSError as error:
                raise DataError(
                    f"{self.path}: cannot be read at byte {at}: {error.strerror}; "
                    "restore it, to another disk if this one fails, and run again"
                ) from error
            left, at = left[found:], at + found
        # After the read: one beside a cut may be given zeros.
        expected, size = self.skip + self.length * ids.itemsize, os.fstat(self.descriptor).st_size
        if left or size < expected:
            raise DataError(
                f"{self.path}: expected {expected} bytes, found {size}; "
                "the file was cut while it was read; restore it and run again"
            )
        return ids


class Tokens:
    """Shards as one read-only stream of N ids; made by `open_shards`. Pickles as its paths."""

    def __init__(self, shards: Sequence[_Shard], dtype: str | None) -> None:
        self._shards = tuple(shards)
        self._dtype = dtype
        self._starts = [0, *accumulate(shard.length for shard in shards)]

    def __reduce__(self) -> tuple[Any, ...]:
        return open_shards, ([shard.path for shard in self._shards], self._dtype)

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens start to stop.

        Raises IndexError outside the stream, DataError for a shard that no longer gives its ids.
        """
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"tokens {start} to {stop} of {len(self)}")
        index = min(bisect_right(self._starts, start), len(self._shards)) - 1
        parts = []
        while True:
            shard, offset = self._shards[index], self._starts[index]
            parts.append(shard.read(start - offset, min(stop - offset, shard.length)))
            index += 1
            start = self._starts[index]
            if stop <= start:
                return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def locate(self, position: int) -> tuple[Path, int]:
        """The shard that holds a token, and the token's place in it."""
        index = min(bisect_right(self._starts, position), len(self._shards)) - 1
        return self._shards[index].path, position - self._starts[index]

    def document_starts(self, bos: int | None) -> np.ndarray:
        """Where documents start, int64 [D], ascending: 0, and every BOS. Without one, 0 alone."""
        starts = [np.zeros(1, np.int64)]
        if bos is not None:
            starts += [start + np.flatnonzero(ids == bos) for start, ids in self._chunks()]
        starts_D = np.concatenate(starts)
        return starts_D[1:] if len(starts_D) > 1 and starts_D[1] == 0 else starts_D

    def check_ids(self, vocab_size: int) -> None:
        """Raise DataError, naming shard and place, if an id is not below `vocab_size`."""
        for start, ids in self._chunks():
            if ids.max() >= vocab_size:
                place = int(ids.argmax())
                path, offset = self.locate(start + place)
                raise DataError(
                    f"{path}: expected ids below {vocab_size}, found {ids[place]} "
                    f"at token {offset}; use the tokenizer the shard was made with"
                )

    def _chunks(self) -> Iterator[tuple[int, np.ndarray]]:
        for start in range(0, len(self), CHUNK):
            yield start, self.read(start, min(start + CHUNK, len(self)))


def open_shards(paths: Sequence[str | Path], dtype: str | None = None) -> Tokens:
    """Open shard files, in this order, as one stream.

    `dtype` is what the manifest of a corpus of ours says: "uint16" or "uint32", headerless.
    Without it a file is llm.c's if its magic number says so, else nanoGPT's headerless uint16.
    Raises DataError for a file that is missing, empty or truncated, or has an unknown version.
    """
    if not paths:
        raise DataError("expected at least one token shard, found none; prepare the corpus again")
    return Tokens([_open_shard(Path(path), dtype) for path in paths], dtype)


def _open_shard(path: Path, dtype: str | None) -> _Shard:
    if not path.is_file():
        raise DataError(f"{path}: expected a token shard, found none; prepare the corpus again")
    size = path.stat().st_size
    if size == 0:
        raise DataError(f"{path}: expected tokens, found an empty file; write or download it again")
    kind: np.dtype[Any] = np.dtype(dtype or "uint16").newbyteorder("<")
    skip, count = 0, None
    if dtype is None and size >= HEADER_BYTES:
        magic, version, header_count = np.fromfile(path, "<i4", 3).tolist()
        if magic in HEADERS:
            known, kind = HEADERS[magic]
            skip, count = HEADER_BYTES, header_count
            if version != known:
                raise DataError(
                    f"{path}: expected version {known} of the layout {magic}, found {version}; "
                    "write the shard again in that version"
                )
    found = (size - skip) / kind.itemsize
    if count is not None and found != count:
        raise DataError(
            f"{path}: expected {count} tokens by its header, found {found:g}; "
            "the file is not whole: write or download it again"
        )
    if found != int(found):
        raise DataError(
            f"{path}: expected a multiple of {kind.itemsize} bytes ({kind.name}), found {size}; "
            "the file is not whole: write or download it again"
        )
    if found == 0:
        raise DataError(f"{path}: expected tokens, found a header alone; write the shard again")
    return _Shard(path, os.open(path, os.O_RDONLY), kind, skip, int(found))


def find_shards(folder: str | Path, split: Literal["train", "val"]) -> list[Path]:
    """The shards of a split in a folder without a manifest, sorted by name.

    nanoGPT's `train.bin`, else modded-nanogpt's `*_train_*.bin`. Raises DataError if there is none.
    """
    folder = Path(folder)
    paths = sorted(folder.glob(f"{split}.bin")) or sorted(folder.glob(f"*_{split}_*.bin"))
    if not paths:
        raise DataError(
            f"{folder}: expected manifest.json, {split}.bin or *_{split}_*.bin, found none; "
            "name a folder of token shards, or prepare one with `python -m lmjax.prepare`"
        )
    return paths
