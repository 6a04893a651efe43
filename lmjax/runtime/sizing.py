"""Which micro-batch and which rung of rematerialisation fit a card; which model fits a budget."""

import dataclasses
import math
import typing
from collections.abc import Callable
from typing import NamedTuple

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
from lmjax.models.model import CHUNK
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


def applied(config: Config, micro_rows: int, remat: Remat) -> Config:
    """The config with a choice in place."""
    batch = dataclasses.replace(config.batch, micro_rows=micro_rows)
    model = config.model
    if isinstance(model, TransformerConfig):
        model = dataclasses.replace(model, remat=remat)
    return dataclasses.replace(config, batch=batch, model=model)


def formula_parts(config: Config, parameters: int) -> tuple[float, float]:
    """State and temporary bytes of a step, from the sizes alone: within some 30%.

    12 bytes a parameter of state (Adam), 6 of gradients and casts, 2.5 chunks of float32 logits,
    and what each layer keeps of a token: about 34 widths (Korthikanti et al. 2022) without
    attention's scores, less on each rung.
    """
    c, micro = config.model, config.batch.micro_rows or config.batch.rows
    state, fixed = 12.0 * parameters, 6.0 * parameters + 10 * CHUNK["gpu"]
    if isinstance(c, TransformerConfig):
        qkv, up, mixed = 2.0 * (c.heads + 2 * c.KV) * c.K, 2.0 * c.F, 2.0 * c.heads * c.K
        kept = {"full": 2.0 * c.width}
        kept["attention"] = kept["full"] + mixed
        kept["attention+up"] = kept["attention"] + up * (2 if c.activation.endswith("glu") else 1)
        kept["attention+qkv+up"] = kept["attention+up"] + qkv
        kept["none"] = 18.0 * c.width + qkv + 5.0 * c.F
        layer = kept[c.remat] * c.depth + (0 if c.remat == "none" else kept["none"])
        if c.attention == "xla":
            layer += 4.0 * c.heads * c.length * (c.depth if c.remat == "none" else 1)
    else:
        layer = 34.0 * c.width * getattr(c, "depth", 1)
    return state, fixed + layer * micro * c.length


def choose(config: Config, limit: float, peak: Callable[[Config], float]) -> Choice:
    """The cheapest rung whose largest fitting micro-batch is large enough, and that micro-batch.

    `peak` gives the bytes of a config; `limit` is what it may take. Where no rung gives enough rows
    the one with the most is taken. Raises ConfigError where not even one row fits.
    """
    rungs = typing.get_args(Remat) if isinstance(config.model, TransformerConfig) else ("none",)
    rows, length = config.batch.rows, config.model.length
    best: Choice | None = None
    least = math.inf
    for remat in rungs:
        found = None
        micro = rows
        while found is None:
            needed = peak(applied(config, micro, remat))
            if needed <= limit:
                found = Choice(micro, remat, needed)
                break
            least = min(least, needed)
            smaller = [n for n in range(1, micro) if rows % n == 0]
            if not smaller:
                break
            # Memory grows at most in proportion to the rows: skip what cannot fit by far.
            likely = [n for n in smaller if n >= micro * limit / needed / 2] or smaller[-1:]
            fits = [n for n in likely if n <= micro * limit / needed]
            micro = fits[-1] if fits else likely[0]
        if found is not None:
            if found.micro_rows * length >= min(ENOUGH, rows * length):
                return found
            if best is None or found.micro_rows > best.micro_rows:
                best = found
    if best is None:
        raise ConfigError(
            f"model: expected a step that takes at most {limit / 2**30:.1f} GiB, found "
            f"{least / 2**30:.1f} GiB for one row with all rematerialised; take a smaller "
            "model.depth or model.width, or a card with more memory"
        )
    return best


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
