"""What tests of several rooms share: one small corpus, and a place for compiled programs.

Programs run slower and compile in a third of the time: compiling is most of what tests cost.
"""

import os
from importlib.metadata import version

# Before JAX starts; the commands inherit it. What XLA makes of a program is the same up to the last
# stage, which turns it into machine code.
os.environ["XLA_FLAGS"] = " ".join(
    (
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        # Later versions end the process at a flag they do not know.
        *(["--xla_cpu_use_fusion_emitters=false"] if version("jaxlib") < "0.11" else []),
    )
)

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
