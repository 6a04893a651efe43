"""Evaluate a run on its whole validation set: `python -m lmjax.evaluate --run runs/mine`."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmjax.config import ConfigError, parse_arguments
from lmjax.train import exit_codes


def evaluate(
    *, run: Path, step: int | None = None, data: Path | None = None, rows: int = 32
) -> dict[str, Any]:
    """Loss, perplexity and bits per byte of a run's checkpoint on the whole validation set.

    A masked objective has a loss alone, and where it masks depends on `rows`.
    The newest checkpoint that verifies if `step` is not given; the run's own corpus if `data` is
    not. The result does not depend on `rows`, the rows computed at a time.
    Raises DataError for a run or a corpus that cannot be read, or one of another tokenizer.
    """
    if rows < 1:
        raise ConfigError(f"rows: expected at least 1, found {rows}")

    from lmjax.data import corpus as corpora
    from lmjax.data import packing
    from lmjax.models.build import build
    from lmjax.runtime import device, restoring, run_folder
    from lmjax.runtime.evaluation import make_evaluator, objective_and_bytes

    device.cache_compilations()
    config = run_folder.read_config(run)
    model = build(config.model, device.platform())
    corpus = corpora.open_corpus(Path(config.data) if data is None else data)
    run_folder.check_tokenizer(run, corpus.folder)
    table = packing.pack(
        corpus.validation, config.model.length, corpus.bos, config.batch.packing, cover=True
    )
    goal, bytes_V = objective_and_bytes(config, model, corpus)
    measure = make_evaluator(model, goal, table, bytes_V, rows)
    saved, params = restoring.load_params(model, run, step)
    result = measure(params, None)
    return {**result._asdict(), "step": saved.step, "run": str(run), "data": str(corpus.folder)}


@dataclass(frozen=True, kw_only=True)
class Arguments:
    run: Path
    """The run folder; one that is still training can be evaluated too."""
    step: int | None = None
    """A checkpoint's step; none means the newest that verifies."""
    data: Path | None = None
    """Another corpus made with the same tokenizer; none means the run's own."""
    rows: int = 32
    """Rows computed at a time; the result does not depend on it."""
    json: bool = False
    """Print one JSON object on standard output."""


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(Arguments, "evaluate", __doc__, argv)
    from lmjax.runtime import memory

    memory.keep()
    with exit_codes():
        result = evaluate(
            run=arguments.run, step=arguments.step, data=arguments.data, rows=arguments.rows
        )
    if arguments.json:
        print(json.dumps(result))
    else:
        print("\n".join(f"{name:>14}  {value}" for name, value in result.items()), file=sys.stderr)


if __name__ == "__main__":
    main()
