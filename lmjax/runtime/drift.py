"""Settings that differ from those a run was begun with: refused, or allowed by name and journalled.

What is allowed is an event, on disk before anything follows from it, and counts from then on:
`run_folder.read_config` knows it, however the run was killed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmjax import config as configuration
from lmjax.config import Config, ConfigError, parse_quantity
from lmjax.runtime import journal, run_folder
from lmjax.runtime.run_folder import Drift

# What may differ between one start of a run and the next without changing what is computed.
_FREE = ("run", "data", "mesh", "processes", "watchdog", "checkpoint.on_failure")
_FIXED = {
    "the rows, or their order, would be others": ("seed", "text.", "batch.packing", "model.length"),
    "it says how a run begins": ("init_from", "branch_from", "branch_step", "replay"),
    "the parameters would mean something else": ("model.", "objective.kind", "objective.mask_id"),
}
# Of a model, what its parameters know nothing of.
_COMPUTING = tuple(
    f"model.{name}" for name in ("dropout", "truncate", "dtype", "attention", "remat", "unroll")
)


def check(run: Path, config: Config, allowed: Sequence[str] = ()) -> None:
    """Hold settings against those the run has, if it was begun; `allowed` are keys that may differ.

    Raises Drift, or ConfigError for an allowed key that is no setting.
    """
    names = [name.replace("-", "_") for name in allowed]
    for name in names:
        if name not in configuration.keys(config):
            raise ConfigError(
                f"--allow-drift: expected settings, such as optimizer.learning_rate, found {name}"
            )
    if not (run / "config.json").exists():
        return
    before, rows = run_folder.read_config(run), differences(run, config)
    fixed = {key: why for key, *_ in rows if (why := _why_fixed(key, before, config))}
    if fixed:
        reasons = "".join(f"\n  {key}: {why}" for key, why in fixed.items())
        raise Drift(
            run,
            rows,
            f"give those, or start another run with --run; --init-from {run} begins it with this "
            f"one's parameters. What no run can change on its way:{reasons}",
        )
    if rows and run_folder.is_done(run):
        raise Drift(run, rows, "it is done; give those, or start another run with --run")
    if any(key not in names for key, *_ in rows):
        keys = " ".join(key for key, *_ in rows)
        raise Drift(
            run,
            rows,
            f"give those, start another run with --run, or go on with the new ones from here: "
            f"--allow-drift {keys}",
        )


def adopt(run: Path, config: Config, step: int, events: journal.Journal) -> None:
    """Let settings that `check` has let pass hold from `step` on."""
    rows = differences(run, config)
    if rows:
        events.write({"event": "drift", "step": step, "changes": rows}, durable=True)
        run_folder.write_new(run / "config.json", configuration.to_json(config).encode())


def differences(run: Path, config: Config) -> list[tuple[str, Any, Any]]:
    """The settings (key, the run's, those of `config`) that differ and change what is computed."""
    before = run_folder.read_config(run)
    if config.model.vocab_size is None and before.model.vocab_size is not None:
        config = configuration.with_vocabulary(config, before.model.vocab_size)
    rows = configuration.difference(before, config)
    return [row for row in rows if not {row[0], row[0].partition(".")[0]} & {*_FREE}]


def _why_fixed(key: str, before: Config, after: Config) -> str | None:
    if key == "budget":
        kinds = ("steps", "tokens", "seconds")
        old, new = (parse_quantity(c.budget, key, kinds).kind for c in (before, after))
        return None if old == new else f"progress in {old} does not go on in {new}"
    if key in ("batch.rows", "ramp.rows") and after.budget.endswith("tokens"):
        return "progress counts the steps that a budget in tokens buys with so many rows"
    auto = "auto" in (after.batch.micro_rows, getattr(after.model, "remat", None))
    if auto and key in ("batch.rows", "batch.micro_rows", "model.remat"):
        return "auto was settled when the run began; name batch.micro_rows and model.remat"
    if key in _COMPUTING:
        return None
    return next((why for why, prefixes in _FIXED.items() if key.startswith(prefixes)), None)
