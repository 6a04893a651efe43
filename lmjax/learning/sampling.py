"""Generation, pure: a prompt in one pass, then tokens one by one in one compiled loop.

Shapes: B batch, T prompt length, N tokens generated, V vocabulary.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lmjax.models.model import Model


class Tail(NamedTuple):
    """Where a text stands: its last token, that token's position, and what the model remembers."""

    last_B: jax.Array
    position_B: jax.Array
    cache: Any


def choose(
    logits_BV: jax.Array,
    key: jax.Array,
    vocab_size: int,
    temperature: jax.Array | None,
    top_k: int | None,
    top_p: jax.Array | None,
) -> jax.Array:
    """Draw a token a row from the `top_k` likeliest whose mass reaches `top_p`: int32 [B].

    No temperature takes the likeliest. Ids from `vocab_size` on are padding and never drawn.
    Which way it is must be known when it is compiled: a GPU would ask the host at each token.
    """
    padding_V = jnp.arange(logits_BV.shape[-1]) >= vocab_size
    logits_BV = jnp.where(padding_V, -jnp.inf, logits_BV)
    if temperature is None:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    # To sort a vocabulary takes longer than a small model does: only where it must be.
    if top_k is None and top_p is None:
        return jax.random.categorical(key, logits_BV / temperature).astype(jnp.int32)
    sorted_BV, ids_BV = jax.lax.top_k(logits_BV, min(top_k or vocab_size, vocab_size))
    sorted_BV /= temperature
    if top_p is not None:
        mass_BV = jax.nn.softmax(sorted_BV)
        before_BV = jnp.cumsum(mass_BV, -1) - mass_BV
        sorted_BV = jnp.where(before_BV < top_p, sorted_BV, -jnp.inf)
    drawn_B = jax.random.categorical(key, sorted_BV)
    chosen_B: jax.Array = jnp.take_along_axis(ids_BV, drawn_B[:, None], axis=-1)[:, 0]
    return chosen_B.astype(jnp.int32)


@functools.partial(jax.jit, static_argnums=0)
def prepared(model: Model, params: Any) -> Any:
    """Parameters as the two functions below read them fastest; they take a model's own as well."""
    return model.for_decoding(params)


@functools.partial(jax.jit, static_argnums=(0, 4))
def prefill(
    model: Model, params: Any, tokens_BT: jax.Array, length_B: jax.Array, room: int
) -> Tail:
    """Read prompts, padded on the right to T, of `length_B` tokens each, in one pass.

    `room` is the most tokens that a row will have, those that follow included: at least T.
    The last token of each prompt is left for `extend`, which computes what follows it.
    """
    cache = model.init_cache(tokens_BT.shape[0], room)
    start_B = jnp.zeros_like(length_B)
    _, cache = model.decode(params, tokens_BT, start_B, cache, count_B=length_B - 1)
    last_B = jnp.take_along_axis(tokens_BT, length_B[:, None] - 1, axis=1)[:, 0]
    return Tail(last_B, length_B - 1, cache)


@functools.partial(jax.jit, static_argnums=(0, 4, 5, 7), donate_argnums=2)
def extend(
    model: Model,
    params: Any,
    tail: Tail,
    key: jax.Array,
    count: int,
    vocab_size: int,
    temperature: jax.Array | None,
    top_k: int | None,
    top_p: jax.Array | None,
) -> tuple[Tail, jax.Array]:
    """Generate `count` tokens a row as `choose` draws them: the new tail and tokens [B, N].

    The draw at a position is a function of (key, position), however the text is cut into calls.
    """

    params = model.for_decoding(params)

    def one(tail: Tail, _: None) -> tuple[Tail, jax.Array]:
        logits_B1V, cache = model.decode(params, tail.last_B[:, None], tail.position_B, tail.cache)
        draw = jax.random.fold_in(key, tail.position_B[0])
        token_B = choose(logits_B1V[:, 0], draw, vocab_size, temperature, top_k, top_p)
        return Tail(token_B, tail.position_B + 1, cache), token_B

    tail, tokens_NB = jax.lax.scan(one, tail, None, length=count)
    return tail, tokens_NB.T
