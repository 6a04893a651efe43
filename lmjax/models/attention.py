"""Attention: which implementation a device runs, and what it computes.

Shapes: B batch, T queries, S keys, H query heads, N key heads, R = H / N, K head width.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from lmjax.config import ConfigError, TransformerConfig
from lmjax.models import blockwise

Implementation = Literal["cudnn", "xla"]

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
        (
            config.causal or "S" not in config.window_pattern,
            "model.window_pattern",
            "no S for cudnn, since model.causal is off",
            config.window_pattern,
        ),
    ]
    for holds, key, expected, found in rules:
        if not holds:
            raise ConfigError(
                f"{key}: expected {expected}, found {found!r}; change it or set "
                "--model.attention xla"
            )
    return "cudnn"


def attend(
    q_BTHK: jax.Array,
    k_BTNK: jax.Array,
    v_BTNK: jax.Array,
    *,
    scale: float,
    causal: bool,
    window: int | None,
    implementation: Implementation,
    prefix_B: jax.Array | None = None,
    length_B: jax.Array | None = None,
    document_BT: jax.Array | None = None,
) -> jax.Array:
    """Attention within rows: of each position to itself and those before it, or to all.

    `window` bounds the distance: at most that many positions, itself included. Positions below
    `prefix_B` are seen by all of their row; those from `length_B` on (padding) by none. With
    `document_BT`, numbers of documents, each position sees its own document alone. That is slow:
    cuDNN's public interface knows of no documents and reads a bias of T x T numbers a row, with
    nothing skipped; and blocks of the xla path are computed whole as before.
    """
    if implementation == "cudnn":
        if prefix_B is not None:
            raise ConfigError("model.attention: expected xla for a bidirectional prefix")
        back = None if window is None else window - 1
        same_B1TT = None
        if document_BT is not None:
            same_B1TT = document_BT[:, None, :, None] == document_BT[:, None, None, :]
        return jax.nn.dot_product_attention(
            q_BTHK,
            k_BTNK,
            v_BTNK,
            mask=same_B1TT,
            scale=scale,
            is_causal=causal,
            local_window_size=None if back is None else (back, 0 if causal else back),
            key_value_seq_lengths=length_B,
            implementation="cudnn",
        )
    form = blockwise.Form(scale, causal, window)
    bounds = blockwise.Bounds(prefix_B, length_B, document_BT)
    return blockwise.attend(form, q_BTHK, k_BTNK, v_BTNK, bounds)


def seen_by(
    q_BTHK: jax.Array,
    k_BNKS: jax.Array,
    v_BNSK: jax.Array,
    positions_BT: jax.Array,
    *,
    scale: float,
    window: int | None,
    prefix_B: jax.Array | None = None,
) -> jax.Array:
    """Causal attention of queries at `positions_BT` to keys at 0, 1, ..., statistics in float32.

    For a few queries and a cache: nothing is kept for a backward pass.
    """
    B, T, H, K = q_BTHK.shape
    N = k_BNKS.shape[1]
    q_BTNRK = q_BTHK.reshape(B, T, N, H // N, K)
    scores_BNRTS = jnp.einsum(
        "btnrk,bnks->bnrts", q_BTNRK, k_BNKS, preferred_element_type=jnp.float32
    )
    form, bounds = blockwise.Form(scale, True, window), blockwise.Bounds(prefix_B)
    seen_BTS = blockwise.seen(form, bounds, positions_BT, jnp.arange(k_BNKS.shape[3]))
    scores_BNRTS = jnp.where(seen_BTS[:, None, None], scores_BNRTS * scale, blockwise.UNSEEN)
    weights_BNRTS = jax.nn.softmax(scores_BNRTS, axis=-1).astype(v_BNSK.dtype)
    mixed_BTNRK = jnp.einsum("bnrts,bnsk->btnrk", weights_BNRTS, v_BNSK)
    return mixed_BTNRK.reshape(B, T, H, K)
