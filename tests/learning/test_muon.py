"""Muon, NorMuon and cautious decay, each against a float64 reference."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from lmjax.learning import muon, schedules

SHAPES = {
    "up": (3, 8, 16),
    "down": (3, 16, 8),
    "square": (2, 3, 8, 8),
    "alone": (16, 8),
    "odd": (5, 7),
}


def tree(seed: int) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    return {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in SHAPES.items()}


@functools.partial(jax.jit, static_argnums=0)
def update(tx, updates, state, params, progress):
    tx = optax.with_extra_args_support(tx)
    return tx.update(updates, state, params, progress=progress)


def directions(tx, gradients, params=None, progress=None):
    """What a transform makes of some gradients, one after another."""
    progress = progress or [0.5] * len(gradients)
    state, seen = tx.init(gradients[0]), []
    for gradient, at in zip(gradients, progress, strict=True):
        direction, state = update(tx, gradient, state, params, at)
        seen.append(direction)
    return seen


def assert_close(found: Any, expected: Any, tolerance: float = 1e-4) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for name in expected:
        np.testing.assert_allclose(
            found[name], expected[name], rtol=tolerance, atol=tolerance, err_msg=name
        )


# ---- References, one matrix at a time


def each(function, *arrays: Any) -> np.ndarray:
    """A function of matrices, over the leading axes of stacks of them."""
    stacks = [np.float64(a) for a in arrays]
    lead = stacks[0].shape[:-2]
    found = [function(*(a[index] for a in stacks)) for index in np.ndindex(lead)]
    return np.stack(found).reshape(*lead, *found[0].shape)


def polar(g_IO: np.ndarray) -> np.ndarray:
    """Amsel et al. 2025, algorithm 1, by singular values: the iteration never mixes them."""
    u, values, vt = np.linalg.svd(g_IO, full_matrices=False)
    values = values / np.sqrt((values**2).sum())
    for a, b, c in muon.POLAR_EXPRESS:
        values = a * values + b * values**3 + c * values**5
    return u * values @ vt


class Reference:
    """NorMuon in numpy: Li et al. 2025, algorithm 1, with nanochat's norm; plain Muon without."""

    def __init__(self, betas: list[float], beta2: float | None, nesterov: bool) -> None:
        self.betas, self.beta2, self.nesterov = betas, beta2, nesterov

    def __call__(self, gradients: list[np.ndarray]) -> list[np.ndarray]:
        seen: list[np.ndarray] = []
        weights = np.zeros(len(gradients))  # of each gradient in the momentum
        square: Any = 0.0
        for t, beta in enumerate(self.betas):
            weights[:t] *= beta
            weights[t] = 1 - beta
            mean = weights / weights.sum()
            if self.nesterov:
                ahead = beta * weights / (beta * weights.sum() + 1 - beta)
                ahead[t] += (1 - beta) / weights.sum()
                mean = ahead
            o_IO = polar(sum(w * np.float64(g) for w, g in zip(mean, gradients, strict=True)))
            if self.beta2 is not None:
                inputs, outputs = o_IO.shape
                axis = 0 if outputs >= inputs else 1
                now = (o_IO**2).sum(axis, keepdims=True) / o_IO.shape[axis]
                square = self.beta2 * square + (1 - self.beta2) * now
                flat_IO = o_IO / np.sqrt(square)
                o_IO = flat_IO * np.linalg.norm(o_IO) / np.linalg.norm(flat_IO)
            seen.append(o_IO)
        return seen


def expected(reference: Reference, gradients: list[Any]) -> list[dict[str, np.ndarray]]:
    count = len(gradients)
    whole = {
        name: each(lambda *g: np.stack(reference(list(g))), *(g[name] for g in gradients))
        for name in SHAPES
    }
    return [{name: a[..., t, :, :] for name, a in whole.items()} for t in range(count)]


# ---- Orthogonalisation


def test_every_shape_is_orthogonalised_as_if_it_were_alone():
    found = jax.jit(muon.orthogonalize)(tree(0))
    assert_close(found, {name: each(polar, x) for name, x in tree(0).items()})


def quintic(lower: float, upper: float) -> np.ndarray:
    """The odd quintic that is nearest to 1 on [lower, upper], by Remez's exchange."""
    places = np.linspace(lower, upper, 4)
    for _ in range(50):  # it errs by as much at all four places, to either side in turn
        errors = np.array([1, -1, 1, -1])
        rows = np.stack([places, places**3, places**5, errors], axis=1)
        a, b, c, _ = np.linalg.solve(rows, np.ones(4))
        inner = np.sort(np.sqrt(np.roots([5 * c, 3 * b, a])))  # where the slope is zero
        places = np.array([lower, *inner, upper])
    return np.array([a, b, c])


def test_the_polynomials_are_the_best_five_that_follow_each_other():
    """Amsel et al. 2025: each is the best on the interval that those before it leave."""
    cushion, safety, powers = 0.02, 1.02, np.array([1, 3, 5])
    lower, upper = 1e-3, 1.0
    for step, found in enumerate(muon.POLAR_EXPRESS):
        best = quintic(max(lower, cushion * upper), upper)
        ends = (best * np.power.outer([lower, upper], powers)).sum(1)
        best *= 2 / ends.sum()  # a cushion moves the middle away from 1
        if step < 4:
            best /= safety**powers
        np.testing.assert_allclose(found, best, rtol=1e-9, err_msg=f"polynomial {step}")
        lower = float((best * lower**powers).sum())
        upper = 2 - lower


def test_singular_values_above_a_thousandth_end_near_one():
    values = np.geomspace(1e-3, 1, 100_001)
    for a, b, c in muon.POLAR_EXPRESS:
        values = a * values + b * values**3 + c * values**5
    assert 0.85 < values.min() == values[0]
    assert values.max() == pytest.approx(2 - values[0], abs=1e-6)  # as far above 1 as below


def test_matrices_of_one_shape_and_its_transpose_share_one_chain():
    text = str(jax.make_jaxpr(muon.orthogonalize)(tree(0)))
    assert text.count("dot_general") == 3 * 5 * len({(8, 16), (8, 8), (5, 7)})


def test_bfloat16_is_near_float32_and_comes_back_as_float32():
    low = jax.jit(functools.partial(muon.orthogonalize, dtype=jnp.bfloat16))(tree(0))
    high = muon.orthogonalize(tree(0))
    for name, x in low.items():
        assert x.dtype == jnp.float32
        distance = np.linalg.norm(x - high[name]) / np.linalg.norm(high[name])
        # The first polynomials cancel large terms: bfloat16 keeps one to two digits of the result.
        assert 1e-3 < distance < 0.2, name


def test_nothing_orthogonalised_is_nothing():
    zeros = jax.tree.map(jnp.zeros_like, tree(0))
    assert all((x == 0).all() for x in jax.tree.leaves(muon.orthogonalize(zeros)))


# ---- Muon and NorMuon


@pytest.mark.parametrize("nesterov", [False, True])
def test_muon_is_that_of_the_reference(nesterov):
    gradients = [tree(seed) for seed in range(4)]
    found = directions(muon.scale_by_muon(0.8, nesterov), gradients)
    for one, two in zip(
        found, expected(Reference([0.8] * 4, None, nesterov), gradients), strict=True
    ):
        assert_close(one, two)


@pytest.mark.parametrize("nesterov", [False, True])
def test_muon_is_that_of_optax(nesterov):
    dimensions = jax.tree.map(lambda _: optax.contrib.MuonDimensionNumbers(-2, -1), tree(0))
    theirs = optax.contrib.scale_by_muon(
        muon.POLAR_EXPRESS, beta=0.9, nesterov=nesterov, weight_dimension_numbers=dimensions
    )
    gradients = [tree(seed) for seed in range(5)]
    ours = muon.scale_by_muon(0.9, nesterov)
    for one, two in zip(directions(ours, gradients), directions(theirs, gradients), strict=True):
        assert_close(one, two, 1e-5)


@pytest.mark.parametrize("nesterov", [False, True])
def test_normuon_is_that_of_the_paper(nesterov):
    gradients = [tree(seed) for seed in range(4)]
    found = directions(muon.scale_by_normuon(0.8, 0.7, nesterov), gradients)
    for one, two in zip(
        found, expected(Reference([0.8] * 4, 0.7, nesterov), gradients), strict=True
    ):
        assert_close(one, two)


def test_normuon_brings_outputs_to_one_length_and_keeps_the_norm():
    rng = np.random.default_rng(0)
    uneven = {"kernel": jnp.asarray(rng.normal(size=(8, 32)) * np.geomspace(1, 1e-3, 32))}
    (plain,) = directions(muon.scale_by_muon(), [uneven])
    (even,) = directions(muon.scale_by_normuon(), [uneven])
    lengths_O = np.linalg.norm(even["kernel"], axis=0)
    np.testing.assert_allclose(lengths_O, lengths_O[0], rtol=1e-5)
    assert np.ptp(np.linalg.norm(plain["kernel"], axis=0)) > 0.5
    np.testing.assert_allclose(*(np.linalg.norm(x["kernel"]) for x in (even, plain)), rtol=1e-5)


def test_momentum_follows_its_schedule():
    progress = [0.0, 0.25, 0.5, 1.0]
    warming = schedules.through((0, 0.6), (0.5, 0.9))
    gradients = [tree(seed) for seed in range(4)]
    found = directions(muon.scale_by_normuon(warming, 0.7), gradients, progress=progress)
    reference = Reference([0.6, 0.75, 0.9, 0.9], 0.7, True)
    for one, two in zip(found, expected(reference, gradients), strict=True):
        assert_close(one, two)


def test_zero_gradients_move_nothing_and_stay_finite():
    zeros = jax.tree.map(jnp.zeros_like, tree(0))
    for direction in directions(muon.scale_by_normuon(), [zeros, zeros]):
        assert all((x == 0).all() for x in jax.tree.leaves(direction))


def test_scale_by_shape_grows_with_the_outputs():
    ones = {"wide": jnp.ones((2, 4, 16)), "tall": jnp.ones((2, 16, 4))}
    scaled, _ = muon.scale_by_shape().update(ones, ())
    assert (scaled["wide"] == 2).all()
    assert (scaled["tall"] == 1).all()


# ---- Cautious decay


@pytest.mark.parametrize("at", [0.0, 0.5, 1.0])
def test_only_weights_that_shrink_anyway_decay(at):
    params, gradient = tree(0), tree(1)
    tx = muon.cautious_decay(0.2, schedules.through((0, 1), (1, 0)))
    (found,) = directions(tx, [gradient], params, [at])
    for name, u in gradient.items():
        u64, p64 = np.float64(u), np.float64(params[name])
        shrinks = np.sign(u64) * np.sign(p64) >= 0  # descending against u brings p nearer to 0
        assert 0 < shrinks.mean() < 1
        np.testing.assert_allclose(
            found[name], u64 + 0.2 * (1 - at) * np.where(shrinks, p64, 0), rtol=1e-6
        )


def test_a_weight_without_an_update_decays_cautiously_too():
    params = {"kernel": jnp.asarray([[1.0, -2.0]])}
    zeros = jax.tree.map(jnp.zeros_like, params)
    (found,) = directions(muon.cautious_decay(0.5), [zeros], params)
    assert_close(found, {"kernel": np.array([[0.5, -1.0]])})


def test_decay_without_parameters_is_refused():
    with pytest.raises(ValueError, match="params"):
        muon.cautious_decay(0.1).update(tree(0), optax.EmptyState())
