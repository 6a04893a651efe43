"""What tests of several rooms share: one small corpus, and a place for compiled programs."""

import os

import jax
import pytest

from lmjax.config import TextConfig, TokenizerConfig
from lmjax.text.corpus import prepare


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """The prose of this Python's library, 512 pieces, a hundredth of it to validate on."""
    folder = tmp_path_factory.mktemp("corpora") / "docs"
    prepare(TextConfig(tokenizer=TokenizerConfig(vocab_size=512), validation=0.01), folder)
    return folder


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """The environment of commands: programs are compiled once a session, on the CPU."""
    cache = tmp_path_factory.mktemp("cache")
    return {**os.environ, "XDG_CACHE_HOME": str(cache), "JAX_PLATFORMS": "cpu"}


@pytest.fixture
def compile_fast():
    """The same programs with fewer passes of XLA, where compiling is most of what a test costs."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
