"""Metrics are read one step late: the newest update stays in flight."""

import contextlib

import jax
import jax.numpy as jnp
import pytest

from lmjax.config import Config
from lmjax.data import corpus as corpora
from lmjax.data import loader, packing
from lmjax.learning.step import Metrics
from lmjax.runtime import budget, journal
from lmjax.runtime.ledger import Ledger
from lmjax.runtime.record import Record, Taken
from lmjax.runtime.rewinding import Astray


@jax.jit
def slow(seed):
    """A number that takes seconds to compute."""
    grow = lambda i, x_DD: jnp.tanh(x_DD @ x_DD + seed)  # noqa: E731
    return jax.lax.fori_loop(0, 3000, grow, jnp.eye(256)).sum()


def metrics(loss, skipped=0.0, dropped=0):
    return Metrics(loss, *map(jnp.float32, (1.0, 0.1, skipped, 0.0, dropped)))


@pytest.fixture
def record_from(corpus, tmp_path):
    """`record_from(step)`: the record of a process that goes on from there."""
    opened = corpora.open_corpus(corpus)
    table = packing.pack(opened.train, 32, opened.bos, "documents")
    with contextlib.ExitStack() as held:

        def make(step):
            events = held.enter_context(
                contextlib.closing(journal.Journal(tmp_path / "events.jsonl"))
            )
            feed = held.enter_context(contextlib.closing(loader.Feed(table, 0, 0)))
            made = Record(tmp_path, Config(), events, Ledger(), feed, step, 0, 1.0, 1.0)
            return held.enter_context(contextlib.closing(made))

        yield make


@pytest.fixture
def record(record_from):
    return record_from(0)


def test_the_newest_update_stays_in_flight(record, tmp_path):
    progress = budget.replayed(Config(budget="100steps"), [])
    slow(0.0).block_until_ready()  # compiled
    oldest = jax.block_until_ready(metrics(jnp.float32(2.5)))
    newest = Metrics(slow(1.0), *oldest[1:])
    record.take(Taken(1, 128 * 1, "a", 0.0, oldest))
    record.take(Taken(2, 128 * 2, "b", 0.01, newest))
    record.read(progress, leave=1)
    assert not newest.loss.is_ready()
    assert [entry["loss"] for entry in journal.read(tmp_path / "metrics.jsonl")] == [2.5]
    record.read(progress, leave=0)
    assert newest.loss.is_ready()


def test_many_dropped_in_a_row_send_the_run_back(record, tmp_path):
    progress = budget.replayed(Config(budget="100steps"), [])
    for step, dropped in ((1, 19), (2, 0), (3, 19)):
        record.take(Taken(step, 128 * step, "a", 0.0, metrics(jnp.float32(2.5), dropped=dropped)))
        record.read(progress, leave=0)
    taken = Taken(4, 512, "b", 0.0, metrics(jnp.float32(jnp.nan), 1.0, dropped=20))
    record.take(taken)
    with pytest.raises(Astray, match="loss nan") as raised:
        record.read(progress, leave=0)
    assert (raised.value.step, raised.value.dropped) == (4, 20)
    assert raised.value.rows == 512 // Config().model.length
    (skip,) = journal.read(tmp_path / "events.jsonl")
    assert skip == {"event": "skip", "step": 4, "batch": "b", "why": "not finite"}
