"""Evaluation of a model on a whole split: sums over batches, divided once.

Shapes: B batch, T time, S = T + 1, V vocabulary.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.config import Config
from lmjax.data import loader
from lmjax.data.corpus import Corpus
from lmjax.data.packing import RowTable
from lmjax.learning.objective import Objective, make
from lmjax.models import sharding
from lmjax.models.model import Model
from lmjax.runtime import device


class Result(NamedTuple):
    """What an evaluation found. Bits per byte need a tokenizer; they are none without one."""

    loss: float
    bits_per_byte: float | None
    perplexity: float
    tokens: int
    bytes: int


class GivenUp(Exception):
    """An evaluation was asked to end before it had seen all of its rows."""


def objective_and_bytes(
    config: Config, model: Model, corpus: Corpus
) -> tuple[Objective, np.ndarray | None]:
    """What a run is evaluated by, its objective without z-loss, and the bytes of each token where
    the loss is that of a whole text."""
    plain = dataclasses.replace(config.objective, z_loss=0.0)
    goal = make(plain, model.V, corpus.vocab_size, corpus.bos, corpus.word_starts)
    return goal, corpus.bytes_V if config.objective.kind == "next_token" else None


def make_evaluator(
    model: Model,
    objective: Objective,
    table: RowTable,
    bytes_V: np.ndarray | None,
    rows: int,
) -> Callable[..., Result]:
    """Build `evaluate(params, max_rows, give_up) -> Result` over a covering table; compiled once.

    The result does not depend on `rows`, the batch size, but for the rounding of float32 sums:
    padding weighs nothing. `bytes_V` holds the UTF-8 bytes of each token. Before each batch
    `give_up` is asked; where it says so, GivenUp is raised.
    """

    model = model.without_dropout()

    @functools.partial(jax.jit, compiler_options=device.compiler_options())
    def sums(params: Any, batch: loader.Batch) -> Any:
        found = objective(model, params, batch, jax.random.key(0))
        if bytes_V is None:
            return found, 0
        assert batch.weights is not None
        targets_BT = jnp.asarray(batch.tokens)[:, 1:]
        return found, jnp.where(batch.weights > 0, jnp.asarray(bytes_V)[targets_BT], 0).sum()

    def evaluate(
        params: Any, max_rows: int | None = None, give_up: Callable[[], bool] = lambda: False
    ) -> Result:
        loss = count = 0.0
        size = 0
        mesh = jax.sharding.get_mesh()
        share = loader.ALL if mesh.empty else loader.Share(*sharding.own_rows(mesh))
        with loader.evaluation_batches(table, rows, max_rows, share) as batches:
            for batch in batches:
                if give_up():
                    raise GivenUp
                found, more = jax.device_get(sums(params, sharding.place(batch, 0)))
                size += int(more)
                loss += float(found.loss)
                count += float(found.count)
        mean = loss / count
        bits = None if bytes_V is None else loss / math.log(2) / size
        return Result(mean, bits, math.exp(min(mean, 700.0)), round(count), size)

    return evaluate
