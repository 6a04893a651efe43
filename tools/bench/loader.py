"""The loader on one core: tokens/s of training batches, against slices of a memory map.

    python -m tools.bench.loader --millions 100 --json

One shard of random ids, as nanoGPT's, so large that rows are as many as a real run has: of few rows
Grain's shuffle finds the next by trial, at 90 us each of 600 rows and 7 of a million. The peer is
what nanoGPT does: random starts in a memory map, `numpy.stack` of slices. Ours reads each row once,
in an order that is a function of seed and row, as Grain's threads read ahead. By turns, in one
process that is held to one core.
"""

import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.table import Table

from lmjax.data import loader, packing
from lmjax.data.shards import open_shards
from lmjax.runtime import console


def slices(tokens: np.ndarray, rows: int, length: int) -> Iterator[np.ndarray]:
    chance = np.random.default_rng(0)
    while True:
        starts = chance.integers(0, len(tokens) - length, rows)
        yield np.stack([tokens[i : i + length + 1].astype(np.int32) for i in starts])


def rate(take: Callable[[], Any], tokens: int, seconds: float) -> float:
    """Tokens a second of what `take` returns, for about so many seconds."""
    begun = time.perf_counter()
    for count in itertools.count(1):
        take()
        if (spent := time.perf_counter() - begun) > seconds:
            return count * tokens / spent
    raise AssertionError


def main(
    peer: Literal["numpy"] = "numpy",
    length: int = 1024,
    rows: int = 32,
    millions: int = 100,
    pairs: int = 7,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Compare at these sizes."""
    found: dict[str, list[float]] = {"lmjax": [], peer: []}
    with tempfile.TemporaryDirectory() as folder:
        shard = Path(folder) / "train.bin"
        np.random.default_rng(0).integers(0, 50_257, millions * 10**6, np.uint16).tofile(shard)
        table = packing.pack(open_shards([shard]), length, None, "contiguous")
        theirs = slices(np.memmap(shard, np.uint16, "r"), rows, length)
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        with loader.batches(table, 0, 0, rows) as ours:
            next(ours)
            for _ in range(pairs):
                found["lmjax"].append(rate(lambda: next(ours), rows * length, 1.0))
                found[peer].append(rate(lambda: next(theirs), rows * length, 1.0))
    ratios = [a / b for a, b in zip(found["lmjax"], found[peer], strict=True)]
    shown = Table("", "million tokens/s on one core")
    for name, rates in found.items():
        shown.add_row(name, f"{statistics.median(rates) / 1e6:.1f}")
    console.terminal.print(shown)
    ratio = statistics.median(ratios)
    console.say(f"lmjax / {peer}: {ratio:.3f}, from {min(ratios):.3f} to {max(ratios):.3f}")
    if as_json:
        print(json.dumps({"peer": peer, "ratio": ratio, "ratios": ratios, "rates": found}))


if __name__ == "__main__":
    tyro.cli(main)
