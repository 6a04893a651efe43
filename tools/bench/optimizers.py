"""Optimizers on one model at equal tokens: validation bits per byte, and what an update costs.

    python -m tools.bench.optimizers --data corpora/bench --steps 100 --only muon normuon

The model, the rows and their order are those of configs/quickstart.py, on the prose of this Python
installation; each optimizer runs with each of a few learning rates. The rate is that of the
matrices, or of everything where there are no groups. The last line with --json is one object.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import tyro

from lmjax.config import Config, load_config
from lmjax.data import corpus as corpora
from lmjax.data import loader, packing
from lmjax.learning import averaging, muon, objective, optimizers, schedules
from lmjax.models.build import build
from lmjax.runtime.evaluation import make_evaluator
from lmjax.text.corpus import prepare

RECIPE = Path(__file__).parents[2] / "configs" / "quickstart.py"

Make = Callable[[Config, Any], optax.GradientTransformation]


@dataclass(frozen=True)
class Entry:
    """An optimizer, made from the settings and a learning rate, and the rates to try."""

    make: Make
    rates: tuple[float, ...]


def everything(*transforms: optax.GradientTransformation, decay: float = 0.1) -> Make:
    """One chain for all parameters; matrices and the head decay."""

    def make(config: Config, rate: Any) -> optax.GradientTransformation:
        decaying = optax.add_decayed_weights(decay, mask=optimizers.decayed)
        steps = optax.chain(*transforms, decaying if decay else optax.identity())
        return optax.chain(steps, optimizers.descend(rate, schedules.make(config.schedule)))

    return make


def matrices(*transforms: optax.GradientTransformation) -> Make:
    """A chain for the blocks' matrices; Adam with the default rates for the rest."""

    def make(config: Config, rate: Any) -> optax.GradientTransformation:
        chain = optax.chain(*transforms, optimizers.descend(rate, schedules.make(config.schedule)))
        return optimizers.with_adam_for_the_rest(config, chain)

    return make


def schedule_free(config: Config, rate: Any) -> averaging.Evaluated:
    """AdamW without momentum and without a cooldown; Defazio et al. 2024."""
    warmup = dataclasses.replace(config.schedule, kind="wsd", cooldown=0.0)
    chain = optax.chain(
        optax.scale_by_adam(b1=0.0, b2=0.95),
        optax.add_decayed_weights(0.1, mask=optimizers.decayed),
        optimizers.descend(rate, schedules.make(warmup)),
    )
    tx = optax.contrib.schedule_free(chain, rate, b1=0.9)
    return averaging.Evaluated(tx, optax.contrib.schedule_free_eval_params)


def averaged(config: Config, rate: Any) -> averaging.Evaluated:
    return averaging.average(ENTRIES["muon"].make(config, rate), 0.95)


shaped, decayed = muon.scale_by_shape(), optax.add_decayed_weights(0.1)
warming = schedules.through((0, 0.85), (0.3, 0.95))
ENTRIES = {
    "sgd": Entry(everything(optax.trace(0.9, nesterov=True), decay=0), (0.1, 0.3, 1.0)),
    "rmsprop": Entry(everything(optax.scale_by_rms(0.95), decay=0), (0.001, 0.003, 0.01)),
    "adam": Entry(everything(optax.scale_by_adam(0.9, 0.95), decay=0), (0.003, 0.01, 0.03)),
    "adamw": Entry(everything(optax.scale_by_adam(0.9, 0.95)), (0.003, 0.01, 0.03)),
    "lion": Entry(everything(optax.scale_by_lion(0.9, 0.95)), (0.001, 0.003, 0.01)),
    "adafactor": Entry(
        everything(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0)),
        (0.001, 0.003, 0.01),
    ),
    "schedule-free": Entry(schedule_free, (0.001, 0.003, 0.01)),
    "muon": Entry(matrices(muon.scale_by_muon(), shaped, decayed), (0.01, 0.02, 0.04)),
    "muon-average": Entry(averaged, (0.02,)),
    "normuon": Entry(matrices(muon.scale_by_normuon(), shaped, decayed), (0.01, 0.02, 0.04)),
    "normuon-cautious": Entry(
        matrices(muon.scale_by_normuon(), shaped, muon.cautious_decay(0.1)), (0.02,)
    ),
    "normuon-cautious-warming": Entry(
        matrices(muon.scale_by_normuon(warming), shaped, muon.cautious_decay(0.1)), (0.02,)
    ),
}


def main(
    data: Path = Path("corpora/python-docs"),
    steps: int = 100,
    only: tuple[str, ...] = (),
    rates: tuple[float, ...] = (),
    seed: int = 0,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Train each optimizer named in `only` (or all) at its own learning rates, or at `rates`."""
    config = dataclasses.replace(load_config(RECIPE), seed=seed)
    if not corpora.exists(data):
        prepare(config.text, data)
    corpus = corpora.open_corpus(data)
    vocabulary = corpora.padded_vocabulary(corpus, config)
    model = build(dataclasses.replace(config.model, vocab_size=vocabulary), jax.default_backend())
    length = config.model.length
    table = packing.pack(corpus.train, length, corpus.bos, config.batch.packing)
    held_out = packing.pack(corpus.validation, length, corpus.bos, config.batch.packing, cover=True)
    goal = partial(objective.next_token, pieces=corpus.vocab_size)
    evaluate = make_evaluator(model, goal, held_out, corpus.bytes_V, 16)
    initialize = jax.jit(model.init)

    @jax.jit
    def gradient(params: Any, batch: loader.Batch) -> Any:
        def loss(params: Any) -> jax.Array:
            sums = goal(model, params, batch, jax.random.key(0))
            return sums.loss / sums.count

        return jax.grad(loss)(params)

    rows: list[dict[str, Any]] = []
    for name in only or ENTRIES:
        entry = ENTRIES[name]

        @partial(jax.jit, donate_argnums=(1, 2))
        def update(
            rate: Any, params: Any, state: Any, grads: Any, progress: Any, make: Make = entry.make
        ) -> Any:
            tx = optax.with_extra_args_support(make(config, rate))
            updates, state = tx.update(grads, state, params, progress=progress)
            return optax.apply_updates(params, updates), state

        for rate in rates or entry.rates:
            params = initialize(jax.random.key(config.seed))
            state = jax.jit(entry.make(config, rate).init)(params)
            seconds = []
            with loader.batches(table, config.seed, 0, config.batch.rows) as batches:
                for step in range(steps):
                    batch = loader.Batch(next(batches).tokens[0])
                    grads = jax.block_until_ready(gradient(params, batch))
                    begun = time.perf_counter()
                    params, state = jax.block_until_ready(
                        update(jnp.float32(rate), params, state, grads, np.float32(step / steps))
                    )
                    seconds.append(time.perf_counter() - begun)
            tx = entry.make(config, rate)
            if isinstance(tx, averaging.Evaluated):
                params = tx.evaluation_params(state, params)
            result = evaluate(params, None)
            row = {
                "optimizer": name,
                "learning_rate": rate,
                "bits_per_byte": result.bits_per_byte,
                "val_loss": result.loss,
                "update_ms": 1000 * float(np.median(seconds[1:])),
            }
            rows.append(row)
            print(
                f"{name:26}{rate:8g}{result.bits_per_byte:10.4f} bits a byte"
                f"{row['update_ms']:8.1f} ms an update",
                file=sys.stderr,
                flush=True,
            )
    tokens = steps * config.batch.rows * length
    best = {row["optimizer"]: row for row in sorted(rows, key=_bits, reverse=True)}
    print(f"{steps} steps, {tokens:,} tokens; the best learning rate of each")
    for row in sorted(best.values(), key=_bits):
        print(
            f"{row['optimizer']:26}{row['learning_rate']:8g}"
            f"{row['bits_per_byte']:10.4f}{row['update_ms']:8.1f} ms"
        )
    if as_json:
        print(json.dumps({"steps": steps, "tokens": tokens, "rows": rows}))


def _bits(row: dict[str, Any]) -> float:
    bits = row["bits_per_byte"]
    return bits if np.isfinite(bits) else float("inf")


if __name__ == "__main__":
    tyro.cli(main)
