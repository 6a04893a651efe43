"""The neural probabilistic language model of Bengio et al. 2003: (params, tokens) -> logits.

y = b + W x + U tanh(d + H x), with x the concatenated embeddings of the last C tokens; W, the
direct connections, is optional.

Shapes: B batch, T time, S cached time, C context, D width, E = C x D, H hidden width, V vocabulary.
"""

import math
from dataclasses import dataclass
from typing import Self

import jax
import jax.numpy as jnp

from lmjax.config import NPLMConfig
from lmjax.models import linear, sharding
from lmjax.models.model import CHUNK, Params, Readout, resolve_dtype, vocabulary


@dataclass(frozen=True)
class NPLM:
    """The model as pure functions of its parameters, a nested dict of float32 arrays."""

    config: NPLMConfig
    dtype: jnp.dtype
    logits_chunk: int = CHUNK["cpu"]
    path: str = "matrix products"

    @property
    def V(self) -> int:
        return vocabulary(self.config)

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters; the hidden layer carries a leading axis of one, as blocks do."""
        c = self.config
        embed, hidden, head, direct = jax.random.split(key, 4)
        E = c.context * c.width
        normal = jax.random.normal
        std = 1 / math.sqrt(E) if c.matrix_std is None else c.matrix_std
        params: Params = {
            "embedding": normal(embed, (self.V, c.width)) * c.embedding_std,
            "blocks": {
                "hidden": {
                    "kernel": normal(hidden, (1, E, c.hidden)) * std,
                    "bias": jnp.zeros((1, c.hidden)),
                }
            },
            "head": normal(head, (self.V, c.hidden)) * c.head_std,
            "head_bias": jnp.zeros(self.V),
        }
        if c.direct:
            params["direct"] = normal(direct, (self.V, E)) * c.head_std
        return params

    def apply(self, params: Params, tokens_BT: jax.Array) -> jax.Array:
        """Logits of the token after each position, float32 [B, T, V]."""
        return self.readout(params, self.hidden(params, tokens_BT)).logits()

    def hidden(
        self, params: Params, tokens_BT: jax.Array, *, key: jax.Array | None = None
    ) -> jax.Array:
        """tanh(d + H x), [B, T, H], after x itself where it is connected: [B, T, E + H]."""
        del key
        C = self.config.context
        x_BTD = sharding.gathered(params["embedding"])[tokens_BT].astype(self.dtype)
        padded_BTD = jnp.pad(x_BTD, ((0, 0), (C - 1, 0), (0, 0)))
        T = tokens_BT.shape[1]
        return self._layer(params, [padded_BTD[:, i : i + T] for i in range(C)])

    def readout(self, params: Params, x_D: jax.Array) -> Readout:
        """The head, and beside it the direct connections."""
        weight_VD = params["head"]
        if self.config.direct:
            weight_VD = jnp.concatenate([params["direct"], weight_VD], axis=1)
        weight_VD = weight_VD.astype(self.dtype)
        return Readout(x_D, weight_VD, params["head_bias"], chunk=self.logits_chunk)

    def init_cache(self, batch: int, length: int) -> jax.Array:
        """The tokens of `batch` rows, none yet."""
        return jnp.zeros((batch, length), jnp.int32)

    def for_decoding(self, params: Params) -> Params:
        """As they are."""
        return params

    def decode(
        self,
        params: Params,
        tokens_BT: jax.Array,
        start_B: jax.Array,
        cache: jax.Array,
        *,
        count_B: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Logits [B, T, V] of tokens at `start_B`, `start_B` + 1, ..., and all tokens so far."""
        del count_B  # what padding leaves behind is written over before it is read
        positions_BT = start_B[:, None] + jnp.arange(tokens_BT.shape[1])
        rows_B1 = jnp.arange(tokens_BT.shape[0])[:, None]
        tokens_BS = cache.at[rows_B1, positions_BT].set(tokens_BT)
        words = []
        for back in reversed(range(self.config.context)):
            x_BTD = params["embedding"][tokens_BS[rows_B1, positions_BT - back]]
            words.append(jnp.where((positions_BT >= back)[..., None], x_BTD, 0).astype(self.dtype))
        return self.readout(params, self._layer(params, words)).logits(), tokens_BS

    def without_dropout(self) -> Self:
        return self

    def flops_per_token(self, predicted: float = 1.0) -> float:
        c = self.config
        E = c.context * c.width
        return 6 * (E * c.hidden + predicted * self.V * (c.hidden + E * c.direct))

    def _layer(self, params: Params, words: list[jax.Array]) -> jax.Array:
        hidden = params["blocks"]["hidden"]
        x_BTE = jnp.concatenate(words, axis=-1)
        kernel_EH, bias_H = (hidden[name][0].astype(self.dtype) for name in ("kernel", "bias"))
        h_BTH = jnp.tanh(linear.multiply(x_BTE, kernel_EH) + bias_H)
        return jnp.concatenate([x_BTE, h_BTH], axis=-1) if self.config.direct else h_BTH


def build(config: NPLMConfig, platform: str) -> NPLM:
    """The model on a platform (`cpu`, `gpu`), its compute dtype resolved."""
    return NPLM(config, resolve_dtype(config, platform), CHUNK[platform])
