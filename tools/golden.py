"""Small runs whose checkpoints are kept: what a later lmjax must read, or refuse by name.

    python -m tools.golden

Trains a decoder, an encoder and an LSTM on the licence's text and keeps each as if it had been
killed at its end, in `tests/golden/FORMAT/`: the run folders, their corpus, and in `expected.json`
digests of all arrays, some logits and the loss. To be run once for each `checkpoint.FORMAT`: what
is there is not made anew, since it is worth something for having been made by another lmjax.
"""

import contextlib
import dataclasses
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

import lmjax
from lmjax.config import (
    BatchConfig,
    CheckpointConfig,
    Config,
    EvaluationConfig,
    LogConfig,
    LSTMConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    TextConfig,
    TokenizerConfig,
    TransformerConfig,
)
from lmjax.evaluate import evaluate
from lmjax.learning import averaging, optimizers
from lmjax.learning.step import TrainState, init_state
from lmjax.models.build import build
from lmjax.runtime import checkpoint, journal

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
KEPT, END = 4, 8
TOKENS_BT = np.arange(3, 19).reshape(2, 8)
TEXT = TextConfig(
    sources=("licence.txt",),
    document_chars=300,
    tokenizer=TokenizerConfig(vocab_size=320),
    validation=0.1,
    processes=1,
)
ADAMW = OptimizerConfig(learning_rate=0.003, beta1=0.9, beta2=0.99, epsilon=1e-8)


def _config(run: str, model: ModelConfig, **settings: Any) -> Config:
    return Config(
        budget=f"{END}steps",
        data="corpus",
        run=run,
        text=TEXT,
        model=model,
        batch=BatchConfig(rows=4, micro_rows=2),
        # All rows, the default when they were made: a run goes on with the settings it began with.
        evaluation=EvaluationConfig(every=f"{KEPT}steps", max_rows=None),
        checkpoint=CheckpointConfig(every=f"{KEPT}steps"),
        log=LogConfig(every=1),
        **settings,
    )


Optimizer = Callable[[Config], optax.GradientTransformation]
RUNS: dict[str, tuple[Config, Optimizer]] = {
    "decoder": (
        _config("decoder", TransformerConfig(length=16, depth=1, width=4, heads=2)),
        optimizers.muon_adamw,
    ),
    "encoder": (
        _config(
            "encoder",
            TransformerConfig(
                length=16,
                depth=1,
                width=4,
                heads=2,
                causal=False,
                activation="gelu_erf",
                norm="layer",
                norm_position="post",
                norm_gain=True,
                position="learned",
                bias=True,
                tied=True,
            ),
            objective=ObjectiveConfig(kind="masked"),
            optimizer=ADAMW,
        ),
        optimizers.adamw,
    ),
    "lstm": (
        _config("lstm", LSTMConfig(length=16, depth=1, width=4, tied=True), optimizer=ADAMW),
        lambda config: averaging.average(optimizers.adamw(config), 0.9),
    ),
}


def restore(run: Path) -> TrainState:
    """The state of a golden run, into the structure that this lmjax gives it."""
    config, make_optimizer = RUNS[run.name]
    model = build(dataclasses.replace(config.model, vocab_size=_vocabulary(run)), "cpu")
    shapes = jax.eval_shape(
        lambda key: init_state(model.init(key), make_optimizer(config)), jax.random.key(0)
    )
    saved = checkpoint.verify(run / "checkpoints" / str(KEPT))
    return TrainState(
        jax.numpy.int32(saved.step),
        checkpoint.restore(saved.folder / "params", shapes.params),
        **checkpoint.restore(saved.folder / "rest", checkpoint.rest(shapes)),
    )


def digests(state: TrainState) -> dict[str, str]:
    """SHA-256 over names, types, shapes and bytes: of the parameters, and of all else."""
    found = {}
    for item, tree in (("params", state.params), ("rest", checkpoint.rest(state))):
        sha = hashlib.sha256()
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            sha.update(f"{name}{leaf.dtype}{leaf.shape}".encode() + np.asarray(leaf).tobytes())
        found[item] = sha.hexdigest()
    return found


def told(run: Path) -> dict[str, Any]:
    """What is to be found again of a run: its arrays' digests, logits of eight ids, its loss."""
    model, params, _ = lmjax.restore(run)
    logits_BT8 = model.apply(params, jax.numpy.asarray(TOKENS_BT))[..., :8]
    return {
        **digests(restore(run)),
        "logits": np.asarray(logits_BT8, np.float64).round(5).tolist(),
        "val_loss": evaluate(run=run, data=run.parent / "corpus")["loss"],
    }


def _vocabulary(run: Path) -> int:
    found: int = json.loads((run / "config.json").read_text())["model"]["vocab_size"]
    return found


def _as_if_killed_at_its_end(run: Path) -> None:
    """Its last save is lost, and it never said that it was done: its metrics are all there."""
    checkpoint.discard(run / "checkpoints" / str(END))
    events = journal.read(run / "events.jsonl")
    lines = [json.dumps(event) + "\n" for event in events if event["event"] != "done"]
    (run / "events.jsonl").write_text("".join(lines))
    (run / "timing.jsonl").unlink()
    (run / "lock").unlink()  # holds the name of the machine


def make(folder: Path) -> None:
    """Train the runs and write them, their corpus and what is expected of them into `folder`."""
    with tempfile.TemporaryDirectory() as work, contextlib.chdir(work):
        (text := Path(*TEXT.sources)).write_bytes((ROOT / "LICENSE").read_bytes())
        for config, make_optimizer in RUNS.values():
            _as_if_killed_at_its_end(lmjax.fit(config, make_optimizer(config)))
        expected = {name: told(Path(name)) for name in RUNS}
        Path("expected.json").write_text(json.dumps(expected) + "\n")
        text.unlink()
        shutil.copytree(work, folder)


def main() -> None:
    folder = GOLDEN / str(checkpoint.FORMAT)
    if folder.exists():
        sys.exit(f"{folder}: already there, made by another lmjax; raise checkpoint.FORMAT")
    make(folder)


if __name__ == "__main__":
    main()
