"""Which tokens are drawn, and that texts do not depend on how they are cut into calls."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.learning import sampling

V = 8
LOGITS_V = np.array([0.5, 2.0, -1.0, 1.0, 0.0, 1.5, -2.0, 0.2], np.float32)
ROWS = 20_000


@functools.partial(jax.jit, static_argnums=(1, 3))
def draw(logits_BV, vocab_size, temperature, top_k, top_p, seed):
    key = jax.random.key(seed)
    return sampling.choose(logits_BV, key, vocab_size, temperature, top_k, top_p)


def drawn(vocab_size=V, temperature=1.0, top_k=None, top_p=None, logits_V=LOGITS_V) -> np.ndarray:
    """How often each of 20,000 rows chose each token."""
    logits_BV = np.tile(logits_V, (ROWS, 1))
    ids_B = np.asarray(draw(logits_BV, vocab_size, temperature, top_k, top_p, 0))
    assert ids_B.dtype == np.int32
    return np.bincount(ids_B, minlength=V)


def chances(kept=slice(None), temperature=1.0) -> np.ndarray:
    """Softmax in float64 over the tokens that are kept."""
    weights = np.zeros(V)
    weights[kept] = np.exp(np.float64(LOGITS_V[kept]) / temperature)
    return weights / weights.sum()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, chances()),
        ({"temperature": 0.5}, chances(temperature=0.5)),
        ({"temperature": 2.0}, chances(temperature=2.0)),
        ({"top_k": 3}, chances([1, 5, 3])),
        ({"top_k": 100}, chances()),
        # Of 0.39, 0.24, 0.14, 0.09, ...: the first that reach the mass.
        ({"top_p": 0.5}, chances([1, 5])),
        ({"top_p": 0.7}, chances([1, 5, 3])),
        ({"top_k": 5, "top_p": 0.5}, chances([1, 5])),
        ({"vocab_size": 5}, chances(slice(5))),
        ({"vocab_size": 5, "top_k": 8}, chances(slice(5))),
    ],
)
def test_frequencies_are_those_of_the_softmax(settings, expected):
    counts = drawn(**settings)
    assert (counts[expected == 0] == 0).all()
    hoped = expected[expected > 0] * ROWS
    chi_square = ((counts[expected > 0] - hoped) ** 2 / hoped).sum()
    assert chi_square < 25  # 7 degrees of freedom at most: one seed in a thousand passes 24.3


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": None},
        {"temperature": None, "top_k": 3, "top_p": 0.9},
        {"temperature": 1e-9},
        {"top_k": 1},
        {"top_p": 1e-6},
        {"temperature": 100.0, "top_p": 1e-6},
    ],
)
def test_the_likeliest_is_taken(settings):
    assert drawn(**settings)[1] == ROWS


def test_no_temperature_takes_the_first_of_equals():
    assert drawn(temperature=None, logits_V=np.zeros(V, np.float32))[0] == ROWS


def test_padding_is_not_drawn_even_where_it_is_likeliest():
    padded_V = np.where(np.arange(V) >= 6, 50, LOGITS_V).astype(np.float32)
    for settings in ({}, {"temperature": None}, {"top_k": 1}, {"top_p": 0.1}):
        assert drawn(vocab_size=6, logits_V=padded_V, **settings)[6:].sum() == 0


def test_rows_have_their_own_logits():
    logits_BV = jnp.eye(V)[::-1]
    assert draw(logits_BV, V, None, None, None, 0).tolist() == list(range(V))[::-1]


# ---- Texts

PROMPTS = [[3, 1, 4], [1], [5, 9, 2, 6, 5]]


def extended(model, params, cuts, temperature=None, seed=0, prompts=PROMPTS) -> np.ndarray:
    """Tokens made from the prompts in calls of `cuts` tokens."""
    length_B = np.array(list(map(len, prompts)), np.int32)
    tokens_BT = np.zeros((len(prompts), 6), np.int32)
    for row, prompt in zip(tokens_BT, prompts, strict=True):
        row[: len(prompt)] = prompt
    tail = sampling.prefill(model, params, tokens_BT, length_B, 16)
    made = []
    for count in cuts:
        tail, tokens_BN = sampling.extend(
            model, params, tail, jax.random.key(seed), count, 20, temperature, None, None
        )
        made.append(np.asarray(tokens_BN))
    assert (tail.last_B == made[-1][:, -1]).all()
    assert (tail.position_B == length_B - 1 + sum(cuts)).all()
    return np.concatenate(made, axis=1)


def test_cutting_a_text_into_calls_changes_nothing(model, params):
    whole = extended(model, params, [6], temperature=1.0)
    assert (extended(model, params, [2, 2, 2], temperature=1.0) == whole).all()
    assert (extended(model, params, [6], temperature=1.0, seed=1) != whole).any()
    assert whole.max() < 20


def test_every_row_and_position_draws_anew(model, params):
    # Where all tokens are alike, what is drawn shows the noise alone.
    made_BN = extended(model, jax.tree.map(jnp.zeros_like, params), [6], temperature=1.0)
    assert all(len(set(row)) > 3 for row in made_BN.tolist())
    assert len(set(map(tuple, made_BN.tolist()))) == len(PROMPTS)


def test_greedy_texts_are_those_of_a_loop_without_a_cache(model, params):
    apply = jax.jit(model.apply)
    found_BN = extended(model, params, [6])
    for prompt, found_N in zip(PROMPTS, found_BN, strict=True):
        text = list(prompt)
        for _ in range(6):
            padded_BT = np.zeros((1, 12), np.int32)
            padded_BT[0, : len(text)] = text
            text.append(int(apply(params, padded_BT)[0, len(text) - 1, :20].argmax()))
        assert text[len(prompt) :] == found_N.tolist()
