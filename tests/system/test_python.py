"""lmjax from Python: the same as the commands."""

import jax.numpy as jnp
import optax
import pytest
from commands import arrays

import lmjax
from lmjax.config import ConfigError
from lmjax.runtime import journal


def load(finished, run, *overrides):
    recipe, corpus = finished.commands.folder / "default.py", str(finished.commands.corpus)
    return lmjax.load_config(recipe, ["--data", corpus, "--run", str(run), *overrides])


def test_fit_is_the_command_bit_for_bit(finished, tmp_path, in_process):
    run = lmjax.fit(load(finished, tmp_path / "run"))
    assert (run / "metrics.jsonl").read_bytes() == (finished.run / "metrics.jsonl").read_bytes()
    assert arrays(run) == arrays(finished.run)


def test_fit_takes_any_optax_transformation(finished, tmp_path, in_process):
    config = load(finished, tmp_path / "run", "--budget", "6steps")
    run = lmjax.fit(config, optimizer=optax.chain(optax.clip(1.0), optax.sgd(0.1, momentum=0.9)))
    losses = [e["loss"] for e in journal.read(run / "metrics.jsonl") if "loss" in e]
    assert len(losses) == 6
    assert losses[-1] < losses[0]


def test_restore_needs_the_folder_alone(finished):
    model, params, config = lmjax.restore(finished.run)
    assert (config.model.depth, config.model.vocab_size) == (2, 512)
    logits_BTV = model.apply(params, jnp.zeros((3, 8), jnp.int32))
    assert (logits_BTV.shape, logits_BTV.dtype) == ((3, 8, 512), jnp.float32)
    _, earlier, _ = lmjax.restore(str(finished.run), step=55)
    assert not jnp.array_equal(params["embedding"], earlier["embedding"])


def test_load_config_reads_recipes_and_runs(finished, tmp_path):
    config = load(finished, "mine", "--model.depth", "3")
    assert (config.run, config.model.depth, config.model.width) == ("mine", 3, 32)
    assert lmjax.load_config(finished.run / "config.json").model.depth == 2
    with pytest.raises(ConfigError, match="deep"):
        load(finished, "mine", "--model.deep", "3")
