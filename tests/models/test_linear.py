"""Products and sums with a stream have the derivatives of `@` and `+`, and copy nothing for it."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.config import load_recipe
from lmjax.models import linear
from lmjax.runtime import blueprint, program


@pytest.mark.parametrize("rows", [(7,), (2, 3), (2, 3, 2), ()])
def test_its_derivative_is_that_of_the_plain_product(rows: tuple[int, ...]) -> None:
    keys = jax.random.split(jax.random.key(0), 3)
    x, w, g = (
        jax.random.normal(key, shape)
        for key, shape in zip(keys, ((*rows, 5), (5, 4), (*rows, 4)), strict=True)
    )
    ours, pull = jax.vjp(linear.multiply, x, w)
    plain, pull_plain = jax.vjp(jnp.matmul, x, w)
    np.testing.assert_array_equal(ours, plain)
    for a, b in zip(pull(g), pull_plain(g), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    ("shape", "shared"), [((2, 3, 5), (5,)), ((4, 3, 5), (3, 5)), ((5,), (5,))]
)
def test_a_sum_has_the_derivative_of_the_plain_sum(shape, shared, dtype) -> None:
    rng = np.random.default_rng(0)
    x, g = (jnp.asarray(rng.normal(size=shape), dtype) for _ in range(2))
    added = jnp.asarray(rng.normal(size=shared), jnp.float32)
    ours, pull = jax.vjp(linear.add, x, added)
    np.testing.assert_array_equal(ours, x + added.astype(dtype))
    grad_x, grad_added = pull(g)
    np.testing.assert_array_equal(grad_x, g)
    assert grad_added.dtype == jnp.float32 and grad_added.shape == shared
    exact = np.asarray(g, np.float64).reshape(-1, *shared).sum(0)
    np.testing.assert_allclose(grad_added, exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("activation", [None, jnp.tanh])
@pytest.mark.parametrize("use_bias", [True, False])
def test_a_layer_is_a_dense_layer(use_bias, activation) -> None:
    x = jax.random.normal(jax.random.key(0), (2, 3, 5))
    init = jax.nn.initializers.normal()
    layer = linear.Linear(4, use_bias, jnp.dtype("float32"), init, activation=activation)
    dense = nn.Dense(4, use_bias, kernel_init=init)
    params = dense.init(jax.random.key(1), x)
    assert jax.tree.structure(layer.init(jax.random.key(1), x)) == jax.tree.structure(params)
    params = jax.tree.map(lambda a: a + 0.5, params)  # a bias that is not zero
    plain = lambda params, x: (activation or (lambda y: y))(dense.apply(params, x))  # noqa: E731
    ours, pull = jax.vjp(layer.apply, params, x)
    theirs, pull_theirs = jax.vjp(plain, params, x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    for a, b in zip(*(jax.tree.leaves(f(ours)) for f in (pull, pull_theirs)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_an_activation_keeps_the_product_alone() -> None:
    x = jnp.ones((2, 3, 5))
    kept = {}
    for activation in (None, jax.nn.gelu):
        layer = linear.Linear(
            4, True, jnp.dtype("float32"), jax.nn.initializers.normal(), activation=activation
        )
        params = layer.init(jax.random.key(0), x)
        _, pull = jax.vjp(layer.apply, params, x)
        kept[activation] = sorted(leaf.shape for leaf in jax.tree.leaves(pull))
    more = [shape for shape in kept[jax.nn.gelu] if shape == (2, 3, 4)]
    assert more == [(2, 3, 4)] and (2, 3, 4) not in kept[None]


@pytest.mark.parametrize("name", ["gpt2_small", "modern", "bert", "lstm", "nplm"])
def test_no_step_on_a_cpu_multiplies_by_a_matrix_turned_around(name: str) -> None:
    recipe = load_recipe(f"configs/{name}.py")
    config = blueprint.with_vocabulary(recipe.config)
    batch = dataclasses.replace(config.batch, rows=2, micro_rows=2)
    drawn = blueprint.draw(dataclasses.replace(config, batch=batch), recipe.make_optimizer, "cpu")
    step = jax.jit(drawn.train_step, donate_argnums=0).lower(*drawn.shapes).compile()
    found = [work.product for work in program.works(step.as_text() or "") if work.product]
    assert found
    # The first operand's rows against the second's columns: XLA has copied the second.
    assert [product for product in found if product.contracting == ((0,), (1,))] == []
