"""Optimizers that evaluate other weights than those they train."""

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import optax

from lmjax.learning.schedules import Schedule
from lmjax.learning.step import TrainState


class Evaluated(optax.GradientTransformationExtraArgs):
    """An optimizer with a third function, `evaluation_params(opt_state, params) -> params`.

    Evaluations and finished models use what it returns. For optax it is a transformation like any
    other, but a chain around it knows nothing of the third function: let it be the outermost.
    """

    evaluation_params: Callable[[Any, Any], Any]

    def __new__(
        cls, tx: optax.GradientTransformation, evaluation_params: Callable[[Any, Any], Any]
    ) -> Self:
        """From any optimizer, such as `optax.contrib.schedule_free` with its own function."""
        self = super().__new__(cls, *optax.with_extra_args_support(tx))
        self.evaluation_params = evaluation_params
        return self


class AverageState(NamedTuple):
    """The optimizer's own state, the averaged weights, and the sum of the weights in them."""

    inner: Any
    average: Any
    weight: jax.Array


def average(tx: optax.GradientTransformation, decay: float | Schedule) -> Evaluated:
    """Train as `tx` does, and evaluate an exponential moving average of the parameters.

    The average after each step is `decay` times the old one plus the rest times the new parameters,
    freed of its bias; `decay` may be a schedule of `progress`. Training is not touched.
    """
    tx = optax.with_extra_args_support(tx)

    def init(params: Any) -> AverageState:
        copies = jax.tree.map(lambda p: jnp.array(p, copy=True), params)
        return AverageState(tx.init(params), copies, jnp.zeros(()))

    def update(
        updates: Any, state: AverageState, params: Any = None, **extra: Any
    ) -> tuple[Any, AverageState]:
        if params is None:
            raise ValueError("average: expected params in update(), found none; pass them")
        beta = decay(extra["progress"]) if callable(decay) else decay
        updates, inner = tx.update(updates, state.inner, params, **extra)
        weight = beta * state.weight + (1 - beta)
        share = (1 - beta) / weight
        averaged = jax.tree.map(
            lambda a, p: a + share * (p - a), state.average, optax.apply_updates(params, updates)
        )
        return updates, AverageState(inner, averaged, weight)

    together = optax.GradientTransformationExtraArgs(init, update)
    return Evaluated(together, lambda state, params: state.average)


def reader(tx: optax.GradientTransformation) -> Callable[[TrainState], Any] | None:
    """The compiled function from a state to what is to be evaluated; none if it is `params`."""
    if not isinstance(tx, Evaluated):
        return None
    return jax.jit(lambda state: tx.evaluation_params(state.opt_state, state.params))
