"""A device without memory: XLA itself refuses a petabyte that an update asks for."""

import re
import shlex

import pytest
from commands import DEFAULT, arrays, wait_for

from lmjax.runtime import checkpoint

# Each update sorts 2**48 numbers, wherever HUNGRY is set.
HUNGRY = (
    DEFAULT
    + """

import os

import jax
import jax.numpy as jnp
import optax

from lmjax.learning import optimizers


def make_optimizer(config):
    adamw = optimizers.adamw(config)

    def update(updates, state, params=None, **more):
        updates, state = adamw.update(updates, state, params, **more)
        if "HUNGRY" in os.environ:
            one = jax.tree.leaves(updates)[0].ravel()[0]
            many = one + jax.lax.broadcasted_iota(jnp.float32, (2**24, 2**24), 0)
            none = 0 * jnp.sort(many, axis=0).sum()
            updates = jax.tree.map(lambda leaf: leaf + none, updates)
        return updates, state

    return optax.GradientTransformationExtraArgs(adamw.init, update)
"""
)


@pytest.fixture
def train(commands):
    """`train(*settings, hungry=False)`: the command."""
    (commands.folder / "hungry.py").write_text(HUNGRY)
    modest = commands.environment

    def run(*settings, hungry=False):
        commands.environment = {**modest, "HUNGRY": "1"} if hungry else modest
        return commands.train(*settings, recipe="hungry.py")

    return run


def advice(told: str) -> list[str]:
    """The settings that it says to start it with."""
    found = re.search(r"--batch\.micro-rows .*? --allow-drift [\w. ]+", told)
    assert found, told
    return shlex.split(found.group())


@pytest.mark.parametrize("settings", [[], ["--batch.micro-rows", "auto"]], ids=["given", "auto"])
def test_one_that_never_fit_is_not_to_be_started_again_as_it_is(commands, train, settings):
    ended = train(*settings, "--budget", "3steps", hungry=True)
    assert (ended.code, ended.out) == (70, ""), ended.err
    assert "RESOURCE_EXHAUSTED: Out of memory" in ended.err and "Traceback" not in ended.err
    assert "No update of this run has fit yet" in ended.err
    assert checkpoint.steps(commands.folder / "run" / "checkpoints") == []
    ended = train("--budget", "3steps", *advice(ended.err))
    assert ended.code == 0, ended.err


def test_one_that_had_fit_goes_on_from_what_was_saved(commands, train):
    whole = train("--run", "whole")
    assert whole.code == 0, whole.err
    run, metrics = commands.folder / "run", commands.folder / "whole" / "metrics.jsonl"
    # As another program does that takes the device's memory while this one is away.
    process = commands.start_training(recipe="hungry.py")
    wait_for(run / "metrics.jsonl", process, lines=8)
    process.kill()
    process.communicate()
    ended = train(hungry=True)
    assert (ended.code, ended.out) == (75, ""), ended.err
    assert "It had fit before" in ended.err and "Traceback" not in ended.err
    assert advice(ended.err)[:2] == ["--batch.micro-rows", "2"]
    saved, rejected = checkpoint.newest(run / "checkpoints")
    assert saved is not None and rejected == []
    ended = train()
    assert ended.code == 0, ended.err
    assert (run / "metrics.jsonl").read_bytes() == metrics.read_bytes()
    assert arrays(run) == arrays(commands.folder / "whole")
