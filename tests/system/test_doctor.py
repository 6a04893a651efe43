"""The doctor names what is wrong and how to mend it, and sees where two processes differ."""

import pytest

from lmjax.runtime import determinism, health

RECIPE = '''"""A tiny model."""

import os

import optax

from lmjax.config import *


def get_config():
    return Config(
        model=NPLMConfig(vocab_size=64, length=8, context=2, width=8, hidden=8),
        batch=BatchConfig(rows=2),
    )


def make_optimizer(config):
    return optax.sgd({rate})
'''


@pytest.fixture
def recipe(tmp_path):
    """A recipe with that learning rate."""

    def write(rate):
        path = tmp_path / "recipe.py"
        path.write_text(RECIPE.format(rate=rate))
        return path

    return write


def test_each_thing_that_will_not_do_comes_with_what_to_do(commands):
    cache = commands.folder / "cache" / "lmjax" / "xla"
    cache.mkdir(parents=True)
    cache.chmod(0o755)
    commands.environment = {
        **commands.environment,
        "XDG_CACHE_HOME": str(commands.folder / "cache"),
        "JAX_PLATFORMS": "abacus",
    }
    ended = commands.run("doctor", "--runs", "/proc/runs")
    assert (ended.code, ended.out) == (1, "")
    lines = ended.err.splitlines()
    broken = {line[5:].split(":")[0]: lines[i + 1] for i, line in enumerate(lines) if "FIX" in line}
    assert f"chmod 700 {cache}" in broken[f"compiled programs, {cache}"]
    assert "JAX_PLATFORMS=cpu" in broken["device"] and "abacus" in ended.err
    assert "--run" in broken["write, force to disk, lock"]
    assert not {"python", "jax", "jaxlib", "optax", "memory"} & set(broken)
    assert lines[-1] == f"{len(broken)} to fix"


def test_a_machine_that_will_do_has_nothing_to_fix(commands):
    ended = commands.run("doctor")
    fixes = sum(line.startswith("FIX") for line in ended.err.splitlines())
    assert ended.code == min(fixes, 1), ended.err
    assert "ok   a product on it: right" in ended.err
    assert "FIX  disk" in ended.err or fixes == 0


@pytest.mark.parametrize(
    ("version", "asked", "meets"),
    [
        ("0.10.2", ">=0.10.2", True),
        ("0.9.30", ">=0.10", False),
        ("0.13.0", ">=0.12,<0.13", False),
        ("0.12.8", ">=0.12,<0.13", True),
        ("2.0.0rc1", ">=2.0", True),
    ],
)
def test_versions_are_held_against_what_is_asked(version, asked, meets):
    assert health._meets(version, asked) == meets


def test_processes_that_agree_are_said_to(commands, recipe):
    ended = commands.run("doctor", "--determinism", "--config", str(recipe("0.1")))
    assert (ended.code, ended.out) == (0, "")
    assert "bit-exact: 20 steps in two processes" in ended.err


def test_the_first_step_and_metric_that_differ_are_named(recipe):
    # The first step's loss and gradient come before the update that differs.
    found = determinism.compare(recipe("0.1 + 1e-3 * (os.getpid() % 997)")).difference
    assert found is not None and found.startswith("step 2, loss: 0x1.")


def test_a_recipe_that_cannot_run_is_told(commands, recipe):
    with pytest.raises(determinism.ProbeError, match=r"ended with code 1: .*no_such_name"):
        determinism.compare(recipe("no_such_name"))
