"""The whole schema of a run: frozen dataclasses, a file loaded, overrides applied, JSON, a diff.

This module imports neither JAX nor numpy, so that `--help` answers at once.
Numbers are data and live here; composition is code and lives in the recipe file's `make_optimizer`.
"""

import contextlib
import dataclasses
import importlib.machinery
import importlib.util
import json
import math
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

_MOST_JSON = 1 << 20


class ConfigError(ValueError):
    """A setting that cannot work: names the key, what was expected and found. Exit code 78."""


def _require(condition: bool, key: str, expected: str, found: object) -> None:
    if not condition:
        raise ConfigError(f"{key}: expected {expected}, found {found!r}")


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A number with a unit, such as `500steps`, `20Mtokens`, `90s`, `24h` or `10%`."""

    value: float
    kind: Literal["steps", "tokens", "seconds", "progress"]


_UNITS = {
    "step": ("steps", 1.0),
    "steps": ("steps", 1.0),
    "token": ("tokens", 1.0),
    "tokens": ("tokens", 1.0),
    "s": ("seconds", 1.0),
    "m": ("seconds", 60.0),
    "h": ("seconds", 3600.0),
    "%": ("progress", 0.01),
}
_SCALES = {"": 1.0, "k": 1e3, "M": 1e6, "B": 1e9}


def parse_quantity(text: str, key: str, kinds: Sequence[str]) -> Quantity:
    """Read a number with a unit; `kinds` are the kinds that make sense for `key`."""
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([kMB]?)(steps?|tokens?|s|m|h|%)", text.strip())
    examples = {
        "steps": "500steps",
        "tokens": "20Mtokens",
        "seconds": "90s, 20m or 24h",
        "progress": "10%",
    }
    expected = "a number with a unit such as " + ", ".join(examples[kind] for kind in kinds)
    if match is None:
        raise ConfigError(f"{key}: expected {expected}, found {text!r}")
    kind, factor = _UNITS[match[3]]
    value = round(float(match[1]) * _SCALES[match[2]] * factor, 9)
    counted = kind in ("steps", "tokens")
    _require(kind in kinds and value > 0 and (counted or not match[2]), key, expected, text)
    _require(kind != "progress" or value <= 1, key, "at most 100%", text)
    if counted:
        _require(value == int(value), key, f"a whole number of {kind}", text)
    return Quantity(value=value, kind=typing.cast(Any, kind))


@dataclass(frozen=True, kw_only=True)
class CleaningConfig:
    """The cleaning steps, in the order they run; each can be switched."""

    controls: bool = True
    """Drop control characters other than tab and line ends."""
    lower: bool = False
    """Lower-case everything. Harms a language model: it can no longer write capitals."""
    symbols: bool = False
    """Strip all but letters, digits and spaces. Harms a language model: no punctuation is left."""
    nfc: bool = True
    """Unicode normal form C, so that one character has one spelling."""
    stop_words: bool = False
    """Remove frequent English words. Harms a language model: no sentence stays whole."""
    whitespace: bool = True
    """One kind of line end, no blanks at line ends, at most one empty line; indentation stays."""
    min_chars: int = 16
    """Drop documents with fewer characters; 0 drops empty ones only."""
    duplicates: bool = True
    """Drop documents whose cleaned text has been seen before."""

    def __post_init__(self) -> None:
        _require(
            self.min_chars >= 0, "text.cleaning.min_chars", "a number of at least 0", self.min_chars
        )


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """A SentencePiece model: trained here, or given as a file."""

    kind: Literal["bpe", "unigram"] = "bpe"
    """Both fall back to bytes, so that any text round-trips."""
    vocab_size: int = 8192
    """Pieces, the 256 bytes and the special ones included."""
    file: str | None = None
    """An existing `.model` or `tokenizer.json` (extra `[hf]`) to use instead of training one."""
    sample_bytes: int = 8_000_000
    """Train on at most this much text, drawn evenly from the training documents.

    The trainer takes about 15 bytes of memory for each of English, and 45 of Chinese.
    """

    def __post_init__(self) -> None:
        _require(
            300 <= self.vocab_size <= 1_000_000,
            "text.tokenizer.vocab_size",
            "between 300 and 1,000,000 pieces",
            self.vocab_size,
        )
        _require(
            self.sample_bytes > 0,
            "text.tokenizer.sample_bytes",
            "a number above 0",
            self.sample_bytes,
        )


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Raw text to a corpus of token shards: what `lmjax.prepare` does."""

    sources: tuple[str, ...] = ("python:docs",)
    """Files, folders, globs, or `python:docs` and `python:source`, which every Python carries."""
    field: str = "text"
    """The field of a JSON-lines object or the Parquet column that holds the text."""
    document_chars: int = 20_000
    """Plain text files are cut at paragraph ends into documents of at most this many characters."""
    invalid_utf8: Literal["replace", "skip"] = "replace"
    """What happens to a document with invalid UTF-8; both are counted."""
    cleaning: CleaningConfig = CleaningConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    validation: float = 0.05
    """Share of documents, chosen by the hash of their text, kept out of training."""
    shard_tokens: int = 50_000_000
    """Tokens a shard file holds at most."""
    processes: int | None = None
    """Worker processes; none means one a core."""

    def __post_init__(self) -> None:
        _require(len(self.sources) > 0, "text.sources", "at least one source", self.sources)
        _require(
            0 < self.validation < 1, "text.validation", "a share between 0 and 1", self.validation
        )
        _require(
            self.document_chars >= 100,
            "text.document_chars",
            "at least 100 characters",
            self.document_chars,
        )
        _require(
            self.shard_tokens >= 1000, "text.shard_tokens", "at least 1,000", self.shard_tokens
        )
        _require(
            self.processes is None or self.processes >= 1,
            "text.processes",
            "at least 1, or none",
            self.processes,
        )


Remat = Literal["none", "attention+qkv+up", "attention+up", "attention", "full"]


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """A decoder or an encoder. The defaults are transformers' `NanoChatForCausalLM`.

    GPT, Llama, Qwen and BERT are the same module with other numbers: see `configs/`.
    """

    kind: Literal["transformer"] = "transformer"
    vocab_size: int | None = None
    """Rows of the embedding; none means the tokenizer's pieces, rounded up to a multiple of 64."""
    length: int = 256
    """Tokens in a row: the context the model is trained on and generates within."""
    depth: int = 6
    width: int = 384
    heads: int = 6
    kv_heads: int | None = None
    """Key and value heads (grouped-query attention); none means as many as heads."""
    head_width: int | None = None
    """Width of a head; none means width / heads."""
    ff_width: int | None = None
    """Width of the feed-forward layer; none means 4 x width."""
    causal: bool = True
    """Each position sees those before it; without, all see all (an encoder)."""
    activation: Literal["relu2", "gelu", "gelu_erf", "swiglu", "geglu"] = "relu2"
    """`gelu` is GPT-2's tanh form, `gelu_erf` BERT's; the last two multiply by a gate."""
    norm: Literal["rms", "layer"] = "rms"
    norm_position: Literal["pre", "post"] = "pre"
    """Before each sublayer and once at the end, or after each sum as in the first Transformers."""
    norm_gain: bool = False
    """Learned gains in the norms (and biases in layer norms, where `bias` is on)."""
    norm_epsilon: float = 1e-6
    embedding_norm: bool = True
    """A norm between the embedding and the first block."""
    qk_norm: bool = True
    """RMS norm of queries and keys, before the rotation."""
    position: Literal["rope", "learned", "sinusoidal", "none"] = "rope"
    """`sinusoidal` is the first Transformer's table times one learned number."""
    rope_base: float = 10_000.0
    token_types: int = 0
    """Rows of BERT's second table, added to the embedding; 0 means none."""
    attention_scale: float | None = None
    """What query-key products are multiplied with; none means 1/sqrt(head width)."""
    window: int | None = None
    """Tokens a short-window layer looks back on, itself included; used by S in `window_pattern`."""
    window_pattern: str = "L"
    """Repeated over the layers: L sees the whole row, S only `window` tokens, e.g. SSSL."""
    value_embeddings: bool = False
    """A second embedding, gated, added to the values of every second layer, the last included."""
    layer_scalars: bool = False
    """Two learned numbers a layer: how much stays of the stream, how much comes of its start."""
    smear: bool = False
    """A learned share of the token before is mixed into each embedding."""
    backout: bool = False
    """A learned share of the stream at half depth is taken out before the head."""
    bias: bool = False
    tied: bool = False
    """The head is the embedding, transposed."""
    head_transform: bool = False
    """BERT's layer before the head: dense, activation, norm."""
    head_bias: bool = False
    dropout: float = 0.0
    """Share of the embedding and of each sublayer's output dropped in training."""
    softcap: float | None = 15.0
    """Logits become cap * tanh(logits / cap)."""
    embedding_std: float = 0.8
    head_std: float = 0.001
    """Deviation of an untied head's initial weights."""
    matrix_std: float | None = None
    """Deviation of the other initial weights; none means 1/sqrt(fan-in)."""
    projection_init: Literal["zero", "scaled", "same"] = "zero"
    """Projections that write to the residual: zero, matrix_std / sqrt(2 depth), or matrix_std."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """What blocks compute in; auto is bfloat16 on a GPU and float32 on a CPU."""
    attention: Literal["auto", "cudnn", "xla"] = "auto"
    """auto is cuDNN's flash attention on a GPU and XLA's on a CPU; the choice is printed."""
    remat: Literal[Remat, "auto"] = "none"
    """What the backward pass finds of a layer: all, what is named here, or (full) its input alone;
    the rest is computed again. Memory for time, in the order of both; never another result.
    auto is the first that fits the device; a resumed run keeps it."""
    unroll: int | None = None
    """Turns of the scan over layers written out in the program: faster to run, slower to compile.
    None means all, up to 24."""

    def __post_init__(self) -> None:
        optional = ("vocab_size", "kv_heads", "head_width", "ff_width", "window", "unroll")
        _check_sizes(self, ("length", "depth", "width", "heads"), optional)
        _check_deviations(self)
        _require(0 <= self.dropout < 1, "model.dropout", "at least 0, below 1", self.dropout)
        _require(self.token_types >= 0, "model.token_types", "at least 0", self.token_types)
        if self.head_width is None:
            _require(
                self.width % self.heads == 0,
                "model.heads",
                f"a divisor of model.width ({self.width}), or model.head_width given",
                self.heads,
            )
        if self.kv_heads is not None:
            _require(
                self.heads % self.kv_heads == 0,
                "model.kv_heads",
                f"a divisor of model.heads ({self.heads})",
                self.kv_heads,
            )
        if self.position == "rope":
            _require(
                self.K % 2 == 0, "model.head_width", "an even number, for the rotation", self.K
            )
        pattern = self.window_pattern
        _require(
            bool(pattern) and set(pattern) <= {"S", "L"},
            "model.window_pattern",
            "a string of S and L",
            pattern,
        )
        _require(
            self.depth % len(pattern) == 0,
            "model.window_pattern",
            f"a length that divides model.depth ({self.depth})",
            pattern,
        )
        _require(
            "S" not in pattern or self.window is not None,
            "model.window",
            "a number of tokens, since model.window_pattern holds an S",
            self.window,
        )
        _require(
            self.softcap is None or self.softcap > 0,
            "model.softcap",
            "a number above 0, or none",
            self.softcap,
        )
        for name in ("rope_base", "norm_epsilon"):
            _require(getattr(self, name) > 0, f"model.{name}", "above 0", getattr(self, name))
        _require(
            not self.value_embeddings or self.depth % 2 == 0,
            "model.depth",
            "an even number, since model.value_embeddings is on",
            self.depth,
        )
        _require(
            not self.backout or (self.depth // self.period) % 2 == 0,
            "model.depth",
            f"an even number of turns of {self.period} layers, since model.backout is on",
            self.depth,
        )
        _require(
            self.causal or not self.smear,
            "model.smear",
            "off, since model.causal is off",
            self.smear,
        )

    @property
    def period(self) -> int:
        """Layers after which their kinds repeat."""
        return math.lcm(len(self.window_pattern), 2 if self.value_embeddings else 1)

    @property
    def K(self) -> int:
        """Width of a head."""
        return self.head_width if self.head_width is not None else self.width // self.heads

    @property
    def KV(self) -> int:
        """Key and value heads."""
        return self.kv_heads if self.kv_heads is not None else self.heads

    @property
    def F(self) -> int:
        """Width of the feed-forward layer."""
        return self.ff_width if self.ff_width is not None else 4 * self.width


@dataclass(frozen=True, kw_only=True)
class LSTMConfig:
    """Stacked LSTMs; every position is predicted.

    Truncated back-propagation with the state carried on: rows as long as the state is to run
    (`length`), gradients cut every `truncate` tokens of them. A row begins with an empty state:
    a row's place in the order, and with it exact resuming, depends on nothing that came before.
    """

    kind: Literal["lstm"] = "lstm"
    vocab_size: int | None = None
    """Rows of the embedding; none means the tokenizer's pieces, rounded up to a multiple of 64."""
    length: int = 256
    """Tokens in a row, through which the state runs."""
    truncate: int | None = None
    """Tokens gradients reach back at most (truncated back-propagation); none means the row."""
    depth: int = 2
    width: int = 384
    """Of the embedding and of each layer's state."""
    dropout: float = 0.0
    """Share of a layer's inputs and outputs dropped in training."""
    tied: bool = False
    """The head is the embedding, transposed."""
    embedding_std: float = 0.8
    head_std: float = 0.001
    """Deviation of an untied head's initial weights."""
    matrix_std: float | None = None
    """Deviation of the input kernels; none means 1/sqrt(width). Recurrent ones are orthogonal."""
    forget_bias: float = 1.0
    """What the forget gates' biases begin with."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"

    def __post_init__(self) -> None:
        _check_sizes(self, ("length", "depth", "width"), ("vocab_size", "truncate"))
        _check_deviations(self)
        _require(0 <= self.dropout < 1, "model.dropout", "at least 0, below 1", self.dropout)


@dataclass(frozen=True, kw_only=True)
class NPLMConfig:
    """The neural probabilistic language model of Bengio et al. 2003."""

    kind: Literal["nplm"] = "nplm"
    vocab_size: int | None = None
    """Rows of the embedding; none means the tokenizer's pieces, rounded up to a multiple of 64."""
    length: int = 256
    """Tokens in a row; each is predicted from the last `context` alone."""
    context: int = 8
    """Tokens whose embeddings are concatenated."""
    width: int = 96
    """Of an embedding."""
    hidden: int = 512
    direct: bool = True
    """Connect the embeddings with the output directly, beside the hidden layer."""
    embedding_std: float = 0.8
    head_std: float = 0.001
    matrix_std: float | None = None
    """Deviation of the hidden layer's initial weights; none means 1/sqrt(fan-in)."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"

    def __post_init__(self) -> None:
        _check_sizes(self, ("length", "context", "width", "hidden"), ("vocab_size",))
        _check_deviations(self)


ModelConfig = TransformerConfig | LSTMConfig | NPLMConfig


def _check_sizes(config: Any, needed: Sequence[str], optional: Sequence[str]) -> None:
    for name in needed:
        value = getattr(config, name)
        _require(value >= 1, f"model.{name}", "at least 1", value)
    for name in optional:
        value = getattr(config, name)
        _require(value is None or value >= 1, f"model.{name}", "at least 1, or none", value)


def _check_deviations(config: Any) -> None:
    for name in ("embedding_std", "head_std", "matrix_std"):
        value = getattr(config, name)
        _require(value is None or value >= 0, f"model.{name}", "at least 0", value)


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What is predicted."""

    kind: Literal["next_token", "masked"] = "next_token"
    """The token after each, or tokens that were masked (an encoder's)."""
    mask_rate: float = 0.15
    """Share of a row's tokens to predict; of them 80% are masked, 10% random, 10% as they were."""
    whole_words: bool = False
    """Mask all pieces of a word or none; a word that no longer fits a row's share is left out."""
    mask_id: int | None = None
    """The mask's token; none means the first id after the tokenizer's pieces."""
    z_loss: float = 0.0
    """What the squared log-sum-exp of each target's logits is multiplied with in the loss that is
    trained on and logged; PaLM's is 1e-4. Evaluation is without it."""
    document_mask: bool = False
    """Where a row holds several documents, each token knows its own alone, from its BOS on. Slow
    (cuDNN's attention reads a bias for it), and of little use where rows begin with BOS. What goes
    on from a document that was cut has no BOS: it counts with what stands before it in its row."""

    def __post_init__(self) -> None:
        _require(0 < self.mask_rate < 1, "objective.mask_rate", "between 0 and 1", self.mask_rate)
        _require(
            0 <= self.z_loss < math.inf, "objective.z_loss", "a number of at least 0", self.z_loss
        )


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """What one update sees."""

    rows: int = 32
    """Rows an update averages over."""
    micro_rows: int | Literal["auto"] | None = None
    """Rows computed at a time; must divide `rows`. None means all at once, auto as many as fit the
    device; a resumed run keeps them."""
    packing: Literal["documents", "contiguous"] = "documents"
    """Rows that begin at a document's start where possible, or plain slices of the token stream."""

    def __post_init__(self) -> None:
        _require(self.rows >= 1, "batch.rows", "at least 1", self.rows)
        micro = self.micro_rows
        _require(
            not isinstance(micro, int) or (micro >= 1 and self.rows % micro == 0),
            "batch.micro_rows",
            f"a divisor of batch.rows ({self.rows}), auto or none",
            micro,
        )


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The numbers of `optimizers.muon_adamw`, the default, and of `optimizers.adamw`."""

    learning_rate: float = 0.02
    """Of the matrices in the blocks (Muon), or of everything (`adamw`)."""
    embedding_learning_rate: float = 0.3
    """Of the embedding tables (`muon_adamw`)."""
    head_learning_rate: float = 0.008
    """Of the untied head (`muon_adamw`)."""
    vector_learning_rate: float = 0.01
    """Of gains and biases (`muon_adamw`)."""
    momentum: float = 0.95
    """Of Muon."""
    beta1: float = 0.8
    beta2: float = 0.95
    epsilon: float = 1e-10
    weight_decay: float = 0.1
    """Of matrices, times the learning rate; never of embeddings, gains or biases."""
    clip_norm: float | None = None
    """Scale the gradient down to this norm; none leaves it."""

    def __post_init__(self) -> None:
        for name in ("momentum", "beta1", "beta2"):
            value = getattr(self, name)
            _require(0 <= value < 1, f"optimizer.{name}", "at least 0 and below 1", value)
        for field in dataclasses.fields(self):
            if field.name.endswith("learning_rate") or field.name in ("weight_decay", "epsilon"):
                value = getattr(self, field.name)
                _require(value >= 0, f"optimizer.{field.name}", "at least 0", value)
        _require(
            self.clip_norm is None or self.clip_norm > 0,
            "optimizer.clip_norm",
            "a number above 0, or none",
            self.clip_norm,
        )


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The learning rate's factor over progress, from 0 (start) to 1 (the budget is spent)."""

    kind: Literal["wsd", "cosine", "linear", "triangular"] = "wsd"
    """wsd: warm-up, constant, then linear to the floor."""
    warmup: float = 0.02
    """Share of the run over which the factor rises from 0 to 1 (all kinds but triangular)."""
    cooldown: float = 0.6
    """Share of the run over which wsd falls."""
    peak: float = 0.75
    """Progress at which triangular, which rises from a quarter, reaches 1."""
    floor: float = 0.0
    """The factor at the end."""

    def __post_init__(self) -> None:
        for name in ("warmup", "cooldown", "peak", "floor"):
            value = getattr(self, name)
            _require(0 <= value <= 1, f"schedule.{name}", "between 0 and 1", value)
        _require(
            self.kind != "wsd" or self.warmup + self.cooldown <= 1,
            "schedule.cooldown",
            f"at most 1 - schedule.warmup ({1 - self.warmup:g})",
            self.cooldown,
        )


Knots = tuple[tuple[float, float], ...]
Steps = tuple[tuple[float, int], ...]


@dataclass(frozen=True, kw_only=True)
class RampConfig:
    """Numbers that change over progress, from 0 (start) to 1 (the budget is spent).

    A list of (progress, value). The first three jump: each value holds up to that progress, and
    after the last the number in its usual place. The others follow straight lines.
    """

    rows: Steps = ()
    """Rows an update, before batch.rows: (0.3, 8), (0.6, 16)."""
    length: Steps = ()
    """Tokens of the pieces that rows are cut into, before they stay whole: a divisor."""
    window: Steps = ()
    """Tokens a short-window layer looks back on, before model.window."""
    momentum: Knots = ()
    """Of Muon, in place of optimizer.momentum."""
    weight_decay: Knots = ()
    """What optimizer.weight_decay is multiplied with."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            points = getattr(self, field.name)
            places = [place for place, _ in points]
            linear = field.name in ("momentum", "weight_decay")
            _require(
                places == sorted(set(places))
                and all(0 <= place <= 1 if linear else 0 < place < 1 for place in places),
                f"ramp.{field.name}",
                "rising progress " + ("from 0 to 1" if linear else "between 0 and 1"),
                points,
            )
            _require(
                all(value >= (0 if linear else 1) for _, value in points),
                f"ramp.{field.name}",
                f"values of at least {0 if linear else 1}",
                points,
            )
        _require(
            all(value < 1 for _, value in self.momentum),
            "ramp.momentum",
            "values below 1",
            self.momentum,
        )


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """When and how the validation set is read."""

    every: str = "10%"
    """In steps or per cent of the budget, e.g. 500steps or 10%; the end is always evaluated."""
    rows: int = 32
    """Rows computed at a time; the result does not depend on it."""
    max_rows: int | None = 1024
    """Read only the first rows, a fair sample, while training; none reads all. The end always reads
    all. A row of the quickstart costs 0.3 of one trained on: the defaults 2% of 140,000 rows."""

    def __post_init__(self) -> None:
        parse_quantity(self.every, "evaluation.every", ("steps", "progress"))
        _require(self.rows >= 1, "evaluation.rows", "at least 1", self.rows)
        _require(
            self.max_rows is None or self.max_rows >= 1,
            "evaluation.max_rows",
            "at least 1, or none",
            self.max_rows,
        )


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When the state is saved; the first step (which tests the disk) and the last always are."""

    every: str = "10m"
    """In steps, minutes or per cent of the budget, e.g. 1000steps, 10m or 5%."""
    keep: int = 2
    """Newest checkpoints kept; the one with the best validation loss is kept beside them."""
    on_failure: Literal["stop", "warn"] = "stop"
    """What to do where one cannot be written: end with 75, or say so and go on until the next; the
    first and the last must be written."""

    def __post_init__(self) -> None:
        parse_quantity(self.every, "checkpoint.every", ("steps", "seconds", "progress"))
        _require(self.keep >= 1, "checkpoint.keep", "at least 1", self.keep)


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """When an update is dropped, the run rewound, and given up. What is not finite is dropped."""

    spike_sigmas: float | None = 6.0
    """Drop an update whose loss or gradient norm is so many standard deviations above the mean of
    the last 128, once 64 are known; none drops no spikes."""
    most_drops: int = 20
    """Updates dropped in a row after which the run goes back to a sealed step from before them, and
    on with the rows after them."""
    most_rewinds: int = 5
    """How often it does so before it ends with 70; 0 ends it at once."""

    def __post_init__(self) -> None:
        _require(
            self.spike_sigmas is None or self.spike_sigmas > 0,
            "guard.spike_sigmas",
            "above 0, or none",
            self.spike_sigmas,
        )
        _require(self.most_drops >= 1, "guard.most_drops", "at least 1", self.most_drops)
        _require(self.most_rewinds >= 0, "guard.most_rewinds", "at least 0", self.most_rewinds)


@dataclass(frozen=True, kw_only=True)
class WatchdogConfig:
    """How long a part of a run may last before it counts as hung: it ends, to be run again."""

    step: str = "10m"
    """A step, or 20 times the slowest but one in a hundred where that is more; waiting for data."""
    compile: str = "2h"
    """Compiling a program; how long depends on model and device."""
    evaluate: str = "2h"
    save: str = "1h"

    def __post_init__(self) -> None:
        for name in ("step", "compile", "evaluate", "save"):
            parse_quantity(getattr(self, name), f"watchdog.{name}", ("seconds",))


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """What is written while training."""

    every: int = 10
    """Steps between two lines of `metrics.jsonl`."""

    def __post_init__(self) -> None:
        _require(self.every >= 1, "log.every", "at least 1", self.every)


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """What the trained model writes at the end, one text a prompt."""

    prompts: tuple[str, ...] = ()
    max_tokens: int = 64
    temperature: float = 0.8
    top_k: int | None = 50

    def __post_init__(self) -> None:
        _require(self.max_tokens >= 1, "sample.max_tokens", "at least 1", self.max_tokens)
        _require(self.temperature >= 0, "sample.temperature", "at least 0", self.temperature)
        _require(
            self.top_k is None or self.top_k >= 1,
            "sample.top_k",
            "at least 1, or none",
            self.top_k,
        )


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """The devices of a run, along three axes: their product is how many are used.

    What is computed is the same on any mesh, but for the rounding of sums: a run may go on with
    another one.
    """

    data: int = 1
    """Devices, or groups of them, that hold all of the state each and divide the rows."""
    fsdp: int = 1
    """Devices that divide the state as well as the rows, and gather a layer when they need it."""
    tensor: int = 1
    """Devices that divide a layer's matrices and compute the same rows: within a machine."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            _require(value >= 1, f"mesh.{field.name}", "at least 1", value)

    @property
    def devices(self) -> int:
        return self.data * self.fsdp * self.tensor

    @property
    def state_shares(self) -> int:
        """Parts that parameters and optimizer state are divided into."""
        return self.fsdp * self.tensor

    @property
    def row_shares(self) -> int:
        """Parts that the rows computed at a time are divided into."""
        return self.data * self.fsdp


@dataclass(frozen=True, kw_only=True)
class ProcessesConfig:
    """The processes of a run on several machines, each started with the same settings.

    They share the corpus and the run folder through the file system.
    """

    count: int | Literal["auto"] = 1
    """auto is as many as SLURM, Open MPI or Kubernetes started; each then knows its place."""
    index: int | None = None
    """Which of them this one is, from 0 on; none where the count is auto."""
    coordinator: str | None = None
    """host:port at which the process 0 waits for the others; none where the count is auto."""

    def __post_init__(self) -> None:
        count, several = self.count, isinstance(self.count, int) and self.count > 1
        _require(count == "auto" or count >= 1, "processes.count", "at least 1, or auto", count)
        for name in ("index", "coordinator"):
            value = getattr(self, name)
            expected = "given" if several else "none"
            expected += f", since processes.count is {count}"
            _require((value is not None) == several, f"processes.{name}", expected, value)
        _require(
            self.index is None or 0 <= self.index < typing.cast(int, count),
            "processes.index",
            f"at least 0 and below processes.count ({count})",
            self.index,
        )
        _require(
            self.coordinator is None or re.fullmatch(r".+:\d+", self.coordinator) is not None,
            "processes.coordinator",
            "host:port",
            self.coordinator,
        )


@dataclass(frozen=True, kw_only=True)
class Config:
    """One run."""

    budget: str = "20m"
    """How long to train: 500steps, 20Mtokens, 90s, 20m, 24h."""
    data: str = "corpora/python-docs"
    """The corpus folder; prepared from `text` if it is not there."""
    run: str = "runs/default"
    """The run folder; the same command resumes it."""
    init_from: str | None = None
    """A run folder whose parameters this run starts with; none means fresh ones."""
    branch_from: str | None = None
    """A run folder that this run leaves at `branch_step`, to spend `budget` on a cooldown."""
    branch_step: int | None = None
    """The checkpoint to leave `branch_from` at; none means its newest."""
    replay: str | None = None
    """A finished run whose journal decides the pace of this one, instead of the clock."""
    budget_counts: Literal["everything", "steps"] = "everything"
    """What a budget in time is spent on: all from the first command on, preparing, compiling,
    evaluating, saving and work that a restart lost included, or data and steps alone. Time between
    two commands never counts."""
    seed: int = 0
    text: TextConfig = TextConfig()
    model: ModelConfig = TransformerConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    batch: BatchConfig = BatchConfig()
    mesh: MeshConfig = MeshConfig()
    processes: ProcessesConfig = ProcessesConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    ramp: RampConfig = RampConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    guard: GuardConfig = GuardConfig()
    watchdog: WatchdogConfig = WatchdogConfig()
    log: LogConfig = LogConfig()
    sample: SampleConfig = SampleConfig()

    def __post_init__(self) -> None:
        parse_quantity(self.budget, "budget", ("steps", "tokens", "seconds"))
        _require(0 <= self.seed < 2**31, "seed", "a whole number from 0 to 2**31 - 1", self.seed)
        _require(
            self.init_from is None or self.branch_from is None,
            "init_from",
            "none, since branch_from is given",
            self.init_from,
        )
        _require(
            self.branch_from is None or self.schedule.kind == "wsd",
            "schedule.kind",
            "wsd, since only a constant rate can be left at any step by branch_from",
            self.schedule.kind,
        )
        _require(
            not self.objective.document_mask or self.model.kind == "transformer",
            "objective.document_mask",
            f"off, since a model of kind {self.model.kind} has no attention to mask",
            self.objective.document_mask,
        )
        micro = self.batch.micro_rows
        _require(
            not isinstance(micro, int) or all(n % min(micro, n) == 0 for _, n in self.ramp.rows),
            "ramp.rows",
            f"at most batch.micro_rows ({micro}), or multiples of it",
            self.ramp.rows,
        )
        for key, rows in (
            ("batch.rows", self.batch.rows),
            ("batch.micro_rows", micro),
            *(("ramp.rows", n) for _, n in self.ramp.rows),
        ):
            _require(
                not isinstance(rows, int) or rows % self.mesh.row_shares == 0,
                key,
                f"a multiple of mesh.data x mesh.fsdp ({self.mesh.row_shares})",
                rows,
            )
        _require(
            all(self.model.length % length == 0 for _, length in self.ramp.length),
            "ramp.length",
            f"divisors of model.length ({self.model.length})",
            self.ramp.length,
        )
        _require(
            not self.ramp.window or "S" in getattr(self.model, "window_pattern", ""),
            "ramp.window",
            "none, since no layer of the model has a short window",
            self.ramp.window,
        )


class Recipe(NamedTuple):
    """A recipe file, loaded: its numbers after overrides, and its optimizer if it composes one.

    `allow_drift` are keys that may differ from the settings the run was begun with.
    """

    config: Config
    make_optimizer: Callable[[Config], Any] | None
    allow_drift: tuple[str, ...] = ()


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Load a recipe file and apply overrides written as on the command line.

    Raises ConfigError for a missing file, an unknown key, a wrong type or an impossible value.
    """
    config, make_optimizer = _read_recipe(Path(path))
    if overrides:
        try:
            given = _override(config, ["--config", str(path), *overrides], "lmjax", quiet=True)
            config = given.settings
        except SystemExit as stop:
            raise ConfigError(str(stop.__cause__ or stop)) from None
    return Recipe(config, make_optimizer)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The numbers of a recipe file (or of a run's `config.json`), with overrides applied.

    `overrides` are written as on the command line: `["--model.depth", "6", "--budget", "20m"]`.
    """
    return load_recipe(path, overrides).config


def parse_command_line(verb: str, about: str | None, argv: Sequence[str] | None = None) -> Recipe:
    """Read `--config FILE` and dotted overrides; prints help or the error and exits (0 or 78).

    `--replay RUN` and `--branch-from RUN [--step N]` need no file: they take that run's settings.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    default, make_optimizer = Config(), None
    try:
        path = _value_of("--config", arguments)
        settings: dict[str, Any] = {}
        for name, ending in (("replay", "replay"), ("branch_from", "branch")):
            other = _value_of("--" + name.replace("_", "-"), arguments)
            if other is not None:
                settings = {name: other, "run": f"{other.rstrip('/')}-{ending}"}
                if path is None:  # the other run says what it was
                    path = str(Path(other) / "config.json")
                    arguments = ["--config", path, *arguments]
        if path is not None:
            default, make_optimizer = _read_recipe(Path(path))
        default = dataclasses.replace(default, **settings)
    except ConfigError as error:
        print(f"lmjax: {error}", file=sys.stderr)
        raise SystemExit(78) from None
    if default.branch_from is not None:
        arguments = ["--branch-step" if a == "--step" else a for a in arguments]
    program = f"python -m lmjax.{verb}"
    given = _override(default, arguments, program, about)
    return Recipe(given.settings, make_optimizer, getattr(given, "allow_drift", ()))


Arguments = TypeVar("Arguments")


def parse_arguments(
    kind: type[Arguments], verb: str, about: str | None, argv: Sequence[str] | None = None
) -> Arguments:
    """Read a verb's own arguments, the fields of a dataclass; exits like `parse_command_line`."""
    import tyro

    with _exit_codes():
        return tyro.cli(kind, args=argv, prog=f"python -m lmjax.{verb}", description=about)


def parse_with_overrides(
    kind: type[Arguments], verb: str, about: str | None, argv: Sequence[str] | None = None
) -> tuple[Arguments, list[str]]:
    """As `parse_arguments`, with what are no fields of the dataclass: the overrides of a recipe."""
    import tyro

    program = f"python -m lmjax.{verb}"
    with _exit_codes():
        return tyro.cli(kind, args=argv, prog=program, description=about, return_unknown_args=True)


@contextlib.contextmanager
def _exit_codes() -> Iterator[None]:
    try:
        yield
    except SystemExit as stop:
        raise SystemExit(78 if stop.code else 0) from None


def _value_of(option: str, arguments: Sequence[str]) -> str | None:
    for index, argument in enumerate(arguments):
        if argument == option and index + 1 < len(arguments):
            return arguments[index + 1]
        if argument.startswith(f"{option}="):
            return argument.removeprefix(f"{option}=")
    return None


def _override(
    config: Config,
    arguments: Sequence[str],
    program: str,
    about: str | None = None,
    quiet: bool = False,
) -> Any:
    """The command line, read: its `settings`, and for `train` its `allow_drift`."""
    import io
    from typing import Annotated

    import tyro

    about_config = "The recipe file, e.g. configs/quickstart.py, or the config.json of a run."
    about_drift = "Settings that may differ, from here on, from those the run was begun with."
    allow_drift = Annotated[
        tuple[str, ...], tyro.conf.arg(help=about_drift, metavar="KEY [KEY ...]")
    ]
    command_line = dataclasses.make_dataclass(
        "CommandLine",
        [
            ("config", Annotated[str, tyro.conf.arg(help=about_config)]),
            *([("allow_drift", allow_drift, ())] if program.endswith("train") else []),
            (
                "settings",
                Annotated[Config, tyro.conf.arg(name=""), tyro.conf.AvoidSubcommands],
                config,
            ),
        ],
        frozen=True,
    )
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed) if quiet else contextlib.nullcontext():
            return tyro.cli(command_line, args=arguments, prog=program, description=about)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise SystemExit(78) from ConfigError(printed.getvalue().strip() or "bad command line")
    except ConfigError as error:  # of settings that are each in order, but not together
        if quiet:
            raise
        print(f"lmjax: {error}", file=sys.stderr)
        raise SystemExit(78) from None


class _Uncached(importlib.machinery.SourceFileLoader):
    """Reads a recipe as it is now, and leaves nothing beside it.

    Python's bytecode is taken for a file's own where seconds and size are the same: not so for a
    script that changes a number twice in a second.
    """

    def path_stats(self, path: str) -> Any:
        raise OSError  # as importlib asks of a loader that has none: nothing is cached then


def _read_recipe(path: Path) -> tuple[Config, Callable[[Config], Any] | None]:
    if not path.is_file():
        raise ConfigError(f"--config: expected a recipe file, found none at {path}")
    if path.suffix == ".json":
        return _read_json(path), None
    if path.suffix != ".py":
        raise ConfigError(f"--config: expected a .py or .json file, found {path}")
    loader = _Uncached(f"recipe_{path.stem}", str(path))
    spec = importlib.util.spec_from_file_location(loader.name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ConfigError(f"{path}: expected a function get_config() -> Config, found none")
    config = module.get_config()
    if not isinstance(config, Config):
        raise ConfigError(f"{path}: get_config() must return a Config, it returned {type(config)}")
    return config, getattr(module, "make_optimizer", None)


def _read_json(path: Path) -> Config:
    with path.open("rb") as file:
        content = file.read(_MOST_JSON + 1)
    if len(content) > _MOST_JSON:
        raise ConfigError(f"{path}: expected at most {_MOST_JSON >> 20} MiB, found more")
    return from_json(content.decode(errors="replace"))


def to_json(config: Config) -> str:
    """The config as indented JSON, every value spelt out."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    """Read what `to_json` wrote. Raises ConfigError for unknown keys and wrong types."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"config.json: expected JSON, {error}") from None
    return typing.cast(Config, _decode(Config, data, ""))


def _decode(kind: Any, value: Any, key: str) -> Any:
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise ConfigError(f"{key or 'config'}: expected an object, found {value!r}")
        hints = typing.get_type_hints(kind)
        prefix = f"{key}." if key else ""
        for name in value:
            if name not in hints:
                raise ConfigError(f"{prefix}{name}: unknown; the names are {', '.join(hints)}")
        return kind(**{n: _decode(hints[n], v, prefix + n) for n, v in value.items()})  # type: ignore[operator]
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple and isinstance(value, list):
        members = [options[0]] * len(value) if options[-1] is ... else list(options)
        if len(members) != len(value):
            raise ConfigError(f"{key}: expected {len(members)} values, found {value!r}")
        pairs = enumerate(zip(members, value, strict=True))
        return tuple(_decode(member, v, f"{key}[{i}]") for i, (member, v) in pairs)
    if origin is Literal:
        if value in options:
            return value
        raise ConfigError(f"{key}: expected one of {', '.join(map(str, options))}, found {value!r}")
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in options:
            return None
        options = tuple(option for option in options if option is not type(None))
        words = [option for option in options if typing.get_origin(option) is Literal]
        if words and isinstance(value, str):
            return _decode(words[0], value, key)
        if not isinstance(value, dict) or len(options) == 1:
            return _decode(options[0], value, key)
        kinds = {option.kind: option for option in options}  # dataclasses, told apart by `kind`
        kind = value.get("kind", options[0].kind)
        if not isinstance(kind, str) or kind not in kinds:
            expected = f"one of {', '.join(kinds)}"
            raise ConfigError(f"{key}.kind: expected {expected}, found {kind!r}")
        return _decode(kinds[kind], value, key)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is kind:
        return value
    raise ConfigError(f"{key}: expected {getattr(kind, '__name__', kind)}, found {value!r}")


def with_vocabulary(config: Config, vocab_size: int) -> Config:
    """The settings with the vocabulary spelt out, once the corpus is known."""
    model = dataclasses.replace(config.model, vocab_size=vocab_size)
    return dataclasses.replace(config, model=model)


def keys(config: Config) -> list[str]:
    """The dotted keys of all settings."""
    return [key for key, _ in _leaves(config)]


def changed(config: Config, values: dict[str, Any]) -> Config:
    """A config with values from JSON at dotted keys. Raises ConfigError like `from_json`."""
    data = json.loads(to_json(config))
    for key, value in values.items():
        *sections, name = key.split(".")
        section = data
        for part in sections:
            section = section[part]
        section[name] = value
    return typing.cast(Config, _decode(Config, data, ""))


def difference(old: Config, new: Config) -> list[tuple[str, Any, Any]]:
    """The dotted keys in which two configs differ, each with its old and its new value."""
    old_values, new_values = dict(_leaves(old)), dict(_leaves(new))
    keys = list(old_values) + [key for key in new_values if key not in old_values]
    return [
        (key, old_values.get(key), new_values.get(key))
        for key in keys
        if old_values.get(key) != new_values.get(key)
    ]


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", value
