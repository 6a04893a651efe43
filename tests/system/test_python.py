"""lmjax from Python: the same as the commands."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from commands import arrays

import lmjax
from lmjax.config import ConfigError
from lmjax.runtime import journal, loop
from lmjax.text.errors import DataError


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


def test_a_hidden_transfer_in_the_loop_is_an_error(finished, tmp_path, in_process, monkeypatch):
    config = load(finished, tmp_path / "run", "--budget", "3steps")
    monkeypatch.setattr(loop.jax, "device_put", lambda tree, sharding=None: tree)
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        lmjax.fit(config)


def test_a_run_begins_with_the_parameters_of_another(finished, tmp_path, in_process):
    given = ["--budget", "2steps", "--init-from", str(finished.run)]
    run = lmjax.fit(load(finished, tmp_path / "run", *given), optimizer=optax.sgd(0.0))
    _, params, _ = lmjax.restore(run)
    _, before, _ = lmjax.restore(finished.run)
    jax.tree.map(np.testing.assert_array_equal, params, before)
    with pytest.raises(DataError, match="expected float32"):
        lmjax.fit(load(finished, tmp_path / "other", *given, "--model.width", "64"))


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
