"""Texts longer than the model's context, and in pieces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.config import TransformerConfig
from lmjax.models.transformer import build
from lmjax.runtime import generation
from lmjax.runtime.generation import generate

NUMBERS = {"vocab_size": 24, "length": 8, "depth": 1, "width": 16, "heads": 2}
MODEL = build(TransformerConfig(**NUMBERS), "cpu")


@pytest.fixture
def params():
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0))
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(0, 0.4, a.shape), a.dtype), shapes)


def made(params, prompts, **settings) -> np.ndarray:
    chunks = list(generate(MODEL, params, prompts, vocab_size=20, **settings))
    return np.concatenate(chunks, axis=1)


@pytest.mark.parametrize("prompt", [[3], [3, 1, 4, 1, 5], list(range(11))])
def test_a_full_context_forgets_its_former_half_and_goes_on(params, prompt):
    found_N = made(params, [prompt], max_tokens=20, temperature=0.0)[0]
    apply = jax.jit(MODEL.apply)
    context, expected = prompt[-8:], []
    for _ in range(20):
        if len(context) > 8:
            context = context[-4:]
        padded_BT = np.zeros((1, 8), np.int32)
        padded_BT[0, : len(context)] = context
        expected.append(int(apply(params, padded_BT)[0, len(context) - 1, :20].argmax()))
        context.append(expected[-1])
    assert found_N.tolist() == expected


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_without_a_text_changes_nothing(params, temperature, monkeypatch):
    """As a GPU has it beside a single text, past the context too."""
    settings = {"max_tokens": 20, "temperature": temperature}
    alone = made(params, [[3, 1, 4]], **settings)
    monkeypatch.setitem(generation.LEAST_ROWS, "cpu", 2)
    assert made(params, [[3, 1, 4]], **settings).tolist() == alone.tolist()


def test_a_longer_text_begins_as_a_shorter_one(params):
    prompts = [[3, 1], [4, 1, 5]]
    long_BN = made(params, prompts, max_tokens=20, temperature=1.0, seed=5)
    assert long_BN.shape == (2, 20)
    assert (made(params, prompts, max_tokens=3, temperature=1.0, seed=5) == long_BN[:, :3]).all()
    assert (made(params, prompts, max_tokens=20, temperature=1.0, seed=6) != long_BN).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompts": []}, "prompts: expected at least one token each"),
        ({"prompts": [[1], []]}, "prompts: expected at least one token each"),
        ({"max_tokens": 0}, "max_tokens: expected at least 1"),
        ({"temperature": -1.0}, "temperature: expected at least 0"),
        ({"top_k": 0}, "top_k: expected at least 1"),
        ({"top_p": 0.0}, "top_p: expected above 0"),
        ({"top_p": 1.5}, "top_p: expected above 0"),
    ],
)
def test_a_setting_out_of_range_is_refused(params, settings, message):
    with pytest.raises(ValueError, match=message):
        made(params, **{"prompts": [[1]], **settings})
