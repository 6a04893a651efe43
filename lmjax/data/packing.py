"""Rows of T + 1 tokens as a table of slices of the stream: built once, the same each time.

A document longer than a row is cut into pieces that share one token, the last of a piece being the
first of the next, so that every token of a document but its first is a target exactly once.

Shapes: N tokens of the stream, D documents, P pieces, R rows, A alike rows, T time, S = T + 1.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from lmjax.data.shards import Tokens
from lmjax.text.errors import DataError


@dataclass(frozen=True, kw_only=True, eq=False)
class RowTable:
    """Rows as pieces of the stream; what the pieces leave free at a row's end is padding."""

    tokens: Tokens
    length: int
    """T: a row has one token more."""
    offsets: np.ndarray
    """int64 [R + 1]: row i is made of the pieces offsets[i] to offsets[i + 1]."""
    starts: np.ndarray
    """int64 [P]: where a piece starts in the stream."""
    sizes: np.ndarray
    """int32 [P]: its tokens."""
    fill_share: float
    """Share of the rows' places that are neither padding nor repeated."""
    repeated_tokens: int
    """Tokens that are read again, to fill gaps."""
    bos_share: float | None
    """Share of rows that begin with BOS; none for contiguous rows, where it is chance."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def pieces(self, row: int) -> list[tuple[int, int]]:
        """Start and size of each piece of a row."""
        span = slice(self.offsets[row], self.offsets[row + 1])
        return list(zip(self.starts[span].tolist(), self.sizes[span].tolist(), strict=True))

    def write_row(self, row: int, out_S: np.ndarray) -> None:
        """Write a row into `out_S`, padded with 0."""
        at = 0
        for start, size in self.pieces(row):
            out_S[at : at + size] = self.tokens.read(start, start + size)
            at += size
        out_S[at:] = 0

    def row(self, row: int) -> np.ndarray:
        """The tokens of a row, int32 [S]."""
        row_S = np.empty(self.length + 1, np.int32)
        self.write_row(row, row_S)
        return row_S

    def weights(self, row: int) -> np.ndarray:
        """Weights of a covering row's targets, float32 [T]: 0 for padding and where a piece starts.

        A piece's first token has no predecessor, or is a target at the end of the piece before.
        """
        weights_S = np.zeros(self.length + 1, np.float32)
        at = 0
        for _, size in self.pieces(row):
            weights_S[at + 1 : at + size] = 1
            at += size
        return weights_S[1:]


def pack(
    tokens: Tokens,
    length: int,
    bos: int | None,
    packing: Literal["documents", "contiguous"],
    cover: bool = False,
) -> RowTable:
    """Rows of `length` + 1 tokens.

    For training every row is full: gaps are filled with the heads of other documents, and an
    incomplete contiguous row is dropped. With `cover`, for evaluation, rows are padded instead, and
    every target is there once. Raises DataError if the stream has too few tokens for a row.
    """
    least = 2 if cover else length + 1
    if len(tokens) < least:
        path, _ = tokens.locate(0)
        raise DataError(
            f"{path}: expected at least {least} tokens, found {len(tokens)}; "
            "give more text, or lower model.length"
        )
    if packing == "contiguous":
        return _pack_contiguous(tokens, length, cover)
    return _pack_documents(tokens, length, bos, cover)


def _pack_contiguous(tokens: Tokens, length: int, cover: bool) -> RowTable:
    """Slices of S tokens, T apart: the stream cut as if it were one document.

    The last one is dropped, or kept as it is (`cover`), if it is short.
    """
    starts_P, sizes_P, _ = cut(np.zeros(1, np.int64), len(tokens), length)
    if sizes_P[-1] <= length and not cover:
        starts_P, sizes_P = starts_P[:-1], sizes_P[:-1]
    return RowTable(
        tokens=tokens,
        length=length,
        offsets=np.arange(len(starts_P) + 1),
        starts=starts_P,
        sizes=sizes_P,
        fill_share=int(sizes_P.sum(dtype=np.int64)) / (len(starts_P) * (length + 1)),
        repeated_tokens=0,
        bos_share=None,
    )


def _pack_documents(tokens: Tokens, length: int, bos: int | None, cover: bool) -> RowTable:
    """Best-fit packing of documents, rows beginning with BOS where they hold one.

    Sources: best-fit-decreasing after Ding et al. 2024, "Fewer Truncations Improve Language
    Modeling"; rows aligned to BOS after nanochat's loader.
    """
    starts_D = tokens.document_starts(bos)
    starts_P, sizes_P, headless_P = cut(starts_D, len(tokens), length)
    headless_P[0] = tokens.read(0, 1)[0] != bos
    rows_P, gaps_R = best_fit_decreasing(sizes_P, length + 1)
    # Within a row: pieces with a BOS, then continuations, then the head that fills the gap.
    keys_P = rows_P * 3 + headless_P
    gap_tokens = int(gaps_R.sum())
    gapped_R = np.flatnonzero(gaps_R)
    if not cover and len(gapped_R):
        # Documents drawn evenly over the stream, of those that a whole row fits behind.
        fitting_D = starts_D[starts_D <= len(tokens) - length - 1]
        drawn = np.linspace(0, len(fitting_D), len(gapped_R), endpoint=False).astype(np.int64)
        starts_P = np.concatenate([starts_P, fitting_D[drawn]])
        sizes_P = np.concatenate([sizes_P, gaps_R[gapped_R].astype(np.int32)])
        keys_P = np.concatenate([keys_P, gapped_R * 3 + 2])
    order_P = np.argsort(keys_P, kind="stable")
    keys_P = keys_P[order_P]
    offsets = np.searchsorted(keys_P, np.arange(len(gaps_R) + 1) * 3)
    return RowTable(
        tokens=tokens,
        length=length,
        offsets=offsets,
        starts=starts_P[order_P],
        sizes=sizes_P[order_P],
        fill_share=1 - gap_tokens / (len(gaps_R) * (length + 1)),
        repeated_tokens=0 if cover else gap_tokens,
        bos_share=float(np.mean(keys_P[offsets[:-1]] % 3 == 0)),
    )


def cut(starts_D: np.ndarray, stop: int, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut documents into pieces of at most T + 1 tokens, T apart.

    Returns where pieces start (int64 [P]), their sizes (int32 [P]), and whether they are
    continuations (bool [P]), in the order of the stream.
    """
    ends_D = np.append(starts_D[1:], stop)
    counts_D = np.maximum(1, -((starts_D + 1 - ends_D) // length))
    pieces_before_D = np.cumsum(counts_D) - counts_D
    within_P = np.arange(counts_D.sum()) - np.repeat(pieces_before_D, counts_D)
    starts_P = np.repeat(starts_D, counts_D) + within_P * length
    sizes_P = np.minimum(np.repeat(ends_D, counts_D) - starts_P, length + 1).astype(np.int32)
    return starts_P, sizes_P, within_P > 0


def best_fit_decreasing(sizes_P: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """Put items, largest first, each into the fullest row that still takes it.

    Returns the row of each item (int64 [P]) and what each row has left (int64 [R]). Items of one
    size are placed together, since rows with equal space are alike: millions take a second.
    """
    order_P = np.argsort((capacity - sizes_P).astype(np.min_scalar_type(capacity)), kind="stable")
    counts = np.bincount(sizes_P, minlength=capacity + 1)
    rows_P = np.empty(len(sizes_P), np.int64)
    rows_by_space: list[list[np.ndarray]] = [[] for _ in range(capacity + 1)]
    has_rows = np.zeros(capacity + 1, bool)
    placed, rows = 0, 0
    for size in np.flatnonzero(counts)[::-1].tolist():
        last = placed + int(counts[size])
        while placed < last:
            space = size + int(has_rows[size:].argmax())
            if not has_rows[space]:
                space = capacity
                new = -(-(last - placed) // (capacity // size))
                rows_by_space[space] = [np.arange(rows, rows + new)]
                rows += new
            rows_A = np.concatenate(rows_by_space[space])
            # A row that is the best fit stays it while items of this size fit: it takes all it can.
            each = space // size
            items = min(last - placed, each * len(rows_A))
            full, rest = divmod(items, each)
            used = full + (rest > 0)
            rows_P[order_P[placed : placed + items]] = np.repeat(rows_A[:used], each)[:items]
            placed += items
            rows_by_space[space] = []
            for new_space, moved in (
                (space, rows_A[used:]),
                (space - each * size, rows_A[:full]),
                (space - rest * size, rows_A[full:used]),
            ):
                if len(moved):
                    rows_by_space[new_space].append(moved)
                has_rows[new_space] = bool(rows_by_space[new_space])
    spaces_R = np.empty(rows, np.int64)
    for space, groups in enumerate(rows_by_space):
        for group in groups:
            spaces_R[group] = space
    return rows_P, spaces_R
