"""Learning-rate factors at their knots, between them, and everywhere."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmjax.config import ScheduleConfig
from lmjax.learning import schedules

PROGRESS = np.linspace(0, 1, 101, dtype=np.float32)


@pytest.mark.parametrize(
    ("numbers", "values"),
    [
        (
            {"kind": "wsd", "warmup": 0.2, "cooldown": 0.4, "floor": 0.1},
            {0: 0, 0.1: 0.5, 0.2: 1, 0.4: 1, 0.6: 1, 0.8: 0.55, 1: 0.1},
        ),
        ({"kind": "wsd", "warmup": 0.0, "cooldown": 0.5}, {0: 1, 0.5: 1, 0.75: 0.5, 1: 0}),
        ({"kind": "wsd", "warmup": 0.0, "cooldown": 0.0}, {0: 1, 0.5: 1, 0.99: 1}),
        (
            {"kind": "linear", "warmup": 0.2, "floor": 0.5},
            {0: 0, 0.1: 0.5, 0.2: 1, 0.6: 0.75, 1: 0.5},
        ),
        (
            {"kind": "cosine", "warmup": 0.2, "floor": 0.1},
            {0: 0, 0.2: 1, 0.4: 0.1 + 0.9 * (1 + 0.5**0.5) / 2, 0.6: 0.55, 1: 0.1},
        ),
        ({"kind": "cosine", "warmup": 0.0}, {0: 1, 0.5: 0.5, 1: 0}),
        (
            {"kind": "triangular", "peak": 0.75, "floor": 0.2},
            {0: 0.25, 0.375: 0.625, 0.75: 1, 0.875: 0.6, 1: 0.2},
        ),
    ],
)
def test_values_at_the_knots_and_between(numbers, values):
    factor = schedules.make(ScheduleConfig(**numbers))
    for progress, expected in values.items():
        assert factor(progress) == pytest.approx(expected, abs=1e-6), progress


SHARES = st.floats(0, 1, width=32)


@settings(max_examples=50, deadline=None)
@given(
    kind=st.sampled_from(["wsd", "cosine", "linear", "triangular"]),
    warmup=SHARES,
    share=SHARES,
    peak=SHARES,
    floor=SHARES,
)
def test_a_factor_rises_once_then_falls_and_stays_between_0_and_1(kind, warmup, share, peak, floor):
    cooldown = share * (1 - warmup)
    config = ScheduleConfig(kind=kind, warmup=warmup, cooldown=cooldown, peak=peak, floor=floor)
    factors = np.asarray(schedules.make(config)(PROGRESS))
    assert (factors >= 0).all()
    assert (factors <= 1 + 1e-6).all()
    top = factors.argmax()
    assert (np.diff(factors[: top + 1]) >= -1e-6).all()
    assert (np.diff(factors[top:]) <= 1e-6).all()
