"""Objectives: what a batch says of the parameters, as sums that are divided once, at the end.

Shapes: B batch, T time, S = T + 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from lmjax.data.loader import Batch
from lmjax.learning.cross_entropy import cross_entropy
from lmjax.models.readout import Model


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sums:
    """A loss summed over targets, and the sum of their weights. Adds up over anything."""

    loss: jax.Array
    count: jax.Array


Objective = Callable[[Model, Any, Batch, jax.Array], Sums]


def next_token(model: Model, params: Any, batch: Batch, key: jax.Array) -> Sums:
    """Cross entropy of each token given those before it."""
    del key  # nothing random here; other objectives mask or drop out
    tokens_BS, weights_BT = batch
    inputs_BT, targets_BT = jnp.asarray(tokens_BS[:, :-1]), jnp.asarray(tokens_BS[:, 1:])
    readout = model.readout(params, model.hidden(params, inputs_BT))
    if weights_BT is None:
        count = jnp.asarray(targets_BT.size, jnp.float32)
        return Sums(cross_entropy(readout, targets_BT, None), count)
    return Sums(
        cross_entropy(readout, targets_BT, jnp.asarray(weights_BT)), jnp.asarray(weights_BT.sum())
    )
