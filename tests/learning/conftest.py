"""The smallest language model there is, and a tiny Transformer."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.config import TransformerConfig
from lmjax.models.transformer import Params, Transformer, build


@pytest.fixture(autouse=True)
def compile_fast() -> Iterator[None]:
    """The same programs with fewer passes of XLA: compiling is most of what these tests cost."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


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
