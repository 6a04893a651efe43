"""The smallest language model there is, and a tiny Transformer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.config import TransformerConfig
from lmjax.models.transformer import Params, Transformer, build


@pytest.fixture
def model() -> Transformer:
    numbers = {"vocab_size": 24, "length": 12, "depth": 2, "width": 16, "heads": 2, "unroll": 1}
    return build(TransformerConfig(**numbers), "cpu")


@pytest.fixture
def params(model: Transformer) -> Params:
    """All random: a fresh model has zeros, behind which gradients vanish."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(0, 0.4, a.shape), a.dtype), shapes)
