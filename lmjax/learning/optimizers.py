"""Optimizers as plain optax chains, with parameters chosen by name and schedules over progress.

Shapes: L layers, I fan-in, O fan-out.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from lmjax.config import Config
from lmjax.learning import muon, schedules
from lmjax.models.model import resolve_dtype

Group = Literal["embedding", "head", "matrix", "vector"]

_GROUPS: dict[Group, set[str]] = {
    "matrix": {"kernel"},
    "embedding": {"embedding", "positions", "token_types", "value_embedding"},
    "head": {"head", "direct"},
    "vector": {"scale", "bias", "head_bias", "position_scale", "value_gate"}
    | {"stays", "comes", "smear", "smear_gate", "backout"},
}


def group(path: tuple[Any, ...]) -> Group:
    """The group a parameter belongs to, by its path in the tree. Raises KeyError for a new name."""
    names = [str(key.key) for key in path]
    for name, members in _GROUPS.items():
        if names[-1] in members:
            return name
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


def momentum(config: Config) -> float | schedules.Schedule:
    """Muon's momentum: the ramp's lines over progress, or one number."""
    knots = config.ramp.momentum
    return schedules.through(*knots) if knots else config.optimizer.momentum


def decay(config: Config) -> optax.GradientTransformationExtraArgs:
    """Add the weight decay, times the ramp's factor at `progress`, times the parameters."""
    weight_decay, knots = config.optimizer.weight_decay, config.ramp.weight_decay
    if not knots:
        return optax.with_extra_args_support(optax.add_decayed_weights(weight_decay))
    factor = schedules.through(*knots)

    def update(updates: Any, state: Any, params: Any = None, *, progress: Any, **_: Any) -> Any:
        rate = weight_decay * factor(progress)
        return jax.tree.map(lambda u, p: u + rate * p, updates, params), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _clip(config: Config) -> optax.GradientTransformation:
    """By the global norm (Pascanu et al. 2013). optax divides each gradient by it, and XLA for CPUs
    writes all quotients down for what comes after; a product it computes where it is read."""
    limit = config.optimizer.clip_norm
    if limit is None:
        return optax.identity()

    def clip(updates: Any, params: Any) -> Any:
        factor = jnp.minimum(1.0, limit / optax.tree.norm(updates))
        return jax.tree.map(lambda u: u * factor, updates)

    return optax.stateless(clip)


def muon_adamw(config: Config, platform: str = "cpu") -> optax.GradientTransformation:
    """Muon for the blocks' matrices, Adam for the rest: the default.

    Matrices are orthogonalised in the model's compute dtype on `platform` (`cpu`, `gpu`).
    Muon: Jordan et al. 2024.
    """
    c = config.optimizer
    matrices = optax.chain(
        muon.scale_by_muon(momentum(config), dtype=resolve_dtype(config.model, platform)),
        muon.scale_by_shape(),
        decay(config),
        descend(c.learning_rate, schedules.make(config.schedule)),
    )
    return with_adam_for_the_rest(config, matrices)


def with_adam_for_the_rest(
    config: Config, matrices: optax.GradientTransformation
) -> optax.GradientTransformation:
    """A chain for the blocks' matrices; Adam, with a learning rate a group, for all else.

    Gradients are clipped first, if `config.optimizer` says so. Groups and rates: karpathy/nanochat.
    """
    c, schedule = config.optimizer, schedules.make(config.schedule)

    def adam(learning_rate: float) -> optax.GradientTransformation:
        return optax.chain(
            optax.scale_by_adam(c.beta1, c.beta2, c.epsilon), descend(learning_rate, schedule)
        )

    transforms: dict[Any, optax.GradientTransformation] = {
        "matrix": matrices,
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
        optax.masked(decay(config), decayed),
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
