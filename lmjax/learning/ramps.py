"""What an update sees, as a function of progress: how many rows, how long, through what window.

Shapes: G micro-batches, B rows, S = T + 1 tokens; rows cut into P pieces of C tokens.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from lmjax.config import Config, ModelConfig, Steps, TransformerConfig
from lmjax.data.loader import Batch


class Stage(NamedTuple):
    """What holds from one point of progress to the next; a program is compiled for each."""

    rows: int
    micro_rows: int
    length: int
    window: int | None


def stage(config: Config, progress: float) -> Stage:
    """What holds at a progress."""
    ramp, micro = config.ramp, config.batch.micro_rows
    assert micro != "auto", "chosen before a run begins"
    here = rows(config, progress)
    return Stage(
        here,
        min(micro or here, here),
        _before(ramp.length, progress, config.model.length),
        _before(ramp.window, progress, getattr(config.model, "window", None)),
    )


def rows(config: Config, progress: float) -> int:
    """The rows of an update at a progress."""
    found: int = _before(config.ramp.rows, progress, config.batch.rows)
    return found


def _before(points: Steps, progress: float, last: Any) -> Any:
    return next((value for end, value in points if progress < end), last)


def starts(config: Config) -> list[float]:
    """Each progress at which a stage begins, the first at 0."""
    ramps = (config.ramp.rows, config.ramp.length, config.ramp.window)
    return sorted({0.0, *(end for points in ramps for end, _ in points)})


def staged(model: ModelConfig, stage: Stage) -> ModelConfig:
    """The model with a stage's window: its parameters are the same."""
    if not isinstance(model, TransformerConfig):
        return model
    return dataclasses.replace(model, window=stage.window)


def cut(batch: Batch, length: int) -> Batch:
    """Rows [G, B, S] as pieces [G, B x P, C + 1], each from the last token of the one before."""
    G, _, S = batch.tokens.shape
    if S == length + 1:
        return batch
    places_PC = np.arange(0, S - 1, length)[:, None] + np.arange(length + 1)
    return Batch(batch.tokens[:, :, places_PC].reshape(G, -1, length + 1))
