"""Packing loses nothing and repeats nothing but what it says; rows begin where documents begin."""

import math
import tempfile
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmjax.data.packing import RowTable, best_fit_decreasing, pack
from lmjax.data.shards import Tokens, open_shards
from lmjax.text.errors import DataError

BOS = 0
lengths = st.lists(st.integers(1, 70), min_size=1, max_size=60)


def write_stream(
    sizes: Sequence[int], headless: bool = False, folder: str | Path | None = None
) -> Tokens:
    """Documents of these sizes; an id is its place in the stream, but for each BOS."""
    ids = np.arange(sum(sizes))
    starts = np.cumsum([0, *sizes])[:-1]
    ids[starts] = BOS
    if headless:
        ids[0] = len(ids)
    path = Path(folder or tempfile.mkdtemp()) / "train.bin"
    ids.astype(np.uint32).tofile(path)
    return open_shards([path], "uint32")


def weighted_targets(table: RowTable) -> Counter[tuple[int, int]]:
    """How often each pair of an input and its target counts."""
    pairs: Counter[tuple[int, int]] = Counter()
    for i in range(len(table)):
        row_S, weights_T = table.row(i), table.weights(i)
        assert row_S.shape == (table.length + 1,) and weights_T.shape == (table.length,)
        assert set(weights_T) <= {0, 1}
        for place in np.flatnonzero(weights_T):
            pairs[int(row_S[place]), int(row_S[place + 1])] += 1
    return pairs


def pairs_of_documents(tokens: Tokens) -> list[tuple[int, int]]:
    """Each token of a document that has a predecessor, with it."""
    ids = tokens.read(0, len(tokens)).tolist()
    return [(a, b) for a, b in pairwise(ids) if b != BOS]


@settings(deadline=None, max_examples=150)
@given(sizes=lengths, length=st.integers(1, 40), headless=st.booleans())
def test_covering_documents_have_every_target_exactly_once(
    sizes: list[int], length: int, headless: bool
) -> None:
    if sum(sizes) < 2:
        return
    with tempfile.TemporaryDirectory() as folder:
        tokens = write_stream(sizes, headless, folder)
        table = pack(tokens, length, BOS, "documents", cover=True)
        assert weighted_targets(table) == Counter(pairs_of_documents(tokens))
        assert table.repeated_tokens == 0


@settings(deadline=None, max_examples=150)
@given(sizes=lengths, length=st.integers(1, 40), headless=st.booleans())
def test_training_documents_have_every_target_and_fill_every_row(
    sizes: list[int], length: int, headless: bool
) -> None:
    if sum(sizes) < length + 1:
        return
    with tempfile.TemporaryDirectory() as folder:
        tokens = write_stream(sizes, headless, folder)
        table = pack(tokens, length, BOS, "documents")
        expected, found = Counter(pairs_of_documents(tokens)), weighted_targets(table)
        # What fills a gap may run on into the next document: over a BOS, which counts for neither.
        found = Counter({pair: count for pair, count in found.items() if pair[1] != BOS})
        assert set(found) == set(expected)
        # What is there more often is there to fill a gap.
        assert (found - expected).total() <= table.repeated_tokens
        places = len(table) * (length + 1)
        assert sum(size for i in range(len(table)) for _, size in table.pieces(i)) == places
        assert table.fill_share == pytest.approx(1 - table.repeated_tokens / places)
        # Rows begin with BOS wherever they hold a document's start that is not there to fill.
        begin = [table.row(i)[0] == BOS for i in range(len(table))]
        assert table.bos_share == pytest.approx(np.mean(begin))
        cover = pack(tokens, length, BOS, "documents", cover=True)
        assert len(cover) == len(table) and cover.fill_share == table.fill_share
        for i in range(len(cover)):
            row_S, size = table.row(i), sum(size for _, size in cover.pieces(i))
            np.testing.assert_array_equal(row_S[:size], cover.row(i)[:size])
            assert size == length + 1 or row_S[size] == BOS or headless
            assert begin[i] or BOS not in row_S[:size]


@settings(deadline=None, max_examples=100)
@given(size=st.integers(2, 300), length=st.integers(1, 40))
def test_contiguous_rows_have_every_target_exactly_once(size: int, length: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tokens = write_stream([size], folder=folder)
        every = Counter(pairs_of_documents(tokens))
        cover = pack(tokens, length, BOS, "contiguous", cover=True)
        assert weighted_targets(cover) == every
        assert len(cover) == math.ceil((size - 1) / length)
        if size <= length:
            return
        table = pack(tokens, length, BOS, "contiguous")
        assert len(table) == (size - 1) // length
        assert table.fill_share == 1
        for i in range(len(table)):
            np.testing.assert_array_equal(
                table.row(i), tokens.read(i * length, i * length + length + 1)
            )


def test_a_stream_without_bos_is_one_document(tmp_path: Path) -> None:
    tokens = write_stream([100], headless=True, folder=tmp_path)
    documents = pack(tokens, 8, None, "documents", cover=True)
    contiguous = pack(tokens, 8, None, "contiguous", cover=True)
    assert weighted_targets(documents) == weighted_targets(contiguous)
    assert documents.bos_share == 0


@settings(deadline=None, max_examples=200)
@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=200), capacity=st.integers(30, 60))
def test_best_fit_is_the_textbook_one(sizes: list[int], capacity: int) -> None:
    spaces: list[int] = []
    for size in sorted(sizes, reverse=True):
        fitting = [space for space in spaces if space >= size]
        if fitting:
            spaces.remove(min(fitting))
            spaces.append(min(fitting) - size)
        else:
            spaces.append(capacity - size)
    rows_P, spaces_R = best_fit_decreasing(np.array(sizes, np.int32), capacity)
    assert sorted(spaces_R.tolist()) == sorted(spaces)
    filled_R = np.bincount(rows_P, weights=sizes, minlength=len(spaces_R))
    np.testing.assert_array_equal(filled_R + spaces_R, capacity)


@pytest.mark.parametrize(("median", "spread"), [(500, 1.1), (150, 1.0), (3000, 0.8)])
def test_realistic_lengths_leave_hardly_a_gap(median: int, spread: float, tmp_path: Path) -> None:
    draws = np.random.default_rng(0).lognormal(math.log(median), spread, 3000)
    tokens = write_stream(np.maximum(2, draws).astype(int).tolist(), folder=tmp_path)
    table = pack(tokens, 1024, BOS, "documents")
    assert table.fill_share > 0.97
    assert table.repeated_tokens < 0.03 * len(tokens)


def test_short_documents_all_begin_their_rows(tmp_path: Path) -> None:
    draws = np.random.default_rng(0).integers(2, 257, 2000)
    tokens = write_stream(draws.tolist(), folder=tmp_path)
    assert pack(tokens, 256, BOS, "documents").bos_share == 1


def test_a_table_is_the_same_each_time(tmp_path: Path) -> None:
    tokens = write_stream(np.random.default_rng(0).integers(2, 99, 500).tolist(), folder=tmp_path)
    one, two = (pack(tokens, 32, BOS, "documents") for _ in range(2))
    for name in ("offsets", "starts", "sizes"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_padding_is_zero_and_weighs_nothing(tmp_path: Path) -> None:
    table = pack(write_stream([4], folder=tmp_path), 6, BOS, "documents", cover=True)
    row_S = np.full(7, 99, np.int32)
    table.write_row(0, row_S)
    assert row_S.tolist() == [BOS, 1, 2, 3, 0, 0, 0]
    assert table.weights(0).tolist() == [1, 1, 1, 0, 0, 0]


def test_too_few_tokens_are_refused(tmp_path: Path) -> None:
    tokens = write_stream([10], folder=tmp_path)
    message = r"train\.bin: expected at least 11 tokens, found 10; .*model\.length"
    for packing in ("documents", "contiguous"):
        assert len(pack(tokens, 9, BOS, packing)) == 1
        assert len(pack(tokens, 10, BOS, packing, cover=True)) == 1
        with pytest.raises(DataError, match=message):
            pack(tokens, 10, BOS, packing)
    with pytest.raises(DataError, match="expected at least 2 tokens, found 1"):
        pack(write_stream([1], folder=tmp_path), 10, BOS, "documents", cover=True)
