"""Norms of the last axis, that keep for the backward pass what they were given and no more.

Shapes: D width; leading dimensions are rows.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmjax.models import linear


class Norm(nn.Module):
    """LayerNorm (Ba et al. 2016), or RMSNorm (Zhang & Sennrich 2019) where it is not `centred`.

    Parameters `scale` and `bias`, [D], where it has them. Computed in float32.
    """

    centred: bool
    epsilon: float
    use_scale: bool
    use_bias: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_D: jax.Array) -> jax.Array:
        width = x_D.shape[-1:]
        scale_D = self.param("scale", nn.initializers.ones, width) if self.use_scale else None
        bias_D = self.param("bias", nn.initializers.zeros, width) if self.use_bias else None
        return normalize(self.centred, self.epsilon, self.dtype, x_D, scale_D, bias_D)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def normalize(
    centred: bool,
    epsilon: float,
    dtype: jnp.dtype,
    x_D: jax.Array,
    scale_D: jax.Array | None,
    bias_D: jax.Array | None,
) -> jax.Array:
    """`x_D` over its root mean square, less its mean before where `centred`; [..., D] of `dtype`.

    JAX's own derivative keeps three arrays of `x_D`'s shape, two of them in float32.
    """
    return _forward(centred, epsilon, dtype, x_D, scale_D, bias_D)[0]


def _forward(
    centred: bool,
    epsilon: float,
    dtype: jnp.dtype,
    x_D: jax.Array,
    scale_D: jax.Array | None,
    bias_D: jax.Array | None,
) -> tuple[jax.Array, Any]:
    x32_D = x_D.astype(jnp.float32)
    mean_1 = x32_D.mean(-1, keepdims=True) if centred else jnp.zeros(())
    square_1 = jnp.square(x32_D - mean_1).mean(-1, keepdims=True)
    over_1 = jax.lax.rsqrt(square_1 + epsilon)
    y_D = (x32_D - mean_1) * over_1
    if scale_D is not None:
        y_D *= scale_D
    if bias_D is not None:
        y_D += bias_D
    return y_D.astype(dtype), (x_D, mean_1, over_1, scale_D, bias_D)


def _backward(
    centred: bool, epsilon: float, dtype: jnp.dtype, kept: Any, g_D: jax.Array
) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
    x_D, mean_1, over_1, scale_D, bias_D = kept
    width = x_D.shape[-1]
    g32_D = g_D.astype(jnp.float32)
    normed_D = (x_D.astype(jnp.float32) - mean_1) * over_1
    along_D = g32_D * normed_D
    weight_D = jnp.ones(width) if scale_D is None else scale_D
    grad_D = g32_D * weight_D - normed_D * _weighted(along_D, weight_D) / width
    if centred:
        grad_D -= _weighted(g32_D, weight_D) / width
    return (
        (over_1 * grad_D).astype(x_D.dtype),
        None if scale_D is None else along_D.reshape(-1, width).sum(0),
        None if bias_D is None else linear.over_rows(g32_D, 1),
    )


normalize.defvjp(_forward, _backward)


def _weighted(a_D: jax.Array, weight_D: jax.Array) -> jax.Array:
    """Sums over D of the two's product, [..., 1]; XLA for CPUs is faster where it is one."""
    sums_1: jax.Array = jax.lax.platform_dependent(
        a_D,
        weight_D,
        cpu=lambda a_D, weight_D: (a_D @ weight_D)[..., None],
        default=lambda a_D, weight_D: (a_D * weight_D).sum(-1, keepdims=True),
    )
    return sums_1
