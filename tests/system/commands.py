"""Whole commands as subprocesses, and what they leave in a run folder."""

import hashlib
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from lmjax.runtime import checkpoint

DEFAULT = '''"""A tiny model with the default optimizer."""

from lmjax.config import *


def get_config():
    return Config(
        budget="60steps",
        run="run",
        model=TransformerConfig(length=32, depth=2, width=32, heads=2),
        batch=BatchConfig(rows=4),
        evaluation=EvaluationConfig(every="20steps", max_rows=32),
        checkpoint=CheckpointConfig(every="5steps"),
        log=LogConfig(every=1),
    )
'''

COMPOSED = (
    DEFAULT
    + """

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class SignState(NamedTuple):
    count: jax.Array
    mean: Any


def sign_of_mean(decay):
    def init(params):
        return SignState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(updates, state, params=None):
        mean = jax.tree.map(lambda m, u: decay * m + (1 - decay) * u, state.mean, updates)
        return jax.tree.map(jnp.sign, mean), SignState(state.count + 1, mean)

    return optax.GradientTransformation(init, update)


def make_optimizer(config):
    c = config.optimizer
    adam = optax.inject_hyperparams(optax.adam)(
        learning_rate=optax.cosine_decay_schedule(c.head_learning_rate, 200), b2=c.beta2
    )
    sign = optax.chain(sign_of_mean(c.momentum), optax.scale(-c.learning_rate / 100))
    labels = lambda params: jax.tree.map(lambda p: "sign" if p.ndim == 3 else "adam", params)
    return optax.chain(
        optax.clip_by_global_norm(1.0), optax.partition({"sign": sign, "adam": adam}, labels)
    )
"""
)

RAMPED = DEFAULT.replace(
    "log=",
    """ramp=RampConfig(
            rows=((0.3, 2),),
            length=((0.3, 16),),
            window=((0.3, 8),),
            momentum=((0.0, 0.85), (0.5, 0.95)),
            weight_decay=((0.0, 1.0), (1.0, 0.0)),
        ),
        log=""",
).replace("heads=2", "heads=2, window=16, window_pattern='SL'")


class Ended(NamedTuple):
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def why(self) -> str:
        """What it said of its end; not always the last line: TensorStore's threads print too."""
        (line,) = [line for line in self.err.splitlines() if line.startswith("lmjax: ")]
        return line


class Commands:
    """Runs `python -m lmjax.VERB` in a folder, on one corpus."""

    def __init__(self, folder: Path, environment: dict[str, str], corpus: Path) -> None:
        self.folder, self.environment, self.corpus = folder, environment, corpus
        folder.mkdir(exist_ok=True)
        (folder / "default.py").write_text(DEFAULT)
        (folder / "composed.py").write_text(COMPOSED)
        (folder / "ramped.py").write_text(RAMPED)

    def start(self, verb: str, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", f"lmjax.{verb}", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, verb: str, *arguments: str) -> Ended:
        return finish(self.start(verb, *arguments))

    def train_arguments(self, *settings: str, recipe: str = "default.py") -> list[str]:
        return ["--config", recipe, "--data", str(self.corpus), *settings]

    def train(self, *settings: str, recipe: str = "default.py") -> Ended:
        return self.run("train", *self.train_arguments(*settings, recipe=recipe))

    def start_training(self, *settings: str, recipe: str = "default.py") -> subprocess.Popen[str]:
        return self.start("train", *self.train_arguments(*settings, recipe=recipe))


def finish(process: subprocess.Popen[str]) -> Ended:
    """Wait for the end of a command."""
    out, err = process.communicate(timeout=120)
    return Ended(process.returncode, out, err)


def wait_for(path: Path, process: subprocess.Popen[str], lines: int = 1) -> None:
    """Wait until a file of a live run has so many lines."""
    limit = time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < lines:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit, f"{path} never had {lines} lines"
        time.sleep(0.01)


def arrays(run: Path) -> str:
    """SHA-256 over all arrays of the newest checkpoint, optimizer state included, and its step."""
    saved, rejected = checkpoint.newest(run / "checkpoints")
    assert saved is not None and rejected == []
    found = hashlib.sha256(str(saved.step).encode())
    for item in ("params", "rest"):
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            folder = saved.folder / item
            tree = checkpointer.metadata(folder).item_metadata.tree
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            restored = checkpointer.restore(
                folder, args=ocp.args.PyTreeRestore(restore_args=as_numpy)
            )
        for path, leaf in jax.tree_util.tree_leaves_with_path(restored):
            found.update(f"{path}{leaf.dtype}{leaf.shape}".encode() + leaf.tobytes())
    return found.hexdigest()


def files(run: Path) -> set[str]:
    """Every file and folder of a run, but for what is inside its checkpoints."""
    return {p.relative_to(run).as_posix() for p in [*run.iterdir(), *run.glob("checkpoints/*")]}
