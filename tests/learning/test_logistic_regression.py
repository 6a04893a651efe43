"""Binary logistic regression by gradient descent, on the step that trains language models.

A model of one weight vector, p = sigmoid(w x), and the loss -y log p - (1 - y) log(1 - p). By the
chain rule

    dL/dp = (p - y) / (p (1 - p)),   dp/dz = p (1 - p),   dz/dw = x,

so that dL/dw = (p - y) x. Texts that print (p - y) p (1 - p) x or the sign reversed differentiate a
square error, or climb: the tests below tell them apart.

In lmjax it needs an objective of five lines, and any optax transformation: nothing else changes.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lmjax.data.loader import Batch
from lmjax.learning.objective import Sums
from lmjax.learning.step import init_state, make_train_step

D, RATE = 4, 1.0
RNG = np.random.default_rng(0)
X_RD = np.concatenate([RNG.normal(size=(200, D - 1)), np.ones((200, 1))], axis=1)  # 1: the bias
TRUE_D = np.array([1.5, -2.0, 0.5, 0.3])
Y_R = (RNG.random(200) < 1 / (1 + np.exp(-X_RD @ TRUE_D))).astype(np.float64)


def logistic(model, params, batch, key):
    """The objective: a batch holds numbers of examples, [B, 1]."""
    del model, key
    rows_B = batch.tokens[:, 0]
    z_B = jnp.asarray(X_RD, jnp.float32)[rows_B] @ params["w"]
    losses_B = optax.losses.sigmoid_binary_cross_entropy(z_B, jnp.asarray(Y_R)[rows_B])
    return Sums(losses_B.sum(), jnp.float32(losses_B.size))


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def right(p, y, x):
    return (p - y) * x


def of_a_square_error(p, y, x):
    return (p - y) * p * (1 - p) * x


def descend(steps, micro_batches=1):
    """The weights after each step, from zeros, every example in every step."""
    tx = optax.sgd(RATE)
    step = jax.jit(make_train_step(None, logistic, tx, lambda progress: RATE + 0 * progress, 0))
    batch = Batch(np.arange(200, dtype=np.int32).reshape(micro_batches, -1, 1))
    state, path = init_state({"w": jnp.zeros(D)}, tx), []
    for _ in range(steps):
        state, metrics = step(state, batch, np.float32(0))
        path.append((np.asarray(state.params["w"]), metrics))
    return path


@pytest.mark.parametrize("micro_batches", [1, 4])
def test_each_step_is_that_of_the_formula(micro_batches):
    w_D = np.zeros(D)
    for found_D, metrics in descend(20, micro_batches):
        p_R = sigmoid(X_RD @ w_D)
        loss = -(Y_R * np.log(p_R) + (1 - Y_R) * np.log(1 - p_R)).mean()
        gradient_D = right(p_R[:, None], Y_R[:, None], X_RD).mean(0)
        w_D = w_D - RATE * gradient_D
        np.testing.assert_allclose(found_D, w_D, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(metrics.loss, loss, rtol=1e-5)
        np.testing.assert_allclose(metrics.grad_norm, np.linalg.norm(gradient_D), rtol=1e-5)


def test_it_ends_where_newton_ends():
    w_D = np.zeros(D)
    for _ in range(20):  # iteratively reweighted least squares
        p_R = sigmoid(X_RD @ w_D)
        hessian_DD = (X_RD * (p_R * (1 - p_R))[:, None]).T @ X_RD
        w_D = w_D - np.linalg.solve(hessian_DD, X_RD.T @ (p_R - Y_R))
    assert np.abs(X_RD.T @ (sigmoid(X_RD @ w_D) - Y_R)).max() < 1e-10
    found_D, metrics = descend(600)[-1]
    np.testing.assert_allclose(found_D, w_D, rtol=1e-3, atol=1e-3)
    assert metrics.skipped == 0
    assert np.mean((X_RD @ found_D > 0) == Y_R) > 0.75


def test_the_gradient_is_the_error_times_the_input():
    w_D = np.array([0.5, -0.3, 2.0, 0.1])
    p_R = sigmoid(X_RD @ w_D)

    def loss(params, row):
        return logistic(None, params, Batch(row[None, None]), None).loss

    found_RD = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(
        {"w": jnp.asarray(w_D, jnp.float32)}, np.arange(200)
    )["w"]
    np.testing.assert_allclose(
        found_RD, right(p_R[:, None], Y_R[:, None], X_RD), rtol=1e-4, atol=1e-5
    )
    for wrong_RD in (
        of_a_square_error(p_R[:, None], Y_R[:, None], X_RD),
        -right(p_R[:, None], Y_R[:, None], X_RD),
    ):
        assert np.abs(found_RD - wrong_RD).max() > 0.1
