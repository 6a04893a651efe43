"""What every model is to the rest of lmjax: pure functions of its parameters, and a readout.

Shapes: B batch, T time, D width, V vocabulary, ... any leading axes.
"""

from dataclasses import dataclass
from typing import Any, Protocol, Self

import jax
import jax.numpy as jnp

from lmjax.config import ConfigError, ModelConfig

Params = dict[str, Any]

# Float32 logits made at a time, by platform: a CPU's cache against a GPU's launch of a kernel.
# Measured on the CPU (2 cores, V 2,048 and 8,192); on the GPU taken from 4,096 rows at V 50,304.
CHUNK = {"cpu": 2**21, "gpu": 2**28}


def chunk_of(all_logits: int, most: int) -> int:
    """Logits made at a time, of all: at most an eighth, but as many as a CPU is fast with."""
    return min(most, max(CHUNK["cpu"], all_logits // 8))


@dataclass(frozen=True)
class Readout:
    """softcap(x W^T + b), logits that are not multiplied out yet.

    x and W are in the compute dtype, logits in float32. A loss over a large vocabulary never needs
    all of them at once (`learning/cross_entropy.py`).
    """

    x_D: jax.Array
    weight_VD: jax.Array
    bias_V: jax.Array | None = None
    softcap: float | None = None
    chunk: int = CHUNK["cpu"]

    def logits(self) -> jax.Array:
        """All of them, float32 [..., V]."""
        logits_V = jnp.einsum(
            "...d,vd->...v", self.x_D, self.weight_VD, preferred_element_type=jnp.float32
        )
        if self.bias_V is not None:
            logits_V += self.bias_V
        if self.softcap is not None:
            logits_V = self.softcap * jnp.tanh(logits_V / self.softcap)
        return logits_V


class Trained(Protocol):
    """What the step needs of a model."""

    def hidden(self, params: Any, tokens_BT: jax.Array, *, key: jax.Array | None) -> jax.Array:
        """The state of each position, [B, T, D]; dropout, if any, draws from `key`.

        A Transformer takes `document_BT` as well, the number of each token's document.
        """

    def readout(self, params: Any, x_D: jax.Array) -> Readout:
        """What states, all or some of them, say of the token to predict."""


class Model(Trained, Protocol):
    """A frozen dataclass of numbers, with the pure functions that need them."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def dtype(self) -> jnp.dtype: ...

    @property
    def path(self) -> str:
        """Which implementation computes it, in words."""

    @property
    def V(self) -> int: ...

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters."""

    def apply(self, params: Params, tokens_BT: jax.Array) -> jax.Array:
        """Logits, float32 [B, T, V]."""

    def init_cache(self, batch: int, length: int) -> Any:
        """An empty cache for `batch` rows of up to `length` tokens.

        Raises ConfigError where there is no next token.
        """

    def for_decoding(self, params: Params) -> Params:
        """Parameters as `decode` reads them, so that a loop around it prepares them once."""

    def decode(
        self,
        params: Params,
        tokens_BT: jax.Array,
        start_B: jax.Array,
        cache: Any,
        *,
        count_B: jax.Array | None = None,
    ) -> tuple[jax.Array, Any]:
        """Logits [B, T, V] of tokens at positions `start_B`, `start_B` + 1, ..., and their cache.

        Of each row only the first `count_B` tokens are real; the rest leaves no trace.
        """

    def without_dropout(self) -> Self:
        """The same model as it is evaluated."""

    def flops_per_token(self, predicted: float = 1.0) -> float:
        """Floating-point operations a token costs to train on, forward and backward.

        Those of matrix products alone, as in PaLM's appendix B: 6 for each weight (the embedding is
        a look-up and counts nothing), and attention for the keys that are seen. `predicted` is the
        share of positions that the head is computed for. What rematerialisation computes again
        counts nothing: utilisation by this number is MFU, of the model, not of the hardware.
        """


def vocabulary(config: ModelConfig) -> int:
    """The size of the vocabulary, once it is known. Raises ConfigError before."""
    if config.vocab_size is None:
        raise ConfigError("model.vocab_size: expected a number, found none; give the corpus")
    return config.vocab_size


def resolve_dtype(config: ModelConfig, platform: str) -> jnp.dtype:
    """The compute dtype: `auto` is bfloat16 on a GPU and float32 elsewhere."""
    automatic = "bfloat16" if platform == "gpu" else "float32"
    return jnp.dtype(automatic if config.dtype == "auto" else config.dtype)
