"""The train step: what it computes, what it drops, what it costs.

Most tests train a bigram model: the logits after a token are a row of the table `embedding`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lmjax.config import Config
from lmjax.data.loader import Batch
from lmjax.learning import optimizers, schedules, spikes
from lmjax.learning.objective import Sums, next_token
from lmjax.learning.step import init_state, make_train_step
from lmjax.models.model import Readout

V = 12


class Bigram:
    def hidden(self, params, tokens_BT, *, key=None):
        return params["embedding"][tokens_BT]

    def readout(self, params, x_D):
        return Readout(x_D, jnp.eye(V))


def table() -> dict[str, jax.Array]:
    return {"embedding": jnp.asarray(np.random.default_rng(0).normal(size=(V, V)), jnp.float32)}


BIGRAM = Bigram()


class Layered:
    """A model with a parameter in three of the optimizer's groups."""

    def hidden(self, params, tokens_BT, *, key=None):
        return jnp.tanh(params["embedding"][tokens_BT] @ params["up"]["kernel"][0])

    def readout(self, params, x_D):
        return Readout(x_D, params["head"])


def layers() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    return {"embedding": normal(V, 8), "up": {"kernel": normal(1, 8, 6)}, "head": normal(V, 6)}


def batch(G: int, B: int, T: int = 6, weighted: bool = False, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    tokens_GBS = rng.integers(0, V, (G, B, T + 1)).astype(np.int32)
    weights_GBT = rng.uniform(0, 2, (G, B, T)).astype(np.float32) * (rng.random((G, B, T)) < 0.7)
    return Batch(tokens_GBS, weights_GBT.astype(np.float32) if weighted else None)


def compiled(tx, model=BIGRAM, objective=next_token, seed: int = 0, spike_sigmas=None):
    rate = lambda progress: 0.5 * progress  # noqa: E731
    step = make_train_step(model, objective, tx, rate, seed, spike_sigmas)
    return jax.jit(step, donate_argnums=0)


def bits(tree) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def assert_close(one, two, tolerance: float = 1e-6) -> None:
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), one, two
    )


def test_micro_batches_are_one_big_batch():
    cut = batch(4, 2, weighted=True)
    whole = jax.tree.map(lambda a: a.reshape(1, 8, *a.shape[2:]), cut)
    step = compiled(optax.sgd(1.0), Layered())
    results = [step(init_state(layers(), optax.sgd(1.0)), given, 0.0) for given in (cut, whole)]
    assert_close(results[0][0].params, results[1][0].params)
    assert_close(results[0][1], results[1][1])


@pytest.mark.parametrize("weighted", [False, True])
def test_steps_are_those_of_a_plain_loop(weighted):
    tx = optax.sgd(0.5, momentum=0.9)
    step, state = compiled(tx), init_state(table(), tx)
    expected = np.float64(table()["embedding"])
    velocity = np.zeros_like(expected)
    for number in range(4):
        tokens_GBS, weights_GBT = given = batch(3, 2, weighted=weighted, seed=number)
        state, metrics = step(state, given, 0.1)

        inputs, targets = tokens_GBS[..., :-1].ravel(), tokens_GBS[..., 1:].ravel()
        weights = np.ones(inputs.size) if weights_GBT is None else np.float64(weights_GBT.ravel())
        chances = np.exp(expected[inputs])
        chances /= chances.sum(-1, keepdims=True)
        loss = -(np.log(chances[np.arange(inputs.size), targets]) * weights).sum() / weights.sum()
        errors = (chances - np.eye(V)[targets]) * weights[:, None] / weights.sum()
        gradient = np.zeros_like(expected)
        np.add.at(gradient, inputs, errors)
        velocity = 0.9 * velocity + gradient
        expected -= 0.5 * velocity

        assert state.step == number + 1
        found = (metrics.loss, metrics.grad_norm, metrics.learning_rate, metrics.skipped)
        assert_close(found, (loss, np.linalg.norm(gradient), 0.05, 0.0), 1e-5)
        assert_close(state.params["embedding"], expected, 1e-5)


def test_nothing_counted_or_not_a_number_drops_the_update():
    tx = optimizers.adamw(Config())
    step, state = compiled(tx), init_state(table(), tx)
    state, _ = step(state, batch(2, 2, weighted=True), 0.5)
    before = bits((state.params, state.opt_state))
    good = batch(2, 2, weighted=True)
    nowhere = good._replace(weights=np.zeros_like(good.weights))
    broken = good._replace(weights=good.weights.copy())
    broken.weights[1, 0, 0] = np.nan
    for number, bad in enumerate([nowhere, broken]):
        state, metrics = step(state, bad, 0.5)
        assert (metrics.skipped, state.step) == (1, number + 2)
        assert bits((state.params, state.opt_state)) == before
    state, metrics = step(state, good, 0.5)
    assert (metrics.skipped, state.step) == (0, 4)
    assert bits(state.params) != before[:1]


def test_an_infinite_gradient_of_a_finite_loss_drops_the_update():
    def objective(model, params, batch, key):
        return Sums(jnp.sqrt(jnp.abs(params["embedding"] - 1).sum()), jnp.ones(()))

    tx = optax.chain(optax.clip(1.0), optax.sgd(1.0))  # hides it from the update
    state = init_state({"embedding": jnp.ones((V, V))}, tx)
    state, metrics = compiled(tx, objective=objective)(state, batch(1, 1), 0.0)
    assert (metrics.loss, metrics.skipped) == (0, 1)
    assert (state.params["embedding"] == 1).all()


def multiplied() -> optax.GradientTransformation:
    """Leaves updates as they are, with a product for each."""
    return optax.stateless(lambda updates, _: jax.tree.map(lambda u: u @ jnp.eye(V), updates))


def test_products_of_an_update_are_computed_once():
    def count(*transforms):
        tx = optax.chain(*transforms, optax.sgd(1.0))
        traced = compiled(tx).trace(init_state(table(), tx), batch(1, 2), 0.0)
        return str(traced.jaxpr).count("dot_general")

    assert count(multiplied()) - count() == len(table())


@pytest.mark.parametrize("multiplies", [False, True])
def test_an_infinite_update_of_a_finite_gradient_is_dropped(multiplies):
    """Also where an update is not computed twice, since it has products of matrices."""
    tx = optax.chain(
        optax.trace(0.9),
        multiplied() if multiplies else optax.identity(),
        optax.scale_by_schedule(lambda count: 1 / (count - 1)),
    )
    step, state = compiled(tx), init_state(table(), tx)
    state, metrics = step(state, batch(1, 2), 0.0)
    before = bits((state.params, state.opt_state))
    state, metrics = step(state, batch(1, 2), 0.0)
    assert np.isfinite([metrics.loss, metrics.grad_norm]).all()
    assert metrics.skipped == 1
    assert bits((state.params, state.opt_state)) == before


def test_a_spike_is_dropped_and_what_follows_is_taken():
    """Also where the update is computed twice. Weights of the loss make the spike."""

    def weighted(model, params, batch, key):
        sums = next_token(model, params, batch._replace(weights=None), key)
        return Sums(sums.loss * batch.weights[0, 0], sums.count)

    def scaled(scale, seed):
        given = batch(1, 4, seed=seed)
        return given._replace(weights=np.full((1, 4, 6), scale, np.float32))

    tx = optax.adam(1e-3)
    step, state = compiled(tx, objective=weighted, spike_sigmas=6.0), init_state(table(), tx)
    for number in range(spikes.FROM):
        state, metrics = step(state, scaled(1.0, number), 0.0)
        assert (metrics.skipped, metrics.spike, metrics.dropped) == (0, 0, 0)
    before = bits((state.params, state.opt_state, state.history.values_KN))
    for in_a_row, scale in enumerate([9.0, np.nan, 9.0], start=1):
        state, metrics = step(state, scaled(scale, 99), 0.0)
        found = (metrics.skipped, metrics.spike, metrics.dropped)
        assert found == (1, np.isfinite(scale), in_a_row)
        assert bits((state.params, state.opt_state, state.history.values_KN)) == before
    state, metrics = step(state, scaled(1.0, 99), 0.0)
    assert (metrics.skipped, metrics.dropped, state.step) == (0, 0, spikes.FROM + 4)
    assert bits(state.params) != before[:1]


def test_many_steps_are_compiled_once():
    traces = []

    class Traced(Layered):
        def hidden(self, params, tokens_BT, *, key=None):
            traces.append(tokens_BT.shape)
            return super().hidden(params, tokens_BT, key=key)

    tx = optimizers.muon_adamw(Config())
    step, state = compiled(tx, Traced()), init_state(layers(), tx)
    for number in range(6):
        state, _ = step(state, batch(2, 2, seed=number), np.float32(number / 6))
        if number == 0:
            first = len(traces)
    assert len(traces) == first


def test_the_state_is_donated_and_never_copied():
    tx = optax.adam(0.1)
    step, state = compiled(tx), init_state(table(), tx)
    step(state, batch(1, 2), 0.0)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def draws(seed: int) -> np.ndarray:
    """What an objective draws: 3 steps of 2 micro-batches, read off the gradient."""

    def objective(model, params, batch, key):
        return Sums(params["x"][batch.tokens[0, 0]] * jax.random.uniform(key), jnp.ones(()))

    step = compiled(optax.sgd(1.0), objective=objective, seed=seed)
    state, sums = init_state({"x": jnp.zeros(2)}, optax.sgd(1.0)), [np.zeros(2)]
    for _ in range(3):
        state, _ = step(state, Batch(np.arange(2, dtype=np.int32).reshape(2, 1, 1)), 0.0)
        sums.append(np.asarray(state.params["x"]))
    return -2 * np.diff(sums, axis=0)


def test_every_micro_batch_of_every_step_draws_anew():
    drawn = draws(seed=0)
    assert np.ptp(np.sort(drawn.ravel())) > 0.1
    assert np.diff(np.sort(drawn.ravel())).min() > 1e-4
    assert (draws(seed=0) == drawn).all()
    assert np.abs(draws(seed=1) - drawn).min() > 1e-4
    root = jax.random.fold_in(jax.random.key(0), 2)
    expected = [jax.random.uniform(jax.random.fold_in(root, index)) for index in range(2)]
    np.testing.assert_allclose(drawn[2], expected, atol=1e-6)


# ---- Optimizers that a user composes


def sign_of_momentum() -> optax.GradientTransformationExtraArgs:
    """A user's own transformation, with a state and an eye on progress."""

    def update(updates, state, params=None, *, progress, **_):
        state = jax.tree.map(lambda m, g: 0.9 * m + g, state, updates)
        return jax.tree.map(lambda m: -0.2 * (1 - progress) * jnp.sign(m), state), state

    return optax.GradientTransformationExtraArgs(
        lambda params: jax.tree.map(jnp.zeros_like, params), update
    )


COMPOSED = {
    "user's own": lambda: optax.chain(optax.clip_by_global_norm(1.0), sign_of_momentum()),
    "schedule on steps": lambda: optax.inject_hyperparams(optax.adam)(
        optax.cosine_decay_schedule(0.3, 20)
    ),
    "partition": lambda: optax.partition(
        {
            "embedding": optax.chain(
                optax.scale_by_adam(), optimizers.descend(0.2, schedules.make(Config().schedule))
            )
        },
        optimizers.groups,
    ),
    "alias": lambda: optax.adamw(0.2),
}


@pytest.mark.parametrize("name", COMPOSED)
def test_any_optax_chain_trains(name):
    tx = COMPOSED[name]()
    state, given = init_state(table(), tx), batch(2, 4)
    # Compiled ahead, as the loop does it: the state that comes out must fit where it went in.
    step = compiled(tx).lower(state, given, np.float32(0)).compile()
    losses = []
    for number in range(20):
        state, metrics = step(state, given, np.float32(number / 20))
        losses.append(float(metrics.loss))
    assert losses[-1] < 0.6 * losses[0]
