"""Models of transformers that several tests read."""

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


@pytest.fixture
def tokens_BT():
    return np.random.default_rng(0).integers(0, SIZES["vocab_size"], (2, 60))
