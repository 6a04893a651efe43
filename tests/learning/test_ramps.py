"""What an update sees over progress: the ramps' numbers, and rows cut into pieces."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmjax.config import BatchConfig, Config, ConfigError, RampConfig, TransformerConfig
from lmjax.data.loader import Batch
from lmjax.learning import optimizers, ramps
from lmjax.learning.ramps import Stage

CONFIG = Config(
    model=TransformerConfig(length=64, depth=2, window=32, window_pattern="SL"),
    batch=BatchConfig(rows=16, micro_rows=8),
    ramp=RampConfig(rows=((0.2, 4), (0.5, 8)), length=((0.5, 16),), window=((0.4, 8),)),
)


def test_each_number_holds_up_to_its_progress_and_the_usual_one_comes_last():
    expected = {
        0.0: Stage(4, 4, 16, 8),
        0.19: Stage(4, 4, 16, 8),
        0.2: Stage(8, 8, 16, 8),
        0.4: Stage(8, 8, 16, 32),
        0.5: Stage(16, 8, 64, 32),
        1.0: Stage(16, 8, 64, 32),
    }
    assert {at: ramps.stage(CONFIG, at) for at in expected} == expected
    assert ramps.starts(CONFIG) == [0.0, 0.2, 0.4, 0.5]
    assert ramps.staged(CONFIG.model, expected[0.0]).window == 8


def test_without_ramps_there_is_one_stage():
    plain = dataclasses.replace(CONFIG, ramp=RampConfig())
    assert ramps.starts(plain) == [0.0]
    assert ramps.stage(plain, 0.3) == Stage(16, 8, 64, 32)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 5))
def test_every_token_is_predicted_once_whatever_the_pieces(G, B, P, C):
    tokens = np.arange(G * B * (P * C + 1)).reshape(G, B, P * C + 1)
    pieces = ramps.cut(Batch(tokens), C).tokens
    assert pieces.shape == (G, B * P, C + 1)
    for whole, cut in zip(tokens, pieces, strict=True):
        np.testing.assert_array_equal(np.diff(cut), 1)  # neighbours stay neighbours
        np.testing.assert_array_equal(cut[:, 1:].ravel(), whole[:, 1:].ravel())


def test_decay_follows_its_lines():
    config = dataclasses.replace(CONFIG, ramp=RampConfig(weight_decay=((0.0, 1.0), (1.0, 0.0))))
    params = {"kernel": jnp.full((2, 2), 10.0)}
    updates = {"kernel": jnp.ones((2, 2))}
    tx = optimizers.decay(config)
    for progress, expected in ((0.0, 2.0), (0.25, 1.75), (1.0, 1.0)):
        found, _ = tx.update(updates, tx.init(params), params, progress=jnp.float32(progress))
        np.testing.assert_allclose(found["kernel"], expected, rtol=1e-6)


def test_momentum_follows_its_lines():
    config = dataclasses.replace(CONFIG, ramp=RampConfig(momentum=((0.0, 0.85), (0.5, 0.95))))
    momentum = optimizers.momentum(config)
    assert [float(momentum(at)) for at in (0.0, 0.25, 0.7)] == pytest.approx([0.85, 0.9, 0.95])
    assert optimizers.momentum(CONFIG) == CONFIG.optimizer.momentum


@pytest.mark.parametrize(
    ("ramp", "named"),
    [
        ({"rows": ((0.5, 4), (0.2, 8))}, "ramp.rows: expected rising progress"),
        ({"rows": ((0.5, 0),)}, "ramp.rows: expected values of at least 1"),
        ({"rows": ((0.5, 12),)}, "ramp.rows: expected at most batch.micro_rows"),
        ({"length": ((0.5, 10),)}, "ramp.length: expected divisors of model.length"),
        ({"momentum": ((0.0, 1.0),)}, "ramp.momentum: expected values below 1"),
        ({"length": ((1.0, 16),)}, "ramp.length: expected rising progress between 0 and 1"),
    ],
)
def test_what_cannot_be_is_refused_by_name(ramp, named):
    with pytest.raises(ConfigError, match=named):
        dataclasses.replace(CONFIG, ramp=RampConfig(**ramp))


def test_a_window_needs_a_layer_that_has_one():
    with pytest.raises(ConfigError, match=r"ramp.window: expected none"):
        Config(model=TransformerConfig(), ramp=RampConfig(window=((0.5, 8),)))
