"""Spikes: a loss or a gradient norm far above the recent ones. Pure, for use inside the step.

A spike is more than so many standard deviations above the mean of the newest `LENGTH` updates, once
`FROM` of them are known, as in OLMo's SkipStep (Groeneveld et al. 2024). What was dropped is not
entered, so that one spike does not hide the next.
Shapes: K = 2 (loss, gradient norm), N = LENGTH.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

LENGTH = 128
FROM = 64

# Losses that hardly differ, of a toy or a huge batch, make no spike of a hundredth part more.
_LEAST_SIGMA = 0.01
"""Of the mean."""


class History(NamedTuple):
    """What the newest updates were like."""

    values_KN: jax.Array
    """float32, a ring: losses and gradient norms of updates that were not dropped."""
    entered: jax.Array
    """int32: how many of those there have been."""
    dropped: jax.Array
    """int32: how many updates were dropped in a row, up to the newest."""


def none_yet() -> History:
    """The history before the first update."""
    return History(jnp.zeros((2, LENGTH)), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def is_spike(history: History, loss: jax.Array, grad_norm: jax.Array, sigmas: float) -> jax.Array:
    """Whether either lies more than `sigmas` standard deviations above its recent mean."""
    known_N = jnp.arange(LENGTH) < history.entered
    count = jnp.maximum(known_N.sum(), 1)
    mean_K = jnp.where(known_N, history.values_KN, 0.0).sum(1) / count
    apart_KN = jnp.where(known_N, history.values_KN - mean_K[:, None], 0.0)
    sigma_K = jnp.sqrt(jnp.square(apart_KN).sum(1) / count)
    sigma_K = jnp.maximum(sigma_K, _LEAST_SIGMA * jnp.abs(mean_K))
    above = (jnp.stack([loss, grad_norm]) > mean_K + sigmas * sigma_K).any()
    return above & (history.entered >= FROM)


def entered(history: History, loss: jax.Array, grad_norm: jax.Array, dropped: jax.Array) -> History:
    """The history after an update, which is entered unless it was dropped."""
    place_N = jnp.arange(LENGTH) == history.entered % LENGTH
    new_KN = jnp.stack([loss, grad_norm])[:, None]
    return History(
        jnp.where(place_N & ~dropped, new_KN, history.values_KN),
        history.entered + ~dropped,
        jnp.where(dropped, history.dropped + 1, 0),
    )
