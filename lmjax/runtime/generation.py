"""Text from a model: prompts in, pieces of text out as they are made.

Shapes: B batch, T prompt length, N tokens generated.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.config import ConfigError
from lmjax.learning import sampling
from lmjax.models.model import Model
from lmjax.runtime import device
from lmjax.text.tokenizer import Tokenizer

_CHUNK = 16  # tokens a compiled call makes: long enough to be fast, short enough to read along

LEAST_ROWS = {"cpu": 1, "gpu": 2}
"""Rows that are computed at least. XLA for GPUs makes no product of a matrix and one row: it writes
all numbers times theirs down and adds them up. As it compiles a token of 124M for an H100, one row
moves 490 MB in 268 kernels, two move 263 in 142 (2026-11-29)."""


def generate(
    model: Model,
    params: Any,
    prompts: Sequence[Sequence[int]],
    *,
    vocab_size: int,
    max_tokens: int = 128,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float = 1.0,
    seed: int = 0,
) -> Iterator[np.ndarray]:
    """Continue prompts of token ids; yields int32 [B, N] arrays until `max_tokens` are made.

    Prompts may differ in length; none may be empty. What has left the model's context of `length`
    tokens is forgotten: the latter half of a full context is read anew.
    Raises ConfigError, a ValueError, for a setting out of range.
    """
    checks = [
        (
            len(prompts) > 0 and all(map(len, prompts)),
            "prompts",
            "at least one token each",
            prompts,
        ),
        (max_tokens >= 1, "max_tokens", "at least 1", max_tokens),
        (temperature >= 0, "temperature", "at least 0", temperature),
        (top_k is None or top_k >= 1, "top_k", "at least 1, or none", top_k),
        (0 < top_p <= 1, "top_p", "above 0 and at most 1", top_p),
    ]
    for holds, name, expected, found in checks:
        if not holds:
            raise ConfigError(f"{name}: expected {expected}, found {found!r}")
    return _chunks(model, params, prompts, vocab_size, max_tokens, temperature, top_k, top_p, seed)


def _chunks(
    model: Model,
    params: Any,
    prompts: Sequence[Sequence[int]],
    vocab_size: int,
    max_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float,
    seed: int,
) -> Iterator[np.ndarray]:
    length, params = model.config.length, sampling.prepared(model, params)
    texts = [list(prompt) for prompt in prompts]
    key = jax.random.key(seed)
    rows = max(len(texts), LEAST_ROWS[device.platform()])
    made, room, tail = 0, 0, None
    while made < max_tokens:
        if room == 0:
            keep = length if tail is None else max(1, length // 2)
            recent = [text[-keep:] for text in texts]
            # Every token reads the whole cache: no longer than what it will hold.
            most = min(length, _power_of_two(max(map(len, recent)) + max_tokens - made + _CHUNK))
            tail = _prefill(model, params, recent, rows, most)
            room = most - int(tail.position_B.max())
            key = jax.random.fold_in(key, made)
        count = min(_CHUNK, room)
        tail, tokens_BN = sampling.extend(
            model,
            params,
            tail,
            key,
            count,
            vocab_size,
            None if temperature == 0 else jnp.float32(temperature),
            top_k,
            None if top_p == 1 else jnp.float32(top_p),
        )
        new_BN = np.asarray(tokens_BN)[: len(texts), : max_tokens - made]
        for text, new in zip(texts, new_BN.tolist(), strict=True):
            text.extend(new)
        made, room = made + new_BN.shape[1], room - count
        yield new_BN


def complete(
    model: Model,
    params: Any,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    samples: int = 1,
    **settings: Any,
) -> Iterator[Iterator[str]]:
    """Continue a text `samples` times; each yields pieces of text up to the end of the document.

    All are computed together while the first one is read. `settings` are those of `generate`.
    """
    if samples < 1:
        raise ConfigError(f"samples: expected at least 1, found {samples}")
    ids = [tokenizer.bos, *tokenizer.encode(prompt)]
    chunks = generate(model, params, [ids] * samples, vocab_size=tokenizer.vocab_size, **settings)

    def text(row: int, seen: Iterator[np.ndarray]) -> Iterator[str]:
        made = (id for chunk_BN in seen for id in chunk_BN[row].tolist())
        return tokenizer.stream(itertools.takewhile(lambda id: id != tokenizer.bos, made))

    return itertools.starmap(text, enumerate(itertools.tee(chunks, samples)))


def _power_of_two(least: int) -> int:
    """The first from `least` on, so that few shapes are ever compiled."""
    return max(8, 1 << (least - 1).bit_length())


def _prefill(
    model: Model, params: Any, texts: list[list[int]], rows: int, room: int
) -> sampling.Tail:
    """Pad the texts and read them; `room` as in `sampling.prefill`. Rows without a text read one
    token, and what they say is left out."""
    T = min(room, _power_of_two(max(map(len, texts))))
    tokens_BT = np.zeros((rows, T), np.int32)
    length_B = np.ones(rows, np.int32)
    for n, text in enumerate(texts):
        tokens_BT[n, : len(text)] = text
        length_B[n] = len(text)
    return sampling.prefill(model, params, jnp.asarray(tokens_BT), jnp.asarray(length_B), room)
