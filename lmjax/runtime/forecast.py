"""What a budget buys at a speed: tokens, loss, disk, energy, money."""

from typing import NamedTuple

from lmjax.config import Config, parse_quantity
from lmjax.runtime.devices import Card

# Of a budget in time, what is left for updates: the rest is compiling, evaluating and saving.
TRAINING_SHARE = 0.94
LAW = "Hoffmann et al. 2022, approach 3, as fitted again by Besiroglu et al. 2024 (MassiveText)"


class Forecast(NamedTuple):
    """All of a run: rates a second, sizes in bytes, loss in nats a token."""

    tokens_per_second: float
    mfu: float
    hours: float
    steps: float
    tokens: float
    loss: float | None
    data_bytes: float
    checkpoint_bytes: float
    kwh: float
    cost: float | None


def loss(parameters: float, tokens: float) -> float:
    """Nats a token after one pass over so many tokens, by `LAW`; other text has other constants."""
    return 1.8172 + 482.01 / parameters**0.3478 + 2085.43 / tokens**0.3658


def forecast(
    config: Config,
    card: Card,
    *,
    parameters: int,
    state_bytes: float,
    flops_per_token: float,
    step_seconds: float,
    price_per_hour: float | None,
) -> Forecast:
    """What `config.budget` buys where a step takes `step_seconds`; energy at full power.

    `state_bytes` are those of one device, `card` is each of the devices of the config's mesh.
    """
    devices = config.mesh.devices
    step_tokens = config.batch.rows * config.model.length
    budget = parse_quantity(config.budget, "budget", ("steps", "tokens", "seconds"))
    if budget.kind == "seconds":
        steps = budget.value * TRAINING_SHARE / step_seconds
    else:
        steps = budget.value if budget.kind == "steps" else budget.value / step_tokens
    tokens = steps * step_tokens
    hours = (
        budget.value if budget.kind == "seconds" else steps * step_seconds / TRAINING_SHARE
    ) / 3600
    # The law was fitted from 4e7 parameters on; below, it says nothing.
    within_law = config.objective.kind == "next_token" and min(parameters, tokens) >= 4e7
    width = 2 if (config.model.vocab_size or 0) <= 2**16 else 4
    return Forecast(
        tokens_per_second=step_tokens / step_seconds,
        mfu=flops_per_token * step_tokens / step_seconds / (devices * card.tflops * 1e12),
        hours=hours,
        steps=steps,
        tokens=tokens,
        loss=loss(parameters, tokens) if within_law else None,
        data_bytes=width * tokens,
        checkpoint_bytes=state_bytes * config.mesh.state_shares * (config.checkpoint.keep + 1),
        kwh=devices * card.watts / 1000 * hours,
        cost=None if price_per_hour is None else price_per_hour * hours,
    )
