"""Which micro-batch and which rung of rematerialisation fit a card; which model fits a budget."""

import dataclasses
import math
import typing
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from lmjax.config import (
    BatchConfig,
    Config,
    ConfigError,
    OptimizerConfig,
    Remat,
    TextConfig,
    TokenizerConfig,
    TransformerConfig,
    parse_quantity,
)
from lmjax.models.model import CHUNK, chunk_of, resolve_dtype
from lmjax.runtime import blueprint
from lmjax.runtime.devices import Card
from lmjax.runtime.forecast import TRAINING_SHARE

# Of a card's memory what a step may take. cuDNN's workspaces and the allocator's gaps are in no
# buffer assignment; 5 to 10% of the peak.
MARGIN = 0.85
# Tokens a micro-batch should have before a cheaper rung is preferred to a larger micro-batch.
ENOUGH = 16_384


class Choice(NamedTuple):
    """Rows at a time, the rung, and the bytes they take."""

    micro_rows: int
    remat: Remat
    peak: float


def applied(
    config: Config, micro_rows: int | Literal["auto"], remat: Literal[Remat, "auto"]
) -> Config:
    """The config with a choice in place."""
    batch = dataclasses.replace(config.batch, micro_rows=micro_rows)
    model = config.model
    if isinstance(model, TransformerConfig):
        model = dataclasses.replace(model, remat=remat)
    return dataclasses.replace(config, batch=batch, model=model)


def in_words(config: Config, choice: Choice) -> str:
    """A choice in one line."""
    micro, rows = choice.micro_rows, config.batch.rows
    return f"{micro} of {rows} rows at a time, remat {choice.remat}: {choice.peak / 2**30:.2f} GiB"


def is_open(config: Config) -> bool:
    """Whether something in it is `auto`."""
    return config.batch.micro_rows == "auto" or getattr(config.model, "remat", None) == "auto"


def opened(config: Config) -> Config:
    """The config with `auto` for each of the two that was left as it is by default."""
    batch, model = config.batch, config.model
    if batch.micro_rows is None:
        batch = dataclasses.replace(batch, micro_rows="auto")
    if isinstance(model, TransformerConfig) and model.remat == "none":
        model = dataclasses.replace(model, remat="auto")
    return dataclasses.replace(config, batch=batch, model=model)


def formula_parts(config: Config, parameters: int, platform: str = "gpu") -> tuple[float, float]:
    """State and temporary bytes of a step on a device, from the sizes alone: within some 30%.

    12 bytes a parameter of state (Adam), 6 of gradients and casts, 2.5 chunks of float32 logits,
    and what each layer keeps of a token: about 34 widths (Korthikanti et al. 2022) without
    attention's scores, less on each rung. Devices that divide the state hold the embedding and its
    gradient whole within a step.
    """
    c = config.model
    micro = config.batch.rows if config.batch.micro_rows is None else config.batch.micro_rows
    assert micro != "auto"
    micro = -(-micro // config.mesh.row_shares)
    logits = micro * c.length * (c.vocab_size or 0)
    logits = min(logits, chunk_of(logits, CHUNK[platform]))
    parts = config.mesh.state_shares
    state, fixed = 12.0 * parameters / parts, 6.0 * parameters / parts + 10.0 * logits
    if parts > 1:
        fixed += 8.0 * c.width * (c.vocab_size or 0)
    if isinstance(c, TransformerConfig):
        qkv, up, mixed = 1.0 * (c.heads + 2 * c.KV) * c.K, 1.0 * c.F, 1.0 * c.heads * c.K
        kept = {"full": 1.0 * c.width}
        kept["attention"] = kept["full"] + mixed
        kept["attention+up"] = kept["attention"] + up * (2 if c.activation.endswith("glu") else 1)
        kept["attention+qkv+up"] = kept["attention+up"] + qkv
        kept["none"] = 9.0 * c.width + qkv + 2.5 * c.F
        numbers = kept[c.remat] * c.depth + (0 if c.remat == "none" else kept["none"])
        layer = resolve_dtype(c, platform).itemsize * numbers
        if c.attention == "xla" or (c.attention == "auto" and platform == "cpu"):
            layer += 4.0 * c.heads * c.length * (c.depth if c.remat == "none" else 1)
    else:
        numbers = 17.0 * c.width * getattr(c, "depth", 1)
        layer = resolve_dtype(c, platform).itemsize * numbers
    return state, fixed + layer * micro * c.length


def choose(config: Config, limit: float, peak: Callable[[Config], float]) -> Choice:
    """Of what is `auto`: the cheapest rung whose largest fitting micro-batch is large enough.

    `peak` gives the bytes of a config; `limit` is what it may take. Where no rung gives enough rows
    the one with the most is taken. Raises ConfigError where not even one row fits.
    """
    rungs, micros = _rungs(config), _micros(config)
    enough = min(ENOUGH * config.mesh.row_shares, micros[-1] * config.model.length)
    best: Choice | None = None
    least = math.inf
    for remat in rungs:
        left = micros
        while left:
            micro = left[-1]
            needed = peak(applied(config, micro, remat))
            if needed <= limit:
                break
            least = min(least, needed)
            # Memory grows at most in proportion to the rows: what cannot fit by far is skipped,
            # but for the fewest, which the message tells of.
            left = [n for n in left[:-1] if n <= micro * limit / needed] or left[:-1][:1]
        if not left:
            continue
        found = Choice(micro, remat, needed)
        if micro * config.model.length >= enough:
            return found
        if best is None or micro > best.micro_rows:
            best = found
    if best is None:
        raise ConfigError(
            f"model: expected a step that takes at most {limit / 2**30:.1f} GiB, found "
            f"{least / 2**30:.1f} GiB for {micros[0]} row{'s' * (micros[0] > 1)} with remat "
            f"{rungs[-1]}; take a smaller model.depth or model.width, or a card with more memory"
        )
    return best


def _rungs(config: Config) -> tuple[Remat, ...]:
    if not isinstance(config.model, TransformerConfig):
        return ("none",)
    remat = config.model.remat
    return typing.get_args(Remat) if remat == "auto" else (remat,)


def _micros(config: Config) -> list[int]:
    """Numbers of rows at a time, rising, that divide the batch of each stage."""
    micro, rows = config.batch.micro_rows, config.batch.rows
    if micro != "auto":
        return [micro or rows]
    stages = [rows, *(n for _, n in config.ramp.rows)]
    return [
        micro
        for micro in range(1, rows + 1)
        if rows % micro == 0
        and micro % config.mesh.row_shares == 0
        and all(n % min(micro, n) == 0 for n in stages)
    ]


def settle(
    config: Config, platform: str, memory: float, recorded: dict[str, Any] | None = None
) -> Choice | None:
    """What is `auto` in a config, chosen by formula for a device's memory; none if nothing is.

    `recorded` is the choice of a run begun before. It stands, since another micro-batch sums floats
    in another order. Raises ConfigError where not one row fits.
    """
    if not is_open(config):
        return None
    if recorded is not None:
        return Choice(**recorded)
    parameters = blueprint.parameters(config)

    def peak(config: Config) -> float:
        return sum(formula_parts(config, parameters, platform))

    return choose(config, MARGIN * memory, peak)


class Sized(NamedTuple):
    """A config, and a line on each number in it that was chosen."""

    config: Config
    reasons: dict[str, str]


def size(budget: str, card: Card) -> Sized:
    """The model and its batch and rates for a budget in time on a card: karpathy/nanochat's dial.

    Depth alone is turned, by twos; the rest follows. The deepest that sees 9.5 tokens a scaling
    parameter (blocks' matrices and head) is taken. Raises ConfigError where the smallest does not.
    """
    quantity = parse_quantity(budget, "budget", ("seconds",))
    small = card.tflops < 10
    V, T, head = (8192, 256, 64) if small else (32_768, 2048, 128)
    ratio = 9.5
    chosen = None
    for depth in range(2, 42, 2):
        width = 64 * depth
        if width % head:
            continue
        scaling = 12 * depth * width**2 + V * width
        mfu = 0.45 if depth >= 18 else 0.40
        tokens = (
            quantity.value * TRAINING_SHARE * mfu * card.tflops * 1e12
            / (6 * scaling + 12 * depth * width * T / 2)
        )  # fmt: skip
        if tokens < ratio * scaling and chosen is not None:
            break
        chosen = depth, width, scaling, tokens, mfu
    assert chosen is not None
    depth, width, scaling, tokens, mfu = chosen
    # The reference: d12 at 10.5 tokens a scaling parameter, 2^19 tokens a batch.
    reference = 10.5 * 110e6
    share = tokens / reference
    batch = 2 ** round(math.log2(2**19 * share**0.383))
    rows = max(1, batch // T)
    rate = math.sqrt(batch / 2**19)
    narrow = (width / 768) ** -0.5
    decay = 0.28 * rate / share
    optimizer = OptimizerConfig(
        learning_rate=_rounded(0.02 * rate),
        embedding_learning_rate=_rounded(0.3 * narrow * rate),
        head_learning_rate=_rounded(0.008 * narrow * rate),
        weight_decay=_rounded(min(decay, 1.0)),
    )
    config = Config(
        budget=budget,
        data="corpora/web",
        run="runs/mine",
        text=TextConfig(tokenizer=TokenizerConfig(vocab_size=V)),
        model=TransformerConfig(
            vocab_size=V, length=T, depth=depth, width=width, heads=width // head
        ),
        batch=BatchConfig(rows=rows),
        optimizer=optimizer,
    )
    reasons = {
        "depth": f"the deepest that sees {tokens / scaling:.1f} tokens a scaling parameter at "
        f"{mfu:.0%} MFU in {budget}",
        "width": "64 x depth, nanochat's aspect",
        "heads": f"heads {head} wide",
        "length": "nanochat's row" if not small else "a short row, for a slow device",
        "vocab_size": "nanochat's vocabulary" if not small else "a small one, for a slow device",
        "rows": f"2^19 tokens x (tokens / {reference / 1e9:.2f}B)^0.383, to a power of two, "
        f"{batch:,} tokens",
        "learning_rate": "0.02 x sqrt(batch / 2^19)",
        "embedding_learning_rate": "0.3 x (width / 768)^-0.5 x sqrt(batch / 2^19)",
        "head_learning_rate": "0.008 x (width / 768)^-0.5 x sqrt(batch / 2^19)",
        "weight_decay": f"0.28 x sqrt(batch / 2^19) x {reference / 1e9:.2f}B / tokens, at most 1",
    }
    return Sized(config, reasons)


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def recipe_source(sized: Sized, choice: Choice, card: Card) -> str:
    """A recipe file that gives the config: a line a number, each with its reason."""
    c, why = sized.config, sized.reasons
    model, optimizer = typing.cast(TransformerConfig, c.model), c.optimizer
    models = [
        f"            {name}={getattr(model, name)!r},  # {why[name]}"
        for name in ("vocab_size", "length", "depth", "width", "heads")
    ]
    models.append(f'            remat="{choice.remat}",  # the cheapest rung that fits the card')
    rates = [
        f"            {name}={getattr(optimizer, name)!r},  # {why[name]}"
        for name in (
            "learning_rate", "embedding_learning_rate", "head_learning_rate", "weight_decay"
        )
    ]  # fmt: skip
    lines = [
        f'"""Sized for {c.budget} on one {card.name}. Planned: not yet run."""',
        "",
        "from lmjax.config import (",
        "    BatchConfig,",
        "    Config,",
        "    OptimizerConfig,",
        "    TextConfig,",
        "    TokenizerConfig,",
        "    TransformerConfig,",
        ")",
        "",
        "",
        "def get_config() -> Config:",
        "    return Config(",
        f'        budget="{c.budget}",',
        f'        data="{c.data}",',
        f'        run="{c.run}",',
        f"        text=TextConfig(tokenizer=TokenizerConfig(vocab_size={model.vocab_size})),",
        "        model=TransformerConfig(",
        *models,
        "        ),",
        "        batch=BatchConfig(",
        f"            rows={c.batch.rows},  # {why['rows']}",
        f"            micro_rows={choice.micro_rows},  # the largest that fits the card",
        "        ),",
        "        optimizer=OptimizerConfig(",
        *rates,
        "        ),",
        "    )",
    ]
    return "\n".join(lines) + "\n"
