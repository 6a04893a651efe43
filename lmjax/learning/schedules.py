"""Learning-rate factors as functions of progress, from 0 (start) to 1 (the budget is spent)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from lmjax.config import ScheduleConfig

Schedule = Callable[[jax.typing.ArrayLike], jax.Array]


def make(config: ScheduleConfig) -> Schedule:
    """The schedule's factor, to multiply a learning rate with.

    wsd: warm-up, stable, decay (Hu et al. 2024, MiniCPM). triangular: from a quarter up to the
    peak, then down, as JonasGeiping/cramming's budget-triangle2.
    """
    c = config
    if c.kind == "cosine":
        return lambda progress: (
            _line(progress, (0, 0), (c.warmup, 1), (1, 1)) * _cosine(progress, c.warmup, c.floor)
        )
    knots = {
        "wsd": [(0, 0), (c.warmup, 1), (1 - c.cooldown, 1), (1, c.floor)],
        "linear": [(0, 0), (c.warmup, 1), (1, c.floor)],
        "triangular": [(0, 0.25), (c.peak, 1), (1, c.floor)],
    }[c.kind]
    return lambda progress: _line(progress, *knots)


def through(*knots: tuple[float, float]) -> Schedule:
    """Straight lines through points (progress, value), for a momentum or a decay; flat outside."""
    return lambda progress: _line(progress, *knots)


def _line(progress: jax.typing.ArrayLike, *knots: tuple[float, float]) -> jax.Array:
    x, y = zip(*knots, strict=True)
    return jnp.interp(jnp.asarray(progress), jnp.asarray(x, float), jnp.asarray(y, float))


def _cosine(progress: jax.typing.ArrayLike, start: float, floor: float) -> jax.Array:
    share = jnp.clip((jnp.asarray(progress) - start) / max(1 - start, 1e-9), 0, 1)
    return floor + (1 - floor) * 0.5 * (1 + jnp.cos(jnp.pi * share))
