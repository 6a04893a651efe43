"""Logits that are not multiplied out yet: what a model ends with, and what an objective reads.

A loss over a large vocabulary never needs all logits at once (`learning/cross_entropy.py`).

Shapes: D width, V vocabulary, ... any leading axes.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp

# Float32 logits made at a time, by platform: a CPU's cache against a GPU's launch of a kernel.
# Measured on the CPU (2 cores, V 2,048 and 8,192); on the GPU taken from 4,096 rows at V 50,304.
CHUNK = {"cpu": 2**21, "gpu": 2**28}


@dataclass(frozen=True)
class Readout:
    """softcap(x W^T + b), with x and W in the compute dtype and logits in float32."""

    x_D: jax.Array
    weight_VD: jax.Array
    bias_V: jax.Array | None = None
    softcap: float | None = None
    chunk: int = CHUNK["cpu"]

    def logits(self) -> jax.Array:
        """All of them, float32 [..., V]."""
        logits_V = jnp.einsum(
            "...d,vd->...v", self.x_D, self.weight_VD, preferred_element_type=jnp.float32
        )
        if self.bias_V is not None:
            logits_V += self.bias_V
        if self.softcap is not None:
            logits_V = self.softcap * jnp.tanh(logits_V / self.softcap)
        return logits_V


class Model(Protocol):
    """What the step needs of a model: pure functions of its parameters."""

    def hidden(self, params: Any, tokens_BT: jax.Array) -> jax.Array:
        """The state of each position, [B, T, D]."""

    def readout(self, params: Any, x_D: jax.Array) -> Readout:
        """What states, all or some of them, say of the token to predict."""
