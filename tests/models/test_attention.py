"""Which attention a device runs, and that it is softmax(Q K^T) V over what may be seen."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.config import ConfigError, TransformerConfig
from lmjax.models import attention


def config(**numbers) -> TransformerConfig:
    return TransformerConfig(**{"width": 64, "heads": 4, "length": 32, **numbers})


def plain(
    q_BTHK,
    k_BTNK,
    v_BTNK,
    scale,
    window,
    causal=True,
    prefix_B=None,
    length_B=None,
    document_BT=None,
):
    """All T x T scores at once, in float64; key heads repeated for their query heads."""
    repeats = q_BTHK.shape[2] // k_BTNK.shape[2]
    q, k, v = (np.asarray(a, np.float64) for a in (q_BTHK, k_BTNK, v_BTNK))
    k, v = np.repeat(k, repeats, axis=2), np.repeat(v, repeats, axis=2)
    scores = np.einsum("bthk,bshk->bhts", q, k) * scale
    t, s = np.indices(scores.shape[-2:])
    hidden = ((s > t) & causal) | (abs(t - s) >= (window or len(t)))
    for row, unseen in enumerate(scores):
        below = s < (0 if prefix_B is None else prefix_B[row])
        beyond = s >= (len(t) if length_B is None else length_B[row])
        document_T = np.zeros(len(t)) if document_BT is None else document_BT[row]
        foreign = document_T[:, None] != document_T
        unseen[:, (hidden & ~below) | beyond | foreign] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("bhts,bshk->bthk", weights / weights.sum(-1, keepdims=True), v)


@pytest.mark.parametrize(
    ("T", "H", "N", "window"),
    [
        (5, 4, 2, None),
        (5, 4, 2, 3),
        (150, 4, 4, None),
        (150, 4, 2, 100),
        (150, 4, 1, 7),
        (150, 2, 1, 1),
        (150, 2, 2, 500),
    ],
)
def test_blocks_of_queries_give_plain_attention(T, H, N, window):
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(2, T, heads, 8)).astype(np.float32) for heads in (H, N, N))
    causal = functools.partial(
        attention.attend, causal=True, scale=0.3, window=window, implementation="xla"
    )
    found = jax.jit(causal)(q, k, v)
    np.testing.assert_allclose(found, plain(q, k, v, 0.3, window), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("causal", "window", "prefix_B", "length_B"),
    [
        (False, None, None, None),
        (False, 7, None, None),
        (False, 70, None, (150, 90)),
        (True, None, (100, 3), None),
        (True, 7, (70, 0), (150, 145)),
    ],
)
def test_an_encoder_a_prefix_and_padding(causal, window, prefix_B, length_B):
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(2, 150, heads, 8)).astype(np.float32) for heads in (4, 2, 2))
    some = {"prefix_B": prefix_B, "length_B": length_B}
    arrays = {name: None if a is None else jnp.asarray(a) for name, a in some.items()}
    attend = functools.partial(
        attention.attend, causal=causal, scale=0.3, window=window, implementation="xla"
    )
    found = jax.jit(attend)(q, k, v, **arrays)
    expected = plain(q, k, v, 0.3, window, causal, **some)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 70])
def test_documents_do_not_see_each_other(causal, window):
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(2, 150, heads, 8)).astype(np.float32) for heads in (4, 2, 2))
    document_BT = np.cumsum(rng.random((2, 150)) < 0.03, axis=1)
    assert 2 < document_BT[:, -1].min() and document_BT[0, 0] == 0
    attend = functools.partial(
        attention.attend, causal=causal, scale=0.3, window=window, implementation="xla"
    )
    found = jax.jit(attend)(q, k, v, document_BT=jnp.asarray(document_BT))
    expected = plain(q, k, v, 0.3, window, causal, document_BT=document_BT)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("causal", "window", "arrays"),
    [
        (True, None, {}),
        (True, 1, {}),
        (True, 70, {"document_BT": np.arange(150)[None].repeat(2, 0) // 40}),
        (True, 7, {"prefix_B": np.array([70, 0]), "length_B": np.array([150, 145])}),
        (False, 70, {"length_B": np.array([150, 90])}),
        (False, None, {"length_B": np.array([150, 0])}),  # a row that sees nothing
    ],
)
def test_gradients_are_those_of_all_scores_at_once(causal, window, arrays):
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(2, 150, heads, 8)).astype(np.float32) for heads in (4, 2, 2))
    weights = rng.normal(size=q.shape).astype(np.float32)

    def in_blocks(q, k, v):
        out = attention.attend(
            q, k, v, causal=causal, scale=0.3, window=window, implementation="xla", **arrays
        )
        return (out * weights).sum()

    def at_once(q, k, v):
        k, v = (jnp.repeat(a, 2, axis=2) for a in (k, v))
        t, s = np.indices((150, 150))
        seen = np.broadcast_to(
            ((s <= t) | (not causal)) & (abs(t - s) < (window or 150)), (2, 150, 150)
        )
        if "prefix_B" in arrays:
            seen = seen | (s < arrays["prefix_B"][:, None, None])
        if "length_B" in arrays:
            seen = seen & (s < arrays["length_B"][:, None, None])
        if "document_BT" in arrays:
            seen = seen & (arrays["document_BT"][:, :, None] == arrays["document_BT"][:, None])
        scores = jnp.where(seen[:, None], jnp.einsum("bthk,bshk->bhts", q, k) * 0.3, -1e30)
        return (jnp.einsum("bhts,bshk->bthk", jax.nn.softmax(scores), v) * weights).sum()

    arrays = {name: jnp.asarray(array) for name, array in arrays.items()}
    found, expected = (jax.jit(jax.grad(f, (0, 1, 2)))(q, k, v) for f in (in_blocks, at_once))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_no_scores_are_kept_for_the_backward_pass():
    """Twice the tokens take some twice the memory, not four times."""

    def bytes_of(T):
        q = jax.ShapeDtypeStruct((1, T, 2, 8), np.float32)
        attend = functools.partial(
            attention.attend, causal=True, scale=0.3, window=None, implementation="xla"
        )
        _, back = jax.eval_shape(lambda *a: jax.vjp(attend, *a), q, q, q)
        return sum(math.prod(leaf.shape) * 4 for leaf in jax.tree.leaves(back))

    assert bytes_of(1024) == 2 * bytes_of(512)


def test_cudnn_is_refused_for_a_prefix():
    q = jnp.ones((1, 4, 2, 8), jnp.bfloat16)
    with pytest.raises(ConfigError, match=r"^model.attention: "):
        attention.attend(
            q,
            q,
            q,
            scale=1.0,
            causal=True,
            window=None,
            implementation="cudnn",
            prefix_B=jnp.array([2]),
        )


def test_statistics_are_float32_in_bfloat16():
    # 600 equal keys: a sum of weights in bfloat16 would stop growing at 256 of them.
    q_BTHK, k_BNKS, v_BNSK = (
        jnp.ones(shape, jnp.bfloat16) for shape in ((1, 1, 1, 8), (1, 1, 8, 600), (1, 1, 600, 8))
    )
    last = jnp.array([[599]])
    cached = functools.partial(attention.seen_by, scale=1.0, window=None)
    found = jax.jit(cached)(q_BTHK, k_BNKS, v_BNSK, last)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), 1.0, rtol=0.005)


def test_auto_is_xla_on_a_cpu_and_cudnn_on_a_gpu():
    assert attention.choose(config(), "cpu", jnp.dtype("float32")) == "xla"
    assert attention.choose(config(), "gpu", jnp.dtype("bfloat16")) == "cudnn"


def test_xla_is_taken_as_asked_on_any_device():
    asked = config(attention="xla", length=33)
    assert attention.choose(asked, "gpu", jnp.dtype("float32")) == "xla"


@pytest.mark.parametrize(
    ("numbers", "platform", "dtype", "key"),
    [
        ({"attention": "cudnn"}, "cpu", "bfloat16", "model.attention"),
        ({}, "gpu", "float32", "model.dtype"),
        ({"head_width": 20}, "gpu", "bfloat16", "model.head_width"),
        ({"head_width": 136}, "gpu", "bfloat16", "model.head_width"),
        ({"length": 33}, "gpu", "bfloat16", "model.length"),
        (
            {"causal": False, "window": 4, "window_pattern": "S"},
            "gpu",
            "bfloat16",
            "model.window_pattern",
        ),
    ],
)
def test_a_rule_of_cudnn_that_is_broken_is_named(numbers, platform, dtype, key):
    with pytest.raises(ConfigError, match=rf"^{key}: expected .*--model.attention xla"):
        attention.choose(config(**numbers), platform, jnp.dtype(dtype))
