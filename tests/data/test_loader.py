"""The order of rows depends on the seed and the position alone."""

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmjax.data.loader import (
    ALL,
    Batches,
    Feed,
    Share,
    batches,
    digest,
    evaluation_batches,
    order,
)
from lmjax.data.packing import RowTable, pack
from lmjax.data.shards import open_shards
from lmjax.text.errors import DataError

BOS = 0
T = 8


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    ids = np.arange(5000, dtype=np.uint16)
    ids[np.random.default_rng(0).integers(0, 5000, 400)] = BOS
    path = tmp_path / "train.bin"
    ids.tofile(path)
    return path


@pytest.fixture
def table(shard: Path) -> RowTable:
    return pack(open_shards([shard]), T, BOS, "documents")


def take(table: RowTable, count: int, position: int, rows: int, **settings: int) -> np.ndarray:
    """The next `count` batches as rows, [count * rows, S]."""
    with batches(table, 3, position, rows, **settings) as iterator:
        return np.concatenate([b.tokens.reshape(-1, T + 1) for b in islice(iterator, count)])


@settings(deadline=None)
@given(rows=st.integers(1, 300), seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 10**6))
def test_an_epoch_holds_every_row_once(rows: int, seed: int, epoch: int) -> None:
    positions = range(epoch * rows, (epoch + 1) * rows)
    assert sorted(order(seed, rows, position) for position in positions) == list(range(rows))


def test_epochs_and_seeds_shuffle_anew() -> None:
    def epoch(seed: int, number: int) -> tuple[int, ...]:
        return tuple(order(seed, 500, number * 500 + i) for i in range(500))

    epochs = {epoch(seed, number) for seed in range(6) for number in range(6)}
    assert len(epochs) == 36
    # Two unrelated orders of 500 rows agree in about one place.
    ordered = sorted(epochs)
    for one, two in pairwise(ordered):
        assert sum(a == b for a, b in zip(one, two, strict=True)) < 12
    assert np.corrcoef(np.arange(500), epoch(0, 0))[0, 1] < 0.2


def test_processes_read_the_rows_of_one(table: RowTable) -> None:
    """Side by side along the rows of each micro-batch, their shares are the batch of one."""
    shares = [Share(0, 1, 3), Share(1, 3, 3)]

    def both(read: Callable[[Share], Batches]) -> tuple[Any, list[Any]]:
        taken = []
        for share in (ALL, *shares):
            with read(share) as iterator:
                taken.append(list(islice(iterator, 3)))
        return taken[0], [taken[1], taken[2]]

    whole, parts = both(lambda share: batches(table, 3, 40, 12, 6, share))
    for batch, *own in zip(whole, *parts, strict=True):
        joined = np.concatenate([part.tokens for part in own], axis=1)
        assert [part.tokens.shape[1] for part in own] == [2, 4]
        np.testing.assert_array_equal(joined, batch.tokens)

    whole, parts = both(lambda share: evaluation_batches(table, 6, 16, share))
    assert len(whole) == 3  # the last with two rows that weigh nothing
    for batch, *own in zip(whole, *parts, strict=True):
        for field in ("tokens", "weights"):
            joined = np.concatenate([getattr(part, field) for part in own])
            np.testing.assert_array_equal(joined, getattr(batch, field))


def test_the_order_is_the_one_that_runs_on_disk_follow() -> None:
    # If this fails, Grain's permutation has changed: runs could no longer be resumed bit for bit.
    assert [order(0, 1000, i) for i in (0, 1, 2, 999, 1000, 10**9)] == [
        233,
        815,
        962,
        157,
        297,
        598,
    ]


def test_batches_hold_the_rows_of_the_order(table: RowTable) -> None:
    n = len(table)
    with batches(table, 3, n - 10, 12, micro_rows=4) as iterator:
        batch = next(iterator)
    assert batch.tokens.shape == (3, 4, T + 1)
    assert batch.tokens.dtype == np.int32
    assert batch.weights is None
    for i, row_S in enumerate(batch.tokens.reshape(12, T + 1)):
        np.testing.assert_array_equal(row_S, table.row(order(3, n, n - 10 + i)))


def test_restarting_at_a_position_is_continuing(table: RowTable) -> None:
    np.testing.assert_array_equal(take(table, 9, 5, 16)[4 * 16 :], take(table, 5, 5 + 4 * 16, 16))


def test_the_batch_size_does_not_change_which_rows_come_next(table: RowTable) -> None:
    rows = take(table, 24, 7, 4)
    np.testing.assert_array_equal(take(table, 2, 7, 48), rows)
    np.testing.assert_array_equal(take(table, 8, 7, 12, micro_rows=3), rows)
    changed = np.concatenate([take(table, 3, 7, 4), take(table, 7, 7 + 12, 12)])
    np.testing.assert_array_equal(changed, rows)


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_threads_change_nothing(table: RowTable, threads: int) -> None:
    expected = take(table, 20, 0, 8, threads=0, prefetch=0)
    np.testing.assert_array_equal(take(table, 20, 0, 8, threads=threads, prefetch=5), expected)


@pytest.mark.parametrize("rows", [1, 7, 64, 10_000])
@pytest.mark.parametrize("packing", ["documents", "contiguous"])
def test_evaluation_counts_every_target_whatever_its_rows(
    shard: Path, rows: int, packing: str
) -> None:
    tokens = open_shards([shard])
    ids = tokens.read(0, len(tokens))[1:]
    expected = len(ids) if packing == "contiguous" else np.count_nonzero(ids != BOS)
    total, targets = 0.0, []
    with evaluation_batches(pack(tokens, T, BOS, packing, cover=True), rows) as iterator:
        for batch in iterator:
            assert batch.weights is not None
            assert batch.tokens.shape == (rows, T + 1) and batch.tokens.dtype == np.int32
            assert batch.weights.shape == (rows, T) and batch.weights.dtype == np.float32
            total += float(batch.weights.sum())
            targets.append(batch.tokens[:, 1:][batch.weights > 0])
    assert total == expected
    counted = np.sort(np.concatenate(targets))
    np.testing.assert_array_equal(counted[counted != BOS], np.sort(ids[ids != BOS]))


def test_evaluation_of_the_first_rows_is_a_sample_of_all(shard: Path) -> None:
    table = pack(open_shards([shard]), T, BOS, "documents", cover=True)
    with evaluation_batches(table, 7, max_rows=20) as iterator:
        found = list(iterator)
    assert len(found) == 3
    rows = np.concatenate([batch.tokens for batch in found])
    assert not rows[20:].any() and not found[-1].weights[6:].any()
    for i in range(20):
        np.testing.assert_array_equal(rows[i], table.row(order(0, len(table), i)))
    with evaluation_batches(table, 7, max_rows=10**6) as iterator:
        assert len(list(iterator)) == -(-len(table) // 7)


@pytest.mark.parametrize("threads", [0, 2])
def test_a_reading_error_names_shard_and_row(shard: Path, table: RowTable, threads: int) -> None:
    with batches(table, 0, 0, 4, threads=threads, prefetch=threads) as iterator:
        next(iterator)
        os.truncate(shard, 1000)
        with pytest.raises(DataError) as error:
            for _ in range(10):
                next(iterator)
    expected = rf"row \d+: {re.escape(str(shard))}: expected 10000 bytes, found 1000; "
    assert re.match(expected, str(error.value))


def wait_for_threads(number: int) -> None:
    deadline = time.monotonic() + 20
    while threading.active_count() > number:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_closing_ends_the_threads(table: RowTable) -> None:
    before = threading.active_count()
    for used in (False, True):
        iterator = batches(table, 0, 0, 4)
        if used:
            next(iterator)
            assert iterator.wait_seconds > 0
        iterator.close()
        iterator.close()
    wait_for_threads(before)


def test_a_digest_tells_batches_apart(table: RowTable) -> None:
    one, two = take(table, 1, 0, 4), take(table, 1, 4, 4)
    assert digest(one) == digest(one.copy()) != digest(two)
    assert re.fullmatch("[0-9a-f]{16}", digest(one))
    changed = one.copy()
    changed[2, 3] ^= 1
    assert digest(changed) != digest(one)


def test_batches_of_another_size_go_on_with_the_row_next_in_line(table: RowTable) -> None:
    threads = threading.active_count()
    with contextlib.closing(Feed(table, 3, 5)) as feed:
        sizes = [(4, 2), (4, 2), (1, None), (7, None), (4, 4)]
        shapes, rows = [], []
        for size in sizes:
            tokens = feed.take(*size).tokens
            shapes.append(tokens.shape[:2])
            rows.append(tokens.reshape(-1, T + 1))
        assert shapes == [(2, 2), (2, 2), (1, 1), (1, 7), (1, 4)]
        assert feed.position == 25
        assert feed.wait_seconds > 0
    np.testing.assert_array_equal(np.concatenate(rows), take(table, 4, 5, 5))
    wait_for_threads(threads)


def test_a_feed_goes_on_from_another_place(table: RowTable) -> None:
    with contextlib.closing(Feed(table, 3, 5)) as feed:
        first = feed.take(4).tokens
        feed.seek(9)
        assert feed.position == 9
        np.testing.assert_array_equal(feed.take(4).tokens[0], take(table, 1, 9, 4))
        feed.seek(5)
        np.testing.assert_array_equal(feed.take(4).tokens, first)
        assert feed.position == 9
