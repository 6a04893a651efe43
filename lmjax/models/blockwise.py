"""Attention by blocks of queries, for devices without a kernel of their own for it.

Scores exist a block at a time: what no query of a block can see costs nothing, and the backward
pass computes them again, as FlashAttention does (Dao et al. 2022), so that memory grows with T and
not with its square.

Shapes: B batch, T queries, S keys, H query heads, N key heads, R = H / N, K head width.
"""

import functools
from typing import Any, Literal, NamedTuple

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
    """A block of queries and the keys that some of them see, or of keys and who sees them."""

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
    for span in _spans(form, bounds, q_BTHK.shape[1], by="queries"):
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
    """By blocks of keys, scores turned around: two of three gradients are then products that read
    scores as they lie, and the third alone is added up."""
    q_BTHK, k_BTNK, v_BTNK, bounds, mixed_BTHK, most_BNRT1, sum_BNRT1 = kept
    N, dtype = k_BTNK.shape[2], q_BTHK.dtype
    q_BNRTK, k_BNSK, v_BNSK = _queries(q_BTHK, N), _keys(k_BTNK), _keys(v_BTNK)
    # Weights are not divided by their sum: what they are multiplied with is, and is smaller.
    g_BNRTK = (_queries(g_BTHK, N) / sum_BNRT1).astype(dtype)
    # The sum over keys of weight times its gradient, told by the output alone.
    along_BTH1 = (g_BTHK.astype(jnp.float32) * mixed_BTHK).sum(-1, keepdims=True)
    along_BNRT1 = _queries(along_BTH1, N) / sum_BNRT1
    along_BN1RT, most_BN1RT = (a[:, :, None, ..., 0] for a in (along_BNRT1, most_BNRT1))
    grad_q_BNRTK, grads_k, grads_v = jnp.zeros(q_BNRTK.shape), [], []
    for span in _spans(form, bounds, q_BTHK.shape[1], by="keys"):
        own_BNRTK, own_g_BNRTK = (a[:, :, :, span.queries] for a in (q_BNRTK, g_BNRTK))
        scores_BNSRT = _product("bnsk,bnrtk->bnsrt", k_BNSK[:, :, span.keys], own_BNRTK)
        seen_BST = _seen(form, bounds, span).swapaxes(1, 2)
        scores_BNSRT = _where(seen_BST[:, None, :, None], scores_BNSRT * form.scale, UNSEEN)
        weights_BNSRT = jnp.exp(scores_BNSRT - most_BN1RT[..., span.queries])
        grad_BNSRT = _product("bnsk,bnrtk->bnsrt", v_BNSK[:, :, span.keys], own_g_BNRTK)
        grad_BNSRT = weights_BNSRT * (grad_BNSRT - along_BN1RT[..., span.queries])
        if bounds.length_B is not None:  # a row may see nothing
            grad_BNSRT = _where(scores_BNSRT > UNSEEN, grad_BNSRT, 0)
        weights_BNSRT, grad_BNSRT = weights_BNSRT.astype(dtype), grad_BNSRT.astype(dtype)
        grads_k.append(_product("bnsrt,bnrtk->bnsk", grad_BNSRT, own_BNRTK))
        grads_v.append(_product("bnsrt,bnrtk->bnsk", weights_BNSRT, own_g_BNRTK))
        more_BNRTK = _product("bnsrt,bnsk->bnrtk", grad_BNSRT, k_BNSK[:, :, span.keys])
        more_BNRTK += grad_q_BNRTK[:, :, :, span.queries]
        grad_q_BNRTK = jax.lax.dynamic_update_slice_in_dim(
            grad_q_BNRTK, more_BNRTK, span.queries.start, axis=3
        )
    grad_k_BNSK, grad_v_BNSK = (jnp.concatenate(grads, axis=2) for grads in (grads_k, grads_v))
    grads = _back(grad_q_BNRTK * form.scale), _keys(grad_k_BNSK * form.scale), _keys(grad_v_BNSK)
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


def _spans(form: Form, bounds: Bounds, T: int, by: Literal["queries", "keys"]) -> list[_Span]:
    """All blocks of queries, each with the keys that some of it see; or of keys, with who sees."""
    alone = bounds.prefix_B is None
    reach = T if form.window is None or not alone else form.window - 1
    spans = []
    for start in range(0, T, BLOCK):
        stop = min(start + BLOCK, T)
        block, first, last = slice(start, stop), max(0, start - reach), min(T, stop + reach)
        if by == "queries":
            spans.append(_Span(block, slice(first, stop if form.causal and alone else last)))
        else:
            spans.append(_Span(slice(start if form.causal and alone else first, last), block))
    return spans


def _scores(
    form: Form, bounds: Bounds, span: _Span, q_BNRTK: jax.Array, k_BNSK: jax.Array
) -> jax.Array:
    """Scaled scores of a block, [B, N, R, T, S]; the least number there is, where none is seen."""
    scores_BNRTS = _product(
        "bnrtk,bnsk->bnrts", q_BNRTK[:, :, :, span.queries], k_BNSK[:, :, span.keys]
    )
    seen_BTS = _seen(form, bounds, span)
    return _where(seen_BTS[:, None, None], scores_BNRTS * form.scale, UNSEEN)


def _seen(form: Form, bounds: Bounds, span: _Span) -> jax.Array:
    """`seen`, documents included."""
    positions_BT = jnp.arange(span.queries.start, span.queries.stop)[None]
    seen_BTS = seen(form, bounds, positions_BT, jnp.arange(span.keys.start, span.keys.stop))
    if bounds.document_BT is not None:
        own_BT, their_BS = (bounds.document_BT[:, part] for part in span)
        seen_BTS &= own_BT[:, :, None] == their_BS[:, None]
    return seen_BTS


def _where(mask: jax.Array, x: jax.Array, other: float) -> jax.Array:
    """`jnp.where`, which is a function: where layers are compiled apart it would be as well, and
    what is around it could not join it."""
    return jax.lax.select(jnp.broadcast_to(mask, x.shape), x, jnp.full_like(x, other))
