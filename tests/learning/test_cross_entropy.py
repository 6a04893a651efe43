"""The head and its loss in one pass, against float64; what of it lives in a compiled step."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.config import Config, ObjectiveConfig, TransformerConfig
from lmjax.data.loader import Batch
from lmjax.learning import cross_entropy as losses
from lmjax.learning import objective, optimizers
from lmjax.learning.cross_entropy import cross_entropy
from lmjax.learning.step import init_state, make_train_step
from lmjax.models import transformer
from lmjax.models.model import Readout

R, D, V = 22, 8, 37
RNG = np.random.default_rng(0)
X_RD = RNG.normal(size=(R, D)).astype(np.float32)
W_VD = RNG.normal(size=(V, D)).astype(np.float32)
BIAS_V = RNG.normal(size=V).astype(np.float32)
TARGETS_R = RNG.integers(0, V, R).astype(np.int32)
WEIGHTS_R = (RNG.uniform(0, 2, R) * (RNG.random(R) < 0.7)).astype(np.float32)


def reference(x_RD, weight_VD, bias_V, weights_R, softcap, pieces=V, z_loss=0.0):
    """Loss and gradients by hand, in float64, of a vocabulary cut off at its pieces."""
    x_RD, weight_VD, bias_V = (np.float64(a) for a in (x_RD, weight_VD, bias_V))
    weight_VD, bias_V = weight_VD[:pieces], bias_V[:pieces]
    targets_R = TARGETS_R % pieces
    logits_RV = x_RD @ weight_VD.T + bias_V
    slope_RV = np.ones_like(logits_RV)
    if softcap is not None:
        logits_RV = softcap * np.tanh(logits_RV / softcap)
        slope_RV = 1 - (logits_RV / softcap) ** 2
    most_R1 = logits_RV.max(-1, keepdims=True)
    lse_R1 = most_R1 + np.log(np.exp(logits_RV - most_R1).sum(-1, keepdims=True))
    hits_RV = np.eye(pieces)[targets_R]
    slope_RV *= weights_R[:, None]
    g_RV = (np.exp(logits_RV - lse_R1) * (1 + 2 * z_loss * lse_R1) - hits_RV) * slope_RV
    losses_R1 = lse_R1 - (logits_RV * hits_RV).sum(-1, keepdims=True) + z_loss * lse_R1**2
    padding = (0, V - pieces)
    grads = g_RV @ weight_VD, np.pad(g_RV.T @ x_RD, (padding, (0, 0))), np.pad(g_RV.sum(0), padding)
    return (losses_R1[:, 0] * weights_R).sum(), grads


@pytest.mark.parametrize("way", [losses.log_sum_exp, losses._one_pass])  # a CPU's, a GPU's
def test_log_sum_exp_is_that_of_float64(way):
    """Also where sums of exponentials overflow or vanish, and where the maximum comes last."""
    logits_CV = RNG.normal(size=(6, 1000)) * np.array([1, 10, 100, 1e4, 0, 1])[:, None]
    logits_CV[5] = np.sort(logits_CV[5]) - 1e4
    most_C1 = logits_CV.max(-1, keepdims=True)
    expected = most_C1[:, 0] + np.log(np.exp(logits_CV - most_C1).sum(-1))
    np.testing.assert_allclose(way(jnp.float32(logits_CV)), expected, rtol=1e-6)
    assert np.isnan(way(jnp.full((1, 3), jnp.nan)))


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


@pytest.mark.parametrize("softcap", [None, 4.0])
@pytest.mark.parametrize(("pieces", "z_loss"), [(30, 0.0), (V, 0.1), (30, 0.1)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_padding_is_no_token_and_the_log_sum_exp_has_its_price(softcap, pieces, z_loss, dtype):
    x_RD, weight_VD = (jnp.asarray(a, dtype) for a in (X_RD, W_VD))
    weight_VD = weight_VD.at[pieces:].mul(100)  # were padding's logits read, they would be largest

    def loss(x_RD, weight_VD, bias_V):
        readout = Readout(x_RD, weight_VD, bias_V, softcap, chunk=V * 5)
        return cross_entropy(readout, TARGETS_R % pieces, WEIGHTS_R, pieces=pieces, z_loss=z_loss)

    expected, expected_grads = reference(
        x_RD, weight_VD, BIAS_V, WEIGHTS_R, softcap, pieces, z_loss
    )
    arrays = x_RD, weight_VD, jnp.asarray(BIAS_V)
    found, grads = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(*arrays)
    # Products of bfloat16 add up in float32; their gradients are rounded to 8 bits.
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(loss)(*arrays), expected, rtol=1e-6)
    for got, want, array in zip(grads, expected_grads, arrays, strict=True):
        assert got.dtype == array.dtype
        rounding = {"rtol": 1e-5, "atol": 1e-5}
        if dtype == "bfloat16":
            rounding = {"rtol": 0, "atol": 2**-7 * np.abs(want).max()}
        np.testing.assert_allclose(np.float32(got), want, **rounding)
    assert not np.float32(grads[1])[pieces:].any() and not np.float32(grads[2])[pieces:].any()


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


@pytest.mark.parametrize("kind", ["next_token", "masked"])
def test_no_array_of_all_logits_lives_in_a_train_step(kind):
    B, T, V = 4, 64, 640
    config = Config(
        model=TransformerConfig(vocab_size=V, length=T, depth=1, width=16, heads=2, head_bias=True),
        objective=ObjectiveConfig(kind=kind, mask_rate=0.5, z_loss=1e-4),
    )
    R = B * T if kind == "next_token" else B * T // 2  # targets
    goal = objective.make(config.objective, V, 600, 1, [])
    shapes = lambda create: jax.eval_shape(create, jax.random.key(0))  # noqa: E731

    def largest(rows):
        """Elements of the largest float32 array with V columns in the compiled program."""
        model = dataclasses.replace(transformer.build(config.model, "cpu"), logits_chunk=rows * V)
        tx = optimizers.adamw(config)
        step = make_train_step(model, goal, tx, lambda progress: progress, 0)
        state = shapes(lambda key: init_state(model.init(key), tx))
        batch = Batch(jax.ShapeDtypeStruct((2, B, T + 1), np.int32))
        progress = jax.ShapeDtypeStruct((), np.float32)
        text = jax.jit(step, donate_argnums=0).lower(state, batch, progress).compile().as_text()
        arrays = re.findall(r"f32\[([\d,]+)\]", text)
        sizes = [[int(n) for n in shape.split(",")] for shape in arrays]
        return max(np.prod(size) for size in sizes if V in size)

    assert largest(R) >= R * V  # the check sees them where they are
    assert largest(R // 8) == R // 8 * V


def test_gradients_are_made_in_the_compute_dtype():
    """On a GPU a product with a float32 operand runs many times slower."""
    x_RD, weight_VD = jnp.zeros((R, D), jnp.bfloat16), jnp.zeros((V, D), jnp.bfloat16)
    loss = lambda x, w: cross_entropy(Readout(x, w, chunk=V * 5), TARGETS_R, None)  # noqa: E731
    program = str(jax.make_jaxpr(jax.grad(loss, (0, 1)))(x_RD, weight_VD))
    products = re.findall(r"= dot_general\[.*?\] (\w+) (\w+)", program, re.DOTALL)
    kinds = dict(re.findall(r"(\w+):(\w+)\[", program))
    assert len(products) == 3
    assert {kinds[name] for pair in products for name in pair} == {"bf16"}
