"""Norms against their definitions in float64, and what they keep for the backward pass."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.models.norm import Norm

EPSILON = 1e-5


def norm(centred, dtype=jnp.float32, scale=True, bias=True) -> Norm:
    return Norm(centred, EPSILON, scale, bias, dtype)


def defined(centred, params, x):
    mean = x.mean(-1, keepdims=True) if centred else 0
    y = (x - mean) / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + EPSILON)
    return y * params.get("scale", 1) + params.get("bias", 0)


def drawn(shape, dtype=jnp.float32):
    """Far from zero, that a mean is lost if it is not taken away first."""
    keys = jax.random.split(jax.random.key(1), 4)
    x, g = (jax.random.normal(key, shape) + 5 for key in keys[:2])
    width = shape[-1:]
    params = {"scale": jax.random.normal(keys[2], width), "bias": jax.random.normal(keys[3], width)}
    return params, x.astype(dtype), g.astype(dtype)


@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 4, 6)])
@pytest.mark.parametrize(
    ("centred", "scale", "bias"), list(itertools.product([False, True], repeat=3))
)
def test_it_is_its_definition(shape, centred, scale, bias):
    params, x, g = drawn(shape)
    params = {name: params[name] for name, asked in (("scale", scale), ("bias", bias)) if asked}
    own = norm(centred, scale=scale, bias=bias)
    y, pull = jax.vjp(lambda params, x: own.apply({"params": params}, x), params, x)
    wide = {name: np.float64(value) for name, value in params.items()}
    x64, g64 = np.float64(x), np.float64(g)
    np.testing.assert_allclose(y, defined(centred, wide, x64), rtol=2e-5, atol=2e-5)
    grads, grad_x = pull(g)

    def along(direction, where):
        """The derivative of the definition, by differences in float64."""
        values = []
        for step in (1e-6, -1e-6):
            moved = {name: a + step * (name == where) * direction for name, a in wide.items()}
            values.append(defined(centred, moved, x64 + step * (where == "x") * direction))
        return ((values[0] - values[1]) * g64).sum() / 2e-6

    rng = np.random.default_rng(0)
    for where, found in ({"x": grad_x} | grads).items():
        direction = rng.normal(size=found.shape)
        expected = along(direction, where)
        assert (np.float64(found) * direction).sum() == pytest.approx(expected, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("centred", [False, True])
def test_statistics_and_sums_are_float32_where_the_stream_is_not(centred):
    params, x, g = drawn((64, 256), jnp.bfloat16)
    y, pull = jax.vjp(lambda p, x: norm(centred, jnp.bfloat16).apply({"params": p}, x), params, x)
    wide = {name: np.float64(value) for name, value in params.items()}
    expected = defined(centred, wide, np.float64(x))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float64(y), expected, rtol=2**-8, atol=1e-4)
    grads, grad_x = pull(g)
    assert grad_x.dtype == jnp.bfloat16 and grads["bias"].dtype == jnp.float32
    np.testing.assert_allclose(grads["bias"], np.float64(g).sum(0), rtol=1e-5)


@pytest.mark.parametrize("centred", [False, True])
def test_nothing_of_the_streams_size_is_kept_but_the_stream(centred):
    params, x, _ = drawn((64, 256), jnp.bfloat16)
    own = norm(centred, jnp.bfloat16)
    _, pull = jax.vjp(lambda p, x: own.apply({"params": p}, x), params, x)
    large = [leaf for leaf in jax.tree.leaves(pull) if leaf.size >= x.size]
    assert [(leaf.shape, leaf.dtype) for leaf in large] == [(x.shape, x.dtype)]
