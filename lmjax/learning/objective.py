"""Objectives: what a batch says of the parameters, as sums that are divided once, at the end.

Shapes: B batch, T time, S = T + 1, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from lmjax.data.loader import Batch

Apply = Callable[[Any, jax.Array], jax.Array]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sums:
    """A loss summed over targets, and the sum of their weights. Adds up over anything."""

    loss: jax.Array
    count: jax.Array


Objective = Callable[[Apply, Any, Batch, jax.Array], Sums]


def cross_entropy(logits_BTV: jax.Array, targets_BT: jax.Array) -> jax.Array:
    """-log softmax at the target, float32 [B, T], in nats."""
    target_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits_BTV, axis=-1) - target_BT


def next_token(apply: Apply, params: Any, batch: Batch, key: jax.Array) -> Sums:
    """Cross entropy of each token given those before it."""
    del key  # nothing random here; other objectives mask or drop out
    tokens_BS, weights_BT = batch
    losses_BT = cross_entropy(
        apply(params, jnp.asarray(tokens_BS[:, :-1])), jnp.asarray(tokens_BS[:, 1:])
    )
    if weights_BT is None:
        return Sums(losses_BT.sum(), jnp.asarray(losses_BT.size, jnp.float32))
    return Sums((losses_BT * weights_BT).sum(), jnp.asarray(weights_BT.sum()))
