"""A run that hangs ends by itself, says where, and goes on when it is started again."""

import time

from commands import DEFAULT, arrays

# The sixth update never comes back, inside the compiled step.
HANGING = (
    DEFAULT
    + """

import os
import time

import jax
import optax

from lmjax.learning import optimizers


def wait(step):
    while step == 6 and os.environ.get("HANG"):
        time.sleep(0.1)
    return step


def make_optimizer(config):
    adamw = optimizers.adamw(config)

    def update(updates, state, params=None, **more):
        step = jax.pure_callback(wait, state[0], state[0] + 1)
        updates, inner = adamw.update(updates, state[1], params, **more)
        return updates, (step, inner)

    def init(params):
        return jax.numpy.zeros((), jax.numpy.int32), adamw.init(params)

    return optax.GradientTransformationExtraArgs(init, update)
"""
)


def test_a_step_that_hangs_ends_the_run_and_the_next_start_goes_on(commands):
    (commands.folder / "hanging.py").write_text(HANGING)
    settings = ["--budget", "12steps", "--log.every", "1", "--watchdog.step", "3s"]
    begun = time.monotonic()
    whole = commands.train(*settings, "--run", "whole", recipe="hanging.py")
    undisturbed = time.monotonic() - begun
    assert whole.code == 0, whole.err

    commands.environment = {**commands.environment, "HANG": "1"}
    begun = time.monotonic()
    ended = commands.train(*settings, recipe="hanging.py")
    assert ended.code == 75, ended.err
    assert time.monotonic() - begun < undisturbed + 60
    assert "hung: step took more than" in ended.err
    stacks = (commands.folder / "run" / "stacks.txt").read_text()
    assert "in wait" in stacks and "loop.py" in stacks

    commands.environment = {k: v for k, v in commands.environment.items() if k != "HANG"}
    again = commands.train(*settings, recipe="hanging.py")
    assert again.code == 0, again.err
    run = commands.folder / "run"
    whole_run = commands.folder / "whole"
    assert (run / "metrics.jsonl").read_bytes() == (whole_run / "metrics.jsonl").read_bytes()
    assert arrays(run) == arrays(whole_run)
