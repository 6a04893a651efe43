"""A stream times a matrix, with a derivative that turns nothing around.

Shapes: D width before, F width after; leading dimensions are rows.
"""

from typing import Any

import jax


@jax.custom_vjp
def multiply(x_D: jax.Array, w_DF: jax.Array) -> jax.Array:
    """`x_D @ w_DF`, [..., F].

    JAX makes the matrix's gradient as [F, D] and transposes it. XLA for CPUs folds that into a
    product of copies, at 0.6 of the speed: a ninth of a step of GPT-2's.
    """
    return x_D @ w_DF


def _forward(x_D: jax.Array, w_DF: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return x_D @ w_DF, (x_D, w_DF)


def _backward(kept: tuple[jax.Array, jax.Array], g_F: jax.Array) -> tuple[jax.Array, jax.Array]:
    x_D, w_DF = kept
    rows, last = tuple(range(x_D.ndim - 1)), x_D.ndim - 1
    grad_D = jax.lax.dot_general(g_F, w_DF, (((last,), (1,)), ((), ())))
    return grad_D, jax.lax.dot_general(x_D, g_F, ((rows, rows), ((), ())))


multiply.defvjp(_forward, _backward)


def dot_general(
    x_D: jax.Array, w_DF: jax.Array, dimensions: Any, precision: None = None
) -> jax.Array:
    """`multiply`, as `flax.linen.Dense` calls its product."""
    del dimensions, precision
    return multiply(x_D, w_DF)
