"""How long a section may last: slow steps are no reason to end a run."""

import pytest

from lmjax.config import ConfigError, WatchdogConfig
from lmjax.runtime.ledger import Ledger
from lmjax.runtime.watchdog import Limits


def test_a_step_may_take_twenty_times_the_slowest_but_one_in_a_hundred():
    limits = Limits(WatchdogConfig(step="10m", evaluate="5m"))
    assert limits.of("step", []) == limits.of("data", [1.0] * 300) == 600
    assert limits.of("step", [1.0] * 99 + [100.0] * 2) == pytest.approx(2000)
    assert limits.of("evaluate", [1000.0] * 200) == 300
    assert limits.of("prepare", []) is None


def test_a_stay_begins_with_its_section():
    now = [100.0]
    ledger = Ledger(lambda: now[0])
    for seconds in (2, 3):
        with ledger.section("step"):
            now[0] += seconds
    now[0] += 5
    assert ledger.stay() == ("other", 5.0, [2.0, 3.0])
    with ledger.section("save"):
        now[0] += 7
        assert ledger.stay()[:2] == ("save", 7.0)


def test_a_limit_is_a_time():
    with pytest.raises(
        ConfigError, match=r"watchdog\.save: expected .*90s, 20m or 24h, found '3steps'"
    ):
        WatchdogConfig(save="3steps")
