"""Causal attention: which implementation a device runs, and the implementations.

Shapes: B batch, T queries, S keys, H query heads, N key heads, R = H / N, K head width.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from lmjax.config import ConfigError, TransformerConfig

Implementation = Literal["cudnn", "xla"]

_XLA_BLOCK = 64
_CUDNN_WIDEST_HEAD = 128  # Ampere and Ada; Hopper takes 256, but a config should fit any card


def choose(config: TransformerConfig, platform: str, dtype: jnp.dtype) -> Implementation:
    """The implementation `config.attention` means on a platform (`cpu`, `gpu`).

    Raises ConfigError naming the rule that cuDNN's flash attention would break: there is no silent
    fallback, since the other path takes several times the memory and the time.
    """
    if config.attention == "xla" or (config.attention == "auto" and platform == "cpu"):
        return "xla"
    rules = [
        (platform == "gpu", "model.attention", "a GPU for cudnn", platform),
        (dtype == jnp.bfloat16, "model.dtype", "bfloat16 for cudnn", dtype.name),
        (config.K % 8 == 0, "model.head_width", "a multiple of 8 for cudnn", config.K),
        (
            config.K <= _CUDNN_WIDEST_HEAD,
            "model.head_width",
            f"at most {_CUDNN_WIDEST_HEAD} for cudnn",
            config.K,
        ),
        (config.length % 2 == 0, "model.length", "an even number for cudnn", config.length),
    ]
    for holds, key, expected, found in rules:
        if not holds:
            raise ConfigError(
                f"{key}: expected {expected}, found {found!r}; change it or set "
                "--model.attention xla"
            )
    return "cudnn"


def causal(
    q_BTHK: jax.Array,
    k_BTNK: jax.Array,
    v_BTNK: jax.Array,
    *,
    scale: float,
    window: int | None,
    implementation: Implementation,
) -> jax.Array:
    """Attention of each position to itself and those before it, at most `window` in all."""
    if implementation == "cudnn":
        return jax.nn.dot_product_attention(
            q_BTHK,
            k_BTNK,
            v_BTNK,
            scale=scale,
            is_causal=True,
            local_window_size=None if window is None else (window - 1, 0),
            implementation="cudnn",
        )
    # Block by block of queries, so that keys no query of a block can see cost nothing.
    blocks = []
    T = q_BTHK.shape[1]
    for start in range(0, T, _XLA_BLOCK):
        stop = min(start + _XLA_BLOCK, T)
        first = 0 if window is None else max(0, start - window + 1)
        keys = slice(first, stop)
        positions_BT = jnp.arange(start - first, stop - first)[None]
        blocks.append(
            cached(
                q_BTHK[:, start:stop],
                k_BTNK[:, keys],
                v_BTNK[:, keys],
                positions_BT,
                scale=scale,
                window=window,
            )
        )
    return jnp.concatenate(blocks, axis=1)


def cached(
    q_BTHK: jax.Array,
    k_BSNK: jax.Array,
    v_BSNK: jax.Array,
    positions_BT: jax.Array,
    *,
    scale: float,
    window: int | None,
) -> jax.Array:
    """Attention of queries at `positions_BT` to keys at positions 0 to S-1; statistics in float32.

    A key after the query's position, or more than `window` - 1 before it, is not seen.
    """
    B, T, H, K = q_BTHK.shape
    N = k_BSNK.shape[2]
    q_BTNRK = q_BTHK.reshape(B, T, N, H // N, K)
    scores_BNRTS = jnp.einsum(
        "btnrk,bsnk->bnrts", q_BTNRK, k_BSNK, preferred_element_type=jnp.float32
    )
    distance_BTS = positions_BT[:, :, None] - jnp.arange(k_BSNK.shape[1])
    seen_BTS = distance_BTS >= 0
    if window is not None:
        seen_BTS &= distance_BTS < window
    scores_BNRTS = jnp.where(seen_BTS[:, None, None], scores_BNRTS * scale, -jnp.inf)
    weights_BNRTS = jax.nn.softmax(scores_BNRTS, axis=-1).astype(v_BSNK.dtype)
    mixed_BTNRK = jnp.einsum("bnrts,bsnk->btnrk", weights_BNRTS, v_BSNK)
    return mixed_BTNRK.reshape(B, T, H, K)
