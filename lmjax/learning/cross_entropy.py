"""Cross entropy fused with the head: logits exist a chunk of rows at a time, and only once.

Shapes: R rows (targets), C rows of a chunk, N chunks, D width, V vocabulary.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lmjax.models import sharding
from lmjax.models.model import Readout, chunk_of

_LEAST = float(jnp.finfo(jnp.float32).min)  # finite: least minus least stays a number
_Rows = tuple[jax.Array, jax.Array, jax.Array]  # x, targets, weights


class _Form(NamedTuple):
    """What the loss is of: numbers that are known when it is compiled."""

    softcap: float | None
    pieces: int
    z_loss: float


def cross_entropy(
    readout: Readout,
    targets: jax.Array,
    weights: jax.Array | None,
    *,
    pieces: int | None = None,
    z_loss: float = 0.0,
) -> jax.Array:
    """The sum of weights x -log softmax(logits) at the targets, in nats: a float32 scalar.

    `targets` and `weights` have the leading shape of the readout's x; no weights are ones.
    Ids from `pieces` on pad the vocabulary: they take no part in the softmax, and their rows of the
    head get no gradient. None means that there are none.
    `z_loss` times the squared log-sum-exp is added to each target's loss before it is weighted
    (Chowdhery et al. 2022, "PaLM": 1e-4), so that logits do not drift away from 0.
    """
    rows = readout.x_D, targets, jnp.ones(targets.shape) if weights is None else weights
    V = readout.weight_VD.shape[0]
    form = _Form(readout.softcap, V if pieces is None else pieces, z_loss)
    chunked = functools.partial(_chunked, form, readout.chunk)
    return sharding.over_rows(chunked, rows, (readout.weight_VD, readout.bias_V))


def _chunked(form: _Form, size: int, rows: _Rows, head: tuple[Any, Any]) -> jax.Array:
    """The sum over rows, by chunks of at most about `size` logits."""
    x, targets, weights = rows
    targets_R, weights_R = targets.reshape(-1), weights.reshape(-1).astype(jnp.float32)
    R, V = targets_R.size, head[0].shape[0]
    least = -(-R * V // chunk_of(R * V, size))
    # Chunks of one size where a few more make them so: filled up, all rows would be copied.
    N = next((n for n in range(least, 2 * least) if R % n == 0), least)
    C = -(-R // N)
    # Rows that fill the last chunk weigh nothing.
    chunks = [
        jnp.pad(rows, [(0, N * C - R)] + [(0, 0)] * (rows.ndim - 1)).reshape(N, C, *rows.shape[1:])
        for rows in (x.reshape(R, -1), targets_R, weights_R)
    ]
    return _summed(form, *chunks, *head)


def _known(form: _Form, V: int) -> jax.Array | None:
    """Which ids are no padding, [V]; none where none is."""
    return None if form.pieces >= V else jnp.arange(V) < form.pieces


def log_sum_exp(logits_CV: jax.Array) -> jax.Array:
    """Over the vocabulary, [C]. On a GPU in one pass over the logits, which is 2% of a step of 124M
    (H100, 2026-11-27); on a CPU in two, whose loops XLA makes vectors of."""

    def two_passes(logits_CV: jax.Array) -> jax.Array:
        lse_C: jax.Array = jax.nn.logsumexp(logits_CV, axis=-1)
        return lse_C

    lse_C: jax.Array = jax.lax.platform_dependent(logits_CV, cpu=two_passes, default=_one_pass)
    return lse_C


def _one_pass(logits_CV: jax.Array) -> jax.Array:
    """The maximum and the sum together, the sum scaled anew where the maximum grows (Milakov and
    Gimelshein 2018, "Online normalizer calculation for softmax")."""

    def both(a: tuple[Any, Any], b: tuple[Any, Any]) -> tuple[Any, Any]:
        most = jnp.maximum(a[0], b[0])
        return most, a[1] * jnp.exp(a[0] - most) + b[1] * jnp.exp(b[0] - most)

    start = jnp.float32(_LEAST), jnp.float32(0)
    most_C, sum_C = jax.lax.reduce((logits_CV, jnp.ones_like(logits_CV)), start, both, (1,))
    return most_C + jnp.log(sum_C)


def _chunk(
    form: _Form,
    x_CD: jax.Array,
    targets_C: jax.Array,
    weights_C: jax.Array,
    weight_VD: jax.Array,
    bias_V: jax.Array | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The loss of a chunk, with its logits and their log-sum-exp."""
    logits_CV = Readout(x_CD, weight_VD, bias_V, form.softcap).logits()
    known_V = _known(form, weight_VD.shape[0])
    lse_C = log_sum_exp(logits_CV if known_V is None else jnp.where(known_V, logits_CV, _LEAST))
    target_C = jnp.take_along_axis(logits_CV, targets_C[:, None], axis=-1)[:, 0]
    loss_C = lse_C - target_C
    if form.z_loss:
        loss_C += form.z_loss * jnp.square(lse_C)
    return (loss_C * weights_C).sum(), logits_CV, lse_C


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _summed(
    form: _Form,
    x_NCD: jax.Array,
    targets_NC: jax.Array,
    weights_NC: jax.Array,
    weight_VD: jax.Array,
    bias_V: jax.Array | None,
) -> jax.Array:
    def add(loss: jax.Array, chunk: _Rows) -> tuple[jax.Array, None]:
        return loss + _chunk(form, *chunk, weight_VD, bias_V)[0], None

    return jax.lax.scan(add, jnp.zeros(()), (x_NCD, targets_NC, weights_NC))[0]


def _forward(
    form: _Form,
    x_NCD: jax.Array,
    targets_NC: jax.Array,
    weights_NC: jax.Array,
    weight_VD: jax.Array,
    bias_V: jax.Array | None,
) -> tuple[jax.Array, Any]:
    """Loss and gradients in one pass: while a chunk's logits are at hand."""
    ids_V = jnp.arange(weight_VD.shape[0])
    known_V = _known(form, weight_VD.shape[0])
    dtype = x_NCD.dtype

    def add(carry: Any, chunk: _Rows) -> tuple[Any, jax.Array]:
        loss, grad_DV, grad_V = carry
        x_CD, targets_C, weights_C = chunk
        more, logits_CV, lse_C = _chunk(form, *chunk, weight_VD, bias_V)
        g_CV = jnp.exp(logits_CV - lse_C[:, None])
        if form.z_loss:
            g_CV *= 1 + 2 * form.z_loss * lse_C[:, None]
        g_CV -= targets_C[:, None] == ids_V
        if form.softcap is not None:
            g_CV *= 1 - jnp.square(logits_CV / form.softcap)
        if known_V is not None:  # last, since what padding's logits gave may be no number
            g_CV = jnp.where(known_V, g_CV, 0)
        # In the compute dtype, so that no product runs in float32 on a GPU; behind a barrier, since
        # XLA would compute it anew for each of the products that read it.
        g_CV = jax.lax.optimization_barrier((g_CV * weights_C[:, None]).astype(dtype))
        product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
        # By width first: a CPU multiplies [V, C] by [C, D] at half the speed.
        grads = (
            grad_DV + product("cd,cv->dv", x_CD, g_CV),
            None if bias_V is None else grad_V + g_CV.sum(0, dtype=jnp.float32),
        )
        return (loss + more, *grads), product("cv,vd->cd", g_CV, weight_VD).astype(dtype)

    float32 = functools.partial(jnp.zeros_like, dtype=jnp.float32)
    zeros = jnp.zeros(()), float32(weight_VD.T), None if bias_V is None else float32(bias_V)
    chunks = x_NCD, targets_NC, weights_NC
    (loss, grad_DV, grad_V), grad_NCD = jax.lax.scan(add, zeros, chunks)
    return loss, (grad_NCD, grad_DV.T.astype(weight_VD.dtype), grad_V)


def _backward(form: _Form, grads: Any, cotangent: jax.Array) -> tuple[Any, ...]:
    del form
    x, weight, bias = jax.tree.map(lambda g: g * cotangent.astype(g.dtype), grads)
    return x, None, None, weight, bias


_summed.defvjp(_forward, _backward)
