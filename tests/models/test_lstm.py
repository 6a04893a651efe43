"""The LSTM against a float64 reference, how far its gradients reach, and dropout."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.config import LSTMConfig
from lmjax.models.build import build

TOKENS_BT = np.random.default_rng(0).permuted(np.tile(np.arange(12), (3, 1)), axis=1)


def lstm(**numbers):
    return build(LSTMConfig(**{"vocab_size": 24, "length": 12, "width": 8, **numbers}), "cpu")


@functools.partial(jax.jit, static_argnums=0)
def logits(model, params, tokens_BT):
    return model.apply(params, tokens_BT)


@functools.partial(jax.jit, static_argnums=0)
def hidden(model, params, tokens_BT, key):
    return model.hidden(params, tokens_BT, key=key)


def reference(params, tokens_T, head):
    """Hochreiter and Schmidhuber 1997 with forget gates (Gers et al. 2000), a token at a time."""

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    p = jax.tree.map(np.float64, params)
    blocks = p["blocks"]
    L, D, _ = blocks["recurrent"]["kernel"].shape
    h, c, rows = np.zeros((L, D)), np.zeros((L, D)), []
    for token in tokens_T:
        x = p["embedding"][token]
        for i in range(L):
            gates = x @ blocks["input"]["kernel"][i] + blocks["input"]["bias"][i]
            gates = gates + h[i] @ blocks["recurrent"]["kernel"][i]
            i_gate, f_gate, o_gate, new = (gates[n * D : (n + 1) * D] for n in range(4))
            c[i] = sigmoid(f_gate) * c[i] + sigmoid(i_gate) * np.tanh(new)
            h[i] = sigmoid(o_gate) * np.tanh(c[i])
            x = h[i]
        rows.append(p[head] @ x + p["head_bias"])
    return np.stack(rows)


@pytest.mark.parametrize("tied", [False, True])
def test_logits_are_those_of_the_reference(randomised, tied):
    model = lstm(tied=tied)
    params = randomised(model)
    assert ("head" in params) != tied
    head = "embedding" if tied else "head"
    expected_BTV = [reference(params, row, head) for row in TOKENS_BT]
    found_BTV = logits(model, params, TOKENS_BT)
    assert found_BTV.dtype == jnp.float32
    np.testing.assert_allclose(found_BTV, expected_BTV, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("truncate", [None, 5, 1])
def test_gradients_reach_back_through_a_segment_and_values_through_the_row(randomised, truncate):
    model = lstm(truncate=truncate)
    params = randomised(model)

    def outputs(rows):
        h_TD = model.hidden({**params, "embedding": rows}, jnp.arange(12)[None])[0]
        return h_TD @ jnp.asarray(np.random.default_rng(2).normal(size=8))

    seen_TS = np.abs(jax.jit(jax.jacrev(outputs))(params["embedding"])[:, :12]).sum(-1) > 0
    t, s = np.indices(seen_TS.shape)
    size = truncate or 12
    assert (seen_TS == ((s <= t) & (s >= t // size * size))).all()
    whole = logits(lstm(), params, TOKENS_BT)
    np.testing.assert_allclose(logits(model, params, TOKENS_BT), whole, rtol=1e-6, atol=1e-6)


def test_bfloat16_keeps_the_cell_in_float32(randomised):
    params = randomised(lstm())
    exact, rounded = (logits(lstm(dtype=d), params, TOKENS_BT) for d in ("float32", "bfloat16"))
    assert 0 < np.abs(exact - rounded).max() < 0.05 * np.abs(exact).max()
    cache = lstm(dtype="bfloat16").init_cache(1, 8)
    assert (cache.h_BD.dtype, cache.c_BD.dtype) == (jnp.bfloat16, jnp.float32)


# ---- Dropout


def test_dropout_is_of_the_key_and_off_in_evaluation(randomised):
    model = lstm(dropout=0.5, truncate=4)
    params = randomised(model)
    one, again, other = (
        hidden(model, params, TOKENS_BT, jax.random.key(seed)) for seed in (0, 0, 1)
    )
    assert (one == again).all() and (one != other).any()
    assert 0.3 < (one == 0).mean() < 0.7
    plain = hidden(lstm(), params, TOKENS_BT, None)
    for quiet, key in ((model.without_dropout(), jax.random.key(0)), (model, None)):
        np.testing.assert_allclose(hidden(quiet, params, TOKENS_BT, key), plain, atol=1e-6)


def test_dropout_keeps_the_mean_of_what_is_dropped_last(randomised):
    # One layer, its input without weight: what varies is the dropout of the outputs alone.
    model = lstm(dropout=0.3, depth=1)
    params = randomised(model)
    params["blocks"]["input"]["kernel"] *= 0
    tokens_BT = np.zeros((4000, 12), np.int32)
    found_TD = hidden(model, params, tokens_BT, jax.random.key(0)).mean(0)
    expected_TD = hidden(model, params, tokens_BT[:1], None)[0]
    np.testing.assert_allclose(found_TD, expected_TD, atol=0.05 * np.abs(expected_TD).max())


# ---- Initialisation and arithmetic


def test_recurrent_kernels_are_orthogonal_and_forget_gates_open():
    model = lstm(width=64, depth=2, vocab_size=512, embedding_std=1.0, head_std=0.05)
    params = jax.jit(model.init)(jax.random.key(0))
    for layer in params["blocks"]["recurrent"]["kernel"]:
        for gate in np.split(np.asarray(layer), 4, axis=1):
            np.testing.assert_allclose(gate @ gate.T, np.eye(64), atol=1e-5)
    for bias in params["blocks"]["input"]["bias"]:
        assert bias.reshape(4, 64).mean(1).tolist() == [0, 1, 0, 0]
    deviations = {"embedding": 1.0, "head": 0.05}  # N(0, 1) is the article's
    for name, deviation in deviations.items():
        assert np.std(params[name]) == pytest.approx(deviation, rel=0.03)
    assert np.std(params["blocks"]["input"]["kernel"]) == pytest.approx(1 / 8, rel=0.03)
    assert (params["head_bias"] == 0).all()


def test_flops_are_six_for_each_weight_of_a_product(randomised):
    model = lstm()
    params = randomised(model)
    kernels = sum(params["blocks"][name]["kernel"].size for name in ("input", "recurrent"))
    assert model.flops_per_token() == 6 * (kernels + params["head"].size)


def test_fresh_models_do_not_wait_for_themselves():
    """Several orthogonal factorisations at a time leave XLA's threads waiting for one another."""
    lstm = build(LSTMConfig(vocab_size=64, length=16, depth=2, width=128), "cpu")
    init = jax.jit(lstm.init)
    for seed in range(30):
        jax.block_until_ready(init(jax.random.key(seed)))
