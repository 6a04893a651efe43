"""A stream times a matrix, with a derivative that turns nothing around, and what is added to it.

Shapes: D width before, F width after; leading dimensions are rows: R of them, of N numbers.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name


class Linear(nn.Module):
    """`x_D @ kernel + bias`, and what `activation` makes of it, computed in `dtype`: [..., F].

    Parameters `kernel`, [D, F], and `bias`, [F], where it has one. `kept` names the product for
    `jax.checkpoint`. Where there is an activation, that product alone is kept for the backward
    pass: the sum and each step of GELU, five arrays, are computed again.
    """

    width: int
    use_bias: bool
    dtype: jnp.dtype
    kernel_init: Callable[..., Any]
    kept: str = "product"
    activation: Callable[[jax.Array], jax.Array] | None = None

    @nn.compact
    def __call__(self, x_D: jax.Array) -> jax.Array:
        kernel_DF = self.param("kernel", self.kernel_init, (x_D.shape[-1], self.width))
        product_F = multiply(x_D.astype(self.dtype), kernel_DF.astype(self.dtype))
        product_F = checkpoint_name(product_F, self.kept)
        bias_F = None
        if self.use_bias:
            bias_F = self.param("bias", nn.initializers.zeros, (self.width,))
        if self.activation is None:
            return _with_bias(product_F, bias_F)
        activation = self.activation
        made = jax.checkpoint(lambda product_F, bias_F: activation(_with_bias(product_F, bias_F)))
        made_F: jax.Array = made(product_F, bias_F)
        return made_F


def _with_bias(product_F: jax.Array, bias_F: jax.Array | None) -> jax.Array:
    return product_F if bias_F is None else add(product_F, bias_F)


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


@jax.custom_vjp
def add(x: jax.Array, shared: jax.Array) -> jax.Array:
    """`x + shared`, in the dtype of `x`; the last of its dimensions are those of `shared`."""
    return x + shared.astype(x.dtype)


def _add_forward(x: jax.Array, shared: jax.Array) -> tuple[jax.Array, jax.Array]:
    return add(x, shared), shared


def _add_backward(shared: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    return g, over_rows(g, shared.ndim).astype(shared.dtype)


add.defvjp(_add_forward, _add_backward)


def over_rows(x: jax.Array, ndim: int) -> jax.Array:
    """Sums over all dimensions but the last `ndim`, float32.

    XLA for CPUs takes up to 35 times as long to add up the first of three dimensions as for the
    product that it is, and up to twice as long for the rows of a matrix (Zen 5, 2026-11-28).
    """
    shape = x.shape[x.ndim - ndim :]
    x_RN = x.reshape(-1, math.prod(shape))
    sums_N: jax.Array = jax.lax.platform_dependent(x_RN, cpu=_ones_times, default=_sums)
    return sums_N.reshape(shape)


def _ones_times(x_RN: jax.Array) -> jax.Array:
    ones_R = jnp.ones(len(x_RN), x_RN.dtype)
    return jnp.dot(ones_R, x_RN, preferred_element_type=jnp.float32)


def _sums(x_RN: jax.Array) -> jax.Array:
    return x_RN.sum(0, dtype=jnp.float32)
