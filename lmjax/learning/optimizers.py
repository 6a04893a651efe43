"""Optimizers as plain optax chains, with parameters chosen by name and schedules over progress.

Shapes: L layers, I fan-in, O fan-out.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from lmjax.config import Config
from lmjax.learning import schedules

Group = Literal["embedding", "head", "matrix", "vector"]

# The optimal composition of five odd quintics for singular values from 0.001 to 1, with a safety
# factor of 1.02: Amsel et al. 2025, "The Polar Express", as used by modded-nanogpt and nanochat.
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def group(path: tuple[Any, ...]) -> Group:
    """The group a parameter belongs to, by its path in the tree. Raises KeyError for a new name."""
    names = [str(key.key) for key in path]
    if names[-1] in ("scale", "bias"):
        return "vector"
    if names[-1] == "kernel":
        return "matrix"
    if names[-1] in ("embedding", "positions"):
        return "embedding"
    if names[-1] == "head":
        return "head"
    raise KeyError(f"{'/'.join(names)}: a parameter that no optimizer group covers")


def groups(params: Any) -> Any:
    """A tree like `params` that holds each parameter's group."""
    return jax.tree_util.tree_map_with_path(lambda path, _: group(path), params)


def descend(
    learning_rate: float, schedule: schedules.Schedule
) -> optax.GradientTransformationExtraArgs:
    """Multiply updates with minus the learning rate times the schedule's factor at `progress`."""

    def update(updates: Any, state: Any, params: Any = None, *, progress: Any, **_: Any) -> Any:
        rate = learning_rate * schedule(progress)
        return jax.tree.map(lambda u: -rate * u, updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _stacked_matrices(tree: Any) -> Any:
    """Kernels are [L, I, O]: each layer is a matrix of its own. optax's default would give every
    stacked kernel to Adam and the embedding to Muon."""
    return jax.tree.map(lambda _: optax.contrib.MuonDimensionNumbers(1, 2), tree)


def _scale_by_shape() -> optax.GradientTransformation:
    """Multiply by sqrt(max(1, O / I)), one learning rate for all shapes (Keller Jordan)."""
    return optax.stateless(
        lambda updates, _: jax.tree.map(
            lambda u: u * math.sqrt(max(1.0, u.shape[-1] / u.shape[-2])), updates
        )
    )


def _clip(config: Config) -> optax.GradientTransformation:
    limit = config.optimizer.clip_norm
    return optax.identity() if limit is None else optax.clip_by_global_norm(limit)


def muon_adamw(config: Config) -> optax.GradientTransformation:
    """Muon for the blocks' matrices, Adam for the rest: the default.

    Muon: Jordan et al. 2024. Groups and their learning rates: karpathy/nanochat.
    """
    c, schedule = config.optimizer, schedules.make(config.schedule)

    def adam(learning_rate: float) -> optax.GradientTransformation:
        return optax.chain(
            optax.scale_by_adam(c.beta1, c.beta2, c.epsilon), descend(learning_rate, schedule)
        )

    muon = optax.chain(
        optax.contrib.scale_by_muon(
            POLAR_EXPRESS, beta=c.momentum, weight_dimension_numbers=_stacked_matrices
        ),
        _scale_by_shape(),
        optax.add_decayed_weights(c.weight_decay),
        descend(c.learning_rate, schedule),
    )
    transforms: dict[Any, optax.GradientTransformation] = {
        "matrix": muon,
        "embedding": adam(c.embedding_learning_rate),
        "head": adam(c.head_learning_rate),
        "vector": adam(c.vector_learning_rate),
    }
    return optax.chain(_clip(config), optax.partition(transforms, groups))


def adamw(config: Config) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter 2019); matrices and the head decay, by name."""
    c = config.optimizer
    return optax.chain(
        _clip(config),
        optax.scale_by_adam(c.beta1, c.beta2, c.epsilon),
        optax.add_decayed_weights(c.weight_decay, mask=decayed),
        descend(c.learning_rate, schedules.make(config.schedule)),
    )


def decayed(params: Any) -> Any:
    """A mask over `params`: true for matrices and the head, false for tables, gains and biases."""
    return jax.tree.map(lambda name: name in ("matrix", "head"), groups(params))


def learning_rate(config: Config) -> Callable[[jax.Array], jax.Array]:
    """The learning rate of the matrices as a function of progress, for the log."""
    schedule = schedules.make(config.schedule)
    return lambda progress: config.optimizer.learning_rate * schedule(progress)


def unknown_rate(progress: jax.Array) -> jax.Array:
    """What is logged for a chain that may follow no schedule of the config: not a number."""
    return jnp.full_like(progress, jnp.nan)
