"""A tiny Transformer, and parameters that leave nothing at zero."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.config import TransformerConfig
from lmjax.models.model import Model, Params
from lmjax.models.transformer import Transformer, build

TINY: dict[str, Any] = {
    "vocab_size": 24,
    "length": 12,
    "depth": 2,
    "width": 16,
    "heads": 4,
    "unroll": 1,
}
GPT2: dict[str, Any] = {
    "activation": "gelu",
    "norm": "layer",
    "norm_gain": True,
    "norm_epsilon": 1e-5,
    "embedding_norm": False,
    "qk_norm": False,
    "position": "learned",
    "bias": True,
    "tied": True,
    "softcap": None,
    "embedding_std": 0.02,
    "matrix_std": 0.02,
    "projection_init": "scaled",
}

LLAMA: dict[str, Any] = {
    "activation": "swiglu",
    "kv_heads": 2,
    "ff_width": 20,
    "norm_gain": True,
    "norm_epsilon": 1e-5,
    "embedding_norm": False,
    "qk_norm": False,
    "softcap": None,
}
PRESETS: dict[str, dict[str, Any]] = {
    "nanochat": {},
    "gpt2": GPT2,
    "gpt1": GPT2 | {"norm_position": "post"},
    "llama": LLAMA,
    "qwen3": LLAMA | {"qk_norm": True, "head_width": 6, "tied": True, "rope_base": 1e6},
    "bert": GPT2
    | {
        "norm_position": "post",
        "causal": False,
        "activation": "gelu_erf",
        "norm_epsilon": 1e-12,
        "embedding_norm": True,
        "token_types": 2,
        "head_transform": True,
        "head_bias": True,
    },
    "speedrun": {
        "depth": 4,
        "value_embeddings": True,
        "layer_scalars": True,
        "smear": True,
        "backout": True,
        "window": 4,
        "window_pattern": "SL",
    },
}


@pytest.fixture
def tiny() -> Callable[..., Transformer]:
    """Builds a tiny model: `tiny(kv_heads=2)`, or `tiny("gpt2")` for the numbers of a preset."""

    def make(kind: str = "nanochat", **numbers: Any) -> Transformer:
        given = TINY | PRESETS[kind] | numbers
        return build(TransformerConfig(**given), "cpu")

    return make


@pytest.fixture
def randomised() -> Callable[[Model], Params]:
    """Parameters of a model, all of them random: zeros of a fresh model could hide errors."""

    def make(model: Model) -> Params:
        rng = np.random.default_rng(1)
        shapes = jax.eval_shape(model.init, jax.random.key(0))
        return jax.tree.map(lambda a: jnp.asarray(rng.normal(0, 0.4, a.shape), a.dtype), shapes)

    return make
