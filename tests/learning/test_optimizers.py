"""Optimizers against float64 references, and which parameter gets what."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lmjax.config import Config, OptimizerConfig, ScheduleConfig, TransformerConfig
from lmjax.learning import muon, optimizers
from lmjax.models.transformer import build

MAKERS = [optimizers.muon_adamw, optimizers.adamw]
CONSTANT = ScheduleConfig(kind="wsd", warmup=0, cooldown=0)


def config(schedule: ScheduleConfig = CONSTANT, **numbers) -> Config:
    return Config(optimizer=OptimizerConfig(**numbers), schedule=schedule)


def tree(seed: int = 0) -> Any:
    """One parameter of each group; the kernel is three layers of [8, 16]."""
    rng = np.random.default_rng(seed)
    shapes = {
        "embedding": (5, 8),
        "blocks": {"up": {"kernel": (3, 8, 16), "bias": (3, 16)}},
        "head": (5, 8),
    }
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32),
        shapes,
        is_leaf=lambda node: isinstance(node, tuple),
    )


@functools.partial(jax.jit, static_argnums=0)
def step(tx, params, state, gradient, progress):
    tx = optax.with_extra_args_support(tx)
    updates, state = tx.update(gradient, state, params, progress=progress)
    return optax.apply_updates(params, updates), state


def run(tx, params, gradients, progress=0.5):
    """Parameters after each of some gradients."""
    state, seen = tx.init(params), []
    for gradient in gradients:
        params, state = step(tx, params, state, gradient, progress)
        seen.append(params)
    return seen


def shapes(**numbers):
    model = build(TransformerConfig(vocab_size=8, depth=2, width=8, heads=2, **numbers), "cpu")
    return jax.eval_shape(model.init, jax.random.key(0))


# ---- Who gets what


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize(
    "numbers",
    [
        {},
        {"norm_gain": True, "tied": True},
        {"norm": "layer", "norm_gain": True, "bias": True, "position": "learned"},
    ],
)
def test_every_parameter_of_every_model_is_covered(maker, numbers):
    params = shapes(**numbers)
    tx = optax.with_extra_args_support(maker(Config()))

    def update(params):
        return tx.update(params, tx.init(params), params, progress=0.5)[0]

    assert jax.tree.structure(jax.eval_shape(update, params)) == jax.tree.structure(params)


def test_groups_go_by_name():
    found = optimizers.groups(
        shapes(norm="layer", norm_gain=True, bias=True, position="learned", tied=False)
    )
    blocks = found.pop("blocks")
    gains = {"scale": "vector", "bias": "vector"}
    assert found == {
        "embedding": "embedding",
        "positions": "embedding",
        "embedding_norm": gains,
        "final_norm": gains,
        "head": "head",
    }
    for name, leaves in blocks.items():
        dense = {"kernel": "matrix", "bias": "vector"}
        expected = {"scale": "vector"} if name in ("q_norm", "k_norm") else gains
        assert leaves == (expected if name.endswith("norm") else dense), name


@pytest.mark.parametrize("maker", MAKERS)
def test_a_parameter_that_nobody_knows_is_refused(maker):
    params = tree() | {"blocks": {"gate": {"mystery": jnp.ones(3)}}}
    with pytest.raises(KeyError, match="blocks/gate/mystery"):
        run(maker(Config()), params, [params])


def test_adamw_decays_matrices_and_the_head():
    assert optimizers.decayed(tree()) == {
        "embedding": False,
        "blocks": {"up": {"kernel": True, "bias": False}},
        "head": True,
    }


@pytest.mark.parametrize(
    ("maker", "decaying"),
    [(optimizers.muon_adamw, {"kernel"}), (optimizers.adamw, {"kernel", "head"})],
)
def test_without_a_gradient_only_the_decaying_shrink(maker, decaying):
    params = tree()
    (after,) = run(
        maker(config(learning_rate=0.1, weight_decay=0.5)),
        params,
        [jax.tree.map(jnp.zeros_like, params)],
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(after):
        kept = 1 - 0.1 * 0.5 if path[-1].key in decaying else 1
        before = jax.tree.reduce(lambda node, key: node[key.key], list(path), params)
        np.testing.assert_allclose(leaf, kept * before, rtol=1e-6, err_msg=str(path))


# ---- Progress


@pytest.mark.parametrize("maker", MAKERS)
def test_progress_reaches_the_schedule_of_every_group(maker):
    schedule = ScheduleConfig(kind="linear", warmup=0.5)
    tx, params = maker(config(schedule, weight_decay=0)), tree()
    still, half, full = (run(tx, params, [tree(1)], at)[0] for at in (0.0, 0.25, 0.5))
    for start, a, b, c in zip(*map(jax.tree.leaves, (params, still, half, full)), strict=True):
        assert (a == start).all()
        np.testing.assert_allclose(2 * (b - start), c - start, atol=1e-6)
        assert np.abs(c - start).min() > 0


def test_a_rate_that_nobody_knows_is_logged_as_no_number():
    assert np.isnan(optimizers.unknown_rate(jnp.float32(0.5)))


@pytest.mark.parametrize("at", [0.0, 0.25, 1.0])
def test_the_logged_learning_rate_is_that_of_the_matrices(at):
    numbers = config(ScheduleConfig(kind="linear", warmup=0.5, floor=0.5), learning_rate=0.4)
    expected = {0.0: 0, 0.25: 0.2, 1.0: 0.2}[at]
    assert optimizers.learning_rate(numbers)(at) == pytest.approx(expected)


# ---- AdamW


@pytest.mark.parametrize("size", [0.0, 1e-3, 1.0, 1e3, np.inf, np.nan])
def test_gradients_are_clipped_as_by_optax(size):
    gradient = jax.tree.map(lambda a: a * size, tree())
    ours, theirs = (
        tx.update(gradient, tx.init(gradient))[0]
        for tx in (
            optimizers._clip(config(clip_norm=1.5)),
            optax.clip_by_global_norm(1.5),
        )
    )
    for a, b in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        if np.isfinite(size):
            np.testing.assert_allclose(a, b, rtol=1e-6)
        else:
            assert not np.isfinite(a).any() and not np.isfinite(b).any()


@pytest.mark.parametrize("clip_norm", [None, 1.5])
def test_adamw_is_that_of_the_paper(clip_norm):
    numbers = {"beta1": 0.7, "beta2": 0.9, "epsilon": 1e-3, "weight_decay": 0.2}
    gradients = [tree(seed) for seed in range(1, 6)]
    found = run(
        optimizers.adamw(config(learning_rate=0.1, clip_norm=clip_norm, **numbers)),
        tree(),
        gradients,
    )
    expected = [np.float64(leaf) for leaf in jax.tree.leaves(tree())]
    decayed = jax.tree.leaves(optimizers.decayed(tree()))
    first = [np.zeros_like(leaf) for leaf in expected]
    second = [np.zeros_like(leaf) for leaf in expected]
    for t, gradient in enumerate(gradients, 1):
        leaves = [np.float64(leaf) for leaf in jax.tree.leaves(gradient)]
        norm = np.sqrt(sum((leaf**2).sum() for leaf in leaves))
        for i, g in enumerate(leaves):
            g = g * min(1, clip_norm / norm) if clip_norm else g
            first[i] = 0.7 * first[i] + 0.3 * g
            second[i] = 0.9 * second[i] + 0.1 * g**2
            slope = first[i] / (1 - 0.7**t) / (np.sqrt(second[i] / (1 - 0.9**t)) + 1e-3)
            expected[i] = expected[i] - 0.1 * (slope + 0.2 * decayed[i] * expected[i])
        for one, two in zip(jax.tree.leaves(found[t - 1]), expected, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


# ---- Muon


def polar_express(g_IO: np.ndarray) -> np.ndarray:
    """Amsel et al. 2025, algorithm 1, in float64: a matrix with its singular values near 1."""
    x = g_IO / np.linalg.norm(g_IO)
    for a, b, c in muon.POLAR_EXPRESS:
        square = x @ x.T
        x = a * x + b * square @ x + c * square @ square @ x
    return x


def kernels(*shape: int, count: int) -> list[Any]:
    rng = np.random.default_rng(0)
    return [{"kernel": jnp.asarray(rng.normal(size=shape), jnp.float32)} for _ in range(count)]


@pytest.mark.parametrize(("I", "O"), [(8, 16), (16, 8), (12, 12)])
def test_muon_is_polar_express_of_nesterov_momentum(I, O):  # noqa: E741
    start, *gradients = kernels(2, I, O, count=5)
    numbers = config(learning_rate=0.1, momentum=0.8, weight_decay=0.2)
    found = run(optimizers.muon_adamw(numbers), start, gradients)
    for layer in range(2):
        expected = np.float64(start["kernel"][layer])
        momentum = np.zeros((I, O))
        for t, gradient in enumerate(gradients, 1):
            g = np.float64(gradient["kernel"][layer])
            momentum = 0.8 * momentum + 0.2 * g
            ahead = 0.8 * momentum / (1 - 0.8 ** (t + 1)) + 0.2 * g / (1 - 0.8**t)
            slope = polar_express(ahead) * np.sqrt(max(1, O / I))
            expected = expected - 0.1 * (slope + 0.2 * expected)
            np.testing.assert_allclose(
                found[t - 1]["kernel"][layer], expected, rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize(("I", "O"), [(16, 64), (64, 16), (32, 32)])
def test_muon_moves_a_matrix_as_far_in_every_direction(I, O):  # noqa: E741
    tx = optimizers.muon_adamw(config(learning_rate=1.0))
    scale = np.sqrt(max(1, O / I))
    rng = np.random.default_rng(0)
    u_II, v_OO = (np.linalg.qr(rng.normal(size=(n, n)))[0] for n in (I, O))
    for rank in (1, 4, 16):  # singular values from 1 down to 0.01, then nothing
        product_IO = u_II[:, :rank] * np.geomspace(1, 0.01, rank) @ v_OO[:rank]
        gradient = {"kernel": jnp.asarray(product_IO[None], jnp.float32)}
        (after,) = run(tx, {"kernel": jnp.zeros((1, I, O))}, [gradient])
        values = np.linalg.svd(np.float64(after["kernel"][0]), compute_uv=False)
        assert 0.7 * scale < values[rank - 1] <= values[0] < 1.2 * scale
        assert (values[rank:] < 1e-2 * scale).all()


def test_muon_on_a_stack_is_muon_on_each_layer():
    start, *gradients = kernels(3, 8, 16, count=4)
    tx = optimizers.muon_adamw(config())
    stacked = run(tx, start, gradients)[-1]["kernel"]
    for layer in range(3):
        alone = [{"kernel": g["kernel"][layer : layer + 1]} for g in [start, *gradients]]
        found = run(tx, alone[0], alone[1:])[-1]["kernel"][0]
        np.testing.assert_allclose(stacked[layer], found, rtol=1e-6, atol=1e-6)


def test_each_group_of_muon_adamw_has_its_learning_rate():
    # The first update of Adam is the sign of the gradient.
    numbers = config(
        embedding_learning_rate=0.3, head_learning_rate=0.02, vector_learning_rate=0.1, epsilon=0
    )
    (after,) = run(optimizers.muon_adamw(numbers), tree(), [tree(1)])
    moved = jax.tree.map(lambda a, b, g: (b - a) / jnp.sign(g), after, tree(), tree(1))
    np.testing.assert_allclose(moved["embedding"], 0.3, rtol=1e-4)
    np.testing.assert_allclose(moved["head"], 0.02, rtol=1e-4)
    np.testing.assert_allclose(moved["blocks"]["up"]["bias"], 0.1, rtol=1e-4)
