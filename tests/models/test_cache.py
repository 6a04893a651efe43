"""Every model that predicts the next token decodes with its cache what it computes without."""

import functools

import jax
import numpy as np
import pytest

from lmjax.config import ConfigError, LSTMConfig, NPLMConfig
from lmjax.models.build import build

TOKENS_BT = np.random.default_rng(0).permuted(np.tile(np.arange(12), (3, 1)), axis=1)
OTHERS = {
    "lstm": LSTMConfig(vocab_size=24, length=12, width=8),
    "nplm": NPLMConfig(vocab_size=24, length=12, context=4, width=6, hidden=10),
    "nplm, indirect": NPLMConfig(
        vocab_size=24, length=12, context=6, width=6, hidden=10, direct=False
    ),
}


@functools.partial(jax.jit, static_argnums=0)
def logits(model, params, tokens_BT):
    return model.apply(params, tokens_BT)


@functools.partial(jax.jit, static_argnums=0)
def decoded(model, params, tokens_BT, start_B, cache, count_B):
    return model.decode(params, tokens_BT, start_B, cache, count_B=count_B)


@pytest.fixture
def model_of(tiny):
    def make(name):
        return build(OTHERS[name], "cpu") if name in OTHERS else tiny(name)

    return make


@pytest.mark.parametrize("name", [*OTHERS, "gpt1", "llama", "qwen3", "speedrun"])
def test_decoding_gives_the_logits_of_apply(model_of, randomised, name):
    model = model_of(name)
    params = randomised(model)
    expected_BTV = np.asarray(logits(model, params, TOKENS_BT))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    length_B = np.array([5, 1, 7], np.int32)
    padded_BT = np.where(np.arange(7) < length_B[:, None], TOKENS_BT[:, :7], 23)
    start_B = np.zeros(3, np.int32)
    logits_BTV, cache = decoded(
        model, params, padded_BT, start_B, model.init_cache(3, 12), length_B
    )
    for row, length in enumerate(length_B):
        close(logits_BTV[row, :length], expected_BTV[row, :length])
    every_B = np.ones(3, np.int32)
    for _ in range(4):  # each row goes on from its own place
        tokens_B1 = np.take_along_axis(TOKENS_BT, length_B[:, None], axis=1)
        logits_B1V, cache = decoded(model, params, tokens_B1, length_B, cache, every_B)
        close(logits_B1V[:, 0], expected_BTV[np.arange(3), length_B])
        length_B = length_B + 1


def test_an_encoder_has_no_next_token(tiny):
    with pytest.raises(ConfigError, match=r"^model.causal: "):
        tiny("bert").init_cache(1, 8)
