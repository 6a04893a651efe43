"""What optax brings, composed with what is ours, on the train step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from lmjax.config import ScheduleConfig
from lmjax.data.loader import Batch
from lmjax.learning import averaging, muon, optimizers, schedules
from lmjax.learning.objective import next_token
from lmjax.learning.step import init_state, make_train_step
from lmjax.models.model import Readout

V = 12
FALLING = schedules.make(ScheduleConfig(kind="linear", warmup=0))
STEADY = schedules.through((0, 1))


class Layered:
    """A model with a parameter in three of the optimizer's groups."""

    def hidden(self, params, tokens_BT, *, key):
        return jnp.tanh(params["embedding"][tokens_BT] @ params["up"]["kernel"][0])

    def readout(self, params, x_BTD):
        return Readout(x_BTD, params["head"])


def layers():
    rng = np.random.default_rng(0)
    shapes = {"embedding": (V, 8), "up": {"kernel": (1, 8, 6)}, "head": (V, 6)}
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32),
        shapes,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def chain(*transforms, rate, schedule=FALLING):
    return optax.chain(*transforms, optimizers.descend(rate, schedule))


def grouped(matrices):
    adam = chain(optax.scale_by_adam(), rate=0.1)
    transforms = {"matrix": matrices, "embedding": adam, "head": adam, "vector": adam}
    return optax.partition(transforms, optimizers.groups)


OPTIMIZERS = {
    "sgd": lambda: chain(rate=2.0),
    "momentum": lambda: chain(optax.trace(0.9), rate=0.5),
    "nesterov": lambda: chain(optax.trace(0.9, nesterov=True), rate=0.5),
    "rmsprop": lambda: chain(optax.scale_by_rms(0.9), rate=0.05),
    "adam": lambda: chain(optax.scale_by_adam(), rate=0.1),
    "adamw": lambda: chain(
        optax.scale_by_adam(),
        optax.add_decayed_weights(0.01, mask=optimizers.decayed),
        rate=0.1,
    ),
    "lion": lambda: chain(optax.scale_by_lion(), rate=0.05),
    "adafactor": lambda: chain(
        optax.scale_by_factored_rms(min_dim_size_to_factor=6),
        optax.clip_by_block_rms(1.0),
        rate=0.1,
    ),
    "muon": lambda: grouped(chain(muon.scale_by_muon(), rate=0.1)),
    "normuon": lambda: grouped(
        chain(
            muon.scale_by_normuon(schedules.through((0, 0.8), (1, 0.95))),
            muon.scale_by_shape(),
            muon.cautious_decay(0.1, FALLING),
            rate=0.1,
        )
    ),
    "average": lambda: averaging.average(chain(optax.scale_by_adam(), rate=0.1), 0.8),
    "schedule-free": lambda: averaging.Evaluated(
        optax.contrib.schedule_free(
            chain(optax.scale_by_adam(b1=0), rate=0.1, schedule=STEADY), 0.1
        ),
        optax.contrib.schedule_free_eval_params,
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_trains_by_progress_and_compiles_once(name):
    tx = OPTIMIZERS[name]()
    rng = np.random.default_rng(0)
    starts_GB1 = rng.integers(0, V, (2, 8, 1))
    batch = Batch(((starts_GB1 + 5 * np.arange(7)) % V).astype(np.int32))  # each token plus 5
    train_step = make_train_step(Layered(), next_token, tx, lambda progress: progress, 0)
    step = jax.jit(train_step, donate_argnums=0)
    state = jax.jit(lambda params: init_state(params, tx))(layers())
    losses = []
    for number in range(40):
        state, metrics = step(state, batch, np.float32(number / 40))
        losses.append(float(metrics.loss))
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.5 * losses[0]
    assert step._cache_size() == 1
    read = averaging.reader(tx)
    if read is not None:
        tokens_BS = batch.tokens.reshape(-1, batch.tokens.shape[-1])
        sums = next_token(Layered(), read(state), Batch(tokens_BS), jax.random.key(0))
        assert sums.loss / sums.count < 0.5 * losses[0]


@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS) - {"schedule-free"}))
def test_the_last_step_of_a_falling_schedule_moves_nothing(name):
    tx = optax.with_extra_args_support(OPTIMIZERS[name]())
    updates, _ = jax.jit(tx.update)(layers(), tx.init(layers()), layers(), progress=1.0)
    assert not any(leaf.any() for leaf in jax.tree.leaves(updates))
