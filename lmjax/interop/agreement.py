"""Whether two programs compute the same: a model of ours, and a folder as transformers reads it.

Shapes: T time, V vocabulary, D width.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lmjax.config import TransformerConfig
from lmjax.interop.families import BARE_BERT, Family
from lmjax.models.model import Params
from lmjax.models.transformer import Transformer, build
from lmjax.text.errors import DataError
from lmjax.text.tokenizer import Tokenizer

MOST = 1e-3
_TOKENS = 256
_PASSAGE = """\
It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of \
foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the season of \
Light, it was the season of Darkness, it was the spring of hope, it was the winter of despair, we \
had everything before us, we had nothing before us, we were all going direct to Heaven, we were \
all going direct the other way - in short, the period was so far like the present period, that \
some of its noisiest authorities insisted on its being received, for good or for evil, in the \
superlative degree of comparison only.
There were a king with a large jaw and a queen with a plain face, on the throne of England; there \
were a king with a large jaw and a queen with a fair face, on the throne of France. In both \
countries it was clearer than crystal to the lords of the State preserves of loaves and fishes, \
that things in general were settled for ever.
"""


def text(tokenizer: Tokenizer | None, config: TransformerConfig) -> tuple[np.ndarray, str]:
    """Token ids [T] to compare on, and in words what they are."""
    most = min(_TOKENS, config.length)
    if tokenizer is None:
        assert config.vocab_size is not None
        ids = np.random.default_rng(0).integers(0, config.vocab_size, most)
        return ids, f"{most} random tokens, since there is no tokenizer"
    # Without BOS: a trained model parks attention on it, with states so large that float32 rounds
    # logits by 1e-3 in either program.
    ids = np.array(tokenizer.encode(_PASSAGE)[:most])
    return ids, f"{len(ids)} tokens of English text"


def exact(config: TransformerConfig) -> Transformer:
    """The model in float32 on the CPU, whatever it runs in elsewhere."""
    return build(dataclasses.replace(config, dtype="float32", attention="xla", unroll=1), "cpu")


def ours(
    family: Family, config: TransformerConfig, params: Params, ids_T: np.ndarray
) -> np.ndarray:
    """Our logits [T, V], or the states [T, D] where the family has no head."""
    model = exact(config)
    with jax.default_device(jax.devices("cpu")[0]):
        outputs = model.hidden if family is BARE_BERT else model.apply
        return np.asarray(jax.jit(outputs)(jax.device_put(params), ids_T[None])[0])


def theirs(family: Family, folder: Path, ids_T: np.ndarray) -> np.ndarray | None:
    """What transformers computes with a folder in float32; none where it is not installed."""
    try:
        import torch
        import transformers
    except ImportError:
        return None
    shown = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        model: Any = getattr(transformers, family.architecture).from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
        with torch.no_grad():
            outputs = model.eval()(torch.tensor(ids_T[None]))
    finally:
        transformers.utils.logging.set_verbosity(shown)
        transformers.utils.logging.enable_progress_bar()
    states = outputs.last_hidden_state if family is BARE_BERT else outputs.logits
    return np.asarray(states[0].numpy())


def largest_difference(found: np.ndarray, expected: np.ndarray, where: str) -> float:
    """The largest difference of two arrays. Raises DataError beyond 1e-3."""
    if found.shape != expected.shape:
        raise DataError(f"{where}: expected outputs {expected.shape}, found {found.shape}")
    largest = float(np.abs(found - expected).max())
    if not largest <= MOST:  # nor is it a number
        raise DataError(
            f"{where}: expected outputs that differ by at most {MOST:g}, found {largest:.3g}; "
            "nothing was written. Please report this model"
        )
    return largest
