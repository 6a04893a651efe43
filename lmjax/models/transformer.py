"""The Transformer decoder: (params, tokens) -> logits.

Shapes: B batch, T time, S cached time, D width, H query heads, N key heads, K head width,
F feed-forward width, V vocabulary, L layers.

With the default numbers it is the function that transformers' `NanoChatForCausalLM` computes; with
those of `configs/gpt2.py` it is GPT-2 (Radford et al. 2019).
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmjax.config import ConfigError, TransformerConfig
from lmjax.models import attention
from lmjax.models.readout import CHUNK, Readout

Params = dict[str, Any]


class Cache(NamedTuple):
    """Keys and values of all positions computed so far, for every layer."""

    k_LBSNK: jax.Array
    v_LBSNK: jax.Array


def rotate(x_BTHK: jax.Array, positions_BT: jax.Array, base: float) -> jax.Array:
    """Rotary positions (Su et al. 2021), half-split, turning as nanochat does (clockwise)."""
    half = x_BTHK.shape[-1] // 2
    frequencies = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles_BT1K = positions_BT[:, :, None, None].astype(jnp.float32) * frequencies
    cos, sin = jnp.cos(angles_BT1K), jnp.sin(angles_BT1K)
    a, b = jnp.split(x_BTHK.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos + b * sin, b * cos - a * sin], axis=-1).astype(x_BTHK.dtype)


class Block(nn.Module):
    """One layer: attention, then feed-forward, each added to the residual stream."""

    config: TransformerConfig
    dtype: jnp.dtype
    implementation: attention.Implementation

    @nn.compact
    def __call__(
        self,
        x_BTD: jax.Array,
        positions_BT: jax.Array,
        window: int | None,
        cache: Cache | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        c = self.config
        dense = functools.partial(
            nn.Dense, use_bias=c.bias, dtype=self.dtype, kernel_init=_matrix_init(c)
        )
        project = functools.partial(dense, c.width, kernel_init=_projection_init(c))

        h_BTD = _norm(c, self.dtype, "attention_norm")(x_BTD)
        heads = (*x_BTD.shape[:2], -1, c.K)
        q_BTHK = dense(c.heads * c.K, name="q")(h_BTD).reshape(heads)
        k_BTNK = dense(c.KV * c.K, name="k")(h_BTD).reshape(heads)
        v_BTNK = dense(c.KV * c.K, name="v")(h_BTD).reshape(heads)
        if c.position == "rope":
            q_BTHK = rotate(q_BTHK, positions_BT, c.rope_base)
            k_BTNK = rotate(k_BTNK, positions_BT, c.rope_base)
        if c.qk_norm:
            unit = nn.RMSNorm(c.norm_epsilon, use_scale=False, dtype=self.dtype)
            q_BTHK, k_BTNK = unit(q_BTHK), unit(k_BTNK)
        scale = c.attention_scale if c.attention_scale is not None else 1 / math.sqrt(c.K)
        if cache is None:
            mixed_BTHK = attention.causal(
                q_BTHK,
                k_BTNK,
                v_BTNK,
                scale=scale,
                window=window,
                implementation=self.implementation,
            )
        else:
            rows_B1 = jnp.arange(x_BTD.shape[0])[:, None]
            cache = Cache(
                cache.k_LBSNK.at[rows_B1, positions_BT].set(k_BTNK),
                cache.v_LBSNK.at[rows_B1, positions_BT].set(v_BTNK),
            )
            mixed_BTHK = attention.cached(
                q_BTHK, cache.k_LBSNK, cache.v_LBSNK, positions_BT, scale=scale, window=window
            )
        x_BTD += project(name="o")(mixed_BTHK.reshape(*x_BTD.shape[:2], -1))

        h_BTD = _norm(c, self.dtype, "mlp_norm")(x_BTD)
        h_BTF = dense(c.F, name="up")(h_BTD)
        h_BTF = jnp.square(nn.relu(h_BTF)) if c.activation == "relu2" else nn.gelu(h_BTF)
        x_BTD += project(name="down")(h_BTF)
        return x_BTD, cache


def _norm(config: TransformerConfig, dtype: jnp.dtype, name: str | None = None) -> nn.Module:
    if config.norm == "rms":
        return nn.RMSNorm(config.norm_epsilon, use_scale=config.norm_gain, dtype=dtype, name=name)
    return nn.LayerNorm(
        config.norm_epsilon,
        use_scale=config.norm_gain,
        use_bias=config.norm_gain and config.bias,
        use_fast_variance=False,
        dtype=dtype,
        name=name,
    )


def _matrix_init(config: TransformerConfig) -> Callable[..., jax.Array]:
    if config.matrix_std is not None:
        return nn.initializers.normal(config.matrix_std)
    return nn.initializers.variance_scaling(1.0, "fan_in", "normal")


def _projection_init(config: TransformerConfig) -> Callable[..., jax.Array]:
    if config.projection_init == "zero":
        return nn.initializers.zeros
    shrink = 1 / math.sqrt(2 * config.depth)
    if config.matrix_std is not None:
        return nn.initializers.normal(config.matrix_std * shrink)
    return nn.initializers.variance_scaling(shrink**2, "fan_in", "normal")


@dataclass(frozen=True)
class Transformer:
    """A decoder as pure functions of its parameters, a nested dict of float32 arrays."""

    config: TransformerConfig
    dtype: jnp.dtype
    attention: attention.Implementation
    logits_chunk: int = CHUNK["cpu"]

    @property
    def block(self) -> Block:
        return Block(self.config, self.dtype, self.attention)

    @property
    def V(self) -> int:
        if self.config.vocab_size is None:
            raise ConfigError("model.vocab_size: expected a number, found none; give the corpus")
        return self.config.vocab_size

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters; blocks are stacked on a leading axis L."""
        c = self.config
        embed, head, position, blocks, norms = jax.random.split(key, 5)
        normal = jax.random.normal
        x_BTD = jnp.zeros((1, 2, c.width), self.dtype)
        positions_BT = jnp.zeros((1, 2), jnp.int32)
        params: Params = {"embedding": normal(embed, (self.V, c.width)) * c.embedding_std}
        if c.position == "learned":
            params["positions"] = normal(position, (c.length, c.width)) * c.embedding_std
        params["blocks"] = jax.vmap(
            lambda key: self.block.init(key, x_BTD, positions_BT, None)["params"]
        )(jax.random.split(blocks, c.depth))
        for name in ("embedding_norm",) * c.embedding_norm + ("final_norm",):
            variables = _norm(c, self.dtype).init(norms, x_BTD)
            if "params" in variables:
                params[name] = variables["params"]
        if not c.tied:
            params["head"] = normal(head, (self.V, c.width)) * c.head_std
        return params

    def apply(self, params: Params, tokens_BT: jax.Array) -> jax.Array:
        """Logits of the token after each position, float32 [B, T, V]; T is at most `length`."""
        return self.readout(params, self.hidden(params, tokens_BT)).logits()

    def hidden(self, params: Params, tokens_BT: jax.Array) -> jax.Array:
        """The residual stream after the last block, [B, T, D]."""
        T = tokens_BT.shape[1]
        if T > self.config.length and self.config.position == "learned":
            raise ValueError(f"tokens_BT: expected rows of at most {self.config.length}, found {T}")
        positions_BT = jnp.arange(T)[None]
        x_BTD = self._embed(params, tokens_BT, positions_BT)
        return self._blocks(params["blocks"], x_BTD, positions_BT, None)[0]

    def readout(self, params: Params, x_D: jax.Array) -> Readout:
        """The final norm and the head on states [..., D]."""
        weight_VD = params["embedding" if self.config.tied else "head"].astype(self.dtype)
        x_D = self._apply_norm(params, "final_norm", x_D)
        return Readout(x_D, weight_VD, softcap=self.config.softcap, chunk=self.logits_chunk)

    def init_cache(self, batch: int) -> Cache:
        """An empty cache for `batch` rows of up to `length` tokens."""
        c = self.config
        shape_LBSNK = (c.depth, batch, c.length, c.KV, c.K)
        return Cache(jnp.zeros(shape_LBSNK, self.dtype), jnp.zeros(shape_LBSNK, self.dtype))

    def decode(
        self, params: Params, tokens_BT: jax.Array, start_B: jax.Array, cache: Cache
    ) -> tuple[jax.Array, Cache]:
        """Logits [B, T, V] of tokens at positions `start_B`, `start_B` + 1, ..., and their cache.

        What the cache holds before `start_B` is seen; positions past `length` are dropped.
        """
        positions_BT = start_B[:, None] + jnp.arange(tokens_BT.shape[1])
        x_BTD = self._embed(params, tokens_BT, positions_BT)
        x_BTD, cache_LBSNK = self._blocks(params["blocks"], x_BTD, positions_BT, cache)
        assert cache_LBSNK is not None
        return self.readout(params, x_BTD).logits(), cache_LBSNK

    def _embed(self, params: Params, tokens_BT: jax.Array, positions_BT: jax.Array) -> jax.Array:
        # Gathered in float32 and cast after: the gradient then adds up in float32 as well.
        x_BTD = params["embedding"][tokens_BT]
        if self.config.position == "learned":
            x_BTD += params["positions"][positions_BT]
        if self.config.embedding_norm:
            x_BTD = self._apply_norm(params, "embedding_norm", x_BTD)
        return x_BTD.astype(self.dtype)

    def _apply_norm(self, params: Params, name: str, x_BTD: jax.Array) -> jax.Array:
        variables = {"params": params[name]} if name in params else {}
        normed_BTD: jax.Array = _norm(self.config, self.dtype).apply(variables, x_BTD)  # type: ignore[assignment]
        return normed_BTD

    def _blocks(
        self, blocks: Params, x_BTD: jax.Array, positions_BT: jax.Array, cache: Cache | None
    ) -> tuple[jax.Array, Cache | None]:
        """Scan over the layers, one turn of the window pattern at a time."""
        pattern = self.config.window_pattern
        turns = self.config.depth // len(pattern)

        def turn(x_BTD: jax.Array, layers: tuple[Params, Cache | None]) -> tuple[jax.Array, Any]:
            caches = []
            for i, kind in enumerate(pattern):
                layer, layer_cache = jax.tree.map(lambda a, i=i: a[i], layers)
                window = self.config.window if kind == "S" else None
                x_BTD, layer_cache = self.block.apply(
                    {"params": layer}, x_BTD, positions_BT, window, layer_cache
                )
                caches.append(layer_cache)
            return x_BTD, None if cache is None else jax.tree.map(lambda *a: jnp.stack(a), *caches)

        fold = lambda a: a.reshape(turns, len(pattern), *a.shape[1:])  # noqa: E731
        unroll = min(self.config.unroll or 24, turns)
        stacked = jax.tree.map(fold, (blocks, cache))
        x_BTD, caches = jax.lax.scan(turn, x_BTD, stacked, unroll=unroll)
        if cache is None:
            return x_BTD, None
        return x_BTD, jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), caches)


def flops_per_token(config: TransformerConfig, vocab_size: int) -> float:
    """Floating-point operations a token costs to train on, forward and backward, at full length.

    The convention of nanoGPT and PaLM's appendix B, with causal attention counted once: 6 for each
    weight of a matrix product (the embedding is a look-up and counts nothing, the head counts), and
    12 x keys seen x head width for each query head of each layer.
    """
    c = config
    attend = 2 * c.heads * c.K * c.width + 2 * c.KV * c.K * c.width
    weights = c.depth * (attend + 2 * c.width * c.F) + vocab_size * c.width
    seen = {"L": (c.length + 1) / 2}
    if c.window is not None:
        w = min(c.window, c.length)
        seen["S"] = (w * (w + 1) / 2 + (c.length - w) * w) / c.length
    keys = sum(seen[kind] for kind in c.window_pattern) * (c.depth / len(c.window_pattern))
    return 6 * weights + 12 * keys * c.heads * c.K


def build(config: TransformerConfig, platform: str) -> Transformer:
    """The model on a platform (`cpu`, `gpu`): compute dtype and attention path resolved.

    Raises ConfigError for a combination that the platform cannot run.
    """
    automatic = "bfloat16" if platform == "gpu" else "float32"
    dtype = jnp.dtype(automatic if config.dtype == "auto" else config.dtype)
    implementation = attention.choose(config, platform, dtype)
    return Transformer(config, dtype, implementation, CHUNK[platform])
