"""Prompts of different lengths: a batch of them goes on as each alone, for every kind of model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.config import LSTMConfig, NPLMConfig
from lmjax.models.build import build
from lmjax.runtime.generation import generate

CONFIGS = {
    "lstm": LSTMConfig(vocab_size=24, length=16, width=8),
    "nplm": NPLMConfig(vocab_size=24, length=16, context=4, width=6, hidden=10),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_batch_of_ragged_prompts_goes_on_as_each_alone(name):
    model = build(CONFIGS[name], "cpu")
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree.map(lambda a: jnp.asarray(rng.normal(0, 1.0, a.shape), a.dtype), shapes)
    apply = jax.jit(model.apply)
    prompts = [[3], [3, 1, 4, 1, 5], [9, 2, 6]]

    def made(texts):
        settings = {"vocab_size": 24, "max_tokens": 9, "temperature": 0.0}
        return np.concatenate(list(generate(model, params, texts, **settings)), axis=1)

    together = made(prompts)
    assert together.tolist() == [made([prompt])[0].tolist() for prompt in prompts]
    for prompt, found in zip(prompts, together.tolist(), strict=True):
        for _ in found:  # and as the model computes it without a cache
            padded_1T = np.zeros((1, 16), np.int32)
            padded_1T[0, : len(prompt)] = prompt
            prompt = [*prompt, int(apply(params, padded_1T)[0, len(prompt) - 1].argmax())]
        assert prompt[-9:] == found
