"""Which token is predicted from which, and sums that add up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.config import ConfigError, ObjectiveConfig
from lmjax.data.loader import Batch
from lmjax.learning.objective import make, next_token
from lmjax.models.model import Readout

V = 16
RNG = np.random.default_rng(0)
TABLE_VV = jnp.asarray(RNG.normal(size=(V, V)), jnp.float32)
TOKENS_BS = RNG.integers(0, V, (6, 9)).astype(np.int32)
WEIGHTS_BT = RNG.uniform(0, 2, (6, 8)).astype(np.float32)


class Bigram:
    """The logits after a token are a row of the table."""

    def hidden(self, params, tokens_BT, *, key=None):
        return params[tokens_BT]

    def readout(self, params, x_D):
        return Readout(x_D, jnp.eye(V))


@jax.jit
def sums(tokens_BS, weights_BT=None):
    return next_token(Bigram(), TABLE_VV, Batch(tokens_BS, weights_BT), jax.random.key(0))


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


def test_the_settings_reach_the_loss():
    """Pieces and the price of the log-sum-exp, against float64."""
    pieces, z_loss = 10, 0.1
    tokens_BS = TOKENS_BS % pieces
    goal = make(ObjectiveConfig(z_loss=z_loss), V, pieces, None, [])
    found = goal(Bigram(), TABLE_VV, Batch(tokens_BS, WEIGHTS_BT), jax.random.key(0))
    logits_BTV = np.float64(TABLE_VV)[tokens_BS[:, :-1], :pieces]
    lse_BT = np.log(np.exp(logits_BTV).sum(-1))
    target_BT = np.take_along_axis(logits_BTV, tokens_BS[:, 1:, None], axis=-1)[..., 0]
    losses_BT = lse_BT - target_BT + z_loss * lse_BT**2
    np.testing.assert_allclose(found.loss, (losses_BT * WEIGHTS_BT).sum(), rtol=1e-6)


@pytest.mark.parametrize("z_loss", [-1.0, float("inf")])
def test_a_z_loss_out_of_range_is_refused(z_loss):
    with pytest.raises(ConfigError, match=r"^objective.z_loss: expected "):
        ObjectiveConfig(z_loss=z_loss)
