"""The head and its loss in one pass, against float64 and against autodiff of the plain form."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.learning.cross_entropy import cross_entropy
from lmjax.models.model import Readout

R, D, V = 22, 8, 37
RNG = np.random.default_rng(0)
X_RD = RNG.normal(size=(R, D)).astype(np.float32)
W_VD = RNG.normal(size=(V, D)).astype(np.float32)
BIAS_V = RNG.normal(size=V).astype(np.float32)
TARGETS_R = RNG.integers(0, V, R).astype(np.int32)
WEIGHTS_R = (RNG.uniform(0, 2, R) * (RNG.random(R) < 0.7)).astype(np.float32)


def reference(x_RD, weight_VD, bias_V, weights_R, softcap):
    """Loss and gradients by hand, in float64."""
    x_RD, weight_VD, bias_V = (np.float64(a) for a in (x_RD, weight_VD, bias_V))
    logits_RV = x_RD @ weight_VD.T + bias_V
    slope_RV = np.ones_like(logits_RV)
    if softcap is not None:
        logits_RV = softcap * np.tanh(logits_RV / softcap)
        slope_RV = 1 - (logits_RV / softcap) ** 2
    logits_RV = logits_RV - logits_RV.max(-1, keepdims=True)
    logs_RV = logits_RV - np.log(np.exp(logits_RV).sum(-1, keepdims=True))
    hits_RV = np.eye(V)[TARGETS_R]
    g_RV = (np.exp(logs_RV) - hits_RV) * weights_R[:, None] * slope_RV
    loss = -((logs_RV * hits_RV).sum(-1) * weights_R).sum()
    return loss, (g_RV @ weight_VD, g_RV.T @ x_RD, g_RV.sum(0))


# V x 1 is a row at a time, V x 5 leaves the last chunk short, V x 1000 is one chunk.
@pytest.mark.parametrize("rows", [1, 5, 1000])
@pytest.mark.parametrize("softcap", [None, 4.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_loss_and_gradients_are_those_of_float64(rows, softcap, weighted, biased):
    def loss(x_RD, weight_VD, bias_V):
        bias_V = bias_V if biased else None
        readout = Readout(x_RD, weight_VD, bias_V, softcap, chunk=V * rows)
        return cross_entropy(readout, TARGETS_R, WEIGHTS_R if weighted else None)

    bias_V = BIAS_V if biased else np.zeros_like(BIAS_V)
    weights_R = WEIGHTS_R if weighted else np.ones(R)
    expected, expected_grads = reference(X_RD, W_VD, bias_V, weights_R, softcap)
    found, grads = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(X_RD, W_VD, BIAS_V)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(loss)(X_RD, W_VD, BIAS_V), expected, rtol=1e-6)
    for got, want in zip(grads[: 2 + biased], expected_grads, strict=False):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_logits_of_any_size_are_safe():
    readout = Readout(jnp.asarray(X_RD) * 1e4, jnp.asarray(W_VD))
    expected, _ = reference(X_RD * 1e4, W_VD, np.zeros(V), np.ones(R), None)
    np.testing.assert_allclose(cross_entropy(readout, TARGETS_R, None), expected, rtol=1e-6)


def test_leading_axes_and_the_cotangent_pass_through():
    def loss(x_BTD):
        readout = Readout(x_BTD, jnp.asarray(W_VD), chunk=V * 5)
        return 3 * cross_entropy(readout, TARGETS_R.reshape(2, 11), None)

    _, (expected_RD, _, _) = reference(X_RD, W_VD, np.zeros(V), np.ones(R), None)
    found_BTD = jax.grad(loss)(jnp.asarray(X_RD.reshape(2, 11, D)))
    np.testing.assert_allclose(found_BTD.reshape(R, D), 3 * expected_RD, rtol=1e-5, atol=1e-5)


def test_no_array_of_all_logits_lives_in_the_program():
    R, D, V, C = 512, 16, 640, 64
    x_RD, weight_VD = jnp.zeros((R, D)), jnp.zeros((V, D))
    targets_R = jnp.zeros(R, jnp.int32)

    def program(chunk):
        loss = lambda x, w: cross_entropy(Readout(x, w, chunk=chunk), targets_R, None)  # noqa: E731
        return jax.jit(jax.grad(loss, (0, 1))).lower(x_RD, weight_VD).compile().as_text()

    sizes = lambda text: {  # noqa: E731
        int(np.prod([int(n) for n in shape.split(",")]))
        for shape in re.findall(r"\w\[([\d,]+)", text)
    }
    assert max(sizes(program(R * V))) >= R * V  # the check sees them where they are
    assert max(sizes(program(C * V))) < R * V // 4


def test_gradients_are_made_in_the_compute_dtype():
    """On a GPU a product with a float32 operand runs many times slower."""
    x_RD, weight_VD = jnp.zeros((R, D), jnp.bfloat16), jnp.zeros((V, D), jnp.bfloat16)
    loss = lambda x, w: cross_entropy(Readout(x, w, chunk=V * 5), TARGETS_R, None)  # noqa: E731
    program = str(jax.make_jaxpr(jax.grad(loss, (0, 1)))(x_RD, weight_VD))
    products = re.findall(r"= dot_general\[.*?\] (\w+) (\w+)", program, re.DOTALL)
    kinds = dict(re.findall(r"(\w+):(\w+)\[", program))
    assert len(products) == 3
    assert {kinds[name] for pair in products for name in pair} == {"bf16"}
