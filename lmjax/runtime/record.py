"""What a run writes down as it goes: repeatable metrics, timings, and the progress line."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from lmjax.config import Config
from lmjax.data.loader import Feed
from lmjax.learning.step import Metrics
from lmjax.runtime import console, device, journal
from lmjax.runtime.budget import Progress
from lmjax.runtime.evaluation import Result
from lmjax.runtime.ledger import Ledger
from lmjax.runtime.rewinding import Astray


class Taken(NamedTuple):
    """An update that was dispatched: its step, the tokens of all so far, its batch's digest, its
    progress, what it tells."""

    step: int
    tokens: int
    batch: str
    progress: float
    metrics: Metrics


class Record:
    """Takes updates one step late, so that the device never waits for them."""

    def __init__(
        self,
        run: Path,
        config: Config,
        events: journal.Journal,
        ledger: Ledger,
        feed: Feed,
        step: int,
        tokens: int,
        flops_per_token: float,
        peak_flops: float,
        written: Callable[[Path], journal.Journal] = journal.Journal,
    ) -> None:
        self.screen = console.Console()
        self._events = events
        self._metrics = written(run / "metrics.jsonl")
        self._timing = written(run / "timing.jsonl")
        self._metrics.cut(step)
        evaluated = self._metrics.newest("val_loss")
        self._bits: float | None = evaluated["val_bits_per_byte"] if evaluated else None
        self.evaluated_at: int | None = evaluated["step"] if evaluated else None
        """The step of the newest evaluation that was written down when this began."""
        self._every, self._most_drops = config.log.every, config.guard.most_drops
        self._length = config.model.length
        self._flops_per_token, self._peak_flops = flops_per_token, peak_flops
        self._ledger, self._feed = ledger, feed
        self._pending: list[Taken] = []
        self._mark = (ledger.elapsed(), step, tokens, 0.0)

    def take(self, taken: Taken) -> None:
        """Note an update whose metrics are still being computed."""
        self._pending.append(taken)

    def read(self, progress: Progress, leave: int) -> None:
        """Read metrics off the device, leaving the newest `leave` updates in flight.

        Raises Astray after too many updates in a row that were dropped.
        """
        while len(self._pending) > leave:
            taken = self._pending.pop(0)
            self._write(taken._replace(metrics=jax.device_get(taken.metrics)), progress)

    def aside(self, seconds: float) -> None:
        """Leave time spent on evaluating or saving out of the tokens a second."""
        self._mark = (self._mark[0] + seconds, *self._mark[1:])

    def evaluation(self, step: int, result: Result) -> None:
        """Write an evaluation down."""
        self._bits = result.bits_per_byte
        self._metrics.write(
            {
                "step": step,
                "val_loss": result.loss,
                "val_bits_per_byte": result.bits_per_byte,
                "val_tokens": result.tokens,
            }
        )

    def finish(self, step: int) -> None:
        """Write down what the time went into up to the last step."""
        seconds = self._ledger.seconds()
        self._timing.write({"step": step, "elapsed": sum(seconds.values()), "ledger": seconds})

    def close(self) -> None:
        self._metrics.close()
        self._timing.close()

    def _write(self, taken: Taken, progress: Progress) -> None:
        step, metrics = taken.step, taken.metrics
        dropped = int(metrics.dropped)
        told = f"loss {metrics.loss}, gradient norm {metrics.grad_norm}"
        if metrics.skipped:
            why = "spike" if metrics.spike else "not finite"
            self._events.write({"event": "skip", "step": step, "batch": taken.batch, "why": why})
            console.say(f"step {step}: {told}: {why}, the update was dropped")
        self._log(taken, progress)
        if dropped >= self._most_drops:
            raise Astray(step, dropped, taken.tokens // self._length, told)

    def _log(self, taken: Taken, progress: Progress) -> None:
        step, metrics = taken.step, taken.metrics
        if step % self._every != 0 and step != 1 and progress.at(step) < 1:
            return
        self._metrics.write(
            {
                "step": step,
                "loss": _decimal(metrics.loss),
                "loss_hex": float(metrics.loss).hex(),
                "lr": _decimal(metrics.learning_rate),
                "grad_norm": _decimal(metrics.grad_norm),
                "tokens": taken.tokens,
                "progress": taken.progress,
                "skipped": int(metrics.skipped),
                "batch": taken.batch,
            }
        )
        self._time(taken, progress)

    def _time(self, taken: Taken, progress: Progress) -> None:
        seconds_of, step, waited = self._ledger.seconds(), taken.step, self._feed.wait_seconds
        now = sum(seconds_of.values())
        seconds = max(now - self._mark[0], 1e-9)
        steps = max(step - self._mark[1], 1)
        speed = (taken.tokens - self._mark[2]) / seconds
        wait = (waited - self._mark[3]) / seconds
        self._mark = (now, step, taken.tokens, waited)
        mfu = speed * self._flops_per_token / self._peak_flops
        self.screen.show(
            console.Status(
                step,
                progress.end,
                progress.at(step),
                float(taken.metrics.loss),
                self._bits,
                float(taken.metrics.learning_rate),
                speed,
                mfu,
                wait,
                (progress.end - step) * seconds / steps,
            )
        )
        self._timing.write(
            {
                "step": step,
                "elapsed": now,
                "ledger": seconds_of,
                "tokens_per_second": speed,
                "mfu": mfu,
                "data_wait": wait,
                "peak_memory_bytes": device.peak_memory_bytes(),
            }
        )


def _decimal(number: jax.Array) -> float | None:
    """The shortest decimal that gives back the float32; none for what JSON cannot hold."""
    value = float(str(np.float32(number)))
    return value if math.isfinite(value) else None
