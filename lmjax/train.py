"""Train a language model, or go on training one: `python -m lmjax.train --config FILE`.

The corpus is prepared if it is not there. The same command resumes where the run stopped.
"""

import contextlib
import errno
import functools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lmjax import config as configuration
from lmjax.config import Config, ConfigError
from lmjax.text.errors import DataError

if TYPE_CHECKING:
    import optax

    from lmjax.data.corpus import Corpus
    from lmjax.runtime.evaluation import Result
    from lmjax.runtime.processes import Peers

# JAX is imported where training begins: `--help` and "done" answer without it.


def main(argv: Sequence[str] | None = None, since: float | None = None) -> None:
    """The command. `since` is the monotonic time its budget counts from; none means from here."""
    begun = time.monotonic() if since is None else since
    recipe = configuration.parse_command_line("train", __doc__, argv)
    config, allow_drift = recipe.config, recipe.allow_drift
    from lmjax.runtime import memory, processes

    memory.keep()
    with processes.joined(config.processes) as peers, exit_codes():
        run = Path(config.run)
        if not peers.agree(lambda: _is_done(run, config, allow_drift)):
            _train(config, peers, allow_drift, recipe.make_optimizer, since=begun)
            if peers.first:
                _write_samples(run, config)
        _next_commands(run)


def fit(
    config: Config,
    optimizer: "optax.GradientTransformation | None" = None,
    allow_drift: Sequence[str] = (),
) -> Path:
    """Train as the command does, from Python; returns the run folder.

    `optimizer` is any optax transformation; its update may take `progress` (0 to 1) as an extra
    argument. None means the default, Muon and AdamW by `config.optimizer`. `allow_drift` are keys
    that may differ from those the run was begun with. Raises ConfigError, DataError, or
    RuntimeError for a run that was interrupted, locked, diverged or out of memory.
    """
    from lmjax.runtime import processes

    run = Path(config.run)
    with processes.joined(config.processes) as peers:
        if not peers.agree(lambda: _is_done(run, config, allow_drift)):
            _train(config, peers, allow_drift, optimizer=optimizer)
    return run


def _is_done(run: Path, config: Config, allow_drift: Sequence[str]) -> bool:
    from lmjax.runtime import drift, run_folder

    drift.check(run, config, allow_drift)
    return run_folder.is_done(run)


def _train(
    config: Config,
    peers: "Peers",
    allow_drift: Sequence[str],
    make_optimizer: "Callable[[Config], optax.GradientTransformation] | None" = None,
    optimizer: "optax.GradientTransformation | None" = None,
    since: float | None = None,
) -> "Result":
    from lmjax.runtime import lock, memory, pulse, signals, watchdog
    from lmjax.runtime.ledger import Ledger

    ledger = Ledger(since=since)
    run, data = Path(config.run), Path(config.data)
    with contextlib.ExitStack() as held:
        if peers.first:
            ours = held.enter_context(lock.hold(run))
        stop = held.enter_context(signals.listen())
        if peers.first:
            held.enter_context(pulse.counted(run, ledger))
            held.enter_context(watchdog.watching(run, ledger, config.watchdog, ours))
        from lmjax.data import corpus as corpora
        from lmjax.text import corpus as preparation

        def prepare() -> None:
            if not corpora.exists(data):
                with stop.at_once(f"{data} was prepared, of which nothing is kept"):
                    preparation.prepare(config.text, data)

        with ledger.section("prepare"):
            peers.agree(prepare)
            corpus = corpora.open_corpus(data)
        vocab_size = corpora.padded_vocabulary(corpus, config)
        config = configuration.with_vocabulary(config, vocab_size)

        import jax

        from lmjax.models import sharding

        mesh = sharding.mesh(config.mesh, jax.devices())
        peers.agree(lambda: _settle(run, config, corpus, allow_drift))
        from lmjax.learning import optimizers
        from lmjax.runtime import checkpoint, device, loop, rewinding

        device.cache_compilations()
        rate = optimizers.learning_rate(config) if optimizer is None else optimizers.unknown_rate
        if optimizer is not None:
            tx = optimizer
        elif make_optimizer is not None:
            tx = make_optimizer(config)
        else:
            tx = optimizers.muon_adamw(config, device.platform())
        events = held.enter_context(contextlib.closing(peers.journal(run / "events.jsonl")))
        held.enter_context(jax.set_mesh(mesh))
        while True:
            try:
                return loop.train(config, run, corpus, tx, rate, stop, ledger, events, mesh, peers)
            except rewinding.Astray as astray:
                peers.agree(functools.partial(rewinding.go_back, run, config.guard, astray, events))
            except jax.errors.JaxRuntimeError as error:
                if not memory.is_used_up(error):
                    raise
                fitted = any(checkpoint.steps(run / "checkpoints"))
                raise memory.explained(run, config, error, fitted) from None


def _settle(run: Path, config: Config, corpus: "Corpus", allow_drift: Sequence[str]) -> None:
    """Hold the settings against those the run was begun with, or write them down."""
    from lmjax.runtime import drift, run_folder

    drift.check(run, config, allow_drift)
    if config.init_from is not None:
        run_folder.check_tokenizer(Path(config.init_from), corpus.folder)
    # Settings that drift are written once nothing more can refuse them: `drift.adopt`.
    if not (run / "config.json").exists() or not drift.differences(run, config):
        run_folder.write_new(run / "config.json", configuration.to_json(config).encode())
    # Kept from the first start on: another corpus is refused later, and must not leave its own.
    if corpus.tokenizer is not None and not run_folder.tokenizer(run).exists():
        model = run_folder.tokenizer(corpus.folder)
        run_folder.write_new(run / model.name, model.read_bytes())


def _write_samples(run: Path, config: Config) -> None:
    from lmjax.runtime import console
    from lmjax.runtime.restoring import restore, restore_tokenizer

    if not config.sample.prompts:
        return
    from lmjax.runtime.generation import complete

    model, params, _ = restore(run)
    tokenizer = restore_tokenizer(run)
    for prompt in config.sample.prompts:
        (text,) = complete(
            model,
            params,
            tokenizer,
            prompt,
            max_tokens=config.sample.max_tokens,
            temperature=config.sample.temperature,
            top_k=config.sample.top_k,
            seed=config.seed,
        )
        console.say(f"\n{prompt}{''.join(text)}")


def _next_commands(run: Path) -> None:
    from lmjax.runtime import console, journal

    entry = journal.newest(run / "metrics.jsonl", "val_loss")
    if entry:
        bits = entry["val_bits_per_byte"]
        in_bits = "" if bits is None else f", {bits:.4f} bits per byte"
        console.say(
            f"\ndone: step {entry['step']}, validation loss {entry['val_loss']:.4f}{in_bits}"
        )
    console.say(
        f"run folder: {run}\nnext:\n"
        f"  python -m lmjax.evaluate --run {run}\n"
        f'  python -m lmjax.generate --run {run} --prompt "The"\n'
        f"  python -m lmjax.train --help"
    )


@contextlib.contextmanager
def exit_codes() -> Iterator[None]:
    """Turn the errors that a user can act on into a message and an exit code (sysexits.h)."""
    from lmjax.runtime import console, lock, memory, run_folder, signals

    code: dict[type[BaseException], int] = {
        ConfigError: 78,
        DataError: 65,
        lock.Locked: 73,
        memory.TooLarge: 70,
        memory.RanOut: 75,
        signals.Interrupted: 75,
    }
    try:
        yield
    except run_folder.Drift as error:
        console.differences(error.rows, "the run has", "you asked for")
        console.fail(str(error))
        sys.exit(78)
    except tuple(code) as error:
        console.fail(str(error))
        sys.exit(next(number for kind, number in code.items() if isinstance(error, kind)))
    except RuntimeError as error:
        known = {"SaveError": 75, "Diverged": 70}  # of modules that import JAX
        if type(error).__name__ not in known:
            raise
        console.fail(str(error))
        sys.exit(known[type(error).__name__])
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
            raise
        console.fail(
            f"{error}; the checkpoints that were written are whole: see to the disk and run me "
            "again"
        )
        sys.exit(75)


if __name__ == "__main__":
    from lmjax.runtime.ledger import process_began

    main(since=process_began())
