"""Which token is predicted from which, and sums that add up."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.config import Config, ConfigError, LSTMConfig, ObjectiveConfig
from lmjax.data.loader import Batch
from lmjax.learning.objective import make, next_token
from lmjax.models.model import Readout
from lmjax.models.transformer import build

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


# ---- Documents in a row

BOS = 1
PACKED_BS = np.array([[1, 4, 5, 6, 7, 1, 8, 9, 10, 11, 12, 1, 13]], np.int32)
SECOND_BT = np.array([[0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0, 0]], np.float32)


@pytest.mark.parametrize("kind", ["next_token", "masked"])
@pytest.mark.parametrize("document_mask", [False, True])
def test_what_a_document_costs_depends_on_no_other_where_they_are_masked(
    model, params, kind, document_mask
):
    if kind == "masked":
        model = build(dataclasses.replace(model.config, causal=False), "cpu")
    config = ObjectiveConfig(kind=kind, document_mask=document_mask, mask_rate=0.3)
    goal = make(config, 24, 20, BOS, [])

    @jax.jit
    def cost(tokens_BS):
        """Of the second document's targets, and its gradient by the embedding."""
        batch = Batch(tokens_BS, jnp.asarray(SECOND_BT))
        loss = lambda params: goal(model, params, batch, jax.random.key(0)).loss  # noqa: E731
        value, grads = jax.value_and_grad(loss)(params)
        return value, grads["embedding"]

    others_BS = PACKED_BS.copy()
    others_BS[0, 1:5] = [14, 15, 16, 17]
    others_BS[0, 12] = 18
    (value, grad_VD), (other, other_VD) = jax.device_get((cost(PACKED_BS), cost(others_BS)))
    assert (abs(value - other) < 1e-5) == document_mask
    unseen = [4, 5, 6, 7, 13, *range(14, 19)]
    assert (not grad_VD[unseen].any() and not other_VD[unseen].any()) == document_mask
    assert grad_VD[8:13].any() and grad_VD[BOS].any()


def test_documents_need_a_bos_and_a_model_that_attends():
    with pytest.raises(ConfigError, match=r"^objective.document_mask: expected a corpus with"):
        make(ObjectiveConfig(document_mask=True), V, None, None, [])
    with pytest.raises(ConfigError, match=r"^objective.document_mask: expected off, .* lstm"):
        Config(model=LSTMConfig(), objective=ObjectiveConfig(document_mask=True))
