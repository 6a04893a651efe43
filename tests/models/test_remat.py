"""Rematerialisation: each rung computes more and keeps less, and changes no gradient."""

import dataclasses
import sys
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.config import Remat, TransformerConfig
from lmjax.models.transformer import build

RUNGS = typing.get_args(Remat)
SMALL = TransformerConfig(
    vocab_size=64,
    length=16,
    depth=2,
    width=32,
    heads=2,
    activation="swiglu",
    projection_init="same",
    dropout=0.2,
    value_embeddings=True,
)
TOKENS_BT = np.random.default_rng(0).integers(0, 64, (3, 16))


def gradient(remat, platform="cpu", **changes):
    """A jitted gradient function of (params), and the model it is of."""
    model = build(dataclasses.replace(SMALL, remat=remat, **changes), platform)

    def loss(params):
        x_BTD = model.hidden(params, TOKENS_BT, key=jax.random.key(1))
        return jnp.square(model.readout(params, x_BTD).logits()).sum()

    return jax.jit(jax.grad(loss)), model


@pytest.fixture(scope="module")
def whole():
    """Parameters, and the gradient that keeps everything."""
    grad, model = gradient("none")
    params = jax.jit(model.init)(jax.random.key(0))
    return params, grad(params)


@pytest.mark.parametrize(("remat", "unroll"), [*((remat, 2) for remat in RUNGS[1:]), (RUNGS[1], 1)])
def test_no_rung_changes_a_gradient(whole, remat, unroll):
    params, expected = whole
    found = gradient(remat, unroll=unroll)[0](params)
    for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(other, one, rtol=2e-5, atol=1e-6 * np.abs(one).max())


def count(primitive, remat, **changes):
    """How often a primitive stands in the gradient's program, which is traced but not compiled."""
    grad, model = gradient(remat, **changes)
    params = jax.eval_shape(model.init, jax.random.key(0))
    return str(grad.trace(params).jaxpr).count(f" {primitive}[")


def test_each_rung_computes_more_products_than_the_one_before():
    products = [count("dot_general", remat) for remat in RUNGS]
    assert products == sorted(products) and len(set(products)) > 3


@pytest.mark.parametrize("remat", RUNGS[1:])
def test_a_scan_keeps_no_copy_of_its_weights(remat):
    grad, model = gradient(remat, depth=4, unroll=1)
    params = jax.eval_shape(model.init, jax.random.key(0))
    forward, _ = [e for e in grad.trace(params).jaxpr.eqns if e.primitive.name == "scan"]
    kept = {variable.aval.shape[-2:] for variable in forward.outvars}
    matrices = [a.shape[-2:] for a in jax.tree.leaves(params["blocks"]) if a.ndim == 3]
    assert (32, 128) in matrices and (16, 32) in kept
    assert not kept.intersection(matrices)


@pytest.mark.parametrize("remat", RUNGS)
def test_cudnn_attention_runs_forward_once_unless_nothing_is_kept(remat, monkeypatch):
    cudnn = sys.modules["jax._src.cudnn.fused_attention_stablehlo"]
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    found = count("dot_product_attention_fwd_wrapper", remat, platform="gpu", dtype="bfloat16")
    assert found == (2 if remat == "full" else 1) * SMALL.depth
