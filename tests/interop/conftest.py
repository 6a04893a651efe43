"""Models of transformers that several tests read."""

import jax
import numpy as np
import pytest
from foreign import SIZES, make


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """`made(kind)`: a model of transformers and its folder, not to be changed."""
    done = {}

    def get(kind):
        if kind not in done:
            done[kind] = make(kind, tmp_path_factory.mktemp("theirs") / "model")
        return done[kind]

    return get


@pytest.fixture(autouse=True)
def compile_fast():
    """The same programs with fewer passes of XLA: compiling is most of what these tests cost."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def tokens_BT():
    return np.random.default_rng(0).integers(0, SIZES["vocab_size"], (2, 60))
