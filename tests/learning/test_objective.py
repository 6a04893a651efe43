"""Cross entropy against float64, and sums that add up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.data.loader import Batch
from lmjax.learning.objective import cross_entropy, next_token

V = 16
RNG = np.random.default_rng(0)
TABLE_VV = jnp.asarray(RNG.normal(size=(V, V)), jnp.float32)
TOKENS_BS = RNG.integers(0, V, (6, 9)).astype(np.int32)
WEIGHTS_BT = RNG.uniform(0, 2, (6, 8)).astype(np.float32)


def bigram(params, tokens_BT):
    return params[tokens_BT]


@jax.jit
def sums(tokens_BS, weights_BT=None):
    return next_token(bigram, TABLE_VV, Batch(tokens_BS, weights_BT), jax.random.key(0))


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_cross_entropy_is_that_of_float64(scale):
    rng = np.random.default_rng(1)
    logits_BTV = (rng.normal(size=(3, 5, V)) * scale).astype(np.float32)
    targets_BT = rng.integers(0, V, (3, 5))
    shifted = np.float64(logits_BTV) - logits_BTV.max(-1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    expected = -np.take_along_axis(logs, targets_BT[..., None], -1)[..., 0]
    found = jax.jit(cross_entropy)(jnp.asarray(logits_BTV), jnp.asarray(targets_BT))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_each_token_is_predicted_from_the_one_before():
    found = sums(np.array([[3, 5, 7]], np.int32))
    logs = jax.nn.log_softmax(TABLE_VV)
    np.testing.assert_allclose(found.loss, -(logs[3, 5] + logs[5, 7]), rtol=1e-6)
    assert found.count == 2


def test_padding_weighs_nothing():
    weights_BT = WEIGHTS_BT.copy()
    weights_BT[:, 5:] = 0
    padded_BS = TOKENS_BS.copy()
    padded_BS[:, 6:] = 0
    one, other, short = (
        sums(TOKENS_BS, weights_BT),
        sums(padded_BS, weights_BT),
        sums(TOKENS_BS[:, :6], weights_BT[:, :5]),
    )
    assert one.count == other.count == pytest.approx(short.count)
    assert one.loss == other.loss == pytest.approx(short.loss)


def test_no_weights_are_weights_of_one():
    one, other = sums(TOKENS_BS), sums(TOKENS_BS, np.ones((6, 8), np.float32))
    assert (one.loss, one.count) == (other.loss, other.count)
    assert one.count.dtype == other.count.dtype == jnp.float32


@pytest.mark.parametrize("weights_BT", [None, WEIGHTS_BT])
def test_sums_add_up_over_any_split(weights_BT):
    whole = sums(TOKENS_BS, weights_BT)
    for cut in (1, 4):
        parts = [
            sums(TOKENS_BS[rows], None if weights_BT is None else weights_BT[rows])
            for rows in (slice(cut), slice(cut, None))
        ]
        added = jax.tree.map(jnp.add, *parts)
        np.testing.assert_allclose(added.loss, whole.loss, rtol=1e-6)
        np.testing.assert_allclose(added.count, whole.count, rtol=1e-6)
