"""The train step: pure, compiled once, its state donated.

Shapes: G micro-batches, B rows, S = T + 1 tokens.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lmjax.data.loader import Batch
from lmjax.learning import spikes
from lmjax.learning.objective import Objective, Sums
from lmjax.models.model import Trained


class TrainState(NamedTuple):
    """All that an update changes."""

    step: jax.Array
    params: Any
    opt_state: Any
    history: spikes.History


class Metrics(NamedTuple):
    """What a step tells: float32 scalars, still on the device."""

    loss: jax.Array
    grad_norm: jax.Array
    learning_rate: jax.Array
    skipped: jax.Array
    """1 where the update was dropped."""
    spike: jax.Array
    """1 where it was dropped as a spike."""
    dropped: jax.Array
    """How many were dropped in a row, this one included."""


TrainStep = Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]


def init_state(params: Any, tx: optax.GradientTransformation) -> TrainState:
    """A state at step 0."""
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), spikes.none_yet())


def _multiplies(function: Callable[..., Any], *arguments: Any) -> bool:
    """Whether there is a matrix product in a function's program, as there is in Muon's."""
    return "dot_general" in str(jax.make_jaxpr(function)(*arguments))


def make_train_step(
    model: Trained,
    objective: Objective,
    tx: optax.GradientTransformation,
    learning_rate: Callable[[jax.Array], jax.Array],
    seed: int,
    spike_sigmas: float | None = None,
) -> TrainStep:
    """Build `train_step(state, batch, progress) -> (state, metrics)`.

    Gradients are summed over the micro-batches and divided once by the number of targets, so that
    G micro-batches of B rows give what one batch of G x B rows gives. An update that is not finite
    is dropped, and one that is a spike by so many sigmas: parameters and optimizer state stay as
    they are, bit for bit, and `skipped` is 1.
    `batch` holds tokens [G, B, S]. `tx` gets `progress` as an extra argument; `learning_rate` of
    progress is only reported.
    """
    tx = optax.with_extra_args_support(tx)

    def train_step(
        state: TrainState, batch: Batch, progress: jax.Array
    ) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)

        def loss(params: Any, micro: Batch, key: jax.Array) -> tuple[jax.Array, Sums]:
            sums = objective(model, params, micro, key)
            return sums.loss, sums

        def accumulate(carry: Any, inputs: tuple[jax.Array, Batch]) -> tuple[Any, None]:
            index, micro = inputs
            grads, sums = jax.grad(loss, has_aux=True)(
                state.params, micro, jax.random.fold_in(key, index)
            )
            return jax.tree.map(jnp.add, carry, (grads, sums)), None

        def update(sums: Sums, grads: Any, opt_state: Any, params: Any) -> tuple[Any, ...]:
            """The mean gradient's norm, whether the update is finite, and what is after it."""
            grads = jax.tree.map(lambda g: g / sums.count, grads)
            updates, opt_state = tx.update(grads, opt_state, params, progress=progress)
            finite = jnp.stack([jnp.isfinite(u).all() for u in jax.tree.leaves(updates)]).all()
            new = optax.apply_updates(params, updates), opt_state
            return optax.tree.norm(grads), finite, *new

        G = batch.tokens.shape[0]
        zeros = jax.tree.map(jnp.zeros_like, state.params), Sums(jnp.zeros(()), jnp.zeros(()))
        (grads, sums), _ = jax.lax.scan(accumulate, zeros, (jnp.arange(G), batch))
        given = sums, grads, state.opt_state, state.params
        grad_norm, finite, params, opt_state = update(*given)
        mean_loss = sums.loss / sums.count
        finite &= jnp.isfinite(mean_loss) & jnp.isfinite(grad_norm)
        spike = jnp.zeros((), bool)
        if spike_sigmas is not None:
            spike = finite & spikes.is_spike(state.history, mean_loss, grad_norm, spike_sigmas)
        good = finite & ~spike
        if not _multiplies(update, *given):
            # Whether an update is good is known once all of it is, and to keep it until then
            # takes 4 bytes a parameter: what is cheap is computed anew instead.
            good, given = jax.lax.optimization_barrier((good, given))
            *_, params, opt_state = update(*given)
        params, opt_state = jax.tree.map(
            lambda new, old: jnp.where(good, new, old),
            (params, opt_state),
            (given[3], given[2]),
        )
        history = spikes.entered(state.history, mean_loss, grad_norm, ~good)
        metrics = Metrics(
            mean_loss,
            grad_norm,
            learning_rate(progress),
            jnp.float32(~good),
            jnp.float32(spike),
            jnp.float32(history.dropped),
        )
        return TrainState(state.step + 1, params, opt_state, history), metrics

    return train_step
