"""A run folder explains itself: the settings, what they were resolved to, and what came of them.

config.json  plan.json  tokenizer.model  events.jsonl  metrics.jsonl  timing.jsonl  checkpoints/
"""

import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmjax import config as configuration
from lmjax.config import Config, ConfigError
from lmjax.runtime import journal
from lmjax.text import json_file
from lmjax.text.errors import DataError

FORMAT = 1
PACKAGES = ("lmjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "sentencepiece")


class Drift(ConfigError):
    """The run was started with other settings. Holds the rows (key, then, now). Exit code 78."""

    def __init__(self, run: Path, rows: Sequence[tuple[str, Any, Any]], instead: str) -> None:
        super().__init__(f"{run}: this run was started with other settings; {instead}")
        self.rows = list(rows)


def read_config(run: Path) -> Config:
    """The settings of a run. Raises DataError where there is no run."""
    path = run / "config.json"
    if not path.is_file():
        raise DataError(f"{run}: expected a run folder, found no config.json in it")
    config = configuration.load_config(path)
    for event in drifts(run):  # journalled before config.json is written, which a kill may prevent
        try:
            config = configuration.changed(config, {key: now for key, _, now in event["changes"]})
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{run / 'events.jsonl'}: drift: expected settings: {error}") from None
    return config


def drifts(run: Path) -> list[dict[str, Any]]:
    """The events of settings that were changed on the way."""
    return [e for e in journal.read(run / "events.jsonl") if e.get("event") == "drift"]


def is_done(run: Path) -> bool:
    """Whether the run has spent its budget and saved its last step."""
    return any(entry.get("event") == "done" for entry in journal.read(run / "events.jsonl"))


def write_new(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    side = path.with_name(f".{path.name}.tmp")
    with side.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    side.replace(path)


def check_plan(run: Path, plan: dict[str, Any]) -> None:
    """Write the plan of a new run, or hold it against that of a run begun before.

    `plan["fixed"]` is what a resumed run must share (digests of corpus, tokenizer, parameter and
    optimizer structure); the rest (versions, device) is kept for the record. Raises Drift.
    """
    path = run / "plan.json"
    if not path.exists():
        write_new(path, (json.dumps({"format": FORMAT, **plan}, indent=2) + "\n").encode())
        return
    before = fixed(run)
    rows = [(k, before.get(k), v) for k, v in plan["fixed"].items() if before.get(k) != v]
    if rows:
        raise Drift(
            run,
            rows,
            "give those, or start another run with --run: neither the corpus nor the arrays of a "
            f"run change on its way; --init-from {run} begins another with its parameters",
        )


def fixed(run: Path) -> dict[str, Any]:
    """What a run begun before holds its resumed runs to; nothing for a new one."""
    path = run / "plan.json"
    if not path.exists():
        return {}
    found = json_file.read(path)
    if found.get("format") != FORMAT:
        raise DataError(f"{path}: expected format {FORMAT}, found {str(found.get('format'))[:80]}")
    if not isinstance(found.get("fixed"), dict):
        raise DataError(f"{path}: fixed: expected an object, found {str(found.get('fixed'))[:80]}")
    held: dict[str, Any] = found["fixed"]
    return held


def tokenizer(folder: Path) -> Path:
    """The file of a run's or a corpus's tokenizer: `tokenizer.model`, or `tokenizer.json`."""
    model, other = folder / "tokenizer.model", folder / "tokenizer.json"
    return other if other.exists() and not model.exists() else model


def check_tokenizer(run: Path, corpus: Path) -> None:
    """Hold a corpus's tokenizer against the run's: ids of another one mean other text."""
    mine, other = tokenizer(run), tokenizer(corpus)
    if mine.exists() and other.exists() and mine.read_bytes() != other.read_bytes():
        raise DataError(
            f"{other}: expected the tokenizer of {run}, found another; prepare the corpus again "
            f"with --tokenizer {mine}"
        )


def versions() -> dict[str, str]:
    """The versions that made a run."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **found}


def digest(text: str | bytes) -> str:
    """SHA-256, as hexadecimal digits."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()
