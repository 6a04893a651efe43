"""Objectives: what a batch says of the parameters, as sums that are divided once, at the end.

Ids from the tokenizer's `pieces` on are no token to predict: rows of the head that pad the
vocabulary, or the mask's. They take no part in the softmax.

Shapes: B batch, T time, S = T + 1, P positions predicted, D width, V vocabulary.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.config import ConfigError, ObjectiveConfig
from lmjax.data.loader import Batch
from lmjax.learning.cross_entropy import cross_entropy
from lmjax.models.model import Trained


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sums:
    """A loss summed over targets, and the sum of their weights. Adds up over anything."""

    loss: jax.Array
    count: jax.Array


Objective = Callable[[Trained, Any, Batch, jax.Array], Sums]


def predicted(config: ObjectiveConfig, length: int) -> int:
    """Positions of a row of `length` tokens that the head is computed for."""
    return length if config.kind == "next_token" else max(1, round(config.mask_rate * length))


def _documents(tokens_BT: jax.Array, bos: int | None) -> dict[str, jax.Array]:
    """What tells a model which tokens are of one document, by the BOS in a row; nothing without."""
    return {} if bos is None else {"document_BT": jnp.cumsum(tokens_BT == bos, axis=1)}


def next_token(
    model: Trained,
    params: Any,
    batch: Batch,
    key: jax.Array,
    *,
    pieces: int | None = None,
    z_loss: float = 0.0,
    bos: int | None = None,
) -> Sums:
    """Cross entropy of each token given those before it, or, with `bos`, those of its document.

    `pieces` and `z_loss` are as in `cross_entropy`.
    """
    tokens_BS, weights_BT = batch
    inputs_BT, targets_BT = jnp.asarray(tokens_BS[:, :-1]), jnp.asarray(tokens_BS[:, 1:])
    x_BTD = model.hidden(params, inputs_BT, key=key, **_documents(inputs_BT, bos))
    readout = model.readout(params, x_BTD)
    summed = functools.partial(cross_entropy, readout, targets_BT, pieces=pieces, z_loss=z_loss)
    if weights_BT is None:
        return Sums(summed(None), jnp.asarray(targets_BT.size, jnp.float32))
    return Sums(summed(jnp.asarray(weights_BT)), jnp.asarray(weights_BT.sum()))


def masked(
    config: ObjectiveConfig, mask_id: int, pieces: int, bos: int | None, word_starts_V: np.ndarray
) -> Objective:
    """Cross entropy of tokens that were masked (Devlin et al. 2019), chosen anew for each batch.

    The number predicted in a row is fixed, so that shapes are static and the head is paid for those
    positions alone. Random replacements are drawn below `pieces`, as predictions are made; `bos` is
    never masked.
    """

    def objective(model: Trained, params: Any, batch: Batch, key: jax.Array) -> Sums:
        choice, fate, noise, dropout = jax.random.split(key, 4)
        tokens_BT = jnp.asarray(batch.tokens[:, 1:])
        B, T = tokens_BT.shape
        weights_BT = jnp.ones((B, T)) if batch.weights is None else jnp.asarray(batch.weights)
        if bos is not None:
            weights_BT *= tokens_BT != bos

        rank_BT = jax.random.uniform(choice, (B, T))
        if config.whole_words:
            word_BT = jnp.cumsum(jnp.asarray(word_starts_V)[tokens_BT], axis=1) % T
            rank_BT = jnp.take_along_axis(rank_BT, word_BT, axis=1)
        P = predicted(config, T)
        rank_BT = jnp.where(weights_BT > 0, rank_BT, -1.0)
        ranks_BP, at_BP = jax.lax.top_k(rank_BT, P)
        targets_BP, weights_BP = (
            jnp.take_along_axis(a, at_BP, axis=1) for a in (tokens_BT, weights_BT)
        )
        if config.whole_words and P < T:  # the word that goes on past the last place stays whole
            next_B1 = jax.lax.top_k(rank_BT, P + 1)[0][:, P:]
            weights_BP *= ranks_BP != next_B1
        fate_BP = jax.random.uniform(fate, (B, P))
        random_BP = jax.random.randint(noise, (B, P), 0, pieces)
        shown_BP = jnp.where(fate_BP < 0.9, random_BP, targets_BP)
        shown_BP = jnp.where(fate_BP < 0.8, mask_id, shown_BP)
        shown_BP = jnp.where(weights_BP > 0, shown_BP, targets_BP)
        inputs_BT = tokens_BT.at[jnp.arange(B)[:, None], at_BP].set(shown_BP)

        documents = _documents(tokens_BT, bos if config.document_mask else None)
        x_BTD = model.hidden(params, inputs_BT, key=dropout, **documents)
        x_BPD = jnp.take_along_axis(x_BTD, at_BP[..., None], axis=1)
        readout = model.readout(params, x_BPD)
        loss = cross_entropy(readout, targets_BP, weights_BP, pieces=pieces, z_loss=config.z_loss)
        return Sums(loss, weights_BP.sum())

    return objective


def make(
    config: ObjectiveConfig, V: int, pieces: int | None, bos: int | None, word_starts: list[bool]
) -> Objective:
    """The objective of a run; `pieces` of the tokenizer, none where the corpus came without one.

    Raises ConfigError where the model has no row for the mask, or nothing tells documents apart.
    """
    if config.document_mask and bos is None:
        raise ConfigError(
            "objective.document_mask: expected a corpus with a tokenizer, whose BOS begins each "
            "document, found none; prepare one, or leave it off"
        )
    if config.kind == "next_token":
        return functools.partial(
            next_token,
            pieces=pieces,
            z_loss=config.z_loss,
            bos=bos if config.document_mask else None,
        )
    known = V if pieces is None else pieces
    mask_id = known if config.mask_id is None else config.mask_id
    if not 0 <= mask_id < V:
        raise ConfigError(
            f"objective.mask_id: expected a row of the embedding, below {V}, found {mask_id}; "
            "give a larger model.vocab_size"
        )
    if config.whole_words and not word_starts:
        raise ConfigError("objective.whole_words: expected a corpus with a tokenizer, found none")
    starts_V = np.ones(V, bool)
    starts_V[: len(word_starts)] = word_starts
    return masked(config, mask_id, known, bos, starts_V)
