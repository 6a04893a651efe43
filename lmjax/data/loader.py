"""Batches of rows, read ahead by threads; the place in the data is one integer, the rows consumed.

Shapes: G micro-batches, B rows, T time, S = T + 1.
"""

import hashlib
import time
from collections.abc import Callable
from functools import lru_cache
from types import TracebackType
from typing import Any, NamedTuple, Self

import grain
import numpy as np

from lmjax.data.packing import RowTable
from lmjax.text.errors import DataError


class Batch(NamedTuple):
    """Rows on the host: for training tokens [G, B, S], for evaluation [B, S] and weights [B, T]."""

    tokens: np.ndarray
    """int32"""
    weights: np.ndarray | None = None
    """float32; none means that every target counts."""


class Share(NamedTuple):
    """The rows that a process reads, of those computed at a time: parts first to last of `of`."""

    first: int = 0
    last: int = 1
    of: int = 1

    def rows(self, count: int) -> range:
        """Which of `count` rows; `of` must divide them."""
        return range(count * self.first // self.of, count * self.last // self.of)


ALL = Share()


class Batches:
    """An iterator of batches; close it, or use it in a `with`, so that its threads end."""

    wait_seconds: float
    """Time the consumer has waited for batches."""

    def __init__(self, dataset: grain.IterDataset) -> None:
        self._iterator = iter(dataset)
        self.wait_seconds = 0.0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        start = time.perf_counter()
        try:
            batch: Batch = next(self._iterator)
        finally:
            self.wait_seconds += time.perf_counter() - start
        return batch

    def close(self) -> None:
        """End the reading threads."""
        self._iterator.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def order(seed: int, rows: int, position: int) -> int:
    """The row at a position of an endless order that shuffles all rows anew each epoch.

    A pure function: epoch e is the positions from e * rows to (e + 1) * rows.
    """
    epoch, index = divmod(position, rows)
    key = _epoch_key(seed, epoch)
    return int(grain.experimental.index_shuffle(index, max_index=rows - 1, seed=key, rounds=4))


@lru_cache
def _epoch_key(seed: int, epoch: int) -> int:
    # Hashed together, so that the second epoch of one seed is not the first of the next seed.
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])


def batches(
    table: RowTable,
    seed: int,
    position: int,
    rows: int,
    micro_rows: int | None = None,
    share: Share = ALL,
    threads: int = 2,
    prefetch: int = 4,
) -> Batches:
    """Endless training batches of `rows` rows from `position` on, tokens int32 [G, B, S].

    Which rows come next depends on `seed` and `position` alone; of each B of them, this process
    reads its `share`. `prefetch` is in batches.
    A row that cannot be read raises DataError from `next`, naming shard and row.
    """
    B = micro_rows or rows
    own = share.rows(B)

    def read(first: int) -> Batch:
        tokens_GBS = np.empty((rows // B, len(own), table.length + 1), np.int32)
        for micro, tokens_BS in zip(range(first, first + rows, B), tokens_GBS, strict=True):
            for i, row in enumerate(own):
                _write_row(table, order(seed, len(table), micro + row), tokens_BS[i])
        return Batch(tokens_GBS)

    return _read_ahead(range(position, 2**62, rows), read, threads, prefetch)


class Feed:
    """Training batches whose size may change; close it so that its threads end.

    `position` is the place in the data: the rows consumed, by all processes.
    """

    def __init__(self, table: RowTable, seed: int, position: int, share: Share = ALL) -> None:
        self.position = position
        self._share = share
        self._table, self._seed = table, seed
        self._size: tuple[int, int | None] | None = None
        self._batches: Batches | None = None
        self._waited = 0.0

    @property
    def wait_seconds(self) -> float:
        """Time the consumer has waited for batches."""
        return self._waited + (self._batches.wait_seconds if self._batches else 0.0)

    def read_ahead(self, rows: int, micro_rows: int | None = None) -> None:
        """Let the threads read batches of `rows` rows; of another size, those read are dropped."""
        if self._size != (rows, micro_rows):
            self.close()
            self._size = rows, micro_rows
            self._batches = batches(
                self._table, self._seed, self.position, rows, micro_rows, self._share
            )

    def take(self, rows: int, micro_rows: int | None = None) -> Batch:
        """The rows next in line, tokens int32 [G, B, S]."""
        self.read_ahead(rows, micro_rows)
        assert self._batches is not None
        batch = next(self._batches)
        self.position += rows
        return batch

    def seek(self, position: int) -> None:
        """Go on with the rows from `position` on; what was read ahead elsewhere is dropped."""
        if position != self.position:
            self.close()
            self.position = position

    def close(self) -> None:
        """End the reading threads."""
        if self._batches is not None:
            self._waited += self._batches.wait_seconds
            self._batches.close()
        self._size = self._batches = None


def evaluation_batches(
    table: RowTable,
    rows: int,
    max_rows: int | None = None,
    share: Share = ALL,
    threads: int = 2,
    prefetch: int = 4,
) -> Batches:
    """Every row of a covering table once, tokens int32 [B, S] and weights float32 [B, T].

    Of each `rows` this process reads its `share`.
    The last batch is filled up with rows of weight 0. Rows come in a fixed shuffled order, so that
    the first `max_rows` of them are a fair sample.
    """
    stop = len(table) if max_rows is None else min(max_rows, len(table))

    def read(first: int) -> Batch:
        own = share.rows(rows)
        tokens_BS = np.zeros((len(own), table.length + 1), np.int32)
        weights_BT = np.zeros((len(own), table.length), np.float32)
        for i, place in enumerate(range(first + own.start, min(first + own.stop, stop))):
            row = order(0, len(table), place)
            _write_row(table, row, tokens_BS[i])
            weights_BT[i] = table.weights(row)
        return Batch(tokens_BS, weights_BT)

    return _read_ahead(range(0, stop, rows), read, threads, prefetch)


def digest(tokens: np.ndarray) -> str:
    """8 bytes of blake2b over a batch's tokens, as hexadecimal digits."""
    return hashlib.blake2b(tokens.tobytes(), digest_size=8).hexdigest()


def _write_row(table: RowTable, row: int, out_S: np.ndarray) -> None:
    try:
        table.write_row(row, out_S)
    except (DataError, OSError) as error:
        raise DataError(f"row {row}: {error}") from error


def _read_ahead(
    places: range, read: Callable[[int], Batch], threads: int, prefetch: int
) -> Batches:
    # Whole batches are Grain's elements: its cost per element is then paid once a batch.
    dataset: Any = grain.MapDataset.range(places.start, places.stop, places.step).map(read)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
    return Batches(dataset.to_iter_dataset(options))
