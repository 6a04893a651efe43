"""The loop: everything that happens around the train step, in one order.

Before each draw: log, evaluate, save. The state, the metrics file and the place in the data then
agree at every checkpoint, and the last step is no special case.
"""

import contextlib
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from lmjax.config import Config, ConfigError, Quantity, parse_quantity
from lmjax.data import loader, packing
from lmjax.data.corpus import Corpus
from lmjax.learning import averaging, objective, ramps
from lmjax.learning.step import TrainState, init_state, make_train_step
from lmjax.models import sharding
from lmjax.models.build import build
from lmjax.models.model import Model
from lmjax.runtime import (
    budget,
    checkpoint,
    console,
    device,
    drift,
    journal,
    restoring,
    rewinding,
    run_folder,
    sizing,
)
from lmjax.runtime.evaluation import GivenUp, Result, make_evaluator, objective_and_bytes
from lmjax.runtime.ledger import Ledger
from lmjax.runtime.processes import Peers
from lmjax.runtime.record import Record, Taken
from lmjax.runtime.signals import Interrupted, Stop


def train(
    config: Config,
    run: Path,
    corpus: Corpus,
    tx: optax.GradientTransformation,
    learning_rate: Callable[[jax.Array], jax.Array],
    stop: Stop,
    ledger: Ledger,
    events: journal.Journal,
    mesh: jax.sharding.Mesh,
    peers: Peers,
) -> Result:
    """Train until the budget is spent, from wherever the run folder stands; the final evaluation.

    `learning_rate` of progress is only reported; `ledger` holds what the run has used so far, and
    `events` is its journal of decisions; `mesh` is the one that is set, and `peers` the processes
    that hold its devices. Raises Astray where it should go back (`rewinding.go_back`), Interrupted,
    SaveError, DataError or ConfigError; the run folder is fit to go on from after each.
    """
    # ---- Run folder: what is there
    checkpoints = run / "checkpoints"

    rewinds = rewinding.of(run)

    def newest() -> tuple[int, str, dict[str, Any]] | None:
        rewinding.give_up_steps(checkpoints, rewinds)
        saved, rejected = checkpoint.newest(checkpoints)
        for reason in rejected:
            console.say(f"passed over: {reason}")
        good = saved.step if saved else 0
        checkpoint.clean(checkpoints, good, config.checkpoint.keep, best_of="val_loss")
        return (saved.step, str(saved.folder), saved.numbers) if saved else None

    found = peers.agree(newest)
    saved = checkpoint.Saved(found[0], Path(found[1]), found[2]) if found else None
    step = saved.step if saved else 0
    branched = (
        restoring.find(Path(config.branch_from), config.branch_step)
        if (config.branch_from is not None and saved is None)
        else None
    )
    if branched:
        step = branched.step

    # ---- Device and model
    here = device.describe()
    paced = Path(config.replay) if config.replay is not None else run
    recorded = run_folder.fixed(paced).get("auto")
    memory = peers.agree(device.memory_bytes)
    settings, choice = config, sizing.settle(config, here.platform, memory, recorded)
    if choice is not None:
        config = sizing.applied(config, choice.micro_rows, choice.remat)
        console.say(f"auto: {sizing.in_words(config, choice)}")
    model = build(config.model, here.platform)

    # ---- Budget: what is left of it, and what the next update sees
    if config.replay is not None and rewinding.of(paced):
        raise ConfigError(
            f"replay: expected a run that never went back, found {paced} with a rewind; where it "
            "went to depends on when its checkpoints were due: train it anew with another seed"
        )
    if config.replay is not None and run_folder.drifts(paced):
        raise ConfigError(
            f"replay: expected a run with the same settings from start to end, found {paced} with "
            "some that were changed on the way; its events.jsonl has them"
        )
    progress = budget.replayed(config, journal.read(paced / "events.jsonl"))
    if branched:
        branch = _branch(config, step)
        progress = budget.start(config, step, branch["progress"])
    stage = ramps.stage(config, progress.at(step))

    # ---- Data: threads read ahead while the step is compiled
    length, source = config.model.length, saved or branched
    for tokens in (corpus.train, corpus.validation):
        tokens.check_ids(model.V)
    table = packing.pack(corpus.train, length, corpus.bos, config.batch.packing)
    held_out = packing.pack(corpus.validation, length, corpus.bos, config.batch.packing, cover=True)
    share = loader.Share(*sharding.own_rows(mesh))
    jumps = rewinding.jumps(rewinds)
    position = source.numbers["rows"] if source else 0
    feed = loader.Feed(table, config.seed, jumps.get(step, position), share)
    feed.read_ahead(stage.rows, stage.micro_rows)

    # ---- State
    key = jax.random.key(config.seed)
    whole = sharding.whole(mesh)

    def fresh_state(key: jax.Array) -> TrainState:
        return init_state(model.init(key), tx)

    shapes = jax.eval_shape(fresh_state, key)
    lies = sharding.of_state(mesh, shapes)
    flops = model.flops_per_token(objective.predicted(config.objective, length) / length)
    plan = _plan(model, flops, here, mesh, corpus, shapes, table, held_out, choice)
    peers.agree(lambda: run_folder.check_plan(run, plan))
    peers.agree(lambda: drift.adopt(run, settings, step, events))
    if config.replay is not None:
        run_folder.check_plan(Path(config.replay), plan)
    _introduce(model, here, mesh, corpus, shapes, table)
    if source:
        there = sharding.shaped(shapes, lies)
        state = TrainState(
            sharding.everywhere(np.int32(step), mesh),
            checkpoint.restore(source.folder / "params", there.params),
            **checkpoint.restore(source.folder / "rest", checkpoint.rest(there)),
        )
        console.say(
            f"{'resumed' if saved else f'{source.folder}: branched'} at step {step} (verified)"
        )
    elif config.init_from is not None:
        before, params = restoring.load_params(model, Path(config.init_from), None, lies.params)
        begin = jax.jit(lambda params: init_state(params, tx), out_shardings=lies)
        state = begin(params)
        console.say(f"parameters of {before.folder} (verified)")
    else:
        state = jax.jit(fresh_state, out_shardings=lies)(key)
    event = {"event": "resume" if saved else "start", "step": step, "elapsed": ledger.elapsed()}
    events.write(event, durable=True)
    if branched:
        events.write(branch, durable=True)

    # ---- Step and evaluation, compiled before the first batch is drawn
    goal = objective.make(
        config.objective, model.V, corpus.vocab_size, corpus.bos, corpus.word_starts
    )

    def program(stage: ramps.Stage) -> Any:
        staged = build(ramps.staged(config.model, stage), here.platform)
        train_step = make_train_step(
            staged, goal, tx, learning_rate, config.seed, config.guard.spike_sigmas
        )

        def update(state: TrainState, batch: loader.Batch, progress: jax.Array) -> Any:
            return train_step(state, ramps.cut(batch, stage.length), progress)

        shape_GBS = (stage.rows // stage.micro_rows, stage.micro_rows, length + 1)
        batch = loader.Batch(jax.ShapeDtypeStruct(shape_GBS, np.int32))  # type: ignore[arg-type]
        jitted = jax.jit(
            update,
            donate_argnums=0,
            in_shardings=(lies, sharding.of_rows(mesh, 1), whole),
            out_shardings=(lies, whole),
            compiler_options=device.compiler_options(),
        )
        return jitted.lower(state, batch, jax.ShapeDtypeStruct((), np.float32)).compile()

    with ledger.section("compile"):
        stages = dict.fromkeys(ramps.stage(config, begins) for begins in ramps.starts(config))
        programs = {stage: program(stage) for stage in stages}
    plain, bytes_V = objective_and_bytes(config, model, corpus)
    shares = config.mesh.row_shares
    rows = -(-config.evaluation.rows // shares) * shares
    evaluate = make_evaluator(model, plain, held_out, bytes_V, rows)

    # ---- When what is due
    evaluate_every = parse_quantity(config.evaluation.every, "", ("steps", "progress"))
    save_every = parse_quantity(config.checkpoint.every, "", ("steps", "seconds", "progress"))
    written = peers.agree(lambda: journal.newest(run / "metrics.jsonl", "step"))
    pacer = budget.Pacer(config, reached=written["step"] if written else 0)

    evaluated = averaging.reader(tx)
    with ledger.section("compile"):
        evaluate(evaluated(state) if evaluated else state.params, 1)
    begun = time.monotonic()
    with ledger.section("evaluate"):
        evaluate(state.params, 1)
    pacer.evaluated(
        time.monotonic() - begun, share=min(1.0, config.evaluation.rows / len(held_out))
    )

    # ---- Loop
    saver = checkpoint.Saver(checkpoints, config.checkpoint.keep)
    seen = feed.position * length
    peak = here.peak_flops * mesh.size
    record = Record(run, config, events, ledger, feed, step, seen, flops, peak, peers.journal)
    now: float = peers.agree(ledger.elapsed)
    resumed_at, last_save = step if source else None, now
    # A checkpoint may lack the evaluation of its step: it was given up for a signal.
    evaluated_at = step if branched else peers.agree(lambda: record.evaluated_at)

    def due(every: Quantity) -> bool:
        if every.kind == "seconds":
            return now - last_save >= every.value
        if every.kind == "steps":
            return step > 0 and step % int(every.value) == 0
        return budget.crossed(progress, step, every.value)

    signal: str | None = None

    def give_up() -> bool:
        nonlocal signal
        ours = peers.asked(stop.signal)
        signal = peers.agree(lambda: ours)
        return signal is not None

    guard = jax.transfer_guard("disallow")
    with (
        contextlib.closing(record),
        contextlib.closing(feed),
        contextlib.closing(saver),
        record.screen,
        guard,
    ):
        while True:
            with ledger.section("step"):  # where the loop waits for the device
                record.read(progress, leave=1)
            # Before what is due at this step is decided: a replay knows the piece from the start.
            piece = None
            if peers.first and pacer.due(progress, step):
                with ledger.section("step"):
                    jax.block_until_ready(state)
                piece = pacer.estimate(progress, step, budget.spent(config, ledger.seconds()))
            signal = peers.asked(stop.signal)
            with ledger.section("step"):
                decided = functools.partial(tuple, (piece, signal, ledger.elapsed()))
                piece, signal, now = peers.agree(decided)
            if piece:
                piece = budget.Piece(*piece)
                events.write({"event": "piece", **piece._asdict()}, durable=True)
                progress = progress.extended(piece)
            ended = progress.at(step) >= 1
            result: Result | None = None

            if ended or (step != evaluated_at and due(evaluate_every)):
                with ledger.section("step"):
                    record.read(progress, leave=0)
                begun = time.monotonic()
                some = len(held_out) if ended else config.evaluation.max_rows or len(held_out)
                params = evaluated(state) if evaluated else state.params
                with ledger.section("evaluate"), contextlib.suppress(GivenUp):
                    result = evaluate(params, some, give_up)
                if result and step != evaluated_at:
                    record.evaluation(step, result)
                pacer.evaluated(time.monotonic() - begun, share=min(1.0, some / len(held_out)))
                record.aside(time.monotonic() - begun)

            if step != resumed_at and (ended or signal or step == 1 or due(save_every)):
                with ledger.section("step"):
                    record.read(progress, leave=0)
                begun = time.monotonic()
                numbers = {
                    "step": step,
                    "rows": feed.position,
                    "rewinds": len(rewinds),
                    "tokens": feed.position * length,
                    "elapsed": ledger.elapsed(),
                    "ledger": ledger.seconds(),
                    "val_loss": result.loss if result else None,
                }
                with ledger.section("save"):
                    try:
                        saver.wait()
                    except checkpoint.SaveError as error:
                        if config.checkpoint.on_failure == "stop":
                            raise
                        console.say(f"{error}; training goes on")
                        events.write({"event": "unsaved", "step": step, "why": str(error)})
                    saver.save(state, numbers, evaluated(state) if evaluated else None)
                    if ended or signal or step == 1:
                        saver.wait()
                last_save = now
                pacer.saved(time.monotonic() - begun)
                record.aside(time.monotonic() - begun)

            if ended or signal:
                break

            at = progress.at(step)
            if (next_stage := ramps.stage(config, at)) != stage:
                stage = next_stage
                pacer.turned(step)
            with ledger.section("data"):
                if step in jumps:
                    feed.seek(jumps[step])
                batch = feed.take(stage.rows, stage.micro_rows)
            with ledger.section("step"):
                inputs = sharding.place(batch, 1), sharding.everywhere(np.float32(at), mesh)
                state, metrics = programs[stage](state, *inputs)
            step += 1
            seen = feed.position * length
            record.take(Taken(step, seen, loader.digest(batch.tokens), at, metrics))

        record.finish(step)

    if not (ended and result):
        events.write({"event": "stop", "step": step, "signal": signal}, durable=True)
        raise Interrupted(f"{run}: stopped by {signal} at step {step}, saved; run me again")
    seconds = ledger.seconds()
    done = {"event": "done", "step": step, "elapsed": sum(seconds.values()), "ledger": seconds}
    events.write(done, durable=True)
    console.ledger(seconds)
    return result


def _branch(config: Config, step: int) -> dict[str, Any]:
    """The event of a branch: its cooldown begins at once, wherever the other run stood."""
    assert config.branch_from is not None
    other = Path(config.branch_from)
    before = run_folder.read_config(other)
    reached = budget.replayed(before, journal.read(other / "events.jsonl")).at(step)
    stable = 1 - config.schedule.cooldown
    if reached > stable + 1e-9:
        raise ConfigError(
            f"branch_step: expected a step before the cooldown, which began at {stable:.0%}; step "
            f"{step} of {other} is at {reached:.0%}"
        )
    return {"event": "branch", "from": str(other), "step": step, "progress": stable}


def _plan(
    model: Model,
    flops: float,
    here: device.Device,
    mesh: jax.sharding.Mesh,
    corpus: Corpus,
    shapes: TrainState,
    table: packing.RowTable,
    held_out: packing.RowTable,
    choice: sizing.Choice | None,
) -> dict[str, Any]:
    """What the settings were resolved to; a resumed run must agree with the part named `fixed`."""
    return {
        "fixed": {
            **({} if choice is None else {"auto": choice._asdict()}),
            "corpus": corpus.digest,
            "parameters": run_folder.digest(repr(shapes.params)),
            "optimizer": run_folder.digest(repr(shapes.opt_state)),
        },
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(shapes.params)),
        "flops_per_token": flops,
        "dtype": model.dtype.name,
        "path": model.path,
        "device": here._asdict(),
        "mesh": dict(mesh.shape),
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
    model: Model,
    here: device.Device,
    mesh: jax.sharding.Mesh,
    corpus: Corpus,
    shapes: TrainState,
    table: packing.RowTable,
) -> None:
    parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes.params))
    many = f"{mesh.size} x " if mesh.size > 1 else ""
    console.say(
        f"{console.count(parameters)} parameters, {model.path} in "
        f"{model.dtype.name} on {many}{here.name}, peak {here.peak_flops / 1e12:.3g} TFLOP/s "
        f"({here.peak_source})\n{len(corpus.train):,} training tokens in {len(table):,} rows"
    )
