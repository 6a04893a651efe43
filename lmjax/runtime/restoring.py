"""A trained model from its run folder, without its optimizer and without its recipe file."""

from pathlib import Path
from typing import Any

import jax

from lmjax.config import Config
from lmjax.data import corpus
from lmjax.models import sharding
from lmjax.models.build import build
from lmjax.models.model import Model, Params
from lmjax.runtime import checkpoint, device, journal, run_folder
from lmjax.runtime.checkpoint import Saved
from lmjax.text.errors import DataError
from lmjax.text.tokenizer import Tokenizer, load


def find(run: Path, step: int | None) -> Saved:
    """The newest step of a run whose seal verifies, or the one asked for. Raises DataError."""
    folder = run / "checkpoints"
    if step is not None:
        if step not in checkpoint.steps(folder):
            have = ", ".join(map(str, reversed(checkpoint.steps(folder)))) or "none"
            raise DataError(f"{folder}: expected step {step}, found {have}; choose one with --step")
        return checkpoint.verify(folder / str(step))
    saved, _ = checkpoint.newest(folder)
    if saved is None:
        raise DataError(f"{folder}: expected a checkpoint, found none; train first")
    return saved


def restore(run_dir: str | Path, step: int | None = None) -> tuple[Model, Params, Config]:
    """The model, its parameters on the device, and the settings of a run.

    `step` defaults to the newest that verifies; a live run can be read. Raises DataError where
    there is no usable checkpoint.
    """
    run = Path(run_dir)
    config = run_folder.read_config(run)
    model = build(config.model, device.platform())
    return model, load_params(model, run, step)[1], config


def load_params(
    model: Model, run: Path, step: int | None, shardings: Any | None = None
) -> tuple[Saved, Params]:
    """A run's checkpoint, as `find` finds it, and its parameters on the device: those evaluated.

    With `shardings`, a tree of them, they are divided over devices. A run that is still training
    removes steps while they are read; the next is taken then.
    """
    abstract = jax.eval_shape(model.init, jax.random.key(0))
    if shardings is not None:
        abstract = sharding.shaped(abstract, shardings)
    while True:
        there = checkpoint.steps(run / "checkpoints")
        try:
            saved = find(run, step)
            evaluated = saved.folder / "evaluated"
            item = evaluated if evaluated.is_dir() else saved.folder / "params"
            return saved, jax.device_put(checkpoint.restore(item, abstract))
        except Exception:  # Orbax raises whatever it stumbles over where a file is gone
            if checkpoint.steps(run / "checkpoints") == there:
                raise


def known_rows(run: Path, config: Config, tokenizer: Tokenizer) -> int:
    """Rows of a run's vocabulary that are tokens: without those that pad it.

    Training leaves the latter as they began, so that their logits say nothing. An imported model
    was trained elsewhere, with all of its rows.
    """
    assert config.model.vocab_size is not None
    if any(entry["event"] == "import" for entry in journal.read(run / "events.jsonl")):
        return config.model.vocab_size
    return min(config.model.vocab_size, corpus.ids(tokenizer.vocab_size, config.objective))


def restore_tokenizer(run_dir: str | Path) -> Tokenizer:
    """The tokenizer a run was trained with. Raises DataError where it had none."""
    return load(run_folder.tokenizer(Path(run_dir)))
