"""Masked tokens: how many, which, what is shown in their place, and the loss of exactly those."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.config import ConfigError, ObjectiveConfig
from lmjax.data.loader import Batch
from lmjax.learning.objective import make
from lmjax.models.model import Readout

PIECES, V, BOS, MASK, D = 1000, 1024, 1, 1000, 8
RNG = np.random.default_rng(0)
TABLE_VD = RNG.normal(size=(V, D)).astype(np.float32)
HEAD_VD = RNG.normal(size=(V, D)).astype(np.float32)
STARTS = [id % 2 == 0 for id in range(PIECES)]  # even ids begin a word, odd ones go on in it


class Recording:
    """Looks each token up and nothing else; remembers what it was shown and asked for."""

    def __init__(self):
        self.traces = 0

    def hidden(self, params, tokens_BT, *, key=None):
        self.traces += 1
        self.shown_BT = tokens_BT
        places_BT1 = jnp.broadcast_to(
            jnp.arange(tokens_BT.shape[1])[:, None], (*tokens_BT.shape, 1)
        )
        return jnp.concatenate([jnp.asarray(TABLE_VD)[tokens_BT] + params, places_BT1], axis=-1)

    def readout(self, params, x_D):
        self.at_BP = x_D[..., -1].astype(int)
        return Readout(x_D, jnp.pad(jnp.asarray(HEAD_VD), ((0, 0), (0, 1))))


def some(B=512, T=128, weighted=False, seed=0):
    rng = np.random.default_rng(seed)
    tokens_BS = rng.integers(2, PIECES, (B, T + 1)).astype(np.int32)
    tokens_BS[rng.random((B, T + 1)) < 0.1] = BOS
    real_BT = np.arange(T) < rng.integers(1, T + 1, (B, 1))
    return Batch(tokens_BS, real_BT.astype(np.float32) if weighted else None)


def objective(**numbers):
    config = ObjectiveConfig(kind="masked", **numbers)
    return make(config, V, PIECES, BOS, STARTS)


@functools.partial(jax.jit, static_argnums=2)
def drawn(batch, key, numbers):
    model = Recording()
    sums = objective(**dict(numbers))(model, 0.0, batch, key)
    return model.shown_BT, model.at_BP, sums


@functools.partial(jax.jit, static_argnums=2)
def gradient(batch, key, numbers):
    """Of the loss, with respect to the state of each position."""

    def loss(add_BTD):
        return objective(**dict(numbers))(Recording(), add_BTD, batch, key).loss

    return jax.grad(loss)(jnp.zeros((len(batch.tokens), batch.tokens.shape[1] - 1, D)))


def recorded(batch, seed=0, **numbers):
    """Tokens, what was shown for them, which were predicted (a mask [B, T]), and the sums."""
    shown_BT, at_BP, sums = drawn(batch, jax.random.key(seed), tuple(numbers.items()))
    shown_BT, at_BP = np.asarray(shown_BT), np.asarray(at_BP)
    chosen_BT = np.zeros(shown_BT.shape, int)
    np.add.at(chosen_BT, (np.arange(len(at_BP))[:, None], at_BP), 1)
    assert chosen_BT.max() == 1  # no position twice
    return batch.tokens[:, 1:], shown_BT, chosen_BT == 1, sums


@pytest.mark.parametrize(("rate", "P"), [(0.15, 19), (0.3, 38)])
def test_a_fixed_number_a_row_never_a_document_start(rate, P):
    tokens_BT, shown_BT, chosen_BT, sums = recorded(some(), mask_rate=rate)
    assert (chosen_BT.sum(1) == P).all()
    assert sums.count == P * len(tokens_BT)
    assert not chosen_BT[tokens_BT == BOS].any()
    assert (shown_BT == tokens_BT)[~chosen_BT].all()
    # Every place is as likely as any other.
    assert np.abs(chosen_BT.mean(0) - P / 128).max() < 5 * np.sqrt(rate / 512)


def test_of_those_80_are_masked_10_random_and_10_as_they_were():
    tokens_BT, shown_BT, chosen_BT, _ = recorded(some())
    targets, shown = tokens_BT[chosen_BT], shown_BT[chosen_BT]
    assert np.mean(shown == MASK) == pytest.approx(0.8, abs=0.016)
    assert np.mean(shown == targets) == pytest.approx(0.1, abs=0.012)
    drawn = shown[(shown != MASK) & (shown != targets)]
    assert drawn.min() >= 0 and drawn.max() < PIECES
    every = PIECES * (1 - np.exp(-drawn.size / PIECES))  # pieces that so many draws reach
    assert np.unique(drawn).size == pytest.approx(every, rel=0.1)
    assert drawn.mean() == pytest.approx(PIECES / 2, rel=0.05)


@pytest.mark.parametrize("whole_words", [False, True])
def test_padding_is_neither_predicted_nor_changed(whole_words):
    batch = some(weighted=True)
    tokens_BT, shown_BT, _, sums = recorded(batch, whole_words=whole_words)
    assert (shown_BT == tokens_BT)[batch.weights == 0].all()
    assert (shown_BT == tokens_BT)[tokens_BT == BOS].all()
    can_B = (batch.weights * (tokens_BT != BOS)).sum(1)
    most = np.minimum(can_B, 19).sum()
    assert 0.7 * most < sums.count <= most if whole_words else sums.count == most


def test_whole_words_are_predicted_whole():
    # The gradient tells which positions count: a word cut off by the fixed number does not.
    batch = some()
    gradient_BTD = gradient(batch, jax.random.key(0), (("whole_words", True),))
    counts_BT = np.abs(gradient_BTD).max(-1) > 0
    tokens_BT = batch.tokens[:, 1:]
    word_BT = np.cumsum(tokens_BT % 2 == 0, axis=1)
    for tokens_T, word_T, counts_T in zip(tokens_BT, word_BT, counts_BT, strict=True):
        for word in np.unique(word_T):
            assert len(set(counts_T[(word_T == word) & (tokens_T != BOS)].tolist())) <= 1
    assert counts_BT.sum(1).max() <= 19
    assert counts_BT.sum(1).mean() > 17
    assert not counts_BT[tokens_BT == BOS].any()


@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_is_a_dense_one_of_the_same_draws(weighted):
    batch = some(64, weighted=weighted)
    tokens_BT, shown_BT, chosen_BT, sums = recorded(batch)
    logits_BTV = np.float64(TABLE_VD)[shown_BT] @ np.float64(HEAD_VD[:PIECES]).T
    logits_BTV -= logits_BTV.max(-1, keepdims=True)
    lse_BT = np.log(np.exp(logits_BTV).sum(-1))
    losses_BT = lse_BT - np.take_along_axis(logits_BTV, tokens_BT[..., None], axis=-1)[..., 0]
    count_BT = chosen_BT * (tokens_BT != BOS)
    if weighted:
        count_BT = count_BT * batch.weights
    np.testing.assert_allclose(sums.loss, (losses_BT * count_BT).sum(), rtol=1e-5)
    assert sums.count == count_BT.sum()


def test_the_gradient_is_a_dense_one_of_the_same_draws():
    batch = some(64, weighted=True)
    tokens_BT, shown_BT, chosen_BT, _ = recorded(batch)
    logits_BTV = np.float64(TABLE_VD)[shown_BT] @ np.float64(HEAD_VD[:PIECES]).T
    chances_BTV = np.exp(logits_BTV - logits_BTV.max(-1, keepdims=True))
    chances_BTV /= chances_BTV.sum(-1, keepdims=True)
    weights_BT = chosen_BT * (tokens_BT != BOS) * batch.weights
    expected_BTD = (chances_BTV - np.eye(PIECES)[tokens_BT]) @ HEAD_VD[:PIECES]
    found_BTD = gradient(batch, jax.random.key(0), ())
    np.testing.assert_allclose(found_BTD, expected_BTD * weights_BT[..., None], atol=1e-5)


def test_what_was_not_chosen_has_no_gradient():
    batch = some()
    _, _, chosen_BT, _ = recorded(batch, seed=3)
    gradient_BTD = gradient(batch, jax.random.key(3), ())
    assert ((np.abs(gradient_BTD).max(-1) > 0) == chosen_BT).all()


def test_draws_are_of_the_key_and_compiled_once():
    goal, model = objective(), Recording()
    loss = jax.jit(lambda batch, key: goal(model, 0.0, batch, key).loss)
    batch = some(16)
    one, again, other = (loss(batch, jax.random.key(seed)) for seed in (0, 0, 1))
    assert one == again and one != other
    loss(some(16, seed=1), jax.random.key(2))
    assert model.traces == 1


def test_a_mask_without_a_row_is_refused():
    with pytest.raises(ConfigError, match=r"^objective.mask_id: .* below 1000, found 1000"):
        make(ObjectiveConfig(kind="masked"), PIECES, PIECES, BOS, STARTS)
    with pytest.raises(ConfigError, match=r"^objective.whole_words: "):
        make(ObjectiveConfig(kind="masked", whole_words=True), V, PIECES, BOS, [])
