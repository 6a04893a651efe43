"""Attention by blocks of queries, for devices without a kernel of their own for it.

Scores exist a block at a time: what no query of a block can see costs nothing, and the backward
pass computes them again, as FlashAttention does (Dao et al. 2022), so that memory grows with T and
not with its square.

Shapes: B batch, T queries, S keys, H query heads, N key heads, R = H / N, K head width.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

BLOCK = 64
UNSEEN = float(jnp.finfo(jnp.float32).min)  # finite: a row that sees nothing stays a number

_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


class Form(NamedTuple):
    """What is known of attention when it is compiled, as in `attention.attend`."""

    scale: float
    causal: bool
    window: int | None


class Bounds(NamedTuple):
    """What is told with the tokens, as in `attention.attend`."""

    prefix_B: jax.Array | None = None
    length_B: jax.Array | None = None
    document_BT: jax.Array | None = None


class _Span(NamedTuple):
    """A block of queries, and the keys that some of them see."""

    queries: slice
    keys: slice


def seen(form: Form, bounds: Bounds, positions_BT: jax.Array, keys_S: jax.Array) -> jax.Array:
    """Which keys each query sees, documents aside: booleans [B, T, S]."""
    distance_BTS = positions_BT[:, :, None] - keys_S
    seen_BTS = distance_BTS >= 0 if form.causal else jnp.ones_like(distance_BTS, bool)
    if form.window is not None:
        seen_BTS &= jnp.abs(distance_BTS) < form.window
    if bounds.prefix_B is not None:
        seen_BTS |= keys_S < bounds.prefix_B[:, None, None]
    if bounds.length_B is not None:
        seen_BTS &= keys_S < bounds.length_B[:, None, None]
    return seen_BTS


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend(
    form: Form, q_BTHK: jax.Array, k_BTNK: jax.Array, v_BTNK: jax.Array, bounds: Bounds
) -> jax.Array:
    """As `attention.attend`; statistics in float32."""
    return _forward(form, q_BTHK, k_BTNK, v_BTNK, bounds)[0]


def _forward(
    form: Form, q_BTHK: jax.Array, k_BTNK: jax.Array, v_BTNK: jax.Array, bounds: Bounds
) -> tuple[jax.Array, Any]:
    N = k_BTNK.shape[2]
    q_BNRTK, k_BNSK, v_BNSK = _queries(q_BTHK, N), _keys(k_BTNK), _keys(v_BTNK)
    mixed, most, sums = [], [], []
    for span in _spans(form, bounds, q_BTHK.shape[1]):
        scores_BNRTS = _scores(form, bounds, span, q_BNRTK, k_BNSK)
        most_BNRT1 = scores_BNRTS.max(-1, keepdims=True)
        weights_BNRTS = jnp.exp(scores_BNRTS - most_BNRT1)
        sum_BNRT1 = weights_BNRTS.sum(-1, keepdims=True)
        values_BNSK = v_BNSK[:, :, span.keys]
        mixed_BNRTK = _product("bnrts,bnsk->bnrtk", weights_BNRTS.astype(v_BTNK.dtype), values_BNSK)
        mixed.append((mixed_BNRTK / sum_BNRT1).astype(v_BTNK.dtype))
        most.append(most_BNRT1)
        sums.append(sum_BNRT1)
    out = _back(jnp.concatenate(mixed, axis=3)), *(jnp.concatenate(a, axis=3) for a in (most, sums))
    mixed_BTHK, most_BNRT1, sum_BNRT1 = (checkpoint_name(array, "attention") for array in out)
    return mixed_BTHK, (q_BTHK, k_BTNK, v_BTNK, bounds, mixed_BTHK, most_BNRT1, sum_BNRT1)


def _backward(form: Form, kept: Any, g_BTHK: jax.Array) -> tuple[Any, ...]:
    q_BTHK, k_BTNK, v_BTNK, bounds, mixed_BTHK, most_BNRT1, sum_BNRT1 = kept
    N, dtype = k_BTNK.shape[2], q_BTHK.dtype
    q_BNRTK, k_BNSK, v_BNSK = _queries(q_BTHK, N), _keys(k_BTNK), _keys(v_BTNK)
    g_BNRTK = _queries(g_BTHK, N)
    # The sum over keys of weight times its gradient, told by the output alone.
    along_BTH1 = (g_BTHK.astype(jnp.float32) * mixed_BTHK).sum(-1, keepdims=True)
    along_BNRT1 = _queries(along_BTH1, N)
    grads_q, grad_k_BNSK, grad_v_BNSK = [], jnp.zeros(k_BNSK.shape), jnp.zeros(v_BNSK.shape)
    for span in _spans(form, bounds, q_BTHK.shape[1]):
        own = (slice(None),) * 3 + (span.queries,)
        scores_BNRTS = _scores(form, bounds, span, q_BNRTK, k_BNSK)
        weights_BNRTS = jnp.exp(scores_BNRTS - most_BNRT1[own]) * (1 / sum_BNRT1[own])
        grad_BNRTS = _product("bnrtk,bnsk->bnrts", g_BNRTK[own], v_BNSK[:, :, span.keys])
        grad_BNRTS = weights_BNRTS * (grad_BNRTS - along_BNRT1[own]) * form.scale
        grad_BNRTS = jnp.where(scores_BNRTS > UNSEEN, grad_BNRTS, 0)  # of a row that sees nothing
        weights_BNRTS, grad_BNRTS = weights_BNRTS.astype(dtype), grad_BNRTS.astype(dtype)
        grads_q.append(_product("bnrts,bnsk->bnrtk", grad_BNRTS, k_BNSK[:, :, span.keys]))
        more_k = _product("bnrts,bnrtk->bnsk", grad_BNRTS, q_BNRTK[own])
        more_v = _product("bnrts,bnrtk->bnsk", weights_BNRTS, g_BNRTK[own])
        grad_k_BNSK = _added(grad_k_BNSK, span.keys, more_k)
        grad_v_BNSK = _added(grad_v_BNSK, span.keys, more_v)
    grads = _back(jnp.concatenate(grads_q, axis=3)), _keys(grad_k_BNSK), _keys(grad_v_BNSK)
    return *(grad.astype(dtype) for grad in grads), None


attend.defvjp(_forward, _backward)


def _queries(x_BTHK: jax.Array, N: int) -> jax.Array:
    """By heads, those that share keys side by side: [B, N, R, T, K]."""
    B, T, H, K = x_BTHK.shape
    return x_BTHK.reshape(B, T, N, H // N, K).transpose(0, 2, 3, 1, 4)


def _keys(x_BTNK: jax.Array) -> jax.Array:
    """By heads, or back from that."""
    return x_BTNK.transpose(0, 2, 1, 3)


def _back(x_BNRTK: jax.Array) -> jax.Array:
    B, N, R, T, K = x_BNRTK.shape
    return x_BNRTK.transpose(0, 3, 1, 2, 4).reshape(B, T, N * R, K)


def _added(sum_BNSK: jax.Array, keys: slice, more_BNSK: jax.Array) -> jax.Array:
    more_BNSK += sum_BNSK[:, :, keys]
    return jax.lax.dynamic_update_slice_in_dim(sum_BNSK, more_BNSK, keys.start, axis=2)


def _spans(form: Form, bounds: Bounds, T: int) -> list[_Span]:
    spans = []
    for start in range(0, T, BLOCK):
        stop = min(start + BLOCK, T)
        first, last = 0, T
        if bounds.prefix_B is None:
            if form.causal:
                last = stop
            if form.window is not None:
                first = max(0, start - form.window + 1)
                last = min(last, stop + form.window - 1)
        spans.append(_Span(slice(start, stop), slice(first, last)))
    return spans


def _scores(
    form: Form, bounds: Bounds, span: _Span, q_BNRTK: jax.Array, k_BNSK: jax.Array
) -> jax.Array:
    """Scaled scores of a block, [B, N, R, T, S]; the least number there is, where none is seen."""
    scores_BNRTS = _product(
        "bnrtk,bnsk->bnrts", q_BNRTK[:, :, :, span.queries], k_BNSK[:, :, span.keys]
    )
    positions_BT = jnp.arange(span.queries.start, span.queries.stop)[None]
    seen_BTS = seen(form, bounds, positions_BT, jnp.arange(span.keys.start, span.keys.stop))
    if bounds.document_BT is not None:
        document_BT = bounds.document_BT[:, span.queries]
        seen_BTS &= document_BT[:, :, None] == bounds.document_BT[:, None, span.keys]
    return jnp.where(seen_BTS[:, None, None], scores_BNRTS * form.scale, UNSEEN)
