"""The formulas of a token's arithmetic against the matrix products of the program."""

import itertools
import math

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.config import LSTMConfig, NPLMConfig, ObjectiveConfig
from lmjax.data.loader import Batch
from lmjax.learning import objective
from lmjax.models import blockwise
from lmjax.models.build import build

B, T, V = 2, 6, 24


def products(jaxpr) -> int:
    """Floating-point operations of the matrix products in a program, loops run through."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            summed = math.prod(left[axis] for axis in contracted)
            total += 2 * math.prod(equation.outvars[0].aval.shape) * summed
        inner = list(jax.extend.core.jaxprs_in_params(equation.params))
        if equation.params.get("branches_platforms"):
            inner = inner[-1:]  # what is done where no platform is named
        # No one knows how often, or which.
        assert equation.primitive.name not in ("while", "cond") or not any(map(products, inner))
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        total += times * sum(map(products, inner))
    return total


def counted(model, config=ObjectiveConfig(), differentiate=jax.grad) -> float:  # noqa: B008
    """What a token costs in the program of an objective's gradient."""
    goal = objective.make(config, model.V, model.V - 1, 1, [])
    batch = Batch(jax.ShapeDtypeStruct((B, T + 1), np.int32))

    def loss(params, batch):
        return goal(model, params, batch, jax.random.key(0)).loss

    params = jax.eval_shape(model.init, jax.random.key(0))
    program = jax.make_jaxpr(jax.jit(differentiate(loss)))(params, batch)
    return products(program.jaxpr) / (B * T)


def test_the_walk_counts_through_what_wraps_a_product():
    """Twice 2 x 3 x 4 x 5 operations in each of jit, a scan of 7, remat and a custom derivative."""
    a, b = jnp.ones((3, 4)), jnp.ones((4, 5))
    one = 2 * 3 * 4 * 5
    own = jax.custom_vjp(jnp.matmul)
    own.defvjp(lambda a, b: (a @ b, (a, b)), lambda kept, g: (g @ kept[1].T, kept[0].T @ g))
    repeated = lambda a, b: jax.lax.scan(lambda c, _: (c + (a @ b).sum(), None), 0.0, length=7)[0]  # noqa: E731
    for function, times in (
        (jnp.matmul, 1),
        (jax.jit(jnp.matmul), 1),
        (repeated, 7),
        (jax.checkpoint(jnp.matmul), 1),
        (own, 1),
    ):
        assert products(jax.make_jaxpr(function)(a, b).jaxpr) == times * one
    gradient = jax.grad(lambda a, b: jnp.sin(own(a, b)).sum(), (0, 1))
    assert products(jax.make_jaxpr(gradient)(a, b).jaxpr) == 3 * one
    again = jax.grad(lambda a, b: jax.checkpoint(lambda *x: jnp.sin(own(*x)))(a, b).sum(), (0, 1))
    assert products(jax.make_jaxpr(again)(a, b).jaxpr) == 4 * one


TRANSFORMERS = [
    ("nanochat", {}),
    ("nanochat", {"kv_heads": 2, "head_width": 6, "ff_width": 20}),
    ("nanochat", {"window": 4, "window_pattern": "SL", "depth": 4}),
    ("nanochat", {"window": 50, "window_pattern": "S"}),
    ("gpt1", {}),
    ("gpt2", {}),
    ("llama", {}),
    ("qwen3", {}),
    ("bert", {}),
    ("speedrun", {}),
]


def scores(model) -> float:
    """What a token's scores cost: two operations for each key seen, head and channel."""
    c = model.config
    t, s = np.indices((T, T))
    seen = {"L": (s <= t) | (not c.causal)}
    seen["S"] = seen["L"] & (abs(t - s) < (c.window or T))
    layers = itertools.islice(itertools.cycle(c.window_pattern), c.depth)
    return sum(2 * c.heads * c.K * seen[kind].sum() / T for kind in layers)


@pytest.mark.parametrize("kind", ["next_token", "masked"])
@pytest.mark.parametrize(("preset", "numbers"), TRANSFORMERS)
def test_a_transformer(tiny, monkeypatch, preset, numbers, kind):
    # In blocks of one query, attention computes exactly the scores that are seen and no others.
    monkeypatch.setattr(blockwise, "BLOCK", 1)
    model = tiny(preset, length=T, **numbers)
    config = ObjectiveConfig(kind=kind, mask_rate=0.5)
    share = objective.predicted(config, T) / T
    assert share == (0.5 if kind == "masked" else 1)
    # Forward alone is a third of it.
    forward = counted(model, config, lambda loss: loss)
    assert 3 * forward == pytest.approx(model.flops_per_token(share))
    # Scores, half of what attention costs forward, are computed again for the backward pass.
    assert counted(model, config) == pytest.approx(model.flops_per_token(share) + scores(model))


@pytest.mark.parametrize("remat", ["attention+qkv+up", "attention", "full"])
def test_what_is_computed_again_is_no_part_of_the_formula(tiny, monkeypatch, remat):
    monkeypatch.setattr(blockwise, "BLOCK", 1)
    plain, model = tiny("llama", length=T), tiny("llama", length=T, remat=remat)
    assert model.flops_per_token() == plain.flops_per_token()
    assert counted(plain) == pytest.approx(plain.flops_per_token() + scores(plain))
    again = counted(model) - counted(plain)
    assert 0 < again < (plain.flops_per_token() - 6 * V * model.config.width) / 3


@pytest.mark.parametrize("truncate", [None, 3])
def test_an_lstm(truncate):
    model = build(LSTMConfig(vocab_size=V, length=T, depth=2, width=8, truncate=truncate), "cpu")
    assert counted(model) == model.flops_per_token()


@pytest.mark.parametrize("direct", [True, False])
def test_an_nplm(direct):
    model = build(NPLMConfig(vocab_size=V, length=T, width=8, hidden=10, direct=direct), "cpu")
    assert counted(model) == model.flops_per_token()
