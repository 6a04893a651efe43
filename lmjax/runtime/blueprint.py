"""The train step of a recipe, ready to be compiled, with shapes in place of arrays and of a corpus.

Shapes: G micro-batches, B rows, S = T + 1 tokens.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from lmjax import config as configuration
from lmjax.config import Config, TransformerConfig
from lmjax.data import corpus
from lmjax.data.loader import Batch
from lmjax.learning import objective, optimizers, ramps
from lmjax.learning.step import TrainState, TrainStep, init_state, make_train_step
from lmjax.models.build import build
from lmjax.models.model import Model


class Blueprint(NamedTuple):
    """A step and the shapes of what it takes: state, batch, progress."""

    model: Model
    create: Callable[[jax.Array], TrainState]
    train_step: TrainStep
    shapes: tuple[TrainState, Batch, Any]


def with_vocabulary(config: Config) -> Config:
    """The config with a vocabulary: where none is given, the tokenizer's as it would be trained."""
    if config.model.vocab_size is not None:
        return config
    needed = corpus.ids(config.text.tokenizer.vocab_size, config.objective)
    return configuration.with_vocabulary(config, corpus.padded(needed))


def draw(
    config: Config, make_optimizer: Callable[[Config], Any] | None, platform: str
) -> Blueprint:
    """The step as `lmjax.train` would build it on a platform (`cpu`, `gpu`).

    What only a corpus knows (the tokenizer's pieces) is taken from the vocabulary: shapes and work
    are the same. Raises ConfigError for a combination that the platform cannot run.
    """
    config = with_vocabulary(config)
    model = build(config.model, platform)
    if make_optimizer is None:
        tx = optimizers.muon_adamw(config, platform)
    else:
        tx = make_optimizer(config)
    goals = config.objective
    pieces = model.V - (goals.kind == "masked" and goals.mask_id is None)
    goal = objective.make(goals, model.V, pieces, 1, [True] * (pieces * goals.whole_words))
    rate, sigmas = optimizers.learning_rate(config), config.guard.spike_sigmas
    train_step = make_train_step(model, goal, tx, rate, config.seed, sigmas)

    def create(key: jax.Array) -> TrainState:
        return init_state(model.init(key), tx)

    rows = config.batch.rows
    micro = ramps.stage(config, 1.0).micro_rows
    tokens_GBS = jax.ShapeDtypeStruct((rows // micro, micro, config.model.length + 1), np.int32)
    shapes = (
        jax.eval_shape(create, jax.random.key(0)),
        Batch(tokens_GBS),  # type: ignore[arg-type]
        jax.ShapeDtypeStruct((), np.float32),
    )
    return Blueprint(model, create, train_step, shapes)


def parameters(config: Config) -> int:
    """How many there are, whatever the platform."""
    model = config.model
    if isinstance(model, TransformerConfig):  # cuDNN's attention cannot even be traced without it
        model = dataclasses.replace(model, attention="xla")
    shapes = jax.eval_shape(build(model, "cpu").init, jax.random.key(0))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
