"""The rule for spikes against itself in float64, over a whole series."""

import jax
import numpy as np
import pytest

from lmjax.learning import spikes

SIGMAS = 6.0


@jax.jit
def follow(history, value_K):
    loss, grad_norm = value_K
    dropped = spikes.is_spike(history, loss, grad_norm, SIGMAS)
    return spikes.entered(history, loss, grad_norm, dropped), dropped


def found(series_SK):
    history, dropped = spikes.none_yet(), []
    for value_K in np.float32(series_SK):
        history, drop = follow(history, value_K)
        dropped.append(bool(drop))
    return history, dropped


def expected(series_SK):
    """The rule in plain words: lists of float64, no ring."""
    kept, dropped = [], []
    for value_K in np.float64(np.float32(series_SK)):
        recent_NK = np.array(kept[-128:]).reshape(-1, 2)
        drop = False
        if len(recent_NK) >= 64:
            mean_K = recent_NK.mean(0)
            sigma_K = np.maximum(recent_NK.std(0), 0.01 * abs(mean_K))
            drop = bool((value_K > mean_K + SIGMAS * sigma_K).any())
        dropped.append(drop)
        if not drop:
            kept.append(value_K)
    return np.array(kept[-128:]), dropped


@pytest.mark.parametrize("seed", range(3))
def test_a_series_is_judged_as_in_float64(seed):
    """Falling losses with noise; spikes of either, alone and in rows, up to 400 updates."""
    rng = np.random.default_rng(seed)
    steps_S = np.arange(400)
    series_SK = np.stack([2 + 8 / (1 + steps_S / 40), np.full(400, 0.7)], axis=1)
    series_SK += rng.normal(0, [0.05, 0.08], (400, 2))
    for step in (*rng.choice(400, 12, replace=False), 150, 151, 152, 300):
        series_SK[step, rng.integers(2)] *= rng.uniform(1.2, 6)
    history, dropped = found(series_SK)
    kept_NK, wanted = expected(series_SK)
    assert dropped == wanted
    assert 4 <= sum(dropped) <= 16
    assert history.entered == 400 - sum(dropped)
    in_order_KN = np.roll(history.values_KN, -int(history.entered) % 128, axis=1)
    np.testing.assert_array_equal(in_order_KN.T, np.float32(kept_NK))


@pytest.mark.parametrize("which", [0, 1])
def test_no_spike_before_64_are_known(which):
    huge_K = np.ones(2)
    huge_K[which] = 1e6
    for known, drop in ((63, False), (64, True)):
        history, _ = found([*np.random.default_rng(0).normal(3, 0.1, (known, 2))])
        assert bool(follow(history, np.float32(huge_K))[1]) == drop


def test_losses_that_never_differ_are_no_spikes_of_each_other():
    history, dropped = found(np.full((200, 2), 2.5))
    assert not any(dropped)
    for factor, drop in ((1.05, False), (1.07, True)):
        assert bool(follow(history, np.float32([2.5 * factor, 2.5]))[1]) == drop


def test_far_below_is_no_spike():
    history, _ = found(np.random.default_rng(0).normal(3, 0.1, (100, 2)))
    assert not follow(history, np.float32([0.01, 0.0]))[1]
