"""A run is read while it is written: a whole step each time, whatever the writer removes."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lmjax.config import LSTMConfig
from lmjax.learning.step import init_state
from lmjax.models.build import build
from lmjax.runtime import checkpoint, restoring
from lmjax.text.errors import DataError

# Where files go away under a restore, callbacks of Orbax come after its loop was closed: said by
# Python, raised by nobody.
pytestmark = pytest.mark.filterwarnings(
    "ignore:(?s).*Event loop is closed:pytest.PytestUnraisableExceptionWarning"
)

MODEL = build(LSTMConfig(vocab_size=64, length=8, depth=1, width=8), "cpu")


@pytest.fixture
def writing(tmp_path):
    """A run whose step after step is saved, every parameter of it being the step, and removed."""
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0))
    stop = threading.Event()

    def save(step):
        params = jax.tree.map(lambda a: np.full(a.shape, step, a.dtype), shapes)
        state = init_state(params, optax.identity())._replace(step=jnp.int32(step))
        checkpoint.save(tmp_path / "checkpoints", state, {"val_loss": None})
        checkpoint.clean(tmp_path / "checkpoints", step, keep=1)

    def write():
        step = 1
        while not stop.is_set():
            save(step := step + 1)

    save(1)
    thread = threading.Thread(target=write)
    thread.start()
    yield tmp_path
    stop.set()
    thread.join()


def test_a_reader_of_a_live_run_gets_one_whole_step(writing):
    steps = []
    for _ in range(40):
        saved, params = restoring.load_params(MODEL, writing, None)
        assert {
            float(number) for leaf in jax.tree.leaves(params) for number in np.unique(leaf)
        } == {float(saved.step)}
        steps.append(saved.step)
    assert steps == sorted(steps) and steps[-1] > steps[0]


def test_a_step_that_is_gone_is_not_waited_for(writing):
    with pytest.raises(DataError, match="expected step 0, found"):
        restoring.load_params(MODEL, writing, 0)
