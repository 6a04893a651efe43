"""GPT-2's train step as one writes it first in JAX: Linen's modules, all logits, no measures.

The second peer of lmjax's step. Shapes: B rows, T time, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from lmjax.config import Config, TransformerConfig
from lmjax.runtime import device


class Block(nn.Module):
    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x_BTD: jax.Array, mask: jax.Array) -> jax.Array:
        h = nn.LayerNorm(dtype=self.dtype)(x_BTD)
        attention = nn.MultiHeadDotProductAttention(num_heads=self.heads, dtype=self.dtype)
        x_BTD = x_BTD + attention(h, mask=mask)
        h = nn.LayerNorm(dtype=self.dtype)(x_BTD)
        h = nn.gelu(nn.Dense(4 * x_BTD.shape[-1], dtype=self.dtype)(h))
        return x_BTD + nn.Dense(x_BTD.shape[-1], dtype=self.dtype)(h)


class GPT(nn.Module):
    config: TransformerConfig
    dtype: Any

    @nn.compact
    def __call__(self, tokens_BT: jax.Array) -> jax.Array:
        c = self.config
        assert c.vocab_size is not None
        embedding = nn.Embed(c.vocab_size, c.width, dtype=self.dtype)
        positions = self.param("positions", nn.initializers.normal(0.02), (c.length, c.width))
        x_BTD = embedding(tokens_BT) + positions.astype(self.dtype)
        mask = nn.make_causal_mask(tokens_BT)
        for _ in range(c.depth):
            x_BTD = Block(c.heads, self.dtype)(x_BTD, mask)
        return embedding.attend(nn.LayerNorm(dtype=self.dtype)(x_BTD)).astype(jnp.float32)


def stepper(config: Config, tokens_BS: np.ndarray, threads: int) -> Callable[[int], float]:
    """A function that takes so many steps on these tokens, waits for them and returns the loss."""
    del threads  # XLA takes all there are
    assert isinstance(config.model, TransformerConfig)
    optimizer = config.optimizer
    gpt = GPT(config.model, jnp.bfloat16 if device.platform() == "gpu" else jnp.float32)
    tx = optax.chain(
        optax.clip_by_global_norm(optimizer.clip_norm or float("inf")),
        optax.adamw(
            optimizer.learning_rate,
            optimizer.beta1,
            optimizer.beta2,
            weight_decay=optimizer.weight_decay,
            mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
        ),
    )
    tokens = jax.device_put(tokens_BS)
    params = jax.jit(gpt.init)(jax.random.key(0), tokens[:, :-1])
    state = params, jax.jit(tx.init)(params)

    def loss(params: Any, tokens_BS: jax.Array) -> jax.Array:
        logits_BTV = gpt.apply(params, tokens_BS[:, :-1])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits_BTV, tokens_BS[:, 1:])
        return losses.mean()

    def step(state: Any, tokens_BS: jax.Array) -> Any:
        params, opt_state = state
        value, grads = jax.value_and_grad(loss)(params, tokens_BS)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    compiled = jax.jit(step, donate_argnums=0)

    def take(steps: int) -> float:
        nonlocal state
        for _ in range(steps):
            state, value = compiled(state, tokens)
        return float(value)

    return take
