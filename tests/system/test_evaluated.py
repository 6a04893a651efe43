"""Runs whose optimizer evaluates other parameters than it trains."""

import math

import jax
import jax.numpy as jnp
import optax
import pytest

import lmjax
from lmjax.learning import averaging
from lmjax.runtime import checkpoint, journal


def test_evaluation_and_restore_use_what_the_optimizer_says(finished, tmp_path, in_process):
    recipe, corpus = finished.commands.folder / "default.py", str(finished.commands.corpus)
    run, given = tmp_path / "run", ["--data", corpus, "--budget", "2steps"]
    config = lmjax.load_config(recipe, [*given, "--run", str(run)])
    tx = averaging.Evaluated(optax.sgd(0.1), lambda state, p: jax.tree.map(jnp.zeros_like, p))
    lmjax.fit(config, optimizer=tx)

    # All parameters 0: every token is as likely.
    (result,) = [e for e in journal.read(run / "metrics.jsonl") if "val_loss" in e]
    assert result["val_loss"] == pytest.approx(math.log(512), rel=1e-6)
    _, params, _ = lmjax.restore(run)
    assert not any(leaf.any() for leaf in jax.tree.leaves(params))
    trained = checkpoint.restore(run / "checkpoints" / "2" / "params", params)
    assert all(leaf.any() for leaf in (trained["embedding"], trained["head"]))
