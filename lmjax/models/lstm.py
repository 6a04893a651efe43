"""A language model of stacked LSTMs (Hochreiter and Schmidhuber 1997): (params, tokens) -> logits.

Every position is predicted, and the state runs through the whole row.

Shapes: B batch, T time, D width (of embedding and state), L layers.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmjax.config import LSTMConfig
from lmjax.models import linear, sharding
from lmjax.models.model import CHUNK, Params, Readout, resolve_dtype, vocabulary


class State(NamedTuple):
    """Output and cell of a layer, or with a leading axis of all."""

    h_BD: jax.Array
    c_BD: jax.Array


def run(
    layer: Params, x_BTD: jax.Array, state: State, live_BT: jax.Array | None
) -> tuple[jax.Array, State]:
    """One layer over time: outputs [B, T, D] and the last state, unmoved where not `live_BT`."""
    dtype = x_BTD.dtype
    # One product for all positions; only the recurrent one has to wait for the position before.
    gates_BTG = linear.multiply(x_BTD, layer["input"]["kernel"].astype(dtype))
    gates_BTG += layer["input"]["bias"].astype(dtype)
    recurrent_DG = layer["recurrent"]["kernel"].astype(dtype)

    def step(state: State, inputs: Any) -> tuple[State, jax.Array]:
        gates_BG, live_B = inputs
        gates_BG = (gates_BG + state.h_BD @ recurrent_DG).astype(jnp.float32)
        i_BD, f_BD, o_BD, g_BD = jnp.split(gates_BG, 4, axis=-1)
        c_BD = nn.sigmoid(f_BD) * state.c_BD + nn.sigmoid(i_BD) * jnp.tanh(g_BD)
        new = State((nn.sigmoid(o_BD) * jnp.tanh(c_BD)).astype(dtype), c_BD)
        if live_B is not None:
            new = jax.tree.map(lambda a, b: jnp.where(live_B[:, None], a, b), new, state)
        return new, new.h_BD

    over_time = (gates_BTG.swapaxes(0, 1), None if live_BT is None else live_BT.T)
    state, h_TBD = jax.lax.scan(step, state, over_time)
    return h_TBD.swapaxes(0, 1), state


@dataclass(frozen=True)
class LSTM:
    """The model as pure functions of its parameters, a nested dict of float32 arrays."""

    config: LSTMConfig
    dtype: jnp.dtype
    logits_chunk: int = CHUNK["cpu"]
    path: str = "a scan over time"

    @property
    def V(self) -> int:
        return vocabulary(self.config)

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters; layers are stacked on a leading axis L, gates are i, f, o, g.

        Recurrent kernels are orthogonal gate by gate, forget gates begin open
        (Jozefowicz et al. 2015).
        """
        c = self.config
        embed, head, layers = jax.random.split(key, 3)
        std = 1 / math.sqrt(c.width) if c.matrix_std is None else c.matrix_std

        # One matrix after the other: on few cores XLA's threads, each in one of several such
        # factorisations, can wait for one another for ever (seen with jaxlib 0.10.2 on two).
        orthogonal = functools.partial(nn.initializers.orthogonal(), shape=(c.width, c.width))
        keys_LG = jax.vmap(lambda key: jax.random.split(key, 5))(jax.random.split(layers, c.depth))
        recurrent = jax.lax.map(orthogonal, keys_LG[:, 1:].reshape(-1))
        recurrent_LGDD = recurrent.reshape(c.depth, 4, c.width, c.width)

        def layer(key: jax.Array, recurrent_GDD: jax.Array) -> Params:
            bias = jnp.zeros((4, c.width)).at[1].set(c.forget_bias)
            return {
                "input": {
                    "kernel": jax.random.normal(key, (c.width, 4 * c.width)) * std,
                    "bias": bias.reshape(-1),
                },
                "recurrent": {"kernel": jnp.concatenate(list(recurrent_GDD), axis=1)},
            }

        params: Params = {
            "embedding": jax.random.normal(embed, (self.V, c.width)) * c.embedding_std,
            "blocks": jax.vmap(layer)(keys_LG[:, 0], recurrent_LGDD),
            "head_bias": jnp.zeros(self.V),
        }
        if not c.tied:
            params["head"] = jax.random.normal(head, (self.V, c.width)) * c.head_std
        return params

    def apply(self, params: Params, tokens_BT: jax.Array) -> jax.Array:
        """Logits of the token after each position, float32 [B, T, V]."""
        return self.readout(params, self.hidden(params, tokens_BT)).logits()

    def hidden(
        self, params: Params, tokens_BT: jax.Array, *, key: jax.Array | None = None
    ) -> jax.Array:
        """Outputs of the last layer, [B, T, D]; dropout around the layers draws from `key`.

        Gradients reach back `truncate` tokens at most: the state is carried on from segment to
        segment of a row, its gradient is not.
        """
        T, size = tokens_BT.shape[1], self.config.truncate or tokens_BT.shape[1]
        state, pieces = self.init_cache(*tokens_BT.shape), []
        for start in range(0, T, size):
            state = jax.lax.stop_gradient(state)
            segment = None if key is None else jax.random.fold_in(key, start)
            piece_BTD, state = self._layers(
                params, tokens_BT[:, start : start + size], state, None, segment
            )
            pieces.append(piece_BTD)
        return jnp.concatenate(pieces, axis=1)

    def readout(self, params: Params, x_D: jax.Array) -> Readout:
        """The head on outputs [..., D]."""
        weight_VD = params["embedding" if self.config.tied else "head"].astype(self.dtype)
        return Readout(x_D, weight_VD, params["head_bias"], chunk=self.logits_chunk)

    def init_cache(self, batch: int, length: int) -> State:
        """The state of `batch` rows before their first token, for every layer."""
        del length
        shape = (self.config.depth, batch, self.config.width)
        return State(jnp.zeros(shape, self.dtype), jnp.zeros(shape))

    def for_decoding(self, params: Params) -> Params:
        """As they are."""
        return params

    def decode(
        self,
        params: Params,
        tokens_BT: jax.Array,
        start_B: jax.Array,
        cache: State,
        *,
        count_B: jax.Array | None = None,
    ) -> tuple[jax.Array, State]:
        """Logits [B, T, V] of tokens that follow those the cache has seen, and their cache."""
        del start_B  # the state knows no positions
        live_BT = None if count_B is None else jnp.arange(tokens_BT.shape[1]) < count_B[:, None]
        x_BTD, cache = self._layers(params, tokens_BT, cache, live_BT, None)
        return self.readout(params, x_BTD).logits(), cache

    def without_dropout(self) -> Self:
        return dataclasses.replace(self, config=dataclasses.replace(self.config, dropout=0.0))

    def flops_per_token(self, predicted: float = 1.0) -> float:
        c = self.config
        return 6 * (c.depth * 8 * c.width**2 + predicted * self.V * c.width)

    def _layers(
        self,
        params: Params,
        tokens_BT: jax.Array,
        state: State,
        live_BT: jax.Array | None,
        key: jax.Array | None,
    ) -> tuple[jax.Array, State]:
        def drop(x_BTD: jax.Array, place: int) -> jax.Array:
            if key is None or self.config.dropout == 0:
                return x_BTD
            kept = 1 - self.config.dropout
            mask = jax.random.bernoulli(jax.random.fold_in(key, place), kept, x_BTD.shape)
            return jnp.where(mask, x_BTD / kept, 0)

        x_BTD = drop(sharding.gathered(params["embedding"])[tokens_BT].astype(self.dtype), 0)
        ends = []
        for i, (layer, begun) in enumerate(_unstacked(params["blocks"], state)):
            x_BTD, end = run(layer, x_BTD, begun, live_BT)
            x_BTD = drop(x_BTD, i + 1)
            ends.append(end)
        return x_BTD, jax.tree.map(lambda *a: jnp.stack(a), *ends)


def _unstacked(blocks: Params, state: State) -> Iterator[tuple[Params, State]]:
    for i in range(state.h_BD.shape[0]):
        yield jax.tree.map(lambda a, i=i: a[i], (blocks, state))


def build(config: LSTMConfig, platform: str) -> LSTM:
    """The model on a platform (`cpu`, `gpu`), its compute dtype resolved."""
    return LSTM(config, resolve_dtype(config, platform), CHUNK[platform])
