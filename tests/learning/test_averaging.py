"""Weights that are evaluated in place of those trained."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from lmjax.learning import averaging, schedules
from lmjax.learning.step import init_state


def params() -> dict[str, jax.Array]:
    return {"kernel": jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)}


def descend(tx, count, progress=0.5):
    """Minimise the distance to 1; states and parameters after each step, the start first."""
    now = params()
    seen = [(tx.init(now), now)]
    for number in range(count):
        state, now = seen[-1]
        gradient = jax.tree.map(lambda p, shift=0.1 * number: p - 1 + shift, now)
        extra = optax.with_extra_args_support(tx)
        updates, state = extra.update(gradient, state, now, progress=progress)
        seen.append((state, optax.apply_updates(now, updates)))
    return seen


@pytest.mark.parametrize("decay", [0.8, schedules.through((0, 0.6), (1, 1.0))])
def test_the_average_is_that_of_a_plain_sum(decay):
    tx = averaging.average(optax.sgd(0.3, momentum=0.5), decay)
    seen = descend(tx, 6)
    trained = [np.float64(p["kernel"]) for _, p in seen]
    np.testing.assert_array_equal(tx.evaluation_params(*seen[0])["kernel"], trained[0])
    for t in range(1, 7):
        weights = 0.8 ** np.arange(t - 1, -1, -1.0)
        mean = sum(w * p for w, p in zip(weights, trained[1:], strict=False)) / weights.sum()
        np.testing.assert_allclose(tx.evaluation_params(*seen[t])["kernel"], mean, rtol=1e-5)


def test_averaging_leaves_training_as_it_was():
    plain, averaged = optax.adam(0.1), averaging.average(optax.adam(0.1), 0.9)
    for (_, one), (_, two) in zip(descend(plain, 4), descend(averaged, 4), strict=True):
        np.testing.assert_array_equal(one["kernel"], two["kernel"])


def test_schedule_free_is_evaluated_where_optax_says():
    base = optax.contrib.schedule_free(optax.sgd(0.5), 0.5, b1=0.9)
    tx = averaging.Evaluated(base, optax.contrib.schedule_free_eval_params)
    z = x = np.float64(params()["kernel"])
    for t, (state, now) in enumerate(descend(tx, 5)):
        # Defazio et al. 2024: y trains, z descends, x is the mean of z and is evaluated.
        y = 0.1 * z + 0.9 * x
        np.testing.assert_allclose(now["kernel"], y, rtol=1e-5)
        np.testing.assert_allclose(tx.evaluation_params(state, now)["kernel"], x, rtol=1e-4)
        z = z - 0.5 * (y - 1 + 0.1 * t)
        x = x + (z - x) / (t + 1)


def test_it_composes_as_any_transformation():
    tx = optax.chain(optax.clip(1.0), averaging.average(optax.sgd(0.1), 0.9))
    updates, _ = tx.update(params(), tx.init(params()), params(), progress=0.5)
    assert jax.tree.structure(updates) == jax.tree.structure(params())


def test_only_an_optimizer_that_says_so_is_read_elsewhere():
    assert averaging.reader(optax.sgd(0.1)) is None
    read = averaging.reader(
        averaging.Evaluated(optax.sgd(0.1), lambda state, p: jax.tree.map(jnp.negative, p))
    )
    found = read(init_state(params(), optax.sgd(0.1)))
    np.testing.assert_array_equal(found["kernel"], -params()["kernel"])


def test_averaging_without_parameters_is_refused():
    tx = averaging.average(optax.sgd(0.1), 0.9)
    with pytest.raises(ValueError, match="params"):
        tx.update(params(), tx.init(params()))
