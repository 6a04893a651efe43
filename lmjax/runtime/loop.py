"""The loop: everything that happens around the train step, in one order.

Before each draw: log, evaluate, save. The state, the metrics file and the place in the data then
agree at every checkpoint, and the last step is no special case.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from lmjax.config import Config, Quantity, parse_quantity
from lmjax.data import loader, packing
from lmjax.data.corpus import Corpus
from lmjax.learning import objective
from lmjax.learning.step import TrainState, init_state, make_train_step
from lmjax.models import transformer
from lmjax.runtime import budget, checkpoint, console, device, journal, run_folder
from lmjax.runtime.evaluation import Result, make_evaluator
from lmjax.runtime.record import Record, Taken
from lmjax.runtime.signals import Stop


class Interrupted(RuntimeError):
    """A signal asked the run to stop; its state is saved. Exit code 75."""


def train(
    config: Config,
    run: Path,
    corpus: Corpus,
    tx: optax.GradientTransformation,
    learning_rate: Callable[[jax.Array], jax.Array],
    stop: Stop,
) -> Result:
    """Train until the budget is spent, from wherever the run folder stands; the final evaluation.

    `learning_rate` of progress is only reported. Raises Interrupted, Diverged, SaveError, DataError
    or ConfigError; the run folder is fit to go on from after each.
    """
    # ---- Run folder: what is there
    events = journal.Journal(run / "events.jsonl")
    checkpoints = run / "checkpoints"
    saved, rejected = checkpoint.newest(checkpoints)
    for reason in rejected:
        console.say(f"passed over: {reason}")
    step = saved.step if saved else 0
    checkpoint.clean(checkpoints, step, config.checkpoint.keep, best_of="val_loss")
    spent = [0.0, *(entry["elapsed"] for entry in journal.read(run / "timing.jsonl"))]
    if saved:
        spent.append(saved.numbers["elapsed"])
    clock = budget.Clock(max(spent))

    # ---- Device and model
    here = device.describe()
    model = transformer.build(config.model, here.platform)
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    # ---- Data: threads read ahead while the step is compiled
    length, rows = config.model.length, config.batch.rows
    for tokens in (corpus.train, corpus.validation):
        tokens.check_ids(model.V)
    table = packing.pack(corpus.train, length, corpus.bos, config.batch.packing)
    held_out = packing.pack(corpus.validation, length, corpus.bos, config.batch.packing, cover=True)
    batches = loader.batches(table, config.seed, step * rows, rows, config.batch.micro_rows)

    # ---- State
    key = jax.random.key(config.seed)
    create = jax.jit(lambda key: init_state(model.init(key), tx), out_shardings=sharding)
    shapes = jax.eval_shape(create, key)
    run_folder.check_plan(run, _plan(model, here, corpus, shapes, table, held_out))
    _introduce(model, here, corpus, shapes, table)
    if saved:
        host = TrainState(
            np.int32(step),  # type: ignore[arg-type]
            checkpoint.restore(saved.folder / "params", shapes.params),
            checkpoint.restore(saved.folder / "rest", shapes.opt_state),
        )
        state = jax.device_put(host, sharding)
        console.say(f"resumed at step {step} (verified)")
    else:
        state = create(key)
    event = {"event": "resume" if saved else "start", "step": step, "elapsed": clock.elapsed()}
    events.write(event, durable=True)

    # ---- Step and evaluation, compiled before the first batch is drawn
    train_step = make_train_step(model, objective.next_token, tx, learning_rate, config.seed)
    micro = config.batch.micro_rows or rows
    tokens_GBS = jax.ShapeDtypeStruct((rows // micro, micro, length + 1), np.int32)
    compiled = (
        jax.jit(train_step, donate_argnums=0, in_shardings=sharding, out_shardings=sharding)
        .lower(state, loader.Batch(tokens_GBS), jax.ShapeDtypeStruct((), np.float32))  # type: ignore[arg-type]
        .compile()
    )
    evaluate = make_evaluator(
        model, objective.next_token, held_out, corpus.bytes_V, config.evaluation.rows
    )

    # ---- Budget
    progress = budget.replayed(config, journal.read(events.path))
    evaluate_every = parse_quantity(config.evaluation.every, "", ("steps", "progress"))
    save_every = parse_quantity(config.checkpoint.every, "", ("steps", "seconds", "progress"))
    written = journal.read(run / "metrics.jsonl")
    pacer = budget.Pacer(config, reached=max((entry["step"] for entry in written), default=0))
    evaluate(state.params, 1)  # compiles
    begun = time.monotonic()
    evaluate(state.params, 1)
    pacer.evaluated(
        time.monotonic() - begun, share=min(1.0, config.evaluation.rows / len(held_out))
    )

    # ---- Loop
    saver = checkpoint.Saver(checkpoints, config.checkpoint.keep)
    flops = transformer.flops_per_token(config.model, model.V)
    record = Record(run, config, events, clock, batches, step, flops, here.peak_flops)
    resumed_at, last_save = step if saved else None, clock.elapsed()

    def due(every: Quantity) -> bool:
        if every.kind == "seconds":
            return clock.elapsed() - last_save >= every.value
        if every.kind == "steps":
            return step > 0 and step % int(every.value) == 0
        return budget.crossed(progress, step, every.value)

    with batches, record.screen, jax.transfer_guard("disallow"):
        while True:
            record.read(progress, leave=1)
            # Before what is due at this step is decided: a replay knows the piece from the start.
            if pacer.due(progress, step):
                jax.block_until_ready(state)
                piece = pacer.estimate(progress, step, clock.elapsed())
                if piece:
                    events.write({"event": "piece", **piece._asdict()}, durable=True)
                    progress = progress.extended(piece)
            ended, asked = progress.at(step) >= 1, stop.signal is not None
            fresh = step != resumed_at  # what was done at this step is already in the run folder
            result: Result | None = None

            if ended or (fresh and due(evaluate_every)):
                record.read(progress, leave=0)
                begun = time.monotonic()
                some = len(held_out) if ended else config.evaluation.max_rows or len(held_out)
                result = evaluate(state.params, some)
                if fresh:
                    record.evaluation(step, result)
                pacer.evaluated(time.monotonic() - begun, share=min(1.0, some / len(held_out)))
                record.aside(time.monotonic() - begun)

            if fresh and (ended or asked or step == 1 or due(save_every)):
                record.read(progress, leave=0)
                begun = time.monotonic()
                numbers = {
                    "step": step,
                    "rows": step * rows,
                    "tokens": step * rows * length,
                    "elapsed": clock.elapsed(),
                    "val_loss": result.loss if result else None,
                }
                saver.save(state, numbers)
                if ended or asked or step == 1:
                    saver.wait()
                last_save = clock.elapsed()
                pacer.saved(time.monotonic() - begun)
                record.aside(time.monotonic() - begun)

            if ended or asked:
                break

            batch = next(batches)
            at = progress.at(step)
            inputs = jax.device_put((batch, np.float32(at)), sharding)
            state, metrics = compiled(state, *inputs)
            step += 1
            record.take(Taken(step, loader.digest(batch.tokens), at, metrics))

    record.close(step)
    if not ended:
        events.write({"event": "stop", "step": step, "signal": stop.signal}, durable=True)
        raise Interrupted(f"{run}: stopped by {stop.signal} at step {step}, saved; run me again")
    assert result is not None
    events.write({"event": "done", "step": step, "elapsed": clock.elapsed()}, durable=True)
    events.close()
    return result


def _plan(
    model: transformer.Transformer,
    here: device.Device,
    corpus: Corpus,
    shapes: TrainState,
    table: packing.RowTable,
    held_out: packing.RowTable,
) -> dict[str, Any]:
    """What the settings were resolved to; a resumed run must agree with the part named `fixed`."""
    return {
        "fixed": {
            "corpus": corpus.digest,
            "parameters": run_folder.digest(repr(shapes.params)),
            "optimizer": run_folder.digest(repr(shapes.opt_state)),
        },
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(shapes.params)),
        "flops_per_token": transformer.flops_per_token(model.config, model.V),
        "dtype": model.dtype.name,
        "attention": model.attention,
        "device": here._asdict(),
        "versions": run_folder.versions(),
        "data": {
            "rows": len(table),
            "fill_share": table.fill_share,
            "repeated_tokens": table.repeated_tokens,
            "bos_share": table.bos_share,
            "validation_rows": len(held_out),
        },
    }


def _introduce(
    model: transformer.Transformer,
    here: device.Device,
    corpus: Corpus,
    shapes: TrainState,
    table: packing.RowTable,
) -> None:
    parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes.params))
    console.say(
        f"{console.count(parameters)} parameters, {model.attention} attention in "
        f"{model.dtype.name} on {here.name}, peak {here.peak_flops / 1e12:.3g} TFLOP/s "
        f"({here.peak_source})\n{len(corpus.train):,} training tokens in {len(table):,} rows"
    )
