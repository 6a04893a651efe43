"""The neural probabilistic language model against a float64 reference, and what it sees."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.config import NPLMConfig
from lmjax.models.build import build

TOKENS_BT = np.random.default_rng(0).permuted(np.tile(np.arange(12), (3, 1)), axis=1)


def nplm(**numbers):
    given = {"vocab_size": 24, "length": 12, "context": 4, "width": 6, "hidden": 10, **numbers}
    return build(NPLMConfig(**given), "cpu")


@functools.partial(jax.jit, static_argnums=0)
def logits(model, params, tokens_BT):
    return model.apply(params, tokens_BT)


def reference(params, tokens_T, C):
    """y = b + W x + U tanh(d + H x) (Bengio et al. 2003, section 2), a position at a time."""
    p = jax.tree.map(np.float64, params)
    D = p["embedding"].shape[1]
    H, d = p["blocks"]["hidden"]["kernel"][0], p["blocks"]["hidden"]["bias"][0]
    rows = []
    for t in range(len(tokens_T)):
        words = [
            p["embedding"][tokens_T[s]] if s >= 0 else np.zeros(D) for s in range(t - C + 1, t + 1)
        ]
        x = np.concatenate(words)
        y = p["head_bias"] + p["head"] @ np.tanh(d + x @ H)
        rows.append(y + p["direct"] @ x if "direct" in p else y)
    return np.stack(rows)


@pytest.mark.parametrize("direct", [True, False])
def test_logits_are_those_of_the_reference(randomised, direct):
    model = nplm(direct=direct)
    params = randomised(model)
    assert ("direct" in params) == direct
    expected_BTV = [reference(params, row, 4) for row in TOKENS_BT]
    found_BTV = logits(model, params, TOKENS_BT)
    assert found_BTV.dtype == jnp.float32
    np.testing.assert_allclose(found_BTV, expected_BTV, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("context", [1, 4])
def test_the_last_tokens_are_seen_and_no_others(randomised, context):
    model = nplm(context=context)
    params = randomised(model)
    mix_V = jnp.asarray(np.random.default_rng(2).normal(size=24))

    def outputs(rows):
        return model.apply({**params, "embedding": rows}, jnp.arange(12)[None])[0] @ mix_V

    seen_TS = np.abs(jax.jit(jax.jacrev(outputs))(params["embedding"])[:, :12]).sum(-1) > 0
    t, s = np.indices(seen_TS.shape)
    assert (seen_TS == ((s <= t) & (t - s < context))).all()


def test_initial_weights_have_the_deviations_of_the_config():
    model = nplm(vocab_size=512, width=32, hidden=256, embedding_std=1.0, head_std=0.02)
    params = jax.jit(model.init)(jax.random.key(0))
    kernel = params["blocks"]["hidden"]["kernel"]
    deviations = {"embedding": 1.0, "head": 0.02, "direct": 0.02}  # N(0, 1) is the article's
    for name, deviation in deviations.items():
        assert np.std(params[name]) == pytest.approx(deviation, rel=0.03), name
    assert np.std(kernel) == pytest.approx(1 / np.sqrt(4 * 32), rel=0.03)
    assert (params["blocks"]["hidden"]["bias"] == 0).all() and (params["head_bias"] == 0).all()


@pytest.mark.parametrize("direct", [True, False])
def test_flops_are_six_for_each_weight_of_a_product(randomised, direct):
    model = nplm(direct=direct)
    params = randomised(model)
    weights = params["blocks"]["hidden"]["kernel"].size + params["head"].size
    assert model.flops_per_token() == 6 * (weights + (params["direct"].size if direct else 0))
