"""The product of a stream and a matrix has the derivative of `@`, and copies nothing for it."""

import dataclasses

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
